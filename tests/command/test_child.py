import os

import pytest
import yaml

from helpers.stages import fit
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import COMMANDS, resolve
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.command.main import main
from lightning_lottery.experiments.sections import SECTIONS


@pytest.fixture
def handed_on(monkeypatch):
    """What the command hands on, in place of doing it."""
    calls = []
    monkeypatch.setattr("lightning_lottery.command.child.do_child", lambda *args, **named: calls.append((args, named)))
    return calls


def test_the_folder_and_whether_to_wait_are_handed_on_with_the_work_of_every_command(here, handed_on):
    main(["child", "a/folder"])
    main(["child", "a/folder", "--wait"])
    ((folder, works), first), (_, second) = handed_on
    assert str(folder) == os.path.join("a", "folder") and first == {"wait": False} and second == {"wait": True}
    assert {*works} == {*COMMANDS, "start", "lines", TRIAL, *SECTIONS}


def test_a_folder_that_holds_no_child_is_refused(refused):
    assert refused("child", "none") == "'none' is not a child's folder: there is no child.json."


def test_a_prepared_child_is_done_and_says_so(here):
    (here / "fit.yaml").write_text(yaml.safe_dump(fit()))
    child = Child(here / "child", "fit", resolve(["fit", "--config", "fit.yaml", "--trainer.max_steps", "1"]))
    child.prepare()
    main(["child", str(child.folder)])
    assert child.is_done
