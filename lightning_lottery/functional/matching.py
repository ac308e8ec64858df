"""Does a ticket match the dense network, and down to which density; is it superior to its controls? Over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lightning_lottery.checks import check_positive
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.crossed import (
    LEAST_BLOCKS,
    Crossed,
    Floats,
    Form,
    covariance_of_samples,
    crossed_variance,
    rounding_variance,
    upper_quantile,
)
from lightning_lottery.functional.verdicts import MOST, POWER

Key = TypeVar("Key")

ROUNDING = 1e-4
"""How far, relatively, means over blocks may lie from the values that they are of: both were logged in float32."""


@dataclass(frozen=True)
class SeedBlocks:
    """Differences between networks and their references, seed by seed, block by block of the same test samples.

    Args:
        weights: (blocks,): the samples in each block, > 0; at least ``LEAST_BLOCKS`` blocks.
        differences: (seeds, blocks): value minus reference over the samples of a block, better when high.

    Raises:
        LotteryError: Too few blocks, a weight that is not positive, or not one difference for each seed and block.
    """

    weights: Floats
    differences: Floats

    def __post_init__(self) -> None:
        weights, differences = np.asarray(self.weights, dtype=float), np.asarray(self.differences, dtype=float)
        if weights.ndim != 1 or len(weights) < LEAST_BLOCKS or not ((weights > 0) & np.isfinite(weights)).all():
            raise LotteryError(
                f"Samples are judged in {LEAST_BLOCKS} blocks or more, none of them empty, got {weights.size}."
            )
        if differences.ndim != 2 or differences.shape[1] != len(weights):
            raise LotteryError(
                f"Each seed has a difference for each of the {len(weights)} blocks, got the shape {differences.shape}."
            )
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "differences", differences)


@dataclass(frozen=True)
class Matching:
    """What several seeds say of a difference; ``low`` and ``high`` bound its mean one-sidedly, at 95 % each.

    Args:
        mean: Of the differences.
        low: Bound from below; None where nothing says it.
        high: Bound from above, or None.
        margin: Loss that still counts as a match.
        verdict: ``"matching"``, ``"worse"`` or ``"undecided"``.
        reason: The verdict's, in words.
        about: What it is about: ``"seeds"``, those there could be, or ``"the networks of this seed"``.
        standard_error: Of the mean, or None.
        test_standard_error: The part of it that other test samples would make; None where seeds alone are judged.
        power: Probability with which these seeds find a true match, a difference of 0, if the variance is as estimated.
        seeds_needed: With so many seeds that probability is ``POWER`` or more; None for one seed, and where no number
            of seeds would do on this test set.
    """

    mean: float
    low: float | None
    high: float | None
    margin: float
    verdict: Literal["matching", "worse", "undecided"]
    reason: str
    about: str = "seeds"
    standard_error: float | None = None
    test_standard_error: float | None = None
    power: float | None = None
    seeds_needed: int | None = None


def judge_matching(
    values: Sequence[float],
    reference: Sequence[float],
    margin: float = 0.01,
    *,
    blocks: SeedBlocks | None = None,
    samples: int = 0,
    level: float = 0.05,
) -> Matching:
    """Whether values are not inferior to a reference by more than a margin: one-sided paired t-tests.

    The differences ``values - reference``, seed by seed, have a mean; ``"matching"`` where its one-sided lower bound
    lies above ``-margin``, ``"worse"`` where its upper bound lies below, else ``"undecided"``. No significant
    difference is no match: that only says that the seeds are too few. NaN is never a match, and no spread at all is no
    certainty. Each call is one statement; ``matches_down_to`` makes one of several.

    With ``blocks`` test samples are as much sampled as seeds, which they are crossed with (``crossed_variance``, whose
    form is the variance between seeds / seeds), and one seed has a verdict, about its own networks. Without, the
    verdict is about this test set.

    Simulated with 360 and 1,000 samples, errors of .05 and .15, standard deviations between seeds of .004 and .01, a
    margin of .01 (4,000 repetitions each, 2026-11-29, ``tests/helpers/matching_process.py``): where the true
    difference is ``-margin`` the verdict is ``"matching"`` in 4.0 to 5.7 % with 2, 3 or 5 seeds; on seeds alone in 4
    to 6 % with 2, in 7 to 12 % with 3 and in 10 to 21 % with 5, as all of them are wrong on the same samples. Where it
    is 0, five seeds find it in 16 to 21 % with 360 samples and in 26 to 37 % with 1,000: so few samples rarely show a
    match within .01.

    Args:
        values: For each seed, better when high: an accuracy, or minus an error.
        reference: The same of the dense network, seeds in the same order.
        margin: Loss that still counts as a match, in the units of the values, > 0.
        blocks: The same differences, block by block of the test samples; None for seeds alone.
        samples: In the test set, where the values are shares of them; 0 otherwise, or where that is not known.
        level: Of each one-sided test, in (0, 0.5).

    Raises:
        LotteryError: Not as many values as references, none at all, blocks of other differences, or a margin that is
            not positive.

    Example:
        >>> judge_matching([0.94, 0.95, 0.96], [0.94, 0.951, 0.959]).verdict
        'matching'
        >>> judge_matching([0.90, 0.91, 0.92], [0.94, 0.951, 0.959]).verdict
        'worse'

    Source: Frankle et al. 2020, section 4 (matching: no drop in accuracy); non-inferiority by Schuirmann 1987, one of
    his two one-sided tests; Obuchowski & Rockette 1995 and Gallas 2006 for seeds and samples in one variance.
    """
    check_margin(margin)
    paired = _paired(values, reference, blocks, samples)
    about = "seeds" if paired.seeds > 1 else "the networks of this seed"
    estimate = Matching(paired.mean, None, None, margin, "undecided", paired.reason, about)
    if (crossed := paired.crossed) is None:
        return estimate
    error = crossed.variance**0.5
    reach = upper_quantile(level, crossed.freedom) * error
    estimate = replace(
        estimate,
        low=paired.mean - reach,
        high=paired.mean + reach,
        standard_error=error,
        test_standard_error=None if blocks is None else crossed.samples**0.5,
        power=float(_power(crossed.variance, crossed.freedom, margin, level)),
        seeds_needed=_seeds_needed(paired, crossed, margin, level),
    )
    return _decided(estimate)


class Compared(NamedTuple):
    """A ticket beside one of its controls, seed by seed: arguments of ``judge_matching``, the control as reference."""

    values: Sequence[float]
    reference: Sequence[float]
    blocks: SeedBlocks | None = None
    samples: int = 0


@dataclass(frozen=True)
class Superiority:
    """Whether a ticket is better than its control.

    Args:
        mean: Of the differences, ticket minus control, better when high.
        p: Of the one-sided paired test of this control alone; None where nothing says it.
        adjusted: The same, corrected by Holm for the number of controls.
        superior: Whether that is at most the level.
        reason: Why there is no ``p``; else empty.
    """

    mean: float
    p: float | None
    adjusted: float | None
    superior: bool
    reason: str = ""


def judge_controls(comparisons: Mapping[str, Compared], *, level: float = 0.05) -> dict[str, Superiority]:
    """Over which of its controls a ticket is superior: one-sided paired t-tests, corrected by Holm for their number.

    A control that is "not worse than its ticket by the margin" says nothing for the ticket; one that the ticket beats
    does. The family is all that is handed over, which in a report of iterative pruning is every control of every level,
    also of levels that match no more: with a probability of at most ``level`` any ticket is called superior that is
    not. A control without a p-value, as NaN or one seed has none, counts as one that is not beaten.

    Args:
        comparisons: Name to a ticket and its control.
        level: Of the whole family.

    Raises:
        LotteryError: As ``judge_matching``.

    Example:
        >>> better = Compared([0.9, 0.91, 0.92], [0.7, 0.71, 0.73])
        >>> verdicts = judge_controls({"shuffled": better, "reinitialised": Compared([0.9, 0.91], [0.9, 0.92])})
        >>> [verdict.superior for verdict in verdicts.values()]
        [True, False]

    Source: Holm 1979.
    """
    paired = {name: _paired(*comparison) for name, comparison in comparisons.items()}
    p_values = {name: each.p_of_superiority() for name, each in paired.items()}
    verdicts = {}
    for name, adjusted in holm(p_values).items():
        known = paired[name].crossed is not None
        verdicts[name] = Superiority(
            paired[name].mean,
            p_values[name] if known else None,
            adjusted if known else None,
            known and adjusted <= level,
            paired[name].reason,
        )
    return verdicts


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """P-values of several tests, corrected for their number: one at most the level is shown with all the others.

    Args:
        p_values: Name to p, in [0, 1].

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected, adjusted = dict[Key, float](), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        adjusted = min(1.0, max(adjusted, (len(p_values) - rank) * p_values[name]))
        corrected[name] = adjusted
    return {name: corrected[name] for name in p_values}


def matches_down_to(levels: Sequence[tuple[float, Matching]]) -> float | None:
    """The density down to which every level matches; None where the first does not.

    The levels are tested in a fixed sequence, the densest first, and the first that is not ``"matching"`` ends it: what
    is below counts no more, whatever it says. So the whole statement has the level of a single verdict, with no
    correction for the number of levels.

    Simulated over 14 levels of a true difference of ``-margin``, with 360 and 1,000 samples, 3 and 5 seeds (1,000
    repetitions each, 2026-11-29): in sequence one is called matching in 4.7 to 5.7 %, any of them in 42 to 48 %, and on
    seeds alone in 71 to 86 %.

    Args:
        levels: Density and verdict of each level, densities falling.

    Raises:
        LotteryError: Densities do not fall.

    Example:
        >>> dense, close, far = [0.9, 0.91, 0.92], [0.9, 0.911, 0.919], [0.5, 0.51, 0.53]
        >>> matches_down_to([(0.5, judge_matching(close, dense)), (0.25, judge_matching(far, dense))])
        0.5

    Source: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001 (fixed-sequence procedures).
    """
    densities = [density for density, _ in levels]
    if not all(a > b for a, b in zip(densities[:-1], densities[1:], strict=True)):
        raise LotteryError(f"Levels are tested from the densest down, got the densities {densities}.")
    last = None
    for density, matching in levels:
        if matching.verdict != "matching":
            return last
        last = density
    return last


def check_margin(margin: float) -> None:
    """Refuse a margin that is not a positive number.

    Raises:
        LotteryError: It is none.
    """
    check_positive("margin", margin, "the loss that still counts as a match")


@dataclass(frozen=True)
class _Paired:
    """Differences seed by seed, and the variance of their mean; why there is none, where there is none."""

    differences: Floats  # (seeds,)
    covariance: Floats | None  # of the samples, (seeds, seeds); None where seeds alone are judged
    crossed: Crossed | None
    reason: str

    @property
    def seeds(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    def p_of_superiority(self) -> float:
        """One-sided, of a mean above 0; 1 where it has no variance."""
        from scipy.special import stdtr

        if self.crossed is None:
            return 1.0
        return float(stdtr(self.crossed.freedom, -self.mean / self.crossed.variance**0.5))


def _paired(values: Sequence[float], reference: Sequence[float], blocks: SeedBlocks | None, samples: int) -> _Paired:
    """What ``judge_matching`` gets, as differences with their variance."""
    if not len(values) or len(values) != len(reference):
        raise LotteryError(f"A match is judged seed by seed: {len(values)} values for {len(reference)} references.")
    differences = np.asarray(values, dtype=float) - np.asarray(reference, dtype=float)
    if not np.isfinite(differences).all() or (blocks is not None and not np.isfinite(blocks.differences).all()):
        return _Paired(differences, None, None, "a value is not finite")
    rounding = rounding_variance(float(np.abs([*values, *reference]).max()))
    n = len(differences)
    forms = [Form((np.eye(n) - 1 / n) / (n * (n - 1)), n - 1)] if n > 1 else []
    if blocks is None:
        if not forms:
            return _Paired(differences, None, None, "one seed gives an estimate, no verdict")
        crossed = Crossed(float(differences @ forms[0].matrix @ differences), 0.0, forms[0].freedom, 1.0)
        if crossed.variance <= rounding:
            return _Paired(differences, None, None, "no spread between seeds is no certainty")
        return _Paired(differences, None, crossed, "")
    _check_blocks(differences, blocks)
    covariance = covariance_of_samples(blocks.differences, blocks.weights)
    crossed = crossed_variance(differences, covariance, np.full(n, 1 / n), forms, len(blocks.weights))
    if crossed.variance <= rounding:
        # Not one block tells them apart: as sure as if they differed on a single sample, and no surer.
        if not samples:
            return _Paired(differences, None, None, "no spread between seeds and samples is no certainty")
        crossed = replace(crossed, networks=0.0, samples=1 / samples**2)
    return _Paired(differences, covariance, crossed, "")


def _check_blocks(differences: Floats, blocks: SeedBlocks) -> None:
    """Refuse blocks of other seeds or values."""
    if len(blocks.differences) != len(differences):
        raise LotteryError(
            f"A match is judged seed by seed: blocks of {len(blocks.differences)} seeds for {len(differences)} values."
        )
    means = blocks.differences @ (blocks.weights / blocks.weights.sum())
    if not np.allclose(means, differences, rtol=ROUNDING, atol=ROUNDING):
        raise LotteryError(
            f"The blocks are of other values: their means are {means.tolist()}, the differences {differences.tolist()}."
        )


def _decided(estimate: Matching) -> Matching:
    """The verdict by the bounds, and why."""
    margin, low, high = estimate.margin, estimate.low, estimate.high
    assert low is not None and high is not None
    if low > -margin:
        return replace(estimate, verdict="matching", reason=f"the lower bound {low:+.4f} is above {-margin}")
    if high < -margin:
        return replace(estimate, verdict="worse", reason=f"the upper bound {high:+.4f} is below {-margin}")
    return replace(estimate, reason=f"the bounds {low:+.4f} and {high:+.4f} enclose {-margin}")


def _power(variance: float | Floats, freedom: float | npt.NDArray[np.number], margin: float, level: float) -> Floats:
    """Probability that a mean of 0 has its lower bound above ``-margin``: a noncentral t beyond t's quantile."""
    from scipy.special import nctdtr, stdtrit

    missed = nctdtr(freedom, margin / np.sqrt(variance), stdtrit(freedom, 1 - level))
    power: Floats = 1 - np.nan_to_num(missed)  # NaN far beyond the quantile, scipy 1.17
    return power


def _seeds_needed(paired: _Paired, crossed: Crossed, margin: float, level: float) -> int | None:
    """The least number of seeds, two or more, that finds a true match with ``POWER``."""
    if (n := paired.seeds) < 2:
        return None
    shared, alone = _parts_of_samples(paired.covariance, crossed)
    if shared and float(_power(shared, crossed.samples_freedom, margin, level)) < POWER:
        return None  # what all seeds share remains, however many there are
    for number in np.split(np.arange(2, MOST + 1), [8, 62]):  # mostly few are enough, and the distribution is slow
        networks, samples = crossed.networks * n / number, shared + alone / number
        variance = networks + samples
        freedom = variance**2 / (networks**2 / (number - 1) + samples**2 / crossed.samples_freedom)
        (enough,) = np.nonzero(_power(variance, freedom, margin, level) >= POWER)
        if len(enough):
            return int(number[enough[0]])
    return None


def _parts_of_samples(covariance: Floats | None, crossed: Crossed) -> tuple[float, float]:
    """The samples' part of the variance that all seeds share, and what else a single seed has, which more shrink."""
    if covariance is None:
        return 0.0, 0.0
    n = len(covariance)
    together = float(covariance.sum() - np.trace(covariance)) / (n * (n - 1))
    shared = min(max(together, 0.0), crossed.samples)
    return shared, (crossed.samples - shared) * n


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
