"""Checkpoints that are whole or absent."""

from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import Trainer

from lightning_lottery.files import written_beside


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
