"""From which step on is a network stable to SGD noise? What a sweep over steps says, and which steps to ask next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
import numpy.typing as npt

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import Verdict
from lightning_lottery.functional.stability import StepStability

Floats = npt.NDArray[np.float64]


def stable_from(verdicts: Mapping[int, Verdict]) -> int | None:
    """The first evaluated step from which on every evaluated step is stable, itself included; None without one.

    This is k* as it is judged. Read from the last step downwards, it is a fixed sequence of tests that ends with the
    first that fails: that k* is too early has a probability of at most one test's level, however many steps there are.

    Example:
        >>> stable_from({0: "unstable", 100: "stable", 200: "undecided", 400: "stable", 800: "stable"})
        400

    Source: Frankle et al. 2020, section 3 (the earliest step at which a network is stable), made strict.
    """
    found = None
    for step in sorted(verdicts, reverse=True):
        if verdicts[step] != "stable":
            break
        found = step
    return found


def contradictions(verdicts: Mapping[int, Verdict]) -> dict[int, str]:
    """The evaluated steps that contradict "once stable, always stable", each with a sentence that says how.

    Example:
        >>> contradictions({0: "unstable", 100: "stable", 200: "unstable", 400: "stable"})
        {100: 'stable, but step 200 after it is unstable', 200: 'unstable, but step 100 before it is stable'}
    """
    found, steps = {}, sorted(verdicts)
    for place, step in enumerate(steps):
        after = [later for later in steps[place + 1 :] if verdicts[later] != "stable"]
        before = [earlier for earlier in steps[:place] if verdicts[earlier] == "stable"]
        if verdicts[step] == "stable" and after:
            worst = next((later for later in after if verdicts[later] == "unstable"), after[0])
            found[step] = f"stable, but step {worst} after it is {verdicts[worst]}"
        elif verdicts[step] == "unstable" and before:
            found[step] = f"unstable, but step {before[-1]} before it is stable"
    return found


def crossing(steps: Sequence[int], means: npt.ArrayLike, threshold: float) -> Floats:
    """Where the mean barrier falls below a threshold for the last time, between evaluated steps, linear in log(1 + k).

    Args:
        steps: Evaluated ones, rising, >= 0.
        means: Mean barrier at each, in the last axis; any axes before. NaN is not below.
        threshold: Error barrier, a fraction.

    Returns:
        Of the shape of the axes before: a step (a fraction of one too); the first where all are below (k* is there or
        earlier), infinity where the last is not (k* is beyond it).

    Example:
        >>> float(crossing([0, 9, 99], [0.5, 0.03, 0.01], 0.02).round(2))
        30.62
    """
    at, values = np.log1p(np.asarray(steps, dtype=float)), np.asarray(means, dtype=float)
    is_below = values < threshold
    place = len(at) - np.argmax(~is_below[..., ::-1], axis=-1)  # of the first step of the last run below
    upper, lower = np.clip(place, 0, len(at) - 1), np.clip(place - 1, 0, len(at) - 1)
    above = np.take_along_axis(values, lower[..., None], -1)[..., 0]
    below = np.take_along_axis(values, upper[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(np.isfinite(above), (above - threshold) / (above - below), 1.0)
        found = np.expm1(at[lower] + share * (at[upper] - at[lower]))
    found = np.where(place == len(at), math.inf, found)
    return np.where(is_below.all(axis=-1), float(steps[0]), found)


@dataclass(frozen=True)
class KStar:
    """The step k* from which on a network is stable to SGD noise.

    Args:
        step: As judged: the first evaluated step from which on all are stable; None where the last is not.
        estimate: Where the mean barrier crosses the threshold, interpolated: the first step where it is below from the
            beginning, infinity where it does not fall below.
        low: Bound from below: the last evaluated step up to which every mean is significantly above the threshold; 0
            where the first is not.
        high: Bound from above: the first evaluated step from which on every mean is significantly below; infinity where
            the last is not. It is ``step``, unless the test set is too small to call anything stable.
        contradictions: Evaluated steps that contradict monotonicity, each with a sentence.
    """

    step: int | None
    estimate: float
    low: float
    high: float
    contradictions: dict[int, str]


def k_star(found: Mapping[int, StepStability]) -> KStar:
    """What the evaluated steps say of k*.

    The bounds are one-sided, each at the level at which the steps were judged (95 %): two sequences of tests in a fixed
    order, from the last step downwards and from the first upwards, each ending with the first that fails, so that
    errors do not add up over steps. They are evaluated steps, never between them: rather too wide than too narrow.

    Args:
        found: The judgement of each evaluated step, all against one threshold: pooled over parents, or one parent's.

    Raises:
        LotteryError: No step, or several thresholds.

    Example:
        >>> from lightning_lottery.functional.stability import judge_step
        >>> pairs, height = {(1, 2): 0.9, (1, 3): 1.0, (2, 3): 1.1}, {10: 0.1, 100: 0.025, 1000: 0.015, 10000: 0.001}
        >>> at = {k: judge_step({0: {pair: h * x for pair, x in pairs.items()}}) for k, h in height.items()}
        >>> star = k_star(at)
        >>> star.step, star.low, round(star.estimate), star.high
        (10000, 10.0, 317, 10000.0)

    Source: Westfall & Krishen 2001 for tests in a fixed sequence.
    """
    if not found or len({of.threshold for of in found.values()}) > 1:
        raise LotteryError("k* is read from one step or more, all judged against one threshold.")
    steps = sorted(found)
    judged = [found[step] for step in steps]
    threshold, verdicts = judged[0].threshold, {step: found[step].verdict for step in steps}
    above = takewhile(lambda step: _bound(found[step].low, -math.inf) > threshold, steps)
    below = takewhile(lambda step: _bound(found[step].high, math.inf) < threshold, reversed(steps))
    low, high = max(above, default=0.0), min(below, default=math.inf)
    estimate = float(crossing(steps, [of.mean for of in judged], threshold))
    return KStar(stable_from(verdicts), estimate, float(low), float(high), contradictions(verdicts))


def _bound(bound: float | None, missing: float) -> float:
    return missing if bound is None else bound


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

    def next(self, found: Mapping[int, StepStability]) -> list[int]:
        """The steps that are still to be evaluated; empty when done."""
        return [step for step in self.steps if step not in found]


@dataclass(frozen=True)
class Bisection:
    """Few of the candidate steps, one after another, until k* is known to a relative precision.

    Both ends first: is it ever stable? Then the middle between the last evaluated step whose mean barrier is not below
    the threshold and the next evaluated one, until these are neighbours, or no further apart than the precision. The
    mean decides here, not the verdict: an undecided step is on the side of its mean. Then ``checks`` steps above, each
    in the middle of the widest gap. One that is not below begins the bisection again above it, as far as ``points``
    allow.

    A bump of the barrier between the evaluated steps stays unseen: more checks find narrower ones, a grid all that
    there is between its steps. What was seen against monotonicity, ``contradictions`` says.

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

    def next(self, found: Mapping[int, StepStability]) -> list[int]:
        """The steps to evaluate now; empty when done.

        Args:
            found: The judgement of every step evaluated so far, pooled over parents; other steps are not looked at.
        """
        return self._replay(found)[0]

    def bracket(self, found: Mapping[int, StepStability]) -> tuple[int | None, int | None]:
        """The evaluated steps between which the mean barrier falls below the threshold for the last time.

        None for the lower one where it is below at the first step, for the upper one where it is not at the last.

        Args:
            found: As for ``next``, when it is done.
        """
        steps = self._replay(found)[1]
        below = [found[step].is_below for step in steps]
        last = max((place for place, is_below in enumerate(below) if not is_below), default=-1)
        return (steps[last] if last >= 0 else None, steps[last + 1] if last + 1 < len(steps) else None)

    def _replay(self, found: Mapping[int, StepStability]) -> tuple[list[int], list[int]]:
        """The steps to evaluate now, and those asked for before: the search is a function of what was found."""
        ends = [0, len(self.steps) - 1]
        if missing := [self.steps[place] for place in ends if self.steps[place] not in found]:
            return missing, []
        below = {place: found[step].is_below for place, step in enumerate(self.steps) if step in found}
        asked, checks, points = ends, self.checks, self.points
        low, high = (0, 0) if below[ends[0]] else (0, ends[1])
        while below[ends[1]] and len(asked) < points:
            between = None if self._is_narrow(low, high) else (low, high)
            if not (gap := between or (_widest(asked, high) if checks else None)):
                break
            place = sum(gap) // 2
            if place not in below:
                return [self.steps[place]], [self.steps[other] for other in asked]
            asked = sorted([*asked, place])
            checks -= not between
            if not below[place]:
                low, high = place, asked[asked.index(place) + 1]
            elif between:
                high = place
        return [], [self.steps[place] for place in asked]

    def _is_narrow(self, low: int, high: int) -> bool:
        return high - low <= 1 or self.steps[high] <= (1 + self.precision) * self.steps[low]

    def _depth(self, low: int, high: int) -> int:
        """The most steps that it takes from this bracket to a narrow one."""
        if self._is_narrow(low, high):
            return 0
        middle = (low + high) // 2
        return 1 + max(self._depth(low, middle), self._depth(middle, high))


def _widest(places: Sequence[int], above: int) -> tuple[int, int] | None:
    """The widest gap between neighbours at or above a place, the lowest of several."""
    gaps = [(a, b) for a, b in pairwise(places) if a >= above and b - a > 1]
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
