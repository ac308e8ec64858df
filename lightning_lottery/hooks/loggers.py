"""Where what callbacks measure goes: scalars and figures to a Trainer's loggers, files into its folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from lightning_lottery.files import Location, location
from lightning_lottery.hooks.private import batches_that_stepped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_to_all(trainer: Trainer, values: Mapping[str, float], step: int | None = None) -> None:
    """Write scalars to every logger, whatever ``log_every_n_steps`` leaves out.

    They call the step ``step``; default: as they call the present batch.
    """
    # Not `module.log`, which keeps the last value of an interval only and cannot be called in every hook.
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=batches_that_stepped(trainer) if step is None else step)


@contextmanager
def without_repeats(loggers: Sequence[Logger], last: int) -> Iterator[None]:
    """Keep from loggers, in the block, what is labelled with a step that they have: up to ``last``.

    Args:
        loggers: A Trainer's.
        last: The step that their logs are complete until, as loggers label it.
    """

    def later_ones(log: Callable[..., None]) -> Callable[..., None]:
        def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
            if step is None or step > last:
                log(metrics, step=step)

        return log_metrics

    for logger in loggers:
        logger.log_metrics = later_ones(logger.log_metrics)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for logger in loggers:
            vars(logger).pop("log_metrics", None)


def takes_figures(trainer: Trainer) -> bool:
    """Whether any logger takes figures, so that drawing one is worth its time."""
    return any(hasattr(getattr(logger, "experiment", None), "add_figure") for logger in trainer.loggers)


def draw_to_all(trainer: Trainer, key: str, figure: "Figure", step: int) -> None:
    """Hand a figure to every logger that takes figures: TensorBoard's kind, whose ``experiment`` has ``add_figure``."""
    for logger in trainer.loggers:
        if draw := getattr(getattr(logger, "experiment", None), "add_figure", None):
            draw(key, figure, step)


def folder_of(trainer: Trainer) -> Location:
    """Where a Trainer's files go. Collective: asked for on every rank."""
    return location(trainer.log_dir or trainer.default_root_dir)  # `log_dir` is broadcast from rank 0 (Lightning 2.6.6)


def device_of(trainer: Trainer) -> str:
    """Name of the device that a Trainer computes on, for records."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
