"""Is a network stable to SGD noise? What error barriers between children of one or several parents say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_lottery.errors import LotteryError

Floats = npt.NDArray[np.float64]

Verdict = Literal["stable", "unstable", "undecided"]

Barriers = Mapping[int, Mapping[tuple[int, int], float]]
"""Parent (an initialisation's seed) to pair of its children (i, j) to their error barrier, a fraction."""

MOST = 1000
"""The largest number of further parents or children that is looked for; beyond it the answer is that none will do."""


@dataclass(frozen=True)
class Stability:
    """What the children of one or several parents say of the error barrier.

    ``low`` and ``high`` bound the mean over parents one-sidedly (at 95 % each); with one parent, that parent's mean.
    With one pair there is an estimate and no bound (None), and the verdict is ``"undecided"``.

    Args:
        mean: Error barrier, a fraction: of the pairs of each parent, then of the parents.
        standard_error: Of the mean; None where nothing but one pair was seen.
        low: Bound from below, or None.
        high: Bound from above, or None.
        verdict: ``"stable"``, ``"unstable"`` or ``"undecided"``.
        test_standard_error: Of the children's error on this test set, or None.
        reason: The verdict's, in words.
        threshold: What the mean was held against.
        parents: How many there are.
        more_parents: How many more would decide if the estimates stayed as they are; None where it is decided, or no
            number would do.
        more_children: The same for more children of each of these parents.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    test_standard_error: float | None
    reason: str
    threshold: float
    parents: int
    more_parents: int | None = None
    more_children: int | None = None

    @property
    def is_below(self) -> bool:
        """Whether the mean itself, without its uncertainty, lies below the threshold; not where it is NaN."""
        return self.mean < self.threshold


def judge(
    barriers: Barriers,
    threshold: float = 0.02,
    *,
    error: float | None = None,
    samples: int = 0,
    level: float = 0.05,
) -> Stability:
    """Whether networks are stable to SGD noise: one-sided t-tests of the mean barrier against the threshold.

    One parent is judged by its children alone, and the verdict is about that parent. Pairs that share a child are
    dependent, so the standard error is the jackknife's over children, with (children - 1) degrees of freedom.

    Several parents are sampled, and children within them. What varies between the parents' means holds both kinds of
    noise, so its standard error with (parents - 1) degrees of freedom bounds the mean. Few parents may agree by luck:
    where each has three children or more, the standard error is never taken smaller than what the children alone
    explain, which makes the tests conservative. With two children nothing guards against that luck: where the noise is
    skewed, networks are called stable wrongly up to twice as often as stated (``tests/helpers/barrier_process.py``
    measures it).

    ``"stable"`` where the mean is significantly below the threshold (one-sided non-inferiority), ``"unstable"`` where
    it is significantly above, else ``"undecided"``; also undecided, never stable, where the test set is too small to
    tell a difference of the threshold's size: where its binomial standard error times the normal quantile exceeds it.

    Args:
        barriers: Error barrier, a fraction, of each pair of children of each parent.
        threshold: Error barrier below which a network is called stable, a fraction.
        error: Mean error of the children, a fraction; with ``samples`` it gives the test set's standard error.
        samples: Samples in the test set; 0 where that is not known.
        level: Of each one-sided test, in (0, 0.5).

    Raises:
        LotteryError: No parent, or a parent without a pair of children.

    Example:
        >>> judge({0: {(0, 1): 0.3, (0, 2): 0.31, (1, 2): 0.29}}).verdict
        'unstable'
        >>> pairs = {(1, 2): 0.006, (1, 3): 0.007, (2, 3): 0.005}
        >>> judge({0: pairs, 1: {pair: barrier + 0.002 for pair, barrier in pairs.items()}, 2: pairs}).verdict
        'stable'

    Source: Frankle et al. 2020 (2 % as the threshold); Schuirmann 1987 (each of his one-sided tests); Efron & Stein
    1981 for the jackknife.
    """
    _check_parents(barriers)
    means = np.array([np.mean(list(pairs.values())) for pairs in barriers.values()])
    test_error = _binomial_error(error, samples) if error is not None and samples else None
    count, mean = len(means), float(means.mean())
    estimate = Stability(mean, None, None, None, "undecided", test_error, "", threshold, count)
    if reason := _not_finite(barriers):
        return replace(estimate, reason=reason)
    within = np.array([_jackknife(pairs) for pairs in barriers.values()]) ** 2
    has_within = bool(np.isfinite(within).all())
    if count == 1 and not has_within:
        return replace(estimate, reason="one pair gives an estimate, no verdict")
    # Between parents lies Var(parent) + Var(children) / children, and ``within`` estimates the second term alone. So
    # the true value of the first is never the smaller one: where its estimate is, few parents agree by luck.
    between = float(means.var(ddof=1)) if count > 1 else 0.0
    variance = max(between, float(within.mean()) if has_within else 0.0)
    children = min(len(_children_in(pairs)) for pairs in barriers.values())
    freedom = count - 1 if count > 1 else children - 1
    standard_error = (variance / count) ** 0.5
    margin = float(_quantile(level, freedom)) * standard_error
    stability = _decide(estimate, standard_error, margin, level)
    gap = abs(mean - threshold)
    if stability.verdict != "undecided" or margin < gap:  # or it is the test set that is too small: no seed helps
        return stability
    within_mean = float(within.mean())
    return replace(
        stability,
        more_parents=_more_parents(count, variance, gap, level) if count > 1 else None,
        more_children=_more_children(count, children, variance, within_mean, gap, level) if has_within else None,
    )


def _check_parents(barriers: Barriers) -> None:
    """Refuse barriers of no parent, or of a parent without a pair of children."""
    if not barriers:
        raise LotteryError("A step is judged by the pairs of children of at least one parent, got no parent.")
    if empty := [str(parent) for parent, pairs in barriers.items() if not pairs]:
        raise LotteryError(f"Parent {', '.join(empty)} has no pair of children: leave it out, or train two of them.")


def _not_finite(barriers: Barriers) -> str:
    """Which pairs have no finite barrier, in words; empty where all have one."""
    reasons = []
    for parent, pairs in barriers.items():
        if broken := [f"{i} and {j}" for (i, j), barrier in pairs.items() if not math.isfinite(barrier)]:
            whose = f" (parent {parent})" if len(barriers) > 1 else ""
            reasons.append(f"the error is not finite everywhere between {', '.join(broken)}{whose}")
    return "; ".join(reasons)


def _children_in(pairs: Mapping[tuple[int, int], float]) -> list[int]:
    return sorted({child for pair in pairs for child in pair})


def _jackknife(pairs: Mapping[tuple[int, int], float]) -> float:
    """Standard error of the mean over pairs; NaN where a child cannot be left out, for no pair would remain.

    Each child is left out once, with all its pairs: pairs that share a child are no independent observations, children
    are.
    """
    children = _children_in(pairs)
    n, remaining = len(children), [[v for pair, v in pairs.items() if c not in pair] for c in children]
    if not all(remaining):
        return math.nan
    # The sum is multiplied by (n - 1) / n, not divided by n: means that leave out one child share nearly all the rest,
    # so they differ far less than independent ones would (Efron & Stein 1981).
    without = np.array([np.mean(values) for values in remaining])
    return float(((n - 1) / n * np.square(without - np.mean(without)).sum()) ** 0.5)


def _quantile(level: float, freedom: npt.ArrayLike) -> Floats:
    """Upper quantile of Student's t, of the shape of its degrees of freedom."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, 1 - level))


def _decide(estimate: Stability, standard_error: float, margin: float, level: float) -> Stability:
    """The verdict on a mean, and why: by its bounds, ``margin`` away from it, and by what the test set can tell."""
    from scipy import stats

    low, high, threshold = estimate.mean - margin, estimate.mean + margin, estimate.threshold
    test_error = estimate.test_standard_error
    verdict: Verdict = "undecided"
    if low > threshold:
        verdict, reason = "unstable", f"the lower bound {low:.4f} is above {threshold}"
    elif high >= threshold:
        reason = f"the bounds {low:.4f} and {high:.4f} enclose {threshold}"
    elif test_error is not None and float(stats.norm.ppf(1 - level)) * test_error > threshold:
        reason = f"the test set's standard error {test_error:.4f} is too large to see {threshold}"
    else:
        verdict, reason = "stable", f"the upper bound {high:.4f} is below {threshold}"
    return replace(estimate, standard_error=standard_error, low=low, high=high, verdict=verdict, reason=reason)


def _binomial_error(share: float, samples: int) -> float:
    """Standard error of a share of so many samples, never 0: two samples of either kind are added (Agresti & Coull)."""
    smoothed = (share * samples + 2) / (samples + 4)
    return float((smoothed * (1 - smoothed) / (samples + 4)) ** 0.5)


def _more_parents(count: int, variance: float, gap: float, level: float) -> int | None:
    """How many more parents would decide: they shrink the whole variance of the mean."""
    more = np.arange(1, MOST + 1)
    margins = _quantile(level, count + more - 1) * np.sqrt(variance / (count + more))
    return _first(more, margins < gap)


def _more_children(count: int, children: int, variance: float, within: float, gap: float, level: float) -> int | None:
    """How many more children of each parent would decide: they shrink only the part ``within`` of a mean's variance."""
    more = np.arange(1, MOST + 1)
    shrunk = variance - within + within * children / (children + more)
    freedom = count - 1 if count > 1 else children + more - 1
    return _first(more, _quantile(level, freedom) * np.sqrt(shrunk / count) < gap)


def _first(numbers: npt.NDArray[np.int_], would_do: npt.NDArray[np.bool_]) -> int | None:
    enough = np.flatnonzero(would_do)
    return int(numbers[enough[0]]) if len(enough) else None
