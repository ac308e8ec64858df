"""Is one network as good as another? A statement over seeds, with its margin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

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
    return Matching(mean, low, high, margin, "undecided", f"the bounds {low:+.4f} and {high:+.4f} hold {-margin}")


def check_margin(margin: float) -> None:
    """Refuse a margin that is not a positive number.

    Raises:
        LotteryError: It is none.
    """
    number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if not number or not 0 < margin < math.inf:
        raise LotteryError(f"`margin` is the loss that still counts as a match, > 0, got {margin!r}.")
