"""Test samples in blocks: what a verdict needs to know how far other samples could move it."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

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
    if not all(math.isfinite(value) for curve in curves.values() for value in curve):
        return None, "the metric is not finite everywhere"
    # Before it is asked whether all are there: after a first one that is no mean no more are kept.
    points = [
        (point, value) for pair, line in by_batch.items() for point, value in zip(line, curves[pair], strict=False)
    ]
    if any(point is not None and not point.averages_to(value) for point, value in points):
        return None, "the metric is no mean over batches"
    whole = {pair: [point for point in line if point is not None] for pair, line in by_batch.items()}
    if any(len(whole[pair]) < len(curve) for pair, curve in curves.items()):
        return None, "the metric was not logged batch by batch"
    weights = next(iter(whole.values()))[0].weights
    for point in (point for line in whole.values() for point in line):
        if point.weights.shape != weights.shape or not np.allclose(point.weights, weights):
            return None, "the metric was logged with other batch sizes from place to place"
    if len(weights) < LEAST_BLOCKS:
        return None, f"there are {len(weights)} batches, and {LEAST_BLOCKS} are needed"
    joined = {pair: [point.joined() for point in points] for pair, points in whole.items()}
    first = next(iter(joined.values()))[0]
    if first.equal_batches() < LEAST_BLOCKS - 1:  # one less, as the last batch may be what was left over
        return None, "a few of the batches hold most of the samples"
    values = {pair: [point.values.tolist() for point in points] for pair, points in joined.items()}
    return LineBlocks(first.weights.tolist(), values), ""


def cut_into_blocks(
    batches: Batches, module: LightningModule, trainer: Trainer, split: Split, data: Any, monitor: str
) -> None:
    """Have batches that are fewer than ``LEAST_BLOCKS`` evaluated in parts, where all metrics are the same then.

    A metric may not be a mean over samples, or be defined for some batch sizes only: some samples are evaluated at once
    and in quarters. Nothing is done where the Trainer limits the number of batches, which are then no others.

    Args:
        batches: What is cut.
        module: What logs the metric.
        trainer: Runs the evaluations.
        split: Which of the module's steps.
        data: The project's data module.
        monitor: The metric.
    """
    limit = getattr(trainer, f"limit_{split}_batches")
    is_limited = isinstance(limit, int) or limit != 1.0  # Lightning's rule: 1 is one batch, 1.0 are all
    if is_limited or (parts := _parts_for(batches)) == 1:
        return
    try:
        with isolate_rng():  # the step may draw random numbers
            if _is_mean_over_samples(batches, module, trainer, split, data, monitor):
                batches.cut(parts)
    except Exception:  # somebody's step, on fewer samples than it has ever seen: it stays with its own batches
        return


def _parts_for(batches: Batches) -> int:
    """In how many parts each batch is to be given, the same on all ranks; 1 where they stay as they are."""
    parts = math.ceil(BLOCKS / len(batches))
    is_cut = len(batches) < LEAST_BLOCKS and max(batches.least) >= 2 * parts and batches.least[0] > 1
    return parts if is_cut else 1


def _is_mean_over_samples(
    batches: Batches, module: LightningModule, trainer: Trainer, split: Split, data: Any, monitor: str
) -> bool:
    """Whether all that is logged of some samples stays what it is where these come in quarters.

    Where the metric is the same on all of these, as where all or no answers are right, that says nothing: more are
    taken.
    """
    first, quarters = next(iter(batches)), min(4, batches.least[0])
    # Not by this rank's number of samples, so that all ranks take as many turns: each is a collective.
    for number in _TRIED:
        some = share_of(first, 0, max(1, samples_in(first) // number))
        results = []
        for pieces in ([some], [share_of(some, quarter, quarters) for quarter in range(quarters)]):
            with closing(Evaluator(module, trainer, Batches(pieces), split, data=data)) as evaluate:
                results += evaluate(lambda module: None, kept=monitor)
        (by_batch,) = evaluate.by_batch
        whole, parts = results
        if by_batch is None or not math.isclose(parts[monitor], whole[monitor], rel_tol=ROUNDING, abs_tol=ROUNDING):
            return False
        if not np.allclose(
            [parts[name] for name in whole], list(whole.values()), rtol=_BESIDE, atol=_BESIDE, equal_nan=True
        ):
            return False
        if not np.allclose(by_batch.values, whole[monitor], rtol=ROUNDING, atol=ROUNDING):
            return True
    return False


_BESIDE = 1e-3
"""How far, relatively, metrics that are not judged may move, by the rounding of losses in lower precision."""

_TRIED = (16, 128, sys.maxsize)
"""About so many samples are evaluated to see that, and more where these do not show it."""
