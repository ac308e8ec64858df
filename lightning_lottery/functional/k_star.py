"""From which step k* on is a network stable to SGD noise? Read from the verdicts at the steps of a sweep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.verdicts import Stability, Verdict

LEVEL = 0.05
"""Of each one-sided test of a step, as ``judge`` has it; on a grid of steps it is that of k* as well."""


def stable_from(verdicts: Mapping[int, Verdict]) -> int | None:
    """The first evaluated step from which on every evaluated step is stable, itself included; None without one.

    This is k* as it is judged. Read from the last step downwards, it is a fixed sequence of tests that ends with the
    first that fails: where the steps were chosen beforehand, k* is too early with a probability of at most one test's
    level, however many steps there are. Of steps that a search chose, its ``level`` says how much that is.

    Example:
        >>> stable_from({0: "unstable", 100: "stable", 200: "undecided", 400: "stable", 800: "stable"})
        400

    Source: Frankle et al. 2020, section 3 (the earliest step at which a network is stable), made strict.
    """
    # From the last step down, not from the first up: an early step that is stable by chance is then never reached once
    # a later one failed, so only one false "stable" can make k* too early, not any of as many as there are steps.
    stable = takewhile(lambda step: verdicts[step] == "stable", sorted(verdicts, reverse=True))
    return min(stable, default=None)


def contradictions(verdicts: Mapping[int, Verdict]) -> dict[int, str]:
    """The evaluated steps that contradict "once stable, always stable", each with a sentence that says how.

    Example:
        >>> contradictions({0: "unstable", 100: "stable", 200: "unstable", 400: "stable"})
        {100: 'stable, but step 200 after it is unstable', 200: 'unstable, but step 100 before it is stable'}
    """
    sentences, steps = {}, sorted(verdicts)
    for number, step in enumerate(steps):
        after = [later for later in steps[number + 1 :] if verdicts[later] != "stable"]
        before = [earlier for earlier in steps[:number] if verdicts[earlier] == "stable"]
        if verdicts[step] == "stable" and after:
            worst = next((later for later in after if verdicts[later] == "unstable"), after[0])
            sentences[step] = f"stable, but step {worst} after it is {verdicts[worst]}"
        elif verdicts[step] == "unstable" and before:
            sentences[step] = f"unstable, but step {before[-1]} before it is stable"
    return sentences


def crossing(steps: Sequence[int], means: Sequence[float], threshold: float) -> float:
    """Where the mean barrier falls below a threshold for the last time, between evaluated steps, linear in log(1 + k).

    Args:
        steps: Evaluated ones, rising, >= 0.
        means: Mean barrier at each; NaN is not below.
        threshold: Error barrier, a fraction.

    Returns:
        A step, or a fraction of one: the first where all means are below (k* is there or earlier), infinity where the
        last is not (k* is beyond it).

    Example:
        >>> round(crossing([0, 9, 99], [0.5, 0.03, 0.01], 0.02), 2)
        30.62
    """
    last_above = max((number for number, mean in enumerate(means) if not mean < threshold), default=-1)  # NaN is above
    if last_above == -1:
        return float(steps[0])
    if last_above == len(steps) - 1:
        return math.inf
    above, below = means[last_above], means[last_above + 1]
    # From an infinite barrier or NaN no line can be drawn: then the crossing is the step below, the later of the two.
    share = (above - threshold) / (above - below) if math.isfinite(above) else 1.0
    # log(1 + k) rather than log k: the first evaluated step is often 0.
    start, end = np.log1p(np.asarray(steps[last_above : last_above + 2], dtype=float))
    return float(np.expm1(start + share * (end - start)))


@dataclass(frozen=True)
class KStar:
    """The step k* from which on a network is stable to SGD noise, as far as steps were looked at.

    Args:
        step: As judged: the first evaluated step from which on all evaluated ones are stable; None where the last is
            not.
        estimate: Where the mean barrier crosses the threshold, interpolated: the first step where it is below from the
            beginning, infinity where it does not fall below.
        low: Bound from below: the last evaluated step up to which every mean is significantly above the threshold; 0
            where the first is not.
        high: Bound from above: the first evaluated step from which on every mean is significantly below; infinity where
            the last is not. It is ``step``, where there is one.
        contradictions: Evaluated steps that contradict monotonicity, each with a sentence.
        evaluated_above: The evaluated steps above ``step``, rising, all of them stable; none where there is no k*.
        largest_gap: Between neighbouring evaluated steps from ``step`` on, as a factor (step 0 counts as 1): between
            them nobody looked. None where there is no k*, or no step above it.
        level: The most that the probability of a ``step`` (and ``high``) before the truth may be, and that of a ``low``
            after it; a fraction.
    """

    step: int | None
    estimate: float
    low: float
    high: float
    contradictions: dict[int, str]
    evaluated_above: tuple[int, ...] = ()
    largest_gap: float | None = None
    level: float = LEVEL


def find_k_star(judged: Mapping[int, Stability], level: float = LEVEL) -> KStar:
    """What the evaluated steps say of k*.

    The bounds are one-sided: two sequences of tests in a fixed order, from the last step downwards and from the first
    upwards, each ending with the first that fails, so that errors do not add up over steps. On a grid each bound holds
    at the level of one test. They are evaluated steps, never between them: rather too wide than too narrow.

    Args:
        judged: The judgement of each evaluated step, all against one threshold: pooled over parents, or one parent's.
        level: Of the search that chose these steps (``Grid.level``, ``Bisection.level``), a fraction; it is passed on.

    Raises:
        LotteryError: No step, or several thresholds.

    Example:
        >>> from lightning_lottery.functional.verdicts import judge
        >>> pairs, height = {(1, 2): 0.9, (1, 3): 1.0, (2, 3): 1.1}, {10: 0.1, 100: 0.025, 1000: 0.015, 10000: 0.001}
        >>> judged = {k: judge({0: {pair: h * x for pair, x in pairs.items()}}) for k, h in height.items()}
        >>> star = find_k_star(judged)
        >>> star.step, star.low, round(star.estimate), star.high
        (10000, 10.0, 317, 10000.0)

    Source: Westfall & Krishen 2001 for tests in a fixed sequence.
    """
    if not judged or len({stability.threshold for stability in judged.values()}) > 1:
        raise LotteryError("k* is read from one step or more, all judged against one threshold.")
    steps = sorted(judged)
    threshold = judged[steps[0]].threshold
    above = takewhile(lambda step: _or(judged[step].low, -math.inf) > threshold, steps)
    below = takewhile(lambda step: _or(judged[step].high, math.inf) < threshold, reversed(steps))
    verdicts = {step: judged[step].verdict for step in steps}
    first_stable = stable_from(verdicts)
    onward = [] if first_stable is None else [step for step in steps if step >= first_stable]
    return KStar(
        step=first_stable,
        estimate=crossing(steps, [judged[step].mean for step in steps], threshold),
        low=float(max(above, default=0.0)),
        high=float(min(below, default=math.inf)),
        contradictions=contradictions(verdicts),
        evaluated_above=tuple(onward[1:]),
        largest_gap=max((after / max(before, 1) for before, after in pairwise(onward)), default=None),
        level=level,
    )


def _or(bound: float | None, missing: float) -> float:
    """The bound, or what stands for it where one pair gave none: a value that never passes a test."""
    return missing if bound is None else bound
