"""Full checkpoints at chosen optimizer steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_lottery.checks import check_name, is_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.clock import StepClock, put_in_order
from lightning_lottery.hooks.loggers import folder_of
from lightning_lottery.hooks.saving import save_whole


class Snapshots(Callback):
    """Save a full checkpoint after chosen optimizer steps: the points a ticket is rewound to.

    Files are ``snapshots/step=K.ckpt`` in the run's folder, each whole or absent. Step 0 is the state before the first
    optimizer step. Acts after all callbacks that change weights, wherever it stands in the list.

    Args:
        steps: Optimizer steps, each >= 0; ``log_spaced`` gives a list.
        name: Tells several callbacks of one Trainer apart: the folder is then ``snapshots-NAME``.

    Raises:
        LotteryError: No step, or one that is no step, or a name that is no file name.

    Example:
        >>> Snapshots([100, 0]).steps
        (0, 100)
    """

    # After the callbacks that make masks (1): a snapshot holds what they have made of this step.
    lottery_order = 2

    def __init__(self, steps: Sequence[int], *, name: str | None = None) -> None:
        if not isinstance(steps, (list, tuple, range)) or not steps or not all(is_count(step) for step in steps):
            raise LotteryError(f"`steps` of Snapshots are a list of optimizer steps >= 0, at least one, got {steps!r}.")
        check_name(name)
        self.steps = tuple(sorted(set(steps)))
        self.name = name
        self.clock = StepClock()
        self._is_fitting = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if self._is_fitting and trainer.global_step == 0:
            self.clock.reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.start(trainer)
        if trainer.global_step == 0:
            self._save(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.clock.tick(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if never := [step for step in self.steps if step > self.clock.step]:
            rank_zero_warn(f"Snapshots saved nothing at {never}: the fit ended at step {self.clock.step}.")

    @property
    def state_key(self) -> str:
        # Without a name as Lightning calls it: checkpoints of before there were names resume.
        return super().state_key + (f".{self.name}" if self.name else "")

    def state_dict(self) -> dict[str, Any]:
        return dict(self.clock.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._is_fitting:
            self.clock.load_state_dict(state_dict)

    def _save(self, trainer: Trainer) -> None:
        folder = folder_of(trainer)  # collective: asked for on every rank, also where nothing is saved
        if self.clock.step in self.steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            name = f"snapshots-{self.name}" if self.name else "snapshots"
            save_whole(trainer, folder / name / f"step={self.clock.step}.ckpt")


def log_spaced(last: int, points: int) -> list[int]:
    """Optimizer steps 0, 1, ..., ``last``, at most ``points`` of them, evenly spaced in the logarithm after 0.

    Example:
        >>> log_spaced(1000, points=5)
        [0, 1, 10, 100, 1000]
    """
    if last < 1 or points < 2:
        raise LotteryError(f"`log_spaced` needs last >= 1 and points >= 2, got {last} and {points}.")
    return sorted({0, *(int(step) for step in np.geomspace(1, last, points - 1).round())})
