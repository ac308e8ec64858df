"""Simulated tickets beside the dense network, sample by sample, whose true difference is known: what do verdicts say?

``python tests/helpers/matching_process.py`` prints the rates that ``functional.matching`` refers to.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from helpers.barrier_process import percent, table
from lightning_lottery.functional.matching import Matching, SeedBlocks, judge_matching, matches_down_to

MARGIN = 0.01


@dataclass(frozen=True)
class Tickets:
    """The dense network of each seed, and its tickets at several levels, on one test set.

    Args:
        difference: The true one at every level, of accuracies: mean over seeds and samples.
        error: Share of samples on which the dense network is wrong.
        unstable: Share of samples on which each network is wrong at random, half of the time.
        lost: Share of samples that every ticket gets wrong and the dense network right, beside those that every ticket
            wins.
        seeds: Standard deviation of the true difference between seeds.
        samples: In the test set.
        blocks: In which they are evaluated.
    """

    difference: float = -MARGIN
    error: float = 0.05
    unstable: float = 0.05
    lost: float = 0.02
    seeds: float = 0.004
    samples: int = 360
    blocks: int = 12

    def draw(self, random: np.random.Generator, seeds: int, levels: int = 1) -> Iterator[tuple]:
        """One experiment: of each level the values of the seeds, those of the dense networks, and the blocks."""
        # A sample is hard for all networks, unstable, easy; of the easy ones tickets lose some, of the hard win some.
        kind, place = random.random(self.samples), np.linspace(0, self.samples, self.blocks + 1).round().astype(int)
        hard = self.error - self.unstable / 2
        is_hard, is_unstable = kind < hard, (kind >= hard) & (kind < hard + self.unstable)
        is_easy = ~is_hard & ~is_unstable
        won = min(hard, max(0.0, self.lost + self.difference))
        lost = won - self.difference

        def networks() -> np.ndarray:
            return np.where(is_unstable, random.random((seeds, self.samples)) < 0.5, is_hard)

        def in_blocks(wrong: np.ndarray) -> np.ndarray:
            return np.stack([1 - wrong[:, a:b].mean(1) for a, b in zip(place[:-1], place[1:], strict=True)], axis=1)

        dense, weights = networks(), np.diff(place).astype(float)
        for _ in range(levels):
            side = random.random(self.samples)
            ticket = networks()
            ticket = (ticket & ~(is_hard & (side < won / hard))) | (
                is_easy & (side < lost / (1 - hard - self.unstable))
            )
            # What a seed has beside the mean: some easy samples more that its ticket, or its dense network, loses.
            shift = random.normal(0, self.seeds, seeds)[:, None] / (1 - hard - self.unstable - lost)
            more = is_easy & (random.random((seeds, self.samples)) < np.abs(shift))
            values, reference = ticket | (more & (shift < 0)), dense | (more & (shift > 0) & ~ticket)
            blocks = SeedBlocks(weights, in_blocks(values) - in_blocks(reference))
            yield 1 - values.mean(1), 1 - reference.mean(1), blocks

    def judged(self, random: np.random.Generator, seeds: int, levels: int = 1) -> list[dict[str, Matching]]:
        """The verdicts of one experiment at each level, on seeds alone and on seeds and samples."""
        return [
            {
                kind: judge_matching(list(values), list(reference), MARGIN, blocks=each, samples=self.samples)
                for kind, each in (("seeds alone", None), ("crossed", blocks))
            }
            for values, reference, blocks in self.draw(random, seeds, levels)
        ]


def rates(process: Tickets, seeds: int, *, repetitions: int, verdict: str = "matching") -> dict[str, float]:
    """The share of experiments with this verdict, on seeds alone and crossed."""
    random = np.random.default_rng(0)
    drawn = [process.judged(random, seeds)[0] for _ in range(repetitions)]
    return {kind: sum(each[kind].verdict == verdict for each in drawn) / repetitions for kind in drawn[0]}


def family_rates(process: Tickets, seeds: int, *, repetitions: int) -> dict[str, float]:
    """Over 14 levels, none of which matches: the share of experiments that say that any does, and in sequence."""
    random = np.random.default_rng(0)
    counts = dict.fromkeys(("any, seeds alone", "any, crossed", "in sequence, crossed"), 0)
    for _ in range(repetitions):
        levels = process.judged(random, seeds, levels=14)
        for kind in ("seeds alone", "crossed"):
            counts[f"any, {kind}"] += any(level[kind].verdict == "matching" for level in levels)
        in_sequence = [(0.8**number, level["crossed"]) for number, level in enumerate(levels, start=1)]
        counts["in sequence, crossed"] += matches_down_to(in_sequence) is not None
    return {kind: count / repetitions for kind, count in counts.items()}


TRUTHS = {
    "error .05": Tickets(),
    "error .05, seeds .01": Tickets(seeds=0.01),
    "error .15": Tickets(error=0.15, unstable=0.12, lost=0.03),
}
SIZES = ((360, 12), (1000, 10))
"""Samples, and the blocks in which they are evaluated."""


def table_of_rates(repetitions: int) -> str:
    rows = []
    for name, process in TRUTHS.items():
        for samples, blocks in SIZES:
            for seeds in (2, 3, 5):
                some = replace(process, samples=samples, blocks=blocks)
                both = (some, replace(some, difference=0.0))
                shares = [rates(truth, seeds, repetitions=repetitions) for truth in both]
                cells = [percent(share[kind]) for share in shares for kind in ("seeds alone", "crossed")]
                rows.append([name, samples, seeds, *cells])
    heads = ["truth", "samples", "seeds", "false, seeds alone", "false, crossed", "true, seeds alone", "true, crossed"]
    return table(heads, rows)


def table_of_families(repetitions: int) -> str:
    rows = []
    for (samples, blocks), seeds in product(SIZES, (3, 5)):
        shares = family_rates(Tickets(samples=samples, blocks=blocks), seeds, repetitions=repetitions)
        rows.append([samples, seeds, *map(percent, shares.values())])
    return table(["samples", "seeds", "any, seeds alone", "any, crossed", "in sequence, crossed"], rows)


if __name__ == "__main__":
    print(table_of_rates(4000))
    print(table_of_families(1000))
