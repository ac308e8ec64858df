import re

import pytest

from helpers.factories import weights
from helpers.stages import dies, in_this_process
from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.children import resume as module
from lightning_lottery.children.child import ERROR
from lightning_lottery.children.environment import RESUME_FROM
from lightning_lottery.children.resume import do_child


def test_a_folder_that_holds_no_child_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="is not a child's folder: there is no child.json"):
        do_child(tmp_path, {})


def test_a_finished_child_trains_no_more(unbroken):
    do_child(unbroken.folder, {"fit": lambda *_: pytest.fail("it trains")})


@pytest.mark.parametrize("size", [0, 100, -100])
def test_a_torn_checkpoint_is_not_resumed_from(child, unbroken, monkeypatch, caplog, size):
    dies(child, monkeypatch, step=7)
    resume = child.folder / "resume.ckpt"
    whole = resume.read_bytes()
    resume.write_bytes(whole[:size])
    with caplog.at_level("INFO"):
        assert in_this_process(child) == 0
    assert re.search(r"resume.ckpt does not load .*: the child begins anew", caplog.text, re.DOTALL)
    assert same(weights(child.folder), weights(unbroken.folder))
    assert child.records() == [{**row, "stage": "child"} for row in unbroken.records()]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (LotteryError("The width is 0: give a number above it."), "The width is 0: give a number above it."),
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (KeyError(), "KeyError: "),
    ],
)
def test_what_a_child_fails_with_is_left_for_its_starter_and_gone_when_it_is_prepared_again(child, error, sentence):
    def fail(*_):
        raise error

    child.prepare()
    with pytest.raises(type(error)):
        do_child(child.folder, {"fit": fail})
    assert (child.folder / ERROR).read_text() == sentence
    child.prepare()
    assert not (child.folder / ERROR).exists()


def test_further_ranks_go_on_from_where_the_first_one_said(child, monkeypatch):
    monkeypatch.setenv(RESUME_FROM, "said.ckpt")
    assert module._newest_that_loads(child.folder) == "said.ckpt"
