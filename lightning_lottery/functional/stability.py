"""Is a network stable to SGD noise at one step, over initialisations? And which barrier goes with a matching ticket?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import Verdict, judge, verdict_on

Floats = npt.NDArray[np.float64]

Barriers = Mapping[int, Mapping[tuple[int, int], float]]
"""At one step: parent (an initialisation's seed) to pair of its children (i, j) to their error barrier, a fraction."""

MOST = 1000
"""More parents or children than this is never."""


@dataclass(frozen=True)
class StepStability:
    """What the children of several parents say of the error barrier at one step.

    ``low`` and ``high`` bound the mean over parents one-sidedly (at 95 % each); with one parent, that parent's mean.

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


def judge_step(
    barriers: Barriers,
    threshold: float = 0.02,
    *,
    error: float | None = None,
    samples: int | None = None,
    level: float = 0.05,
) -> StepStability:
    """Whether networks are stable to SGD noise at a step: one-sided t-tests of the mean barrier over parents.

    Parents are sampled, and children within them. What varies between the parents' means holds both kinds of noise,
    so its standard error with (parents - 1) degrees of freedom bounds the mean. Few parents may agree by luck:
    where each has three children or more, the standard error is never taken smaller than what the children alone
    explain (the jackknife's over children, as in ``judge``), which makes the tests conservative. With two children
    nothing guards against that luck: where the noise is skewed, networks are called stable wrongly up to twice as often
    as stated (``tests/functional/barrier_process.py`` measures it).

    ``"stable"`` where the mean is significantly below the threshold (one-sided non-inferiority), ``"unstable"`` where
    it is significantly above, else ``"undecided"``; also undecided where the test set is too small to see the
    threshold. One parent is judged by its children alone, and the verdict is about that parent; one pair gets none.

    Args:
        barriers: Error barrier, a fraction, of each pair of children of each parent.
        threshold: Error barrier below which a network is called stable, a fraction.
        error: Mean error of the children, a fraction; with ``samples`` it gives the test set's standard error.
        samples: Samples in the test set.
        level: Of each one-sided test, in (0, 0.5).

    Raises:
        LotteryError: No parent, or a parent without a pair of children.

    Example:
        >>> pairs = {(1, 2): 0.006, (1, 3): 0.007, (2, 3): 0.005}
        >>> judge_step({0: pairs, 1: {pair: barrier + 0.002 for pair, barrier in pairs.items()}, 2: pairs}).verdict
        'stable'

    Source: Frankle et al. 2020 (2 % as the threshold); Schuirmann 1987 (each of his one-sided tests); Efron & Stein
    1981 for the jackknife. The nested bootstrap (``nested_bootstrap``) decides nothing here: with three parents its
    percentiles hold the mean far too seldom.
    """
    check_parents(barriers)
    own = {
        parent: judge(pairs, threshold, error=error, samples=samples, level=level) for parent, pairs in barriers.items()
    }
    means = np.array([found.mean for found in own.values()])
    first, count = next(iter(own.values())), len(own)
    undecided = StepStability(
        float(means.mean()), None, None, None, "undecided", first.test_standard_error, "", threshold, count
    )
    if broken := [f"{found.reason} (parent {parent})" for parent, found in own.items() if not np.isfinite(found.mean)]:
        return replace(undecided, reason="; ".join(broken))
    within = np.array([found.standard_error for found in own.values()], dtype=float) ** 2  # NaN: one pair only
    seen = bool(np.isfinite(within).all())
    if count == 1 and not seen:
        return replace(undecided, reason="one pair gives an estimate, no verdict: add a child, or parents")
    between = float(means.var(ddof=1)) if count > 1 else 0.0
    variance = max(between, float(within.mean()) if seen else 0.0)  # of one parent's mean, with so many children
    children = min(len({child for pair in pairs for child in pair}) for pairs in barriers.values())
    freedom = count - 1 if count > 1 else children - 1
    standard_error = (variance / count) ** 0.5
    margin = float(_quantile(level, freedom)) * standard_error
    found = _decide(undecided, standard_error, margin, level)
    gap = abs(found.mean - threshold)
    if found.verdict != "undecided" or margin < gap:  # or it is the test set that is too small
        return found
    return replace(
        found,
        more_parents=_more_parents(count, variance, gap, level) if count > 1 else None,
        more_children=_more_children(count, children, variance, float(within.mean()), gap, level) if seen else None,
    )


def check_parents(barriers: Barriers) -> None:
    """Refuse a step at which there is no parent, or a parent has no pair of children.

    Raises:
        LotteryError: There is none.
    """
    if not barriers:
        raise LotteryError("A step is judged by the pairs of children of at least one parent, got no parent.")
    if empty := [str(parent) for parent, pairs in barriers.items() if not pairs]:
        raise LotteryError(f"Parent {', '.join(empty)} has no pair of children: leave it out, or train two of them.")


def _quantile(level: float, freedom: npt.ArrayLike) -> Floats:
    """Upper quantile of Student's t, of the shape of its degrees of freedom."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, 1 - level))


def _decide(estimate: StepStability, standard_error: float, margin: float, level: float) -> StepStability:
    """The verdict, of a mean that its margin bounds."""
    low, high = estimate.mean - margin, estimate.mean + margin
    verdict, reason = verdict_on(low, high, estimate.threshold, estimate.test_standard_error, level)
    return replace(estimate, standard_error=standard_error, low=low, high=high, verdict=verdict, reason=reason)


def _more_parents(count: int, variance: float, gap: float, level: float) -> int | None:
    more = np.arange(1, MOST + 1)
    reach = _quantile(level, count + more - 1) * np.sqrt(variance / (count + more))
    return _first(more, reach < gap)


def _more_children(count: int, children: int, variance: float, within: float, gap: float, level: float) -> int | None:
    """How many more children of each parent would do: they shrink only the part ``within`` of a mean's variance."""
    more = np.arange(1, MOST + 1)
    shrunk = variance - within + within * children / (children + more)
    freedom = count - 1 if count > 1 else children + more - 1
    return _first(more, _quantile(level, freedom) * np.sqrt(shrunk / count) < gap)


def _first(numbers: npt.NDArray[np.int_], would_do: npt.NDArray[np.bool_]) -> int | None:
    enough = np.flatnonzero(would_do)
    return int(numbers[enough[0]]) if len(enough) else None


@dataclass(frozen=True)
class ThresholdROC:
    """How well "the barrier is below a threshold" tells matching tickets from others, for every threshold.

    Args:
        thresholds: Rising; the first calls nothing stable, the last everything.
        tpr: Of the matching tickets the share below each threshold.
        fpr: Of the others the share below each threshold.
        auc: Area under the curve: 1 where every matching ticket's barrier is below every other's, 0.5 for chance.
        best: The threshold of the highest Youden's J, the lowest of several.
        youden: J there, ``tpr - fpr``: 0 where no threshold tells anything.
    """

    thresholds: tuple[float, ...]
    tpr: tuple[float, ...]
    fpr: tuple[float, ...]
    auc: float
    best: float
    youden: float


def roc_of_threshold(barriers: Sequence[float], matches: Sequence[bool]) -> ThresholdROC:
    """Which threshold of the error barrier goes best with tickets that match the dense network.

    A barrier below the threshold predicts a match. Thresholds lie midway between neighbouring barriers; the first is
    the lowest barrier itself (nothing lies below), the last infinity.

    Args:
        barriers: Error barrier at some step, a fraction; equal ones are told apart by no threshold.
        matches: Whether the ticket at that step matches the dense network, in the same order.

    Raises:
        LotteryError: Not as many matches as barriers, a barrier that is not finite, or not both kinds of ticket.

    Example:
        >>> roc_of_threshold([0.25, 0.125, 0.0, 0.0625], [False, False, True, True]).best
        0.09375

    Source: Youden 1950 for J; the area is Mann and Whitney's U over the number of pairs, ties counting half.
    """
    values, is_match = np.asarray(barriers, dtype=float), np.asarray(matches, dtype=bool)
    if values.ndim != 1 or values.shape != is_match.shape:
        raise LotteryError(f"Each barrier has its ticket: {len(values)} barriers for {len(is_match)} tickets.")
    if not np.isfinite(values).all():
        raise LotteryError(f"{np.sum(~np.isfinite(values))} of {len(values)} barriers are not finite: leave them out.")
    if is_match.all() or not is_match.any():
        kind = "none of them matches" if not is_match.any() else "all of them match"
        raise LotteryError(f"A threshold parts tickets that match from others, but of {len(values)} {kind}.")
    distinct = np.unique(values)
    thresholds = np.array([distinct[0], *((distinct[:-1] + distinct[1:]) / 2), math.inf])
    tpr, fpr = (
        np.searchsorted(np.sort(some), thresholds) / len(some) for some in (values[is_match], values[~is_match])
    )
    auc = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
    best = int(np.argmax(tpr - fpr))
    return ThresholdROC(
        tuple(thresholds.tolist()),
        tuple(tpr.tolist()),
        tuple(fpr.tolist()),
        auc,
        float(thresholds[best]),
        float(tpr[best] - fpr[best]),
    )
