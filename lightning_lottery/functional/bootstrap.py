"""The nested bootstrap: parents drawn anew, and children within each; of the mean barrier, and of the step k*."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.search import crossing
from lightning_lottery.functional.stability import Barriers, check_parents

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """One-sided bounds of a quantity from below and from above: percentiles of the replicates."""

    low: float
    high: float


def nested_bootstrap(barriers: Barriers, *, repetitions: int = 2000, level: float = 0.05, seed: int = 0) -> Interval:
    """Percentiles of the mean barrier at one step, parents drawn anew and children within each.

    Pairs that share a child are dependent, so children are drawn, not pairs; a child drawn twice makes no pair with
    itself. The percentiles describe what was seen. They are no confidence bounds for few parents: three drawn from
    three vary too little. ``judge_step`` gives bounds that hold.

    Args:
        barriers: Error barrier, a fraction, of each pair of children of each parent.
        repetitions: Replicates.
        level: Share of replicates below the lower bound, and above the upper one.
        seed: Of the draws.

    Raises:
        LotteryError: No parent, or a parent without a pair of children.

    Example:
        >>> nested_bootstrap({0: {(1, 2): 0.25}, 1: {(1, 2): 0.5}})
        Interval(low=0.25, high=0.5)

    Source: Efron & Tibshirani 1993, chapter 13 (percentiles); Davison & Hinkley 1997, section 3.8 (nested data).
    """
    return _interval(_replicates({0: barriers}, repetitions, seed)[0], level)


def bootstrap_k_star(
    sweep: Mapping[int, Barriers],
    threshold: float = 0.02,
    *,
    repetitions: int = 2000,
    level: float = 0.05,
    seed: int = 0,
) -> Interval:
    """Percentiles of the step at which the mean barrier crosses the threshold, parents and children drawn anew.

    A parent is drawn with its whole curve, and so is a child (of one seed, at every step). In each replicate k* is
    where the mean crosses (see ``crossing``): infinity beyond the last step. Like ``nested_bootstrap`` it describes
    what was seen; ``k_star`` gives bounds that hold.

    Args:
        sweep: Evaluated step to its barriers; parents and children may be missing at some.
        threshold: Error barrier, a fraction.
        repetitions: Replicates.
        level: Share of replicates below the lower bound, and above the upper one.
        seed: Of the draws.

    Raises:
        LotteryError: No step, or a step without a parent, or a parent without a pair of children.

    Example:
        >>> curve = {10: {(1, 2): 0.04}, 100: {(1, 2): 0.01}, 1000: {(1, 2): 0.0}}
        >>> late = {k: {pair: 4 * barrier for pair, barrier in pairs.items()} for k, pairs in curve.items()}
        >>> [round(k) for k in bootstrap_k_star({k: {0: curve[k], 1: late[k]} for k in curve})]
        [47, 317]
    """
    if not sweep:
        raise LotteryError("k* is read from one step or more, got none.")
    steps = sorted(sweep)
    return _interval(crossing(steps, _replicates(sweep, repetitions, seed).T, threshold), level)


def _interval(replicates: Floats, level: float) -> Interval:
    low, high = np.quantile(replicates, [level, 1 - level], method="inverted_cdf")  # infinity is not interpolated
    return Interval(float(low), float(high))


def _replicates(sweep: Mapping[int, Barriers], repetitions: int, seed: int) -> Floats:
    """The mean barrier in each replicate, of shape (steps, repetitions): of the parents drawn, of their pairs.

    Where nothing that was drawn has a barrier at a step, its mean as seen stands in.
    """
    for barriers in sweep.values():
        check_parents(barriers)
    draw, parents = np.random.default_rng(seed), sorted({parent for at in sweep.values() for parent in at})
    tables = [_table(sweep, parent) for parent in parents]
    total, seen = np.zeros((2, len(sweep), repetitions))
    for chosen in draw.integers(len(parents), size=(len(parents), repetitions)):
        for parent, table in enumerate(tables):
            where = np.flatnonzero(chosen == parent)
            means = _means(table, _drawn(draw, table.shape[-1], len(where)))
            is_there = ~np.isnan(means)
            total[:, where] += np.where(is_there, means, 0)
            seen[:, where] += is_there
    as_seen = [
        np.mean([np.nanmean(table[place]) for table in tables if not np.isnan(table[place]).all()])
        for place in range(len(sweep))
    ]
    return np.where(seen > 0, total / np.maximum(seen, 1), np.array(as_seen)[:, None])


def _table(sweep: Mapping[int, Barriers], parent: int) -> Floats:
    """One parent's barriers, of shape (steps, children, children): NaN for a missing one, infinity for a broken one."""
    of = [sweep[step].get(parent, {}) for step in sorted(sweep)]
    children = sorted({child for pairs in of for pair in pairs for child in pair})
    table = np.full((len(of), len(children), len(children)), math.nan)
    for place, pairs in enumerate(of):
        for (i, j), barrier in pairs.items():
            a, b = children.index(i), children.index(j)
            table[place, a, b] = table[place, b, a] = barrier if math.isfinite(barrier) else math.inf
    return table


def _drawn(draw: np.random.Generator, children: int, repetitions: int) -> Floats:
    """How often each child is drawn in each replicate, at least two different ones."""
    counts = draw.multinomial(children, np.full(children, 1 / children), size=repetitions)
    while len(single := np.flatnonzero((counts > 0).sum(axis=1) < 2)):
        counts[single] = draw.multinomial(children, np.full(children, 1 / children), size=len(single))
    return counts.astype(float)


def _means(table: Floats, counts: Floats) -> Floats:
    """Mean over the pairs of drawn children, of shape (steps, replicates); NaN where none of them has a barrier."""
    weights = (counts[:, :, None] * counts[:, None, :]).reshape(len(counts), counts.shape[1] ** 2).T
    flat = table.reshape(len(table), -1)
    has, is_finite = ~np.isnan(flat), np.isfinite(flat)
    with np.errstate(invalid="ignore"):
        means = np.where(is_finite, flat, 0) @ weights / (has @ weights)
    return np.where((has & ~is_finite) @ weights > 0, math.inf, means)
