"""Averages over samples and ranks of what a module logs, and of one metric the values of each batch."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Trainer
from torchmetrics import Metric

from lightning_lottery.hooks.private import BatchesOfMetric

MOST_BLOCKS = 60
"""More batches are joined to about so many blocks: further ones would only make files larger."""

ROUNDING = 1e-5
"""How far, relatively, the mean of a metric's values over batches may lie from the metric: it is logged in float32."""


class ByBatch(NamedTuple):
    """A metric batch by batch, over all ranks: its values and what each weighs, both of shape (batches,)."""

    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    def joined(self) -> "ByBatch":
        """The same in at most ``MOST_BLOCKS`` blocks of neighbouring batches."""
        count = len(self.weights)
        begins = np.linspace(0, count, min(count, MOST_BLOCKS) + 1).round().astype(int)[:-1]
        weights = np.add.reduceat(self.weights, begins)
        return ByBatch(np.add.reduceat(self.values * self.weights, begins) / weights, weights)

    def equal_batches(self) -> float:
        """How many batches of one size would say as much of other samples: fewer than there are, where sizes differ.

        Source: Kish 1965, the effective sample size.
        """
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def averages_to(self, value: float) -> bool:
        """Whether a metric is the mean of its values over batches."""
        mean = float(self.values @ (self.weights / self.weights.sum()))
        return math.isclose(mean, value, rel_tol=ROUNDING, abs_tol=ROUNDING)


class Means:
    """Averages over samples what a module logs in one evaluation.

    Lightning guesses a batch's size from the first tensor that it finds, and divides what ranks add up by the integer
    mean of their numbers of samples (2.6.6): both can be wrong. Here the sizes are known and the sums exact.

    Args:
        kept: The metric whose values of each batch are kept as well; "" for none.
    """

    def __init__(self, kept: str = "") -> None:
        self.kept = kept
        self.samples = 0  # of the batches that ran: a Trainer may limit them
        self.weight = 1.0  # in samples, of what is logged now
        self.totals: dict[str, tuple[float, float]] = {}
        self.metrics: dict[str, Metric] = {}
        self.is_in_batch = False
        self.by_metric: BatchesOfMetric | None = None  # of the kept metric, where it is an object
        self.parts: list[tuple[float, float]] = []  # of the kept metric in each batch: total and weight
        self.is_kept_whole = True  # nothing of it was logged outside of a batch

    def begin_batch(self, size: int) -> None:
        """What is logged from here on belongs to a batch of so many samples."""
        self.weight = float(size)
        self.is_in_batch = True
        self.parts.append((0.0, 0.0))

    def end_batch(self) -> None:
        """What is logged from here on belongs to all samples so far, as a value in ``on_test_epoch_end`` does."""
        if self.kept in self.metrics and self.is_in_batch:
            self.by_metric = self.by_metric or BatchesOfMetric(self.metrics[self.kept])
            value = self.by_metric.of_batch()
            self.is_kept_whole &= value is not None and len(self.parts) == self.by_metric.batches
            self.parts[-1] = ((value or 0.0) * self.weight, self.weight)
        self.samples += int(self.weight)
        self.weight = float(self.samples)
        self.is_in_batch = False

    def log(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **options: Any) -> None:
        """Take a value as ``LightningModule.log`` would, weighted by its batch."""
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        if options.get("reduce_fx", "mean") not in ("mean", torch.mean):
            return  # only means over samples can be compared
        weight = float(batch_size or self.weight)
        number = float(value)
        total, count = self.totals.get(name, (0.0, 0.0))
        self.totals[name] = (total + number * weight, count + weight)
        if name == self.kept:
            self.is_kept_whole &= self.is_in_batch
            if self.is_in_batch:
                total, count = self.parts[-1]
                self.parts[-1] = (total + number * weight, count + weight)

    def compute(self, trainer: Trainer) -> dict[str, float]:
        """What was logged, over all ranks."""
        # Sorted: ranks add up one value after another, and may have logged them in different orders.
        values = {
            name: sum_over_ranks(total, trainer) / sum_over_ranks(count, trainer)
            for name, (total, count) in sorted(self.totals.items())
        }
        for name, metric in self.metrics.items():  # these gather over ranks by themselves
            values[name] = float(metric.compute())
            metric.reset()
        return values

    def by_batch(self, trainer: Trainer) -> ByBatch | None:
        """The kept metric batch by batch; None where it was not logged in each batch by itself. Collective."""
        totals, weights = sums_over_ranks(np.array(self.parts).reshape(-1, 2), trainer).T
        is_whole = sum_over_ranks(float(self.is_kept_whole), trainer) == trainer.world_size
        if not is_whole or not (weights > 0).all():
            return None
        return ByBatch(totals / weights, weights)


def sum_over_ranks(value: float, trainer: Trainer) -> float:
    """A number of each rank, added up in float64 on all of them."""
    if trainer.world_size < 2:
        return value
    everyone: list[float] = [0.0] * trainer.world_size
    torch.distributed.all_gather_object(everyone, value)
    return sum(everyone)


def sums_over_ranks(values: npt.NDArray[np.float64], trainer: Trainer) -> npt.NDArray[np.float64]:
    """The same of many numbers, which have one shape on all ranks."""
    if trainer.world_size < 2:
        return values
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, values)
    total: npt.NDArray[np.float64] = np.sum(everyone, axis=0)
    return total
