"""Full checkpoints at chosen optimizer steps, and runs that resume bit for bit."""

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.counters import mix64
from lightning_lottery.hooks.clock import StepClock, enter
from lightning_lottery.hooks.loggers import folder_of
from lightning_lottery.hooks.private import restore_loader, validates_after_this_batch
from lightning_lottery.hooks.saving import save_whole


class Snapshots(Callback):
    """Save a full checkpoint after chosen optimizer steps: the points a ticket is rewound to.

    Files are ``snapshots/step=K.ckpt`` in the run's folder, each whole or absent. Step 0 is the state before the first
    optimizer step. Acts after all callbacks that change weights, wherever it stands in the list.

    Args:
        steps: Optimizer steps, each >= 0; ``log_spaced`` gives a list.

    Raises:
        LotteryError: No step, or one that is no step.

    Example:
        >>> Snapshots([100, 0]).steps
        (0, 100)
    """

    lottery_place = 2

    def __init__(self, steps: Sequence[int]) -> None:
        given = list(steps) if isinstance(steps, (list, tuple, range)) else [None]
        if not given or any(isinstance(step, bool) or not isinstance(step, int) or step < 0 for step in given):
            raise LotteryError(f"`steps` of Snapshots are a list of optimizer steps >= 0, at least one, got {steps!r}.")
        self.steps = tuple(sorted(set(steps)))
        self.clock = StepClock()
        self._is_fitting = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        enter(self, trainer)
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

    def state_dict(self) -> dict[str, Any]:
        return dict(self.clock.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._is_fitting:
            self.clock.load_state_dict(state_dict)

    def _save(self, trainer: Trainer) -> None:
        folder = folder_of(trainer)
        if self.clock.step in self.steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_whole(trainer, folder / "snapshots" / f"step={self.clock.step}.ckpt")


class ExactResume(Callback):
    """A run that can be killed at any moment and goes on as if it had not been.

    Randomness is reseeded before every batch from (seed, batch, rank), so there is no random state to save; every
    ``every`` optimizer steps, and at the end, ``resume.ckpt`` is written into the run's folder, whole or not at all,
    after the validation where one is due. Resume with ``trainer.fit(..., ckpt_path=".../resume.ckpt")``. The whole run
    equals the unbroken one bit for bit where batch k of the training loader is a function of (seed, epoch, k), as in
    the zoo's loaders; a plain ``DataLoader`` starts its epoch anew, which is said once.

    Args:
        every: Optimizer steps between checkpoints, >= 1.
        seed: Seed of the run; default: the one that ``seed_everything`` set, or 0.

    Raises:
        LotteryError: ``every`` < 1.

    Source: counter-based random numbers after Salmon et al. 2011; mixed by splitmix64 (Steele et al. 2014).
    """

    lottery_place = 2

    def __init__(self, every: int = 100, seed: int | None = None) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise LotteryError(f"`every` is a number of optimizer steps >= 1, got {every!r}.")
        self.every = every
        self.seed = seed
        self.clock = StepClock()
        self._is_fitting = True
        self._is_due = False
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        enter(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if self._is_fitting and trainer.global_step == 0:
            self.clock.reset()
            self._is_due = self._resumed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.start(trainer)
        restore_loader(trainer)
        loader = trainer.train_dataloader
        if self._resumed and trainer.ckpt_path is not None and not hasattr(loader, "load_state_dict"):
            rank_zero_warn(
                f"The training loader ({type(loader).__name__}) cannot go on in the middle of an epoch: the callbacks' "
                "state is exact, but the order of the data is not the unbroken run's."
            )

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))
        # with the carry, as since the first version: a run that began under an older one goes on as it would have
        mixed = mix64(seed, trainer.fit_loop.total_batch_idx, trainer.global_rank, carry=True)
        torch.manual_seed(mixed)
        random.seed(mixed)
        np.random.seed(mixed % 2**32)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.clock.tick(trainer) and self.clock.step % self.every == 0:
            self._is_due = True
            if not validates_after_this_batch(trainer):
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.clock.step % self.every:
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.clock.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._is_fitting:
            self.clock.load_state_dict(state_dict)
            self._resumed = True

    def _save(self, trainer: Trainer) -> None:
        self._is_due = False
        folder = folder_of(trainer)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_whole(trainer, folder / "resume.ckpt")


def log_spaced(last: int, points: int) -> list[int]:
    """Optimizer steps 0, 1, ..., ``last``, at most ``points`` of them, evenly spaced in the logarithm after 0.

    Example:
        >>> log_spaced(1000, points=5)
        [0, 1, 10, 100, 1000]
    """
    if last < 1 or points < 2:
        raise LotteryError(f"`log_spaced` needs last >= 1 and points >= 2, got {last} and {points}.")
    return sorted({0, *(int(step) for step in np.geomspace(1, last, points - 1).round())})
