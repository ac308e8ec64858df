"""Is a network stable to SGD noise? What error barriers between children of one or several parents say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.crossed import (
    Blocks,
    Crossed,
    Floats,
    Form,
    covariance_of_samples,
    crossed_variance,
    rounding_variance,
    upper_quantile,
)

Verdict = Literal["stable", "unstable", "undecided"]

Barriers = Mapping[int, Mapping[tuple[int, int], float]]
"""Parent (an initialisation's seed) to pair of its children (i, j) to their error barrier."""

MOST = 1000
"""The largest number of further parents or children that is looked for; beyond it the answer is that none will do."""

POWER = 0.8
"""The probability with which ``More.likely`` many decide."""


@dataclass(frozen=True)
class More:
    """How many more parents, or children of each, would decide, if the estimates stayed as they are.

    Args:
        even: With a probability of a half.
        likely: With a probability of 80 %; None where no number would do.
    """

    even: int
    likely: int | None


@dataclass(frozen=True)
class Typical:
    """What parents say of the median barrier over all parents there could be, if barriers are log-normal.

    Args:
        median: Error barrier, a fraction.
        low: Bound from below, one-sided.
        high: Bound from above, one-sided.
        verdict: As of the mean.
    """

    median: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Stability:
    """What the children of one or several parents say of the error barrier.

    ``low`` and ``high`` bound the mean one-sidedly, at 95 % each, together at 90 %. Where samples are judged as well,
    they belong to two statistics, each of which errs on the careful side: ``high`` to the mean of the highest places,
    ``low`` to the cross-fitted one.

    Args:
        mean: Error barrier: of the pairs of each parent, then of the parents.
        standard_error: Of the mean; None where nothing says it.
        low: Bound from below, or None.
        high: Bound from above, or None.
        verdict: ``"stable"``, ``"unstable"`` or ``"undecided"``.
        test_standard_error: The part of the standard error that other test samples would make; None where networks
            alone are judged.
        reason: The verdict's, in words.
        threshold: What the mean was held against.
        parents: How many there are.
        about: What the verdict is about: ``"these two networks"``, ``"children of this parent"`` or ``"parents"``.
        noise_floor: What the barrier would be on these samples if the error were equal all along the line; None where
            networks alone are judged.
        by_parent: The mean of each parent's pairs.
        typical: Of the typical parent; None for one parent, and where the error is no share of samples.
        more_parents: How many more would decide; None where it is decided, or no number would do.
        more_children: The same for more children of each of these parents.
        noise: By what children of one checkpoint differ, in words; "" where nothing is said of that.
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
    about: str = "parents"
    noise_floor: float | None = None
    by_parent: tuple[float, ...] = ()
    typical: Typical | None = None
    more_parents: More | None = None
    more_children: More | None = None
    noise: str = ""

    @property
    def in_words(self) -> str:
        """The verdict with the noise that it is about: ``stable to data order``."""
        if not self.noise:
            return self.verdict
        return f"{self.verdict} {'whether stable ' if self.verdict == 'undecided' else ''}to {self.noise}"

    @property
    def is_below(self) -> bool:
        """Whether the mean itself, without its uncertainty, lies below the threshold; not where it is NaN."""
        return self.mean < self.threshold

    @property
    def spread_of_parents(self) -> float | None:
        """The largest parent's barrier over the smallest's: the bounds are made for ratios of up to about 3."""
        if len(self.by_parent) < 2 or not min(self.by_parent) > 0:
            return None
        return max(self.by_parent) / min(self.by_parent)


def judge(
    barriers: Barriers,
    threshold: float = 0.02,
    *,
    blocks: Blocks | None = None,
    samples: int = 0,
    level: float = 0.05,
) -> Stability:
    """Whether networks are stable to SGD noise: one-sided t-tests of the mean barrier against the threshold.

    ``"stable"`` where the mean is significantly below the threshold (one-sided non-inferiority), ``"unstable"`` where
    it is significantly above, else ``"undecided"``. NaN is never stable, and no spread at all is no certainty.

    Networks: one parent is judged by its children, and the verdict is about that parent. Pairs that share a child are
    dependent, so the standard error is the jackknife's over children, with (children - 1) degrees of freedom. Several
    parents are sampled, and children within them: what varies between the parents' means holds both kinds of noise.
    Few parents may agree by luck: where each has three children or more, the variance is never taken smaller than what
    the children alone explain.

    Samples: with ``blocks`` they are as much sampled as the networks, which they are crossed with
    (``crossed_variance``). A barrier is a maximum over places, too high on the samples that it is read from; so
    ``"stable"`` is judged by it, and ``"unstable"`` by the cross-fitted one. One pair then has a verdict, about those
    two networks. Without ``blocks`` the verdict is about this test set.

    Simulated with ``blocks`` (1,000 repetitions, 2026-11-29, ``tests/helpers/line_process.py``, parents x children):
    lines that are flat, at an error of .05, are called stable in 91 % (1 x 3) and 99.9 % (3 x 3) of cases with 360
    samples, in 99.7 % and all with 1,000; at .15 in 35 % and 74 %, and 94 % and 99.9 %. A barrier on the threshold is
    called stable in at most 4.0 %, and unstable in at most 4.3 %, where barriers vary by 20 % between parents; the more
    skewed they are the more often it is called stable: in up to 7.4 % at 40 % (3 x 2), and 14.8 % at 70 %. Then
    ``typical`` and ``spread_of_parents`` say more than the mean. A pair of networks that differ on few samples, all to
    one side, is called stable at the threshold more often: in up to 11 % with 360 samples, 8 % with 1,000.

    Args:
        barriers: Error barrier of each pair of children of each parent.
        threshold: Error barrier below which a network is called stable, in its units.
        blocks: The same lines, block by block of the test samples; None for networks alone.
        samples: In the test set, where the error is a share of them; 0 otherwise, or where that is not known.
        level: Of each one-sided test, in (0, 0.5).

    Raises:
        LotteryError: A level outside of (0, 0.5), no parent, a parent without a pair of children, a child without whom
            no pair is left although there are several, or blocks of other pairs.

    Example:
        >>> judge({0: {(0, 1): 0.3, (0, 2): 0.31, (1, 2): 0.29}}).verdict
        'unstable'
        >>> pairs = {(1, 2): 0.006, (1, 3): 0.007, (2, 3): 0.005}
        >>> judge({0: pairs, 1: {pair: barrier + 0.002 for pair, barrier in pairs.items()}, 2: pairs}).verdict
        'stable'

    Source: Frankle et al. 2020 (2 % as the threshold); Schuirmann 1987 (each of his one-sided tests); Efron & Stein
    1981 for the jackknife; Obuchowski & Rockette 1995 and Gallas 2006 for networks and samples in one variance.
    """
    if not 0 < level < 0.5:
        raise LotteryError(f"`level` is that of a one-sided test, in (0, 0.5), got {level}.")
    _check_parents(barriers, blocks)
    is_pair = all(len(pairs) == 1 for pairs in barriers.values())
    about = "parents" if len(barriers) > 1 else "these two networks" if is_pair else "children of this parent"
    floor = None if blocks is None else blocks.noise_floor()
    by_parent = tuple(float(np.mean(list(pairs.values()))) for pairs in barriers.values())
    mean, count = float(np.mean(by_parent)), len(barriers)
    estimate = Stability(mean, None, None, None, "undecided", None, "", threshold, count, about, floor, by_parent)
    if reason := _not_finite(barriers):
        return replace(estimate, reason=reason)
    networks = _Networks.in_barriers(barriers)
    if samples and count > 1:
        estimate = replace(estimate, typical=_typical(by_parent, threshold, samples, level))
    if blocks is not None:
        return _judge_crossed(estimate, networks, blocks, samples, level)
    if not networks.forms:
        return replace(estimate, reason="one pair gives an estimate, no verdict")
    variance = max(float(networks.values @ form.matrix @ networks.values) for form in networks.forms)
    if variance <= rounding_variance(mean):
        return replace(estimate, standard_error=0.0, reason="no spread between networks is no certainty")
    freedom = networks.forms[0].freedom
    margin = upper_quantile(level, freedom) * variance**0.5
    stability = _decide(estimate, mean - margin, mean + margin)
    return _with_more(
        replace(stability, standard_error=variance**0.5), networks, Crossed(variance, 0.0, freedom, 1.0), level
    )


@dataclass(frozen=True)
class _Networks:
    """What is sampled, as vectors over all pairs of all parents."""

    values: Floats  # each pair's barrier
    weights: Floats  # each pair's in the mean
    forms: tuple[Form, ...]  # what estimates the mean's variance; the first one's freedom counts
    parents: int
    children: int  # of the parent that has fewest
    within: float  # the part of the variance that more children shrink; NaN where it is not known

    @classmethod
    def in_barriers(cls, barriers: Barriers) -> "_Networks":
        counts = [len(pairs) for pairs in barriers.values()]
        values = np.array([barrier for pairs in barriers.values() for barrier in pairs.values()])
        count, total = len(counts), sum(counts)
        means, left_out = np.zeros((count, total)), np.zeros((total, total))
        start = 0
        for row, pairs in zip(means, barriers.values(), strict=True):
            its = slice(start, start := start + len(pairs))
            row[its] = 1 / len(pairs)
            left_out[its, its] = _jackknife(list(pairs)) / count**2
        children = min(len(_children_in(pairs)) for pairs in barriers.values())
        has_within = all(n > 1 for n in counts)
        forms, freedom = [], count - 1 if count > 1 else children - 1
        if count > 1:
            centring = np.eye(count) - 1 / count
            forms.append(Form(means.T @ centring @ means / (count * (count - 1)), freedom))
        if has_within:
            forms.append(Form(left_out, freedom))
        within = float(values @ left_out @ values) if has_within else math.nan
        return cls(values, means.mean(0), tuple(forms), count, children, within)


def _check_parents(barriers: Barriers, blocks: Blocks | None) -> None:
    """Refuse barriers of no parent, of a parent without a pair, and of children that cannot be left out."""
    if not barriers:
        raise LotteryError("A step is judged by the pairs of children of at least one parent, got no parent.")
    for parent, pairs in barriers.items():
        if not pairs:
            raise LotteryError(f"Parent {parent} has no pair of children: leave it out, or train two of them.")
        alone = [child for child in _children_in(pairs) if all(child in pair for pair in pairs)]
        if len(pairs) > 1 and alone:
            raise LotteryError(
                f"Without child {alone[0]} of parent {parent} no pair is left, so nothing says what that child adds: "
                "give the barriers of all pairs of its children."
            )
    if blocks is not None:
        pairs_here = [(parent, list(pairs)) for parent, pairs in barriers.items()]
        if pairs_here != [(parent, list(pairs)) for parent, pairs in blocks.lines.items()]:
            raise LotteryError("The blocks are of other parents or pairs than the barriers, or in another order.")


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


def _jackknife(pairs: list[tuple[int, int]]) -> Floats:
    """The jackknife's variance of the mean over pairs, as a quadratic form; 0 for a single pair.

    Each child is left out once, with all its pairs: pairs that share a child are no independent observations, children
    are.
    """
    if len(pairs) < 2:
        return np.zeros((len(pairs), len(pairs)))
    children = sorted({child for pair in pairs for child in pair})
    without = np.array([[child not in pair for pair in pairs] for child in children], dtype=float)
    without /= without.sum(1, keepdims=True)
    n = len(children)
    # The sum is multiplied by (n - 1) / n, not divided by n: means that leave out one child share nearly all the rest,
    # so they differ far less than independent ones would (Efron & Stein 1981).
    form: Floats = (n - 1) / n * without.T @ (np.eye(n) - 1 / n) @ without
    return form


def _judge_crossed(estimate: Stability, networks: _Networks, blocks: Blocks, samples: int, level: float) -> Stability:
    """The verdict where networks and test samples are both sampled."""
    highest, fitted = (
        _bounded(values, networks, blocks, level) for values in (blocks.highest(), blocks.cross_fitted())
    )
    _, high, crossed = highest
    low, _, _ = fitted
    if crossed.variance <= rounding_variance(estimate.mean):
        # Not one block tells the networks apart: as sure as if they differed on a single sample, and no surer.
        if not samples:
            return replace(estimate, standard_error=0.0, reason="no spread between networks is no certainty")
        crossed = replace(crossed, samples=1 / samples**2)
        low, high = (estimate.mean + sign * upper_quantile(level, crossed.freedom) / samples for sign in (-1, 1))
    stability = replace(
        _decide(estimate, min(low, high), high),
        standard_error=crossed.variance**0.5,
        test_standard_error=crossed.samples**0.5,
    )
    return _with_more(stability, networks, crossed, level)


def _bounded(values: Floats, networks: _Networks, blocks: Blocks, level: float) -> tuple[float, float, Crossed]:
    """One-sided bounds of the mean of (pairs, blocks), and its variance."""
    means = values @ (blocks.weights / blocks.weights.sum())
    covariance = covariance_of_samples(values, blocks.weights)
    crossed = crossed_variance(means, covariance, networks.weights, networks.forms, len(blocks.weights))
    mean, margin = float(networks.weights @ means), upper_quantile(level, crossed.freedom) * crossed.variance**0.5
    return mean - margin, mean + margin, crossed


def _decide(estimate: Stability, low: float, high: float) -> Stability:
    """The verdict on a mean, and why: by its bounds."""
    threshold = estimate.threshold
    verdict, reason = _verdict(low, high, threshold)
    return replace(estimate, low=low, high=high, verdict=verdict, reason=reason)


def _verdict(low: float, high: float, threshold: float) -> tuple[Verdict, str]:
    if low > threshold:
        return "unstable", f"the lower bound {low:.4f} is above {threshold:.4g}"
    if high < threshold:
        return "stable", f"the upper bound {high:.4f} is below {threshold:.4g}"
    return "undecided", f"the bounds {low:.4f} and {high:.4f} enclose {threshold:.4g}"


def _typical(by_parent: tuple[float, ...], threshold: float, samples: int, level: float) -> Typical:
    """The median over parents by a t-test of logarithms: their barriers are skewed, and on that scale they are not."""
    shift = 1 / (2 * samples)  # a barrier of 0 has no logarithm
    logs = np.log(np.maximum(by_parent, 0.0) + shift)
    center, count = float(logs.mean()), len(logs)
    margin = upper_quantile(level, count - 1) * float(logs.std(ddof=1)) / count**0.5
    median, low, high = (math.exp(log) - shift for log in (center, center - margin, center + margin))
    verdict = "undecided" if not margin else _verdict(low, high, threshold)[0]
    return Typical(median, low, high, verdict)


def _with_more(stability: Stability, networks: _Networks, crossed: Crossed, level: float) -> Stability:
    """How many more parents, or children, would decide what is undecided."""
    gap = abs(stability.mean - stability.threshold)
    if stability.verdict != "undecided":
        return stability
    more = np.arange(1, MOST + 1)
    count, children = networks.parents, networks.children
    more_parents = more_children = None
    if count > 1:
        # Of the samples' part only what pairs do not share would shrink: none of it is counted on.
        variances = crossed.networks * count / (count + more)
        more_parents = _more(variances, count + more - 1, crossed, gap, level)
    if math.isfinite(networks.within):
        shrinking = min(networks.within, crossed.networks)
        variances = crossed.networks - shrinking + shrinking * children / (children + more)
        freedom = np.full(MOST, count - 1) if count > 1 else children + more - 1
        more_children = _more(variances, freedom, crossed, gap, level)
    return replace(stability, more_parents=more_parents, more_children=more_children)


def _more(networks: Floats, freedom: npt.NDArray[np.int_], crossed: Crossed, gap: float, level: float) -> More | None:
    """The first number that decides at even odds, and the first that does so with a probability of ``POWER``.

    Args:
        networks: The networks' part of the variance with 1, 2, ... more.
        freedom: Its degrees of freedom.
        crossed: The variance as it is.
        gap: How far the mean lies from the threshold.
        level: Of the test.
    """
    from scipy.special import ndtri, stdtrit

    variances = networks + crossed.samples
    together = variances**2 / (networks**2 / freedom + crossed.samples**2 / crossed.samples_freedom)
    quantiles, errors = stdtrit(together, 1 - level), np.sqrt(variances)
    even, likely = (np.flatnonzero((quantiles + beyond) * errors < gap) for beyond in (0.0, float(ndtri(POWER))))
    if not len(even):
        return None
    return More(int(even[0]) + 1, int(likely[0]) + 1 if len(likely) else None)
