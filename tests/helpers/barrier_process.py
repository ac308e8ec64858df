"""A simulated process of barriers whose truth is known: how often do bounds, verdicts and searches say it?

``python tests/helpers/barrier_process.py`` prints the tables.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product

import numpy as np

from lightning_lottery.functional.k_star import find_k_star
from lightning_lottery.functional.search import Bisection, Grid
from lightning_lottery.functional.verdicts import Stability, judge

THRESHOLD = 0.02
STEPS = tuple(int(step) for step in np.geomspace(10, 20_000, 32).round())  # neighbours are a factor 1.28 apart
DESIGNS = ((1, 3), (3, 2), (3, 3), (5, 3), (3, 5))  # parents, children of each
REPETITIONS = 500
FLOOR = 0.0005  # barriers do not fall to nothing: something differs between two networks


def at(mean, spread=0.0, threshold=THRESHOLD):
    """What three parents say whose mean barrier is bounded by a spread."""
    low, high = mean - spread, mean + spread
    verdict = "unstable" if low > threshold else "stable" if high < threshold else "undecided"
    return Stability(mean, spread / 2, low, high, verdict, None, "", threshold, 3)


@dataclass(frozen=True)
class Process:
    """Barriers of pairs of children: a curve and a bump, times 1 + parent + two children + pair.

    The curve is logistic in log k, down to a floor.

    Args:
        crosses: The step at which the mean is the threshold (the bump apart).
        parents: Standard deviation between parents, relative to the mean (measured on networks: 0.4 to 0.7); one value
            for a parent's whole curve.
        children: Between a parent's children, relative; each of a pair adds its own, new at each step.
        pairs: Of a pair beside its two children, relative, new at each step.
        skewed: The factors are log-normal of mean 1 and multiply, instead of normal and added.
        flat: In place of the logistic curve the threshold itself up to ``crosses``, and a tenth of it from there on.
        bump: Where the curve rises once more, in steps; None for nowhere.
        rise: The bump's height, a barrier.
        width: The bump's standard deviation in log k.
    """

    crosses: float = 500.0
    parents: float = 0.25
    children: float = 0.15
    pairs: float = 0.10
    skewed: bool = False
    flat: bool = False
    bump: float | None = None
    rise: float = 0.03
    width: float = 0.4
    height: float = 0.4
    slope: float = 2.0

    def mean(self, steps):
        """The true barrier, the mean over all parents and children there could be."""
        steps = np.asarray(steps, dtype=float)
        if self.flat:
            return np.where(steps < self.crosses, THRESHOLD, THRESHOLD / 10)
        odds = (self.height / THRESHOLD - 1) * (steps / self.crosses) ** self.slope
        bump = 0 if self.bump is None else self.rise * np.exp(-((np.log(steps / self.bump) / self.width) ** 2) / 2)
        return np.maximum(self.height / (1 + odds), FLOOR) + bump

    def k_star(self):
        """The true step from which on the mean is below the threshold."""
        fine = np.geomspace(STEPS[0], 4 * STEPS[-1], 20_000)
        return float(fine[np.flatnonzero(self.mean(fine) >= THRESHOLD)[-1]])

    def draw(self, draw, parents, children, steps):
        """One experiment: step to parent to pair of children to barrier, never negative."""
        pairs = list(combinations(range(children), 2))
        i, j = np.array(pairs).T
        spreads = np.array([self.parents, self.children, self.pairs])
        if self.skewed:  # a log-normal of mean 1 has this relative standard deviation where its logarithm has that one
            spreads = np.sqrt(np.log1p(spreads**2))
        shapes = (1, parents, 1), (len(steps), parents, children), (len(steps), parents, len(pairs))
        parent, child, pair = (draw.normal(size=shape) * spread for shape, spread in zip(shapes, spreads, strict=True))
        noise = parent + child[..., i] + child[..., j] + pair
        factor = np.exp(noise - spreads**2 @ [1, 2, 1] / 2) if self.skewed else np.maximum(1 + noise, 0)
        values = self.mean(steps)[:, None, None] * factor
        return {
            step: {p: dict(zip(pairs, numbers.tolist(), strict=True)) for p, numbers in enumerate(at)}
            for step, at in zip(steps, values, strict=True)
        }


@dataclass(frozen=True)
class Rates:
    """Shares of the repetitions; every bound's stated share of misses is 5 %."""

    stable: float  # called stable although the mean is the threshold: the upper bound missed
    unstable: float  # called unstable although the mean is the threshold: the lower bound missed
    power: float  # called stable where the mean is half the threshold

    @property
    def coverage(self) -> float:
        return 1 - self.stable - self.unstable


def rates(process: Process, parents: int, children: int, *, repetitions=REPETITIONS, seed=0) -> Rates:
    """How often verdicts and bounds are wrong where the true barrier is the threshold; one parent: its own barrier."""
    draw, at = np.random.default_rng(seed), (round(process.crosses),)
    if parents == 1:
        process = replace(process, parents=0.0)
    truth = float(process.mean(at[0]))
    verdicts, power = [], []
    for _ in range(repetitions):
        barriers = process.draw(draw, parents, children, at)[at[0]]
        verdicts.append(judge(barriers, truth).verdict)
        power.append(judge(barriers, 2 * truth).verdict == "stable")
    share = [float(np.mean([verdict == name for verdict in verdicts])) for name in ("stable", "unstable")]
    return Rates(*share, float(np.mean(power)))


@dataclass(frozen=True)
class SearchResult:
    """What searches for k* found, over the repetitions; distances are in neighbouring steps of the grid."""

    points: float  # steps evaluated, the mean
    most: int  # steps evaluated, the most
    distance: float  # of the estimate from the truth, the median
    within: float  # share of estimates within two neighbouring steps
    early: float  # k* as judged came before the truth
    missed: tuple[float, float]  # the upper and lower bound of k* missed
    later: float  # of k* as judged from the truth, the median, where there is one
    contradicted: float  # share in which a contradiction of monotonicity was reported
    nowhere: float  # share without a k*: the last step is not stable
    at_end: float  # share in which k* is the last step


def searches(
    process: Process,
    search: Callable[[Sequence[int]], Grid | Bisection],
    *,
    parents=3,
    children=3,
    repetitions=REPETITIONS,
    seed=0,
) -> SearchResult:
    """Search for k*, wherever it lies: its place (and the bump's with it) is drawn anew each time."""
    draw, spacing = np.random.default_rng(seed), math.log(STEPS[-1] / STEPS[0]) / (len(STEPS) - 1)
    rows = []
    for _ in range(repetitions):
        shift = float(np.exp(draw.uniform(-2, 1.9)))  # crosses between 68 and 3300 where the process says 500
        moved = replace(process, crosses=process.crosses * shift, bump=process.bump and process.bump * shift)
        truth, asked = moved.k_star(), search(STEPS)
        world, results = moved.draw(draw, parents, children, STEPS), {}
        while todo := asked.next(results):
            results |= {step: judge(world[step]) for step in todo}
        star = find_k_star(results)
        late = math.nan if star.step is None else math.log(star.step / truth) / spacing
        early = star.step is not None and star.step < truth
        misses = (star.high < truth, star.low > truth)
        distance = abs(math.log(star.estimate / truth)) / spacing
        ends = (star.step is None, star.step == STEPS[-1])
        rows.append((len(results), distance, early, *misses, late, bool(star.contradictions), *ends))
    points, distance, early, over, under, later, contradicted, nowhere, at_end = np.array(rows, dtype=float).T
    return SearchResult(
        float(points.mean()),
        int(points.max()),
        float(np.median(distance)),
        float(np.mean(distance <= 2)),
        float(early.mean()),
        (float(over.mean()), float(under.mean())),
        float(np.nanmedian(later)),
        float(contradicted.mean()),
        float(nowhere.mean()),
        float(at_end.mean()),
    )


NORMAL, SKEWED = Process(), Process(skewed=True)
BUMP = Process(bump=2000.0)  # below the threshold, above it once more for about four steps of the grid, below for good
SLOW = Process(skewed=True, parents=0.4, slope=0.25)  # halves over a factor of 18 in steps, beyond its crossing
FLAT = Process(skewed=True, flat=True)  # no curve is worse for a search's level
SPREADS = (0.2, 0.4, 0.7)


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def percent(*shares: float) -> str:
    return ", ".join(f"{100 * share:.1f} %" for share in shares)


def table_of_rates() -> str:
    names = ["noise", "parents x children", "false stable", "false unstable", "bounds cover (90 % stated)"]
    names += ["stable at half the threshold"]
    noises = {"normal, 0.25": NORMAL}
    noises |= {f"log-normal, {spread}": replace(SKEWED, parents=spread) for spread in SPREADS}
    rows = []
    for noise, process in noises.items():
        for parents, children in DESIGNS:
            numbers = rates(process, parents, children)
            shares = [numbers.stable, numbers.unstable, numbers.coverage, numbers.power]
            rows.append([noise, f"{parents} x {children}", *map(percent, shares)])
    return table(names, rows)


def table_of_searches() -> str:
    names = ["curve", "between parents", "search", "steps evaluated", "most"]
    names += ["estimate off by (median, steps of the grid)", "off by at most 2", "upper, lower bound missed"]
    names += ["k* too early", "k* late by (median, steps of the grid)", "no k*", "k* the last step"]
    names += ["contradiction seen"]
    curves = {"logistic": SKEWED, "slow decline": SLOW, "with a bump": replace(BUMP, skewed=True), "flat, drops": FLAT}
    kinds = {"grid": Grid} | {target: partial(Bisection, target=target) for target in ("mean", "verdict")}
    rows = []
    for curve, spread, kind in product(curves, SPREADS, kinds):
        numbers = searches(replace(curves[curve], parents=spread), kinds[kind])
        row = [curve, spread, kind, f"{numbers.points:.1f}", numbers.most, f"{numbers.distance:.2f}"]
        row += [percent(numbers.within), percent(*numbers.missed), percent(numbers.early), f"{numbers.later:.1f}"]
        rows.append([*row, percent(numbers.nowhere), percent(numbers.at_end), percent(numbers.contradicted)])
    return table(names, rows)


if __name__ == "__main__":
    print(table_of_rates(), table_of_searches(), sep="\n\n")
