"""What an experiment's children may begin with, and who may start them."""

import pytest
import torch

from helpers.children import finished
from helpers.factories import Net, make_data, make_trainer
from helpers.projects import fit
from helpers.states import checkpoint
from lightning_lottery import LotteryError
from lightning_lottery.children.environment import IMPORTING
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.experiments.plan import Plan, check_checkpoint, check_not_importing, child_of


def test_a_full_checkpoint_says_its_step_and_weights_alone_are_refused(tmp_path):
    assert check_checkpoint(checkpoint(tmp_path)) == 6
    fit(tmp_path).save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(LotteryError, match="weights.ckpt' holds weights but no optimizer and no loops to go on from"):
        check_checkpoint(tmp_path / "weights.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(LotteryError, match=r"list\.ckpt"):
        check_checkpoint(tmp_path / "list.ckpt")


def test_a_script_that_children_import_must_not_run_an_experiment_meanwhile(monkeypatch):
    check_not_importing()
    monkeypatch.setenv(IMPORTING, "mine.py")
    with pytest.raises(LotteryError, match="'mine.py' runs an analysis when it is imported"):
        check_not_importing()


def test_a_child_trains_its_project_from_a_checkpoint_and_what_is_discarded_must_exist(tmp_path):
    project = FactoryProject(Net, make_data, make_trainer).with_seed(3)
    child = child_of(project, tmp_path / "seed-3", "fit", "k.ckpt")
    assert (child.config["seed_everything"], child.config["ckpt_path"]) == (3, "k.ckpt")
    with pytest.raises(LotteryError, match="no seed-4 to do again: there are seed-3"):
        Plan([child], [[child]]).discard(["seed-4"], tmp_path)


def test_what_is_discarded_goes_with_all_that_uses_its_files_and_nothing_else(tmp_path):
    project = FactoryProject(Net, make_data, make_trainer)
    first = child_of(project, tmp_path / "first", "fit", None)
    second = child_of(project, tmp_path / "second", "fit", str(first.folder / "last.ckpt"))
    third = child_of(project, tmp_path / "third", "fit", str(second.folder / "last.ckpt"))
    beside = child_of(project, tmp_path / "beside", "fit", None)
    plan = Plan([first, beside, second, third], [[first, beside], [second], [third]])
    for names, left in (([], 4), (["third"], 3), (["first"], 1)):
        for child in plan.children:
            finished(child)
        plan.discard(names, tmp_path)
        assert sum(child.is_done for child in plan.children) == left
    assert beside.is_done
