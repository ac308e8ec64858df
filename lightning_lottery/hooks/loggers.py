"""Where what callbacks measure goes: scalars and figures to a Trainer's loggers, files into its folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
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
    is_over = False

    def later_ones(log: Callable[..., None]) -> Callable[..., None]:
        def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
            if is_over or step is None or step > last:
                log(metrics, step=step)

        return log_metrics

    before = [vars(logger).get("log_metrics") for logger in loggers]  # that of the logger alone, not of its class
    filters = [later_ones(logger.log_metrics) for logger in loggers]
    for logger, log_metrics in zip(loggers, filters, strict=True):
        logger.log_metrics = log_metrics  # type: ignore[method-assign]
    try:
        yield
    finally:
        is_over = True
        for logger, log_metrics, former in zip(loggers, filters, before, strict=True):
            # Whoever has put another in its place since then calls this one, which lets everything through now.
            if vars(logger)["log_metrics"] is log_metrics:
                del vars(logger)["log_metrics"]
                vars(logger).update({} if former is None else {"log_metrics": former})


def takes_figures(trainer: Trainer) -> bool:
    """Whether any logger takes figures, so that drawing one is worth its time."""
    return bool(_takers(trainer))


def draw_to_all(trainer: Trainer, key: str, figure: "Figure", step: int) -> None:
    """Hand a figure to every logger that takes images: W&B's, TensorBoard's, MLflow's, Comet's, or one like these."""
    if takers := _takers(trainer):
        image = pixels(figure)
        for take in takers:
            take(key, image, step)


def _takers(trainer: Trainer) -> list[Callable[[str, "np.ndarray", int], None]]:
    """For each logger that takes images what hands it one, of shape (height, width, 3), under a key at a step."""

    def by_method(log: Callable[..., None]) -> Callable[[str, "np.ndarray", int], None]:
        return lambda key, image, step: log(key, [image], step=step)

    def by_writer(add: Callable[..., None]) -> Callable[[str, "np.ndarray", int], None]:
        return lambda key, image, step: add(key, image, step, dataformats="HWC")

    def by_client(log: Callable[..., None], run: str) -> Callable[[str, "np.ndarray", int], None]:
        return lambda key, image, step: log(run, image, f"{key}/step-{step}.png")

    def by_experiment(log: Callable[..., None]) -> Callable[[str, "np.ndarray", int], None]:
        return lambda key, image, step: log(image, name=key, step=step)

    takers = []
    for logger in trainer.loggers:
        if log := getattr(logger, "log_image", None):  # W&B's
            takers.append(by_method(log))
        elif add := getattr(experiment := getattr(logger, "experiment", None), "add_image", None):  # TensorBoard's
            takers.append(by_writer(add))
        elif log := getattr(experiment, "log_image", None):  # MLflow's client, which has many runs, and Comet's
            run = getattr(logger, "run_id", None)
            takers.append(by_experiment(log) if run is None else by_client(log, run))
    return takers


def pixels(figure: "Figure") -> "np.ndarray":
    """A figure as an image of shape (height, width, 3), bytes; drawn without a window."""
    from matplotlib import style
    from PIL import Image

    from lightning_lottery.figures.style import STYLE

    image = BytesIO()
    # Drawn as into files, whatever a notebook's settings are; smaller, so that TensorBoard (2.21) cuts nothing off.
    with style.context(["default", STYLE]):
        figure.savefig(image, format="png", dpi=80, facecolor="white")
    return np.asarray(Image.open(image).convert("RGB"))


def folder_of(trainer: Trainer) -> Location:
    """Where a Trainer's files go. Collective: asked for on every rank."""
    return location(trainer.log_dir or trainer.default_root_dir)  # `log_dir` is broadcast from rank 0 (Lightning 2.6.6)


def device_of(trainer: Trainer) -> str:
    """Name of the device that a Trainer computes on, for records."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
