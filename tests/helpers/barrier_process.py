"""A simulated process of barriers whose truth is known: how often do bounds, verdicts and searches say it?

``python tests/helpers/barrier_process.py`` prints the tables.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np

from lightning_lottery.functional.k_star import find_k_star
from lightning_lottery.functional.search import Bisection, Grid
from lightning_lottery.functional.verdicts import Stability, judge

THRESHOLD = 0.02
STEPS = tuple(int(step) for step in np.geomspace(10, 20_000, 32).round())  # neighbours are a factor 1.28 apart
DESIGNS = ((1, 3), (3, 2), (3, 3), (5, 3), (3, 5))  # parents, children of each
REPETITIONS = 500


def at(mean, spread=0.0, threshold=THRESHOLD):
    """What three parents say whose mean barrier is bounded by a spread."""
    low, high = mean - spread, mean + spread
    verdict = "unstable" if low > threshold else "stable" if high < threshold else "undecided"
    return Stability(mean, spread / 2, low, high, verdict, None, "", threshold, 3)


@dataclass(frozen=True)
class Process:
    """Barriers of pairs of children: a logistic curve in log k, and a bump, times 1 + parent + two children + pair.

    Args:
        crosses: The step at which the mean is the threshold (the bump apart).
        parents: Standard deviation between parents, relative to the mean; one value for a parent's whole curve.
        children: Between a parent's children, relative; each of a pair adds its own, new at each step.
        pairs: Of a pair beside its two children, relative, new at each step.
        skewed: The three factors are log-normal of mean 1 and multiply, instead of normal and added.
        bump: Where the curve rises once more, in steps; None for nowhere.
        rise: The bump's height, a barrier.
        width: The bump's standard deviation in log k.
    """

    crosses: float = 500.0
    parents: float = 0.25
    children: float = 0.15
    pairs: float = 0.10
    skewed: bool = False
    bump: float | None = None
    rise: float = 0.03
    width: float = 0.4
    height: float = 0.4
    slope: float = 2.0

    def mean(self, steps):
        """The true barrier, the mean over all parents and children there could be."""
        steps = np.asarray(steps, dtype=float)
        odds = (self.height / THRESHOLD - 1) * (steps / self.crosses) ** self.slope
        bump = 0 if self.bump is None else self.rise * np.exp(-((np.log(steps / self.bump) / self.width) ** 2) / 2)
        return self.height / (1 + odds) + bump

    def k_star(self):
        """The true step from which on the mean is below the threshold."""
        fine = np.geomspace(STEPS[0], 4 * STEPS[-1], 20_000)
        return float(fine[np.flatnonzero(self.mean(fine) >= THRESHOLD)[-1]])

    def draw(self, draw, parents, children, steps):
        """One experiment: step to parent to pair of children to barrier, never negative."""
        pairs = list(combinations(range(children), 2))
        i, j = np.array(pairs).T
        parent = draw.normal(size=(1, parents, 1)) * self.parents
        child = draw.normal(size=(len(steps), parents, children)) * self.children
        child_noise = draw.normal(size=(len(steps), parents, len(pairs))) * self.pairs
        if self.skewed:
            log = parent + child[..., i] + child[..., j] + child_noise
            factor = np.exp(log - (self.parents**2 + 2 * self.children**2 + self.pairs**2) / 2)
        else:
            factor = np.maximum(1 + parent + child[..., i] + child[..., j] + child_noise, 0)
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
        rows.append((len(results), distance, early, *misses, late, bool(star.contradictions)))
    points, distance, early, over, under, later, contradicted = np.array(rows, dtype=float).T
    return SearchResult(
        float(points.mean()),
        int(points.max()),
        float(np.median(distance)),
        float(np.mean(distance <= 2)),
        float(early.mean()),
        (float(over.mean()), float(under.mean())),
        float(np.nanmedian(later)),
        float(contradicted.mean()),
    )


NORMAL, SKEWED = Process(), Process(skewed=True)
BUMP = Process(bump=2000.0)  # below the threshold, above it once more for about four steps of the grid, below for good


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def percent(*shares: float) -> str:
    return ", ".join(f"{100 * share:.1f} %" for share in shares)


def table_of_rates() -> str:
    names = ["noise", "parents x children", "false stable", "false unstable", "bounds cover (90 % stated)"]
    names += ["stable at half the threshold"]
    rows = []
    for noise, process in (("normal", NORMAL), ("log-normal", SKEWED)):
        for parents, children in DESIGNS:
            numbers = rates(process, parents, children)
            shares = [numbers.stable, numbers.unstable, numbers.coverage, numbers.power]
            rows.append([noise, f"{parents} x {children}", *map(percent, shares)])
    return table(names, rows)


def table_of_searches() -> str:
    names = ["curve", "search", "steps evaluated", "most", "estimate off by (median, steps of the grid)"]
    names += ["off by at most 2", "upper, lower bound missed", "judged too early"]
    names += ["judged later by (median, steps of the grid)", "contradiction seen"]
    rows = []
    for curve, process in (("logistic", NORMAL), ("log-normal noise", SKEWED), ("with a bump", BUMP)):
        for checks in (None, 2, 5):
            numbers = searches(process, Grid if checks is None else partial(Bisection, checks=checks))
            row = [
                curve,
                "grid" if checks is None else f"bisect, checks: {checks}",
                f"{numbers.points:.1f}",
                numbers.most,
            ]
            row += [
                f"{numbers.distance:.2f}",
                percent(numbers.within),
                percent(*numbers.missed),
                percent(numbers.early),
            ]
            rows.append([*row, f"{numbers.later:.1f}", percent(numbers.contradicted)])
    return table(names, rows)


if __name__ == "__main__":
    print(table_of_rates(), table_of_searches(), sep="\n\n")
