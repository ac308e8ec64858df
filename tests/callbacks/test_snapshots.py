"""Full checkpoints at chosen steps; where they stand among other callbacks: `hooks/test_clock.py`."""

import torch

from helpers.projects import fit
from lightning_lottery import Snapshots


def test_two_of_different_names_write_a_folder_each_and_the_unnamed_ones_key_is_that_of_before(tmp_path):
    fit(tmp_path, Snapshots([2]), Snapshots([3], name="late"), max_epochs=1)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("step=*.ckpt")} == {
        "snapshots/step=2.ckpt",
        "snapshots-late/step=3.ckpt",
    }
    states = torch.load(tmp_path / "snapshots-late" / "step=3.ckpt")["callbacks"]
    assert {"Snapshots", "Snapshots.late"} <= states.keys()
