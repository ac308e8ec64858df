import functools
import importlib
import sys
from io import StringIO

import pytest
from lightning.pytorch import Trainer
from rich.console import Console

from helpers.factories import Data, Net, make_data, make_trainer
from lightning_lottery import LotteryError
from lightning_lottery.children import factories
from lightning_lottery.children.child import Child
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.options import StartOptions
from lightning_lottery.children.processes import run_one
from lightning_lottery.children.project import project_of

LR = 0.1


def with_global():
    return Net(lr=LR)


def description(function):
    return FactoryProject(function, make_data, make_trainer).config()["make_module"]


def test_the_file_that_defines_a_factory_is_part_of_what_a_child_was_made_from(tmp_path):
    sources = []
    for number, text in enumerate(("FACTOR = 1\n", "FACTOR = 1\n", "FACTOR = 2\n")):
        (tmp_path / f"mine_{number}.py").write_text(f"{text}def make(): return FACTOR\nclass Made: ...\n")
        module = f"{tmp_path}/mine_{number}.py"
        described = [description(factories.imported(f"{module}:{name}")) for name in ("make", "Made")]
        assert described[0]["source"] == described[1]["source"] != ""
        sources.append(described[0]["source"])
    assert sources[0] == sources[1] != sources[2]


def test_plain_values_that_a_factory_uses_are_part_of_what_a_child_was_made_from():
    settings = {"lr": 0.1, "layers": [1, 2]}
    assert description(lambda: Net(lr=settings["lr"]))["values"] == {"settings": "{'lr': 0.1, 'layers': [1, 2]}"}
    assert description(with_global)["values"] == {"LR": "0.1"}
    assert description(functools.partial(Net, 0.1)) == description(functools.partial(Net, 0.1))
    assert description(functools.partial(Net, 0.1)) != description(functools.partial(Net, 0.2))
    assert description(functools.partial(Net, dropout=0.1))["values"] == {"dropout": "0.1"}
    assert description(functools.partial(Net, object()))["values"] == {}  # whose representation is another each time


def test_a_factory_without_a_source_has_none():
    assert description(dict)["source"] == ""


LAYERED = """
from itertools import chain

import torch
from helpers.factories import Net as Before

Anonymous = type("Anonymous", (), {"__module__": "nowhere"})

class Net(Before):
    uses = (chain, Anonymous, torch.Generator)

    def configure_optimizers(self):
        return torch.optim.SGD(chain(self.net[0].parameters(), self.net[4].parameters()), lr=0.1)
"""


def test_packages_outside_of_the_environment_and_classes_without_a_file_make_a_child_like_any(tmp_path, monkeypatch):
    # A layered environment, a user site, PYTHONPATH: the project's packages lie in no folder of this interpreter's.
    (tmp_path / "layered").mkdir()
    (tmp_path / "layered/__init__.py").write_text(LAYERED)
    monkeypatch.syspath_prepend(str(tmp_path))
    layered = importlib.import_module("layered")
    try:
        for function in (layered.Net, functools.partial(layered.Net, lr=0.2), layered.chain, layered.Anonymous):
            assert description(function).keys() == {"function", "source", "values"}
        project = FactoryProject(layered.Net, make_data, make_trainer)
        config = {**project.config(), "ckpt_path": None}
        child = Child(tmp_path / "child", "start", config, {}, StartOptions(), project)
        run_one(child, "start", Console(file=StringIO()))  # in a process of its own, which has to find them, too
        assert child.is_done and project.is_importable
    finally:
        del sys.modules["layered"]


def test_a_configuration_is_read_back_with_its_factories_and_its_seed():
    project = FactoryProject(Net, make_data, make_trainer, seed=3)
    assert project_of(project.config()) == project
    assert project_of(project.with_seed(4).config()).seed == 4


def test_a_factory_that_is_another_in_the_child_is_refused():
    config = FactoryProject(Net, make_data, make_trainer).config()
    assert FactoryProject.load(config).make_data is make_data
    for part, changed in (("source", "another"), ("values", {"LR": "0.5"})):
        described = {**config, "make_data": {**config["make_data"], part: changed}}
        with pytest.raises(LotteryError, match="`make_data` is another when a child imports '.*:make_data' than where"):
            FactoryProject.load(described)


def test_functions_are_found_again_by_their_address(tmp_path):
    address = factories.address_of(make_data)
    assert address.endswith("helpers.factories:make_data") and factories.imported(address) is make_data
    assert factories.address_of(lambda: 0) == ""
    assert factories.address_of(Data().train_dataloader) == ""  # nobody else has that object
    (tmp_path / "mine.py").write_text("class A:\n    def make(): return 3\n")
    assert factories.imported(f"{tmp_path}/mine.py:A.make")() == 3
    with pytest.raises(LotteryError, match="no function 'none' in 'helpers.projects'"):
        factories.imported("helpers.projects:none")
    with pytest.raises(LotteryError, match="'none.there' cannot be imported for its function 'f': No module"):
        factories.imported("none.there:f")


def test_a_script_that_its_children_would_run_again_is_refused(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from lightning_lottery import InstabilityAnalysis\n"
        "from lightning_lottery.children.factories import FactoryProject\n"
        "def make(): ...\n"
        "InstabilityAnalysis().run(FactoryProject(make, make, make))\n"
    )
    with pytest.raises(LotteryError, match=r"unguarded.py' runs an analysis when it is imported.*__main__"):
        factories.imported(f"{script}:make")


def test_what_cannot_be_called_for_every_child_is_refused():
    for factory in (Net(), "a name"):
        with pytest.raises(TypeError, match="`make_module` is a function"):
            FactoryProject(factory, make_data, make_trainer)


@pytest.mark.parametrize(
    "make",
    [lambda: Trainer(), lambda **more: Trainer(logger=False, **more), lambda default_root_dir: Trainer()],
    ids=["takes nothing", "fixes the logger", "takes one of the two"],
)
def test_a_trainers_factory_that_does_not_hand_on_what_it_is_called_with_is_refused_with_how_it_looks(make, tmp_path):
    project = FactoryProject(Net, make_data, make)
    with pytest.raises(LotteryError, match=r"hands both to its Trainer: `def make_trainer\(\*\*arguments\)"):
        project.build(tmp_path, "fit", False, list)


def test_a_factorys_own_mistake_stays_what_it_is(tmp_path):
    with pytest.raises(TypeError, match="unsupported operand"):
        FactoryProject(Net, make_data, lambda **_: 1 + "1").build(tmp_path, "fit", False, list)
