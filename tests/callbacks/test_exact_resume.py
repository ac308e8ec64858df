"""Runs that are killed, also while they write, end as unbroken ones; the laws of every callback: `test_contract.py`."""

import os
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from helpers.callbacks import CALLBACKS
from helpers.processes import TESTS, run
from helpers.projects import fit
from helpers.states import KeepEveryResume, ending, same
from lightning_lottery import ExactResume, LotteryError


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class Dies(Callback):
    """The night's power cut, after some step has been logged."""

    lottery_order = 3

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.logger.experiment.flush()
            raise RuntimeError("power cut")


@pytest.mark.parametrize("step", [3, 4, 8, 9])
def test_curves_of_a_resumed_run_equal_the_unbroken_runs(step, tmp_path):
    def logger(folder, **arguments):
        return TensorBoardLogger(tmp_path / folder, name="", version="", default_hp_metric=False, **arguments)

    keep = KeepEveryResume(tmp_path / "broken", tmp_path / "points")
    fit(tmp_path / "whole", CALLBACKS["PLATON"](), ExactResume(), logger=logger("whole"))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(
            tmp_path / "broken",
            CALLBACKS["PLATON"](),
            ExactResume(interval=1),
            keep,
            Dies(step + 2),
            logger=logger("broken"),
        )
    point = tmp_path / "points" / f"{step}.ckpt"
    fit(tmp_path / "broken", CALLBACKS["PLATON"](), ExactResume(), logger=logger("broken", purge_step=step), ckpt=point)
    assert scalars(tmp_path / "broken") == scalars(tmp_path / "whole")


@pytest.mark.parametrize("kills", [6])
def test_a_run_killed_at_random_moments_ends_as_the_unbroken_one(kills, tmp_path):
    elsewhere = next((path for path in ("/dev/shm", "/run") if os.access(path, os.W_OK)), str(tmp_path))
    assert os.stat(elsewhere).st_dev != os.stat(tmp_path).st_dev or elsewhere == str(tmp_path)
    script = TESTS / "helpers" / "kills.py"
    done = run(sys.executable, str(script), str(tmp_path / "run"), str(kills), TMPDIR=elsewhere)
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stderr[-3000:]


def test_a_checkpoint_of_before_there_were_names_resumes_bit_for_bit(tmp_path):
    whole, keep = ExactResume(interval=1), KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    expected = ending(fit(tmp_path / "whole", whole, keep), whole)
    path = tmp_path / "points" / "6.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["callbacks"]["ExactResume"] == {"step": 6, "seen": 6, "scale": None}  # its key and form, since ever
    resumed = ExactResume(interval=1)
    assert same(ending(fit(tmp_path / "again", resumed, ckpt=path), resumed), expected)
    named = ExactResume(interval=5, name="rare")  # has no state there: begins with this fit, at its step
    fit(tmp_path / "named", named, ckpt=path)
    assert named.clock.step == 12 and (tmp_path / "named" / "resume-rare.ckpt").is_file()


def test_two_of_different_names_write_a_file_each(tmp_path):
    fit(tmp_path, ExactResume(interval=2), ExactResume(interval=3, name="rare"), max_epochs=1)
    assert {path.name for path in tmp_path.glob("*.ckpt")} >= {"resume.ckpt", "resume-rare.ckpt"}
    assert "ExactResume.rare" in torch.load(tmp_path / "resume-rare.ckpt")["callbacks"]


def test_a_name_that_is_no_file_name_is_refused():
    with pytest.raises(LotteryError, match="must be a plain word"):
        ExactResume(name="a/b")
