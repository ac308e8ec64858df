"""Which steps of a sweep to ask next: a grid of all, or a bisection that brackets k*."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_lottery.errors import LotteryError
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
    the threshold and the next evaluated one, until these are neighbours, or no further apart than the precision. The
    mean decides here, not the verdict: an undecided step is on the side of its mean. Then ``checks`` steps above, each
    in the middle of the widest gap. One that is not below begins the bisection again above it, as far as ``points``
    allow.

    A bump of the barrier between the evaluated steps stays unseen: more checks find narrower ones, a grid all that
    there is between its steps. ``contradictions`` names the evaluated steps that contradict
    "once stable, always stable".

    Args:
        steps: Candidates, rising.
        precision: Relative: k* is known when it lies between evaluated steps that are at most a factor of
            (1 + precision) apart; 0 for neighbouring candidates.
        checks: Steps above k* that are evaluated beside.

    Raises:
        LotteryError: Fewer than two steps, or not rising; a precision or checks below 0.

    Example:
        >>> search = Bisection([10 * 2**n for n in range(9)])
        >>> search.next({}), search.points, search.trainings(children=3, parents=3)
        ([10, 2560], 7, 63)
    """

    steps: Sequence[int]
    precision: float = 1.0
    checks: int = 2

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.precision < math.inf or self.checks < 0:
            raise LotteryError(
                f"A bisection's `precision` is a ratio >= 0 and `checks` a number >= 0, got {self.precision} and "
                f"{self.checks}."
            )

    @property
    def points(self) -> int:
        """The most steps that are evaluated."""
        return min(len(self.steps), 2 + self._depth(0, len(self.steps) - 1) + self.checks)

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
        """The evaluated steps between which the mean barrier falls below the threshold for the last time.

        None for the lower one where it is below at the first step, for the upper one where it is not at the last.

        Args:
            judged: As for ``next``, when it is done.
        """
        steps = self._replay(judged)[1]
        last_above = max((number for number, step in enumerate(steps) if not judged[step].is_below), default=-1)
        low = steps[last_above] if last_above >= 0 else None
        return low, steps[last_above + 1] if last_above + 1 < len(steps) else None

    def _replay(self, judged: Mapping[int, Stability]) -> tuple[list[int], list[int]]:
        """The steps to evaluate now, and those asked for before.

        The search keeps no state: it is played anew from the beginning with what is judged, so that one cut off goes on
        as if nothing had happened, and steps that an earlier search judged cost nothing.
        """
        last = len(self.steps) - 1
        if missing := [self.steps[number] for number in (0, last) if self.steps[number] not in judged]:
            return missing, []
        below = {number: judged[step].is_below for number, step in enumerate(self.steps) if step in judged}
        # Numbers of candidates, rising. Between checks the last crossing lies in (low, high]:
        #
        #     asked    0 ........ low ........ high ........ last
        #     below?   anything   no           yes, as every asked one from here on
        asked, checks, points = [0, last], self.checks, self.points
        low, high = (0, 0) if below[0] else (0, last)
        while below[last] and len(asked) < points:
            bracket = None if self._is_narrow(low, high) else (low, high)
            if not (gap := bracket or (_widest(asked, high) if checks else None)):
                break
            middle = sum(gap) // 2
            if middle not in below:
                return [self.steps[middle]], [self.steps[number] for number in asked]
            asked = sorted([*asked, middle])
            checks -= not bracket
            if not below[middle]:  # of the bracket its upper half; of a check a new bracket, above the one before
                low, high = middle, asked[asked.index(middle) + 1]
            elif bracket:
                high = middle
        return [], [self.steps[number] for number in asked]

    def _is_narrow(self, low: int, high: int) -> bool:
        return high - low <= 1 or self.steps[high] <= (1 + self.precision) * self.steps[low]

    def _depth(self, low: int, high: int) -> int:
        """The most steps that it takes from this bracket to a narrow one."""
        if self._is_narrow(low, high):
            return 0
        middle = (low + high) // 2
        return 1 + max(self._depth(low, middle), self._depth(middle, high))


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
