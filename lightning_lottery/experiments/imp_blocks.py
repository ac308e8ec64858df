"""The test of every child of iterative pruning in blocks of the same samples, where all of them have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from lightning_lottery.functional.crossed import LEAST_BLOCKS, Floats
from lightning_lottery.functional.matching import SeedBlocks
from lightning_lottery.hooks.means import ByBatch

Tested = Mapping[str, ByBatch] | None
"""What a child's test logged batch by batch, by metric; None where it left no such file."""


@dataclass(frozen=True)
class BlocksOfTest:
    """The judged metric of every child, block by block of the same test samples.

    Args:
        weights: (blocks,): the samples in each block.
        values: Name of a level or control to (seeds, blocks).
    """

    weights: Floats
    values: Mapping[str, Floats]

    def between(self, name: str, reference: str, sign: int) -> SeedBlocks:
        """The differences between two levels or controls; ``sign`` -1 where the metric is better when low."""
        return SeedBlocks(self.weights, sign * (self.values[name] - self.values[reference]))

    @property
    def samples(self) -> int:
        """In all blocks."""
        return round(float(self.weights.sum()))


def blocks_of_test(
    tested: Mapping[str, Sequence[Tested]], values: Mapping[str, Sequence[float]], seeds: Sequence[int], monitor: str
) -> tuple[BlocksOfTest | None, str]:
    """All children's tests in blocks, or why seeds alone are judged.

    Args:
        tested: Name of a level or control to what each seed's child left; empty where nobody has looked.
        values: Name to the judged metric of each seed's child, as it was recorded.
        seeds: In their order.
        monitor: The judged metric.
    """
    rows: dict[str, list[Floats]] = {}
    first: ByBatch | None = None
    for name, recorded in values.items():
        for seed, value, by_metric in zip(seeds, recorded, tested.get(name, [None] * len(seeds)), strict=True):
            child = f"{name} of seed {seed}"
            if by_metric is None:
                return None, f"{child} kept no values batch by batch, as one of an earlier version or without a test"
            if (metric := by_metric.get(monitor)) is None:
                return None, f"{child} did not log '{monitor}' in each batch of its test"
            first = metric if first is None else first
            if metric.weights.shape != first.weights.shape or not np.allclose(metric.weights, first.weights):
                return None, f"{child} was tested on other batches than level-0 of seed {seeds[0]}"
            if isfinite(value) and not metric.averages_to(value):
                return None, f"'{monitor}' of {child} is not the mean of its values over batches"
            rows.setdefault(name, []).append(metric.values)
    if first is None or len(first.weights) < LEAST_BLOCKS:
        count = 0 if first is None else len(first.weights)
        return None, f"the test has {count} batches, and {LEAST_BLOCKS} are needed"
    return BlocksOfTest(first.weights, {name: np.stack(of_seeds) for name, of_seeds in rows.items()}), ""
