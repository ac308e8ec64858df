"""Full checkpoints at chosen optimizer steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_lottery.checks import is_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.saving import SavingCallback


class Snapshots(SavingCallback):
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

    def __init__(self, steps: Sequence[int], *, name: str | None = None) -> None:
        if not isinstance(steps, (list, tuple, range)) or not steps or not all(is_count(step) for step in steps):
            raise LotteryError(f"`steps` of Snapshots are a list of optimizer steps >= 0, at least one, got {steps!r}.")
        super().__init__(name)
        self.steps = tuple(sorted(set(steps)))

    @property
    def file(self) -> str:
        return f"{self.named('snapshots')}/step={{step}}.ckpt"

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

    def _save(self, trainer: Trainer) -> None:
        if self.clock.step in self.steps:
            self.save(trainer)


def log_spaced(last: int, points: int) -> list[int]:
    """Optimizer steps 0, 1, ..., ``last``, at most ``points`` of them, evenly spaced in the logarithm after 0.

    Example:
        >>> log_spaced(1000, points=5)
        [0, 1, 10, 100, 1000]
    """
    if last < 1 or points < 2:
        raise LotteryError(f"`log_spaced` needs last >= 1 and points >= 2, got {last} and {points}.")
    return sorted({0, *(int(step) for step in np.geomspace(1, last, points - 1).round())})
