"""Snapshots hold what the callbacks have made, at the optimizer steps that were asked for."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.callbacks import CALLBACKS
from helpers.projects import TwoOptimizers, fit, says
from helpers.states import removed_are_zero
from lightning_lottery import LotteryError, Snapshots


@pytest.mark.parametrize("order", [0, 1])
def test_snapshots_hold_what_the_callbacks_have_made_wherever_they_stand(order, tmp_path):
    callback, snapshots = CALLBACKS["MagnitudePruning"](), Snapshots([0, 4, 9, 12])
    pair = [callback, snapshots] if order else [snapshots, callback]
    fit(tmp_path, *pair, ModelCheckpoint(dirpath=tmp_path), enable_checkpointing=True)
    for step in snapshots.steps:
        saved = torch.load(tmp_path / "snapshots" / f"step={step}.ckpt", weights_only=True)
        state = saved["callbacks"][callback.state_key]
        assert saved["global_step"] == state["clock"]["step"] == step
        assert removed_are_zero(saved["state_dict"], state["masks"])


def test_snapshots_say_what_they_never_reached(tmp_path):
    with says(r"saved nothing at \[100\]: the fit ended at step 12"):
        fit(tmp_path, Snapshots([1, 100]))


def test_snapshots_count_steps_and_not_optimizers_when_they_begin_late(tmp_path):
    fit(tmp_path, Snapshots([6]), module=TwoOptimizers())
    path = tmp_path / "snapshots" / "step=6.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 12
    del saved["callbacks"]["Snapshots"]
    torch.save(saved, path)
    fit(tmp_path / "late", Snapshots([8]), module=TwoOptimizers(), ckpt=path)
    late = torch.load(tmp_path / "late" / "snapshots" / "step=8.ckpt", weights_only=True)
    assert late["global_step"] == 16


def test_a_checkpoint_of_before_there_were_names_goes_on(tmp_path):
    fit(tmp_path, Snapshots([6]))
    path = tmp_path / "snapshots" / "step=6.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"]["Snapshots"] == {"step": 6, "seen": 6, "scale": None}
    later = Snapshots([6, 8])
    fit(tmp_path / "later", later, ckpt=path)
    assert later.clock.step == 12
    assert [path.name for path in (tmp_path / "later" / "snapshots").iterdir()] == ["step=8.ckpt"]


def test_a_name_that_is_no_file_name_is_refused():
    with pytest.raises(LotteryError, match="must be a plain word"):
        Snapshots([0], name="a/b")


def test_two_of_different_names_write_a_folder_each_and_the_unnamed_ones_key_is_that_of_before(tmp_path):
    fit(tmp_path, Snapshots([2]), Snapshots([3], name="late"), max_epochs=1)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("step=*.ckpt")} == {
        "snapshots/step=2.ckpt",
        "snapshots-late/step=3.ckpt",
    }
    states = torch.load(tmp_path / "snapshots-late" / "step=3.ckpt")["callbacks"]
    assert {"Snapshots", "Snapshots.late"} <= states.keys()
