"""Which steps of a sweep to ask next: a grid of all, or a bisection that brackets k*."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Literal

from lightning_lottery.checks import check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.k_star import LEVEL
from lightning_lottery.functional.verdicts import Stability


@dataclass(frozen=True)
class Grid:
    """Every candidate step at once.

    Args:
        steps: Candidates, rising.
    """

    steps: Sequence[int]

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def points(self) -> int:
        """How many steps are evaluated."""
        return len(self.steps)

    @property
    def level(self) -> float:
        """The most that the probability of a k* before the truth may be, a fraction: that of one test."""
        return LEVEL

    def trainings(self, children: int, parents: int) -> int:
        """How many children are trained."""
        return self.points * children * parents

    def next(self, judged: Mapping[int, Stability]) -> list[int]:
        """The steps that are still to be evaluated; empty when done."""
        return [step for step in self.steps if step not in judged]


@dataclass(frozen=True)
class Bisection:
    """Few of the candidate steps, one after another, until k* is known to a relative precision.

    Both ends first: is it ever stable? Then the middle between the last evaluated step whose mean barrier is not below
    the threshold and the next evaluated one, until these are neighbours, or no further apart than the precision. With
    ``target="verdict"`` the same once more between the last evaluated step that is not stable and the next: where the
    barrier declines slowly, undecided steps follow the mean's crossing, and k* as judged would be whichever evaluated
    step happens to lie above them. Then ``checks`` steps above k*, each in the middle of the widest gap. One that does
    not pass begins the bisection again above it, as far as ``points`` allow.

    A bump of the barrier between the evaluated steps stays unseen: more checks find narrower ones, a grid all that
    there is between its steps. ``contradictions`` names the evaluated steps that contradict
    "once stable, always stable".

    Simulated (``tests/helpers/barrier_process.py``, 2026-11-29), 500 searches of 32 candidates a factor 1.28 apart, 3
    parents of 3 children, log-normal with a relative standard deviation of 0.4 between parents; k* late: the median, in
    candidates::

        curve          target    evaluated    no k*    k* the last candidate    k* late    k* too early
        logistic       mean         8.0         0 %              0 %              2.1          1.2 %
                       verdict      8.5         0 %              0 %              2.1          1.2 %
        slow decline   mean         7.9        14 %             23 %              8.8          3.4 %
                       verdict      9.2        14 %             13 %              8.1          3.6 %
        with a bump    mean         7.9         3 %             16 %              1.8          2.8 %
                       verdict      8.8         3 %             13 %              1.6          2.4 %

    Args:
        steps: Candidates, rising.
        precision: Relative: k* is known when it lies between evaluated steps that are at most a factor of
            (1 + precision) apart; 0 for neighbouring candidates.
        checks: Steps above k* that are evaluated beside.
        target: What is bracketed: ``"mean"`` for the mean barrier's crossing of the threshold, ``"verdict"`` for that
            and the first step that is judged stable.

    Raises:
        LotteryError: Fewer than two steps, or not rising; a precision or checks below 0; another target.

    Example:
        >>> search = Bisection([10 * 2**n for n in range(9)])
        >>> search.next({}), search.points, search.trainings(children=3, parents=3)
        ([10, 2560], 9, 81)
        >>> Bisection(search.steps, target="mean").points
        7
    """

    steps: Sequence[int]
    precision: float = 1.0
    checks: int = 2
    target: Literal["mean", "verdict"] = "verdict"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_word("target", self.target, ("mean", "verdict"))
        if not 0 <= self.precision < math.inf or self.checks < 0:
            raise LotteryError(
                f"A bisection's `precision` is a ratio >= 0 and `checks` a number >= 0, got {self.precision} and "
                f"{self.checks}."
            )

    @property
    def points(self) -> int:
        """The most steps that are evaluated."""
        depth = self._depth(0, len(self.steps) - 1)
        # The paths of two bisections through one tree of middles share at least the first.
        asked = depth if self.target == "mean" else max(2 * depth - 1, depth)
        return min(len(self.steps), 2 + asked + self.checks)

    @property
    def level(self) -> float:
        """The most that the probability of a k* before the truth may be, a fraction: more than that of one test.

        The last evaluated step before the truth decides, and the search selects it: of a step there that is not called
        stable it goes on to a later one, which has its chance as well. The mean leads on in half of the cases, where
        the barrier is at the threshold, the verdict in nearly all::

            mean      level (1 + 1/2 + 1/4 + ...) = level / (1 - 1/2)
            verdict   1 - (1 - level)^(1 + most steps that one bracket takes)

        Reached where the barrier is at the threshold at all steps before the truth and far below it after; where it
        declines, steps long before the truth have no chance. Simulated as above (there 10 % and 23 % are stated): 0.6
        to 2.8 % on the logistic curve and 0.4 to 8 % on the slow decline, for 0.2 to 0.7 between parents; on a flat one
        at 0.2, 0.4, 0.7 the mean's 3.6, 6.8, 12.4 %, the verdict's 4.6, 9.8, 15.4 %, a grid's 2.4, 7.8, 13.0 %. So at
        0.7 skewed parents alone break a test's own 5 %, whatever the search.
        """
        depth = self._depth(0, len(self.steps) - 1)
        every = -math.expm1((1 + depth) * math.log1p(-LEVEL))
        return every if self.target == "verdict" else min(LEVEL / (1 - 1 / 2), every)

    def trainings(self, children: int, parents: int) -> int:
        """The most children that are trained, known beforehand.

        Args:
            children: Of each parent at each step.
            parents: How many; what they themselves cost is not counted.
        """
        return self.points * children * parents

    def next(self, judged: Mapping[int, Stability]) -> list[int]:
        """The steps to evaluate now; empty when done.

        Args:
            judged: The judgement of every step evaluated so far, pooled over parents; steps that are no candidates are
                not looked at.
        """
        return self._replay(judged)[0]

    def bracket(self, judged: Mapping[int, Stability]) -> tuple[int | None, int | None]:
        """The last evaluated step that does not pass, and the next: all from it on have a mean below, or are stable.

        None for the lower one where all pass, for the upper one where the last does not.

        Args:
            judged: As for ``next``, when it is done.
        """
        asked, passed = self._replay(judged)[1], self._passed(judged)[-1]
        low, high = _edge(asked, passed)
        return self.steps[low] if low not in passed else None, self.steps[high] if high in passed else None

    def _passed(self, judged: Mapping[int, Stability]) -> list[set[int]]:
        """Numbers of the candidates whose mean is below; for the verdict, then those that are stable."""
        seen = {number: judged[step] for number, step in enumerate(self.steps) if step in judged}
        below = {number for number, stability in seen.items() if stability.is_below}
        stable = {number for number, stability in seen.items() if stability.verdict == "stable"}
        return [below] if self.target == "mean" else [below, stable]

    def _replay(self, judged: Mapping[int, Stability]) -> tuple[list[int], list[int]]:
        """The steps to evaluate now, and the numbers of those asked for before.

        The search keeps no state: it is played anew from the beginning with what is judged, so that one cut off goes on
        as if nothing had happened, and steps that an earlier search judged cost nothing.
        """
        last = len(self.steps) - 1
        if missing := [self.steps[number] for number in (0, last) if self.steps[number] not in judged]:
            return missing, []
        asked, checks, points, curves = [0, last], self.checks, self.points, self._passed(judged)
        while len(asked) < points:
            edges = [_edge(asked, passed) for passed in curves]
            bracket = next((edge for edge in edges if not self._is_narrow(*edge)), None)
            if not (gap := bracket or (_widest(asked, edges[-1][1]) if checks else None)):
                break
            middle = sum(gap) // 2
            if self.steps[middle] not in judged:
                return [self.steps[middle]], asked
            asked = sorted([*asked, middle])
            checks -= not bracket
        return [], asked

    def _is_narrow(self, low: int, high: int) -> bool:
        return high - low <= 1 or self.steps[high] <= (1 + self.precision) * self.steps[low]

    def _depth(self, low: int, high: int) -> int:
        """The most steps that it takes from this bracket to a narrow one."""
        if self._is_narrow(low, high):
            return 0
        middle = (low + high) // 2
        return 1 + max(self._depth(low, middle), self._depth(middle, high))


def _edge(asked: Sequence[int], passed: Collection[int]) -> tuple[int, int]:
    """The last asked number that does not pass, and the next; where all pass, or the last does not, that end twice.

    ::

        asked    0 ........ low ........ high ........ last
        passed?  anything   no           yes, as every asked one from here on
    """
    passing = len(list(takewhile(lambda number: number in passed, reversed(asked))))
    if not passing:
        return asked[-1], asked[-1]
    high = len(asked) - passing
    return asked[max(high - 1, 0)], asked[high]


def _widest(numbers: Sequence[int], least: int) -> tuple[int, int] | None:
    """The widest gap between neighbours of at least this number, the lowest of several; None where all are closed."""
    gaps = [(a, b) for a, b in pairwise(numbers) if a >= least and b - a > 1]
    return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)


def check_steps(steps: Sequence[int]) -> None:
    """Refuse candidates that cannot be searched.

    Raises:
        LotteryError: Fewer than two, below 0, or not rising.

    Example:
        >>> check_steps([0, 10, 100])
    """
    if len(steps) < 2 or steps[0] < 0 or any(a >= b for a, b in pairwise(steps)):
        raise LotteryError(f"k* is searched among two or more rising steps >= 0, got {list(steps)}.")
