"""Simulated lines between children on a test set, sample by sample, whose truth is known: how often do verdicts say it?

``python tests/helpers/line_process.py`` prints the table that ``functional.judge`` refers to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from helpers.barrier_process import percent, table
from lightning_lottery.functional.connectivity import error_barrier
from lightning_lottery.functional.crossed import Blocks
from lightning_lottery.functional.verdicts import Stability, judge

THRESHOLD = 0.02
PLACES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Lines:
    """Children that are wrong on a share of the samples, and barriers between them.

    Args:
        error: Share of samples on which a child is wrong.
        disagreement: Share of samples on which of two children exactly one is right.
        barrier: The true barrier of a parent, the mean over all parents: wrong answers more in the middle of a line.
        parents: Standard deviation of barriers between parents over their mean, log-normal.
        children: The same between pairs of children.
        samples: In the test set.
        blocks: In which they are evaluated.
    """

    error: float = 0.05
    disagreement: float = 0.05
    barrier: float = 0.0
    parents: float = 0.0
    children: float = 0.15
    samples: int = 360
    blocks: int = 12

    def draw(self, random: np.random.Generator, parents: int, children: int) -> tuple[dict, Blocks]:
        """One experiment: barriers of pairs by parent, and the same lines in blocks of samples."""
        # A sample is hard for all networks (wrong everywhere), or unstable: of two children each is wrong at random.
        unstable = 2 * self.disagreement  # two of them differ on half of these
        is_hard = random.random(self.samples) < self.error - unstable / 2
        is_unstable = ~is_hard & (random.random(self.samples) < unstable / (1 - self.error + unstable / 2))
        edges = np.linspace(0, self.samples, self.blocks + 1).round().astype(int)
        lines: dict[int, dict[tuple[int, int], np.ndarray]] = {}
        for parent in range(parents):
            height = self.barrier * _log_normal(random, self.parents)
            wrong = np.where(is_unstable, random.random((children, self.samples)) < 0.5, is_hard)
            lines[parent] = {}
            for i, j in combinations(range(children), 2):
                # Where the ends disagree the line changes sides somewhere; of the others a bump is wrong in the middle.
                side = random.random(self.samples)
                along = np.where(PLACES[:, None] < side, wrong[j], wrong[i])
                bump = height * _log_normal(random, self.children) / (1 - self.error)
                along = along | (random.random(self.samples) < bump * (4 * PLACES * (1 - PLACES))[:, None])
                lines[parent][i, j] = np.stack(
                    [along[:, a:b].mean(1) for a, b in zip(edges[:-1], edges[1:], strict=True)], axis=1
                )
        blocks = Blocks(np.diff(edges).astype(float), lines)
        shares = blocks.weights / blocks.weights.sum()
        barriers = {p: {pair: error_barrier(line @ shares) for pair, line in of.items()} for p, of in lines.items()}
        return barriers, blocks


def _log_normal(random: np.random.Generator, variation: float) -> float:
    """A factor of mean 1 with so much standard deviation."""
    sigma = np.log1p(variation**2) ** 0.5
    return float(np.exp(random.normal() * sigma - sigma**2 / 2))


def rates(process: Lines, parents: int, children: int, *, repetitions=400, seed=0) -> Mapping[str, float]:
    """The share of experiments with each verdict."""
    random = np.random.default_rng(seed)
    verdicts = [verdict_on(process, random, parents, children).verdict for _ in range(repetitions)]
    return {word: verdicts.count(word) / repetitions for word in ("stable", "unstable", "undecided")}


def verdict_on(process: Lines, random: np.random.Generator, parents: int, children: int) -> Stability:
    barriers, blocks = process.draw(random, parents, children)
    return judge(barriers, THRESHOLD, blocks=blocks, samples=process.samples)


DESIGNS = ((1, 2), (1, 3), (1, 4), (3, 2), (3, 3), (5, 2), (5, 3))

TRUTHS = {
    "flat, error .05": Lines(),
    "flat, error .15": Lines(error=0.15, disagreement=0.12),
    "barrier .005": Lines(error=0.08, disagreement=0.06, barrier=0.005, parents=0.4),
    "barrier .02, cv .2": Lines(barrier=0.02, parents=0.2),
    "barrier .02, cv .4": Lines(barrier=0.02, parents=0.4),
    "barrier .02, cv .7": Lines(barrier=0.02, parents=0.7),
    "barrier .08, cv .4": Lines(barrier=0.08, parents=0.4),
}


def table_of_rates(repetitions: int = 1000) -> str:
    rows = []
    for name, process in TRUTHS.items():
        for samples, blocks in ((360, 12), (1000, 10)):
            for parents, children in DESIGNS:
                some = replace(process, samples=samples, blocks=blocks, parents=process.parents if parents > 1 else 0.0)
                shares = rates(some, parents, children, repetitions=repetitions)
                rows.append(
                    [name, samples, f"{parents} x {children}", percent(shares["stable"]), percent(shares["unstable"])]
                )
    return table(["truth", "samples", "parents x children", "stable", "unstable"], rows)


if __name__ == "__main__":
    print(table_of_rates())
