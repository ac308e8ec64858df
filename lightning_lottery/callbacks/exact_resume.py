"""Runs that resume bit for bit."""

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_lottery.checks import check_count
from lightning_lottery.functional.counters import mix64
from lightning_lottery.hooks.private import restore_loader, validates_after_this_batch
from lightning_lottery.hooks.saving import SavingCallback


class ExactResume(SavingCallback):
    """A run that can be killed at any moment and goes on as if it had not been.

    Randomness is reseeded before every batch from (seed, batch, rank), so there is no random state to save; every
    ``interval`` optimizer steps, and at the end, ``resume.ckpt`` is written into the run's folder, whole or not at all,
    after the validation where one is due. Resume with ``trainer.fit(..., ckpt_path=".../resume.ckpt")``. The whole run
    equals the unbroken one bit for bit where batch k of the training loader is a function of (seed, epoch, k), as in
    the zoo's loaders; a plain ``DataLoader`` starts its epoch anew, which is said once.

    Args:
        interval: Optimizer steps between checkpoints, >= 1.
        seed: Seed of the run; default: the one that ``seed_everything`` set, or 0.
        name: Tells several callbacks of one Trainer apart: the file is then ``resume-NAME.ckpt``.

    Raises:
        LotteryError: ``interval`` < 1, or a name that is no file name.

    Source: counter-based random numbers after Salmon et al. 2011; mixed by splitmix64 (Steele et al. 2014).
    """

    def __init__(self, interval: int = 100, seed: int | None = None, *, name: str | None = None) -> None:
        check_count("interval", interval, "a number of optimizer steps")
        super().__init__(name)
        self.interval = interval
        self.seed = seed
        self._reset()

    def _reset(self) -> None:
        super()._reset()
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
        # By the batch's number over all epochs, which Lightning saves and restores: a resumed batch draws what it would
        # have drawn. The rank keeps dropout of different samples apart. With the carry, as every version has drawn: a
        # run that was broken off under an older one goes on as it would have.
        mixed = mix64(seed, trainer.fit_loop.total_batch_idx, trainer.global_rank, carry=True)
        torch.manual_seed(mixed)
        random.seed(mixed)
        np.random.seed(mixed % 2**32)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.clock.tick(trainer) and self.clock.step % self.interval == 0:
            self._is_due = True
            # A checkpoint from before a validation that Lightning runs after this batch would leave it out on resume:
            # `on_validation_end` saves instead.
            if not validates_after_this_batch(trainer):
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.clock.step % self.interval:
            self._save(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._resumed = self._resumed or self._is_fitting

    def _save(self, trainer: Trainer) -> None:
        self._is_due = False
        self.save(trainer, self.named("resume") + ".ckpt")
