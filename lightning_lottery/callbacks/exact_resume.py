"""Runs that resume bit for bit."""

import os
import random
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_lottery.checks import check_count, is_count
from lightning_lottery.functional.counters import mix64
from lightning_lottery.hooks.accumulated import accumulated, put_back_
from lightning_lottery.hooks.loggers import folder_of, without_repeats
from lightning_lottery.hooks.private import (
    batches_that_stepped,
    begin_epoch,
    leave_finished_epoch,
    loader_states_in,
    restore_loader,
    training_loader,
    validates_after_this_batch,
)
from lightning_lottery.hooks.resuming import reading_state
from lightning_lottery.hooks.saving import SavingCallback, saved_whole

_LOGGED = "lightning_lottery.logged"
"""Where a checkpoint holds what its epoch had logged."""

_COMPLETE_UNTIL = "lightning_lottery.logs_complete_until"
"""Where a checkpoint that appears when loggers have its step holds the number that they label the step with."""


class ExactResume(SavingCallback):
    """A run that can be killed at any moment and goes on as if it had not been.

    Randomness is reseeded before every batch from (seed, batch, rank), so there is no random state to save; every
    ``interval`` optimizer steps, and at the end, ``resume.ckpt`` is written into the run's folder, whole or not at all,
    after the validation where one is due. It appears when loggers have what happened until then, and means over an
    epoch go on where they were: a resumed run's curves are the unbroken run's. Resume with ``trainer.fit(...,
    ckpt_path=".../resume.ckpt")``, and with ``weights_only=False`` where hyper-parameters hold modules or classes,
    which is said before the first step. The whole run equals the unbroken one bit for bit where the training loader has
    a length and a state, as torchdata's ``StatefulDataLoader``, or batch k is a function of (seed, epoch, k), as in the
    zoo's loaders; a plain ``DataLoader`` starts its epoch anew, which is said once.

    Where the run's folder is a URL (``s3://...``), the file is put there by fsspec.

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
        self.goes_on_its_run = True
        """Whether a checkpoint that a fit begins at is its own run's: a child of another run has its own order of the
        data on purpose."""
        self._reset()

    def _reset(self) -> None:
        super()._reset()
        self._is_due = self._is_wanted = self._is_saving = self._resumed = self._begins_epoch = False
        self._loader_states: list[dict[str, Any]] | None = None
        self._logged: Any = None  # what the epoch had logged by the checkpoint
        self._unnamed: ExitStack | None = None  # closed, it gives the newest checkpoint its name
        self._complete_until: int | None = None
        self._repeating: ExitStack | None = None  # closed, it lets loggers take everything again

    @property
    def file(self) -> str:
        return self.named("resume") + ".ckpt"

    @property
    def is_wanted(self) -> bool:
        """Whether ``save_at_next_step`` asked for a checkpoint that is not written yet."""
        return self._is_wanted

    def save_at_next_step(self) -> None:
        """Save at the next optimizer step, whatever the interval; after the validation where one is due."""
        self._is_wanted = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.start(trainer)
        restore_loader(trainer)
        if self._loader_states is not None:
            self._begins_epoch = leave_finished_epoch(trainer, self._loader_states)
        if trainer.fit_loop.restarted_mid_epoch:
            with reading_state(self.label):
                put_back_(trainer, self._logged)
        if self._complete_until is not None:
            # From the last step of an epoch Lightning repeats the epoch's end, which was logged before.
            self._repeating = ExitStack()
            self._repeating.enter_context(without_repeats(trainer.loggers, self._complete_until))
        self._loader_states = self._logged = self._complete_until = None
        loaders = training_loader(trainer).flattened
        lost = [loader for loader in loaders if not hasattr(loader, "load_state_dict") or sized_len(loader) is None]
        if self._resumed and self.goes_on_its_run and trainer.ckpt_path is not None and lost:
            # What has no length is read a batch ahead, and its state says so.
            rank_zero_warn(
                f"The training loader ({type(lost[0]).__name__}) cannot go on in the middle of an epoch: the "
                "callbacks' state is exact, but the order of the data is not the unbroken run's."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # What loaders draw for an epoch is a function of it, too: no batch has been seeded yet where a fit goes on.
        self._seed(trainer.current_epoch, trainer.global_rank, 1)
        if self._begins_epoch:
            begin_epoch(trainer)
        self._begins_epoch = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.publish(trainer)
        self._log_everything()
        # By the batch's number over all epochs, which Lightning saves and restores: a resumed batch draws what it would
        # have drawn. The rank keeps dropout of different samples apart.
        self._seed(trainer.fit_loop.total_batch_idx, trainer.global_rank)

    def _seed(self, *numbers: int) -> None:
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))
        # With the carry, as every version has drawn: a run that was broken off under an older one goes on as it would.
        mixed = mix64(seed, *numbers, carry=True)
        torch.manual_seed(mixed)
        random.seed(mixed)
        np.random.seed(mixed % 2**32)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.clock.tick(trainer) and (self._is_wanted or self.clock.step % self.interval == 0):
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
            self._save(trainer, is_over=True)
        self.publish(trainer)
        self._log_everything()
        trainer.strategy.barrier()  # no rank ends before the file has its name

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._log_everything()
        if (unnamed := self._unnamed) is not None:
            self._unnamed = None
            with suppress(_Abandoned), unnamed:
                raise _Abandoned

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_LOGGED] = accumulated(trainer)
        if self._is_saving:
            checkpoint[_COMPLETE_UNTIL] = batches_that_stepped(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._is_fitting:
            self._loader_states = loader_states_in(checkpoint)
            self._logged = checkpoint.get(_LOGGED)
            until = checkpoint.get(_COMPLETE_UNTIL)
            self._complete_until = until if is_count(until) else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._resumed = self._resumed or self._is_fitting

    def _save(self, trainer: Trainer, *, is_over: bool = False) -> None:
        """Write the checkpoint, under no name yet; ``is_over``: of a fit that repeats nothing. Collective."""
        self._is_due = self._is_wanted = False
        self.publish(trainer)  # a batch without a step may end in two
        folder = folder_of(trainer)  # collective: asked for on every rank
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._unnamed, self._is_saving = ExitStack(), not is_over
            try:
                self._unnamed.enter_context(saved_whole(trainer, folder / self.file))
            finally:
                self._is_saving = False

    def publish(self, trainer: Trainer) -> None:
        """Give the newest checkpoint its name, once Lightning has logged that step: a kill before that repeats it.

        It logs a step, and what an epoch's end measures, after all their hooks: at the next batch's start all is there.
        """
        if (unnamed := self._unnamed) is not None:
            self._unnamed = None
            for logger in trainer.loggers:
                logger.save()
            unnamed.close()

    def _log_everything(self) -> None:
        if self._repeating is not None:
            self._repeating.close()
            self._repeating = None


class _Abandoned(BaseException):
    """Ends the writing of a checkpoint that is not to be; no ``Exception``, which would count as a failed write."""
