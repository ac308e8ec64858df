"""Snapshots hold what the callbacks have made, at the optimizer steps that were asked for."""

import pytest
import torch
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
)

from helpers.callbacks import CALLBACKS
from helpers.projects import TwoOptimizers, fit, says
from helpers.states import removed_are_zero
from lightning_lottery import (
    Snapshots,
)


@pytest.mark.parametrize("order", [0, 1])
def test_snapshots_hold_what_the_callbacks_have_made_wherever_they_stand(order, tmp_path):
    callback, snapshots = CALLBACKS["MagnitudePruning"](), Snapshots([0, 4, 9, 12])
    pair = [callback, snapshots] if order else [snapshots, callback]
    fit(tmp_path, *pair, ModelCheckpoint(dirpath=tmp_path), enable_checkpointing=True)
    for step in snapshots.steps:
        saved = torch.load(tmp_path / "snapshots" / f"step={step}.ckpt", weights_only=True)
        own = saved["callbacks"][callback.state_key]
        assert saved["global_step"] == own["clock"]["step"] == step
        assert removed_are_zero(saved["state_dict"], own["masks"])


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


def test_two_of_different_names_write_a_folder_each_and_the_unnamed_ones_key_is_that_of_before(tmp_path):
    fit(tmp_path, Snapshots([2]), Snapshots([3], name="late"), max_epochs=1)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("step=*.ckpt")} == {
        "snapshots/step=2.ckpt",
        "snapshots-late/step=3.ckpt",
    }
    states = torch.load(tmp_path / "snapshots-late" / "step=3.ckpt")["callbacks"]
    assert {"Snapshots", "Snapshots.late"} <= states.keys()
