"""What a child's test logged batch by batch: a small file beside its records, by which other samples can be judged."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_lottery.children.reading import again, read_mapping
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole
from lightning_lottery.hooks.means import ByBatch, Means
from lightning_lottery.hooks.quiet import logging_to

FILE = "by_batch.json"
WHAT = "record of the test's batches"


class LogsByBatch(Callback):
    """Keeps what a test logs in each batch, beside Lightning's own averages: it listens, and evaluates nothing.

    Metrics that are not logged in every batch, or not as means, are left out; so is whatever cannot be kept, as a
    verdict's convenience must end no training.
    """

    def __init__(self) -> None:
        self.by_batch: dict[str, ByBatch] = {}
        self._means: dict[str, Means | None] = {}  # None for what cannot be kept
        self._batches, self._size, self._is_in_batch = 0, 0, False

    @contextmanager
    def listening(self, module: LightningModule) -> Iterator[None]:
        """While the block runs the module's ``log`` is heard."""
        log = module.log

        def log_and_keep(name: str, value: Any, *arguments: Any, **options: Any) -> None:
            log(name, value, *arguments, **options)
            self._keep(name, lambda means: means.log(name, value, *arguments, **options))

        with logging_to(module, log_and_keep):
            yield

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        """Another batch, which weighs what Lightning lets it weigh."""
        self._batches, self._size, self._is_in_batch = self._batches + 1, _size_of(batch), True
        for name in self._means:
            self._keep(name, lambda means: means.begin_batch(self._size))

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """The batch is over."""
        self._is_in_batch = False
        for name in self._means:
            self._keep(name, Means.end_batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the ranks' batches together. Collective."""
        parts = {
            name: np.array(means.parts)
            for name, means in self._means.items()
            if means is not None and means.is_kept_whole and len(means.parts) == self._batches
        }
        # In one call, whatever each rank logged: several would hang where ranks differ in what they have.
        everyone: list[Any] = [parts] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(everyone, parts)
        for name in parts:
            ranks = [each[name] for each in everyone if name in each and each[name].shape == parts[name].shape]
            totals, weights = np.sum(ranks, axis=0).T
            if len(ranks) == trainer.world_size and (weights > 0).all():
                self.by_batch[name] = ByBatch(totals / weights, weights).joined()

    def write(self, folder: Path) -> None:
        """Write the file, where there was a test."""
        if self._batches:
            plain = {
                name: {"values": metric.values.tolist(), "weights": metric.weights.tolist()}
                for name, metric in self.by_batch.items()
            }
            write_whole(folder / FILE, json.dumps(plain).encode(), WHAT)

    def _keep(self, name: str, change: Callable[[Means], None]) -> None:
        """Change what is kept of a metric; drop it where that fails."""
        try:
            if name not in self._means:
                self._means[name] = Means(name)
                if self._is_in_batch:  # else it was logged in no batch, and that is noticed
                    self._means[name].begin_batch(self._size)  # type: ignore[union-attr]
            if (means := self._means[name]) is not None:
                change(means)
        except Exception:  # somebody's metric or value, which Lightning itself takes
            self._means[name] = None


def read_by_batch(folder: Path) -> dict[str, ByBatch] | None:
    """What a finished child's test logged batch by batch, by metric.

    Returns:
        None where nothing was tested, or an earlier version of this package trained the child.

    Raises:
        LotteryError: The file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    by_batch = {}
    for name, metric in read_mapping(path, WHAT, {}).items():
        if not _is_by_batch(metric):
            raise LotteryError(f"The {WHAT} '{path}' is damaged: its '{name}' is none. {again(folder)}")
        by_batch[name] = ByBatch(np.array(metric["values"]), np.array(metric["weights"]))
    return by_batch


def _is_by_batch(metric: Any) -> bool:
    """Whether values and weights are as many floats, at least one, and the weights can be some."""
    if not isinstance(metric, dict):
        return False
    values, weights = metric.get("values"), metric.get("weights")
    if not isinstance(values, list) or not isinstance(weights, list) or not 0 < len(values) == len(weights):
        return False
    return all(isinstance(number, float) for number in (*values, *weights)) and all(0 < w < math.inf for w in weights)


def _size_of(batch: Any) -> int:
    """How many samples a batch has by Lightning's rule, its first tensor; 0 where there is none."""
    tensors: list[Tensor] = []
    apply_to_collection(batch, Tensor, tensors.append)
    return (tensors[0].shape[0] if tensors[0].ndim else 1) if tensors else 0
