"""Checkpoints that are whole or absent, and the callbacks that write them at optimizer steps."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_lottery.files import written_beside
from lightning_lottery.hooks.clock import StepClock, put_in_order
from lightning_lottery.hooks.loggers import folder_of
from lightning_lottery.hooks.named import NamedCallback


class SavingCallback(NamedCallback):
    """Counts optimizer steps, keeps the count in checkpoints, and writes checkpoints into the run's folder."""

    # After the callbacks that make masks (1): what is saved holds what they have made of this step.
    lottery_order: ClassVar[int] = 2

    def __init__(self, name: str | None) -> None:
        super().__init__(name)
        self.clock = StepClock()
        self._is_fitting = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if self._is_fitting and trainer.global_step == 0:
            self._reset()

    def _reset(self) -> None:
        self.clock.reset()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.clock.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._is_fitting:
            self.clock.load_state_dict(state_dict)

    def save(self, trainer: Trainer, path: str) -> None:
        """Save a whole checkpoint under this path in the run's folder; nothing in a fast_dev_run. Collective."""
        folder = folder_of(trainer)  # collective: asked for on every rank
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_whole(trainer, folder / path)


def save_whole(trainer: Trainer, path: Path) -> None:
    """Save a checkpoint so that no reader ever sees a part of it. Collective: called on every rank.

    Raises:
        LotteryError: It cannot be written.
    """
    if trainer.is_global_zero:
        for leftover in path.parent.glob(f".{path.name}*.partial"):  # of runs that were killed while they wrote
            leftover.unlink(missing_ok=True)
    # Every rank takes part in collecting the states, only the first one writes a file.
    with written_beside(path, "checkpoint") if trainer.is_global_zero else nullcontext(path) as target:
        try:
            trainer.save_checkpoint(target, weights_only=False)
        except RuntimeError as error:  # torch's zip writer turns a full disk into one
            raise OSError(str(error)) from error
    trainer.strategy.barrier()  # no rank goes on, and maybe ends, before the file has its name
