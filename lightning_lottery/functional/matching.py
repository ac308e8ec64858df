"""Does a ticket match the dense network? A statement over seeds; and which error barrier goes with a match."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_lottery.checks import check_positive
from lightning_lottery.errors import LotteryError


@dataclass(frozen=True)
class Matching:
    """What several seeds say of a difference; ``low`` and ``high`` bound its mean one-sidedly at 95 %.

    With one seed there is an estimate and no bound (None), and the verdict is ``"undecided"``.
    """

    mean: float
    low: float | None
    high: float | None
    margin: float
    verdict: Literal["matching", "worse", "undecided"]
    reason: str


def judge_matching(
    values: Sequence[float], reference: Sequence[float], margin: float = 0.01, *, level: float = 0.05
) -> Matching:
    """Whether values are not inferior to a reference by more than a margin: one-sided paired t-tests over seeds.

    The differences ``values - reference``, seed by seed, have a mean; ``"matching"`` where its one-sided lower bound
    lies above ``-margin``, ``"worse"`` where its upper bound lies below, else ``"undecided"``. No significant
    difference is no match: that only says that the seeds are too few. Each call is one statement; several are not
    corrected for their number.

    Args:
        values: For each seed, better when high: an accuracy, or minus an error.
        reference: The same of the dense network (or of the ticket whose control this is), seeds in the same order.
        margin: Loss that still counts as a match, in the units of the values, > 0.
        level: Of each one-sided test.

    Raises:
        LotteryError: Not as many values as references, none at all, or a margin that is not positive.

    Example:
        >>> judge_matching([0.94, 0.95, 0.96], [0.94, 0.951, 0.959]).verdict
        'matching'
        >>> judge_matching([0.90, 0.91, 0.92], [0.94, 0.951, 0.959]).verdict
        'worse'

    Source: Frankle et al. 2020, section 4 (matching: no drop in accuracy); non-inferiority by Schuirmann 1987, one of
    his two one-sided tests.
    """
    from scipy import stats

    if not values or len(values) != len(reference):
        raise LotteryError(f"A match is judged seed by seed: {len(values)} values for {len(reference)} references.")
    check_margin(margin)
    differences = np.asarray(values, dtype=float) - np.asarray(reference, dtype=float)
    mean, n = float(differences.mean()), len(differences)
    if n < 2 or not math.isfinite(mean):
        reason = "one seed gives an estimate, no verdict" if n < 2 else "a value is not finite"
        return Matching(mean, None, None, margin, "undecided", reason)
    reach = float(stats.t.ppf(1 - level, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    low, high = mean - reach, mean + reach
    if low > -margin:
        return Matching(mean, low, high, margin, "matching", f"the lower bound {low:+.4f} is above {-margin}")
    if high < -margin:
        return Matching(mean, low, high, margin, "worse", f"the upper bound {high:+.4f} is below {-margin}")
    return Matching(mean, low, high, margin, "undecided", f"the bounds {low:+.4f} and {high:+.4f} enclose {-margin}")


def check_margin(margin: float) -> None:
    """Refuse a margin that is not a positive number.

    Raises:
        LotteryError: It is none.
    """
    check_positive("margin", margin, "the loss that still counts as a match")


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
