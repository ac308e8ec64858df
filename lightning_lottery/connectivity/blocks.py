"""Test samples in blocks: what a verdict needs to know how far other samples could move it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from lightning_lottery.connectivity.batches import Batches, Split, samples_in, share_of
from lightning_lottery.connectivity.evaluation import Evaluator
from lightning_lottery.functional.crossed import LEAST_BLOCKS
from lightning_lottery.hooks.means import ROUNDING, ByBatch

BLOCKS = 12
"""Into about so many parts a test set is cut that comes in fewer than ``LEAST_BLOCKS`` batches."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class LineBlocks:
    """The judged metric along lines, block by block of the same samples.

    Args:
        weights: (blocks,): the samples in each block.
        values: Pair to (places, blocks): the metric at each place of its line.
    """

    weights: Sequence[float]
    values: Mapping[Pair, Sequence[Sequence[float]]]

    def check(self, places: int, pairs: Sequence[Pair]) -> None:
        """Refuse blocks that are not of these lines.

        Raises:
            ValueError: They are of others, or something is no number.
        """
        count = len(self.weights)
        numbers = [*self.weights, *(v for line in self.values.values() for row in line for v in row)]
        if not all(isinstance(number, float) for number in numbers) or not all(0 < w < math.inf for w in self.weights):
            raise ValueError("a value of a block is no number")
        fits = list(self.values) == list(pairs) and count >= LEAST_BLOCKS
        if not fits or any(
            len(line) != places or any(len(row) != count for row in line) for line in self.values.values()
        ):
            raise ValueError("its blocks are of other lines")


def blocks_of(
    by_batch: Mapping[Pair, Sequence[ByBatch | None]], curves: Mapping[Pair, Sequence[float]]
) -> tuple[LineBlocks | None, str]:
    """The lines block by block, or why they are judged by networks alone.

    Args:
        by_batch: Pair to the metric batch by batch, at each place of its line; empty where it was not evaluated.
        curves: Pair to the metric at each place.
    """
    whole = {pair: [point for point in points if point is not None] for pair, points in by_batch.items()}
    if any(len(whole[pair]) < len(curve) for pair, curve in curves.items()):
        return None, "the metric was not logged batch by batch"
    weights = next(iter(whole.values()))[0].weights
    for pair, points in whole.items():
        for point, value in zip(points, curves[pair], strict=True):
            if point.weights.shape != weights.shape or not np.allclose(point.weights, weights):
                return None, "the metric was logged with other batch sizes from place to place"
            if not point.averages_to(value):
                return None, "the metric is no mean over batches"
    if len(weights) < LEAST_BLOCKS:
        return None, f"there are {len(weights)} batches, and {LEAST_BLOCKS} are needed"
    values = {pair: [point.joined().values.tolist() for point in points] for pair, points in whole.items()}
    return LineBlocks(next(iter(whole.values()))[0].joined().weights.tolist(), values), ""


def cut_into_blocks(
    batches: Batches, module: LightningModule, trainer: Trainer, split: Split, data: Any, monitor: str
) -> None:
    """Have batches that are fewer than ``LEAST_BLOCKS`` evaluated in parts, where the metric is the same then.

    A metric may not be a mean over samples, or be defined for some batch sizes only: some samples are evaluated at once
    and in two halves. Nothing is done where the Trainer limits the number of batches, which are then no others.

    Args:
        batches: What is cut.
        module: What logs the metric.
        trainer: Runs the evaluations.
        split: Which of the module's steps.
        data: The project's data module.
        monitor: The metric.
    """
    parts = math.ceil(BLOCKS / len(batches))
    is_limited = getattr(trainer, f"limit_{split}_batches") != 1.0
    if len(batches) >= LEAST_BLOCKS or is_limited or max(batches.sizes) < 2 * parts:
        return
    try:
        if _is_mean_over_samples(batches, module, trainer, split, data, monitor):
            batches.cut(parts)
    except Exception:  # somebody's step, on fewer samples than it has ever seen: it stays with its own batches
        return


def _is_mean_over_samples(
    batches: Batches, module: LightningModule, trainer: Trainer, split: Split, data: Any, monitor: str
) -> bool:
    """Whether the metric of a few samples is the mean of its values on two halves of them."""
    first = next(iter(batches))
    size = samples_in(first)
    some = first if size < 2 * _TRIED else share_of(first, 0, size // _TRIED)
    halves = [share_of(some, half, 2) for half in (0, 1)]
    tried = Evaluator(module, trainer, Batches([some, *halves]), split, data=data)
    try:
        tried(lambda module: None, kept=monitor)
    finally:
        tried.close()
    (values,) = tried.by_batch
    if values is None:
        return False
    whole, *parts = values.values
    weights = values.weights[1:] / values.weights[1:].sum()
    return math.isclose(float(weights @ parts), float(whole), rel_tol=ROUNDING, abs_tol=ROUNDING)


_TRIED = 16
"""About so many samples are evaluated to see that."""
