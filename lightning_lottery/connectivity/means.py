"""Averages over samples and ranks of what a module logs."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torchmetrics import Metric


class Means:
    """Averages over samples what a module logs in one evaluation.

    Lightning guesses a batch's size from the first tensor that it finds, and divides what ranks add up by the integer
    mean of their numbers of samples (2.6.6): both can be wrong. Here the sizes are known and the sums exact.
    """

    def __init__(self) -> None:
        self.samples = 0  # of the batches that ran: a Trainer may limit them
        self.weight = 1.0  # in samples, of what is logged now
        self.totals: dict[str, tuple[float, float]] = {}
        self.metrics: dict[str, Metric] = {}

    def begin_batch(self, size: int) -> None:
        """What is logged from here on belongs to a batch of so many samples."""
        self.weight = float(size)

    def end_batch(self) -> None:
        """What is logged from here on belongs to all samples so far, as a value in ``on_test_epoch_end`` does."""
        self.samples += int(self.weight)
        self.weight = float(self.samples)

    def log(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **options: Any) -> None:
        """Take a value as ``LightningModule.log`` would, weighted by its batch."""
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        if options.get("reduce_fx", "mean") not in ("mean", torch.mean):
            return  # only means over samples can be compared
        weight = float(batch_size or self.weight)
        total, count = self.totals.get(name, (0.0, 0.0))
        self.totals[name] = (total + float(value) * weight, count + weight)

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


def sum_over_ranks(value: float, trainer: Trainer) -> float:
    """A number of each rank, added up in float64 on all of them."""
    if trainer.world_size < 2:
        return value
    everyone: list[float] = [0.0] * trainer.world_size
    torch.distributed.all_gather_object(everyone, value)
    return sum(everyone)
