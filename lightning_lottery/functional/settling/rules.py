"""Has a series of masks settled? Rules that say so, of its masks or of their nuclear norms."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.checks import is_count, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, Scores, count, hamming
from lightning_lottery.functional.settling.tests import (
    Series,
    adf,
    least_margin,
    mann_kendall,
    moving_average,
    slope_equivalence,
    slope_hac,
)

_CONSTANT = 1e-9  # a series that varies by less than this fraction of its size does not vary


class Finding(NamedTuple):
    """What a rule computed at one probe; ``holds`` says whether its criterion is met there.

    Of ``SlopeEquivalence`` also the margin, and the change over a window, above which it would have held.
    """

    statistic: float
    p_value: float | None
    lags: int | None
    holds: bool
    least_margin: float | None = None
    least_change: float | None = None


class Rule(ABC):
    """When has a series of masks settled? Plain data that a ``Detector`` drives; ``watches`` says what it is fed.

    Args:
        interval: Optimizer steps between probes.
        min_steps: Probes before this step do not count: a series that stands still because training has not begun to
            tell the units apart has not settled.
        patience: Probes in a row that must agree.
        window: Values that a rule on norms tests.
        smoothing: Norms in the moving average whose values they are, at most ``window``; 1 for the norms themselves.
    """

    watches: ClassVar[Literal["masks", "norms"]]
    caution: ClassVar[str] = ""
    """What a user of the rule is warned of before the first step; empty for nothing."""
    looks_at: ClassVar[str] = "statistic"
    """What decides, in words."""
    holds_above: ClassVar[bool] = False
    """Whether what decides is to be above the threshold; else at it or below."""
    interval: int
    min_steps: int
    patience: int

    def __post_init__(self) -> None:
        _check_counts(self, interval=1, min_steps=0, patience=1)

    @property
    def threshold(self) -> float | None:
        """What decides is compared with it; None where a rule decides otherwise."""
        return None

    @property
    @abstractmethod
    def stride(self) -> int:
        """Optimizer steps from one value that the rule looks at to the next."""

    @property
    @abstractmethod
    def memory(self) -> int:
        """Values that a probe looks at."""

    @abstractmethod
    def keep(self, observed: Any) -> Any:
        """A value in the form in which it is remembered."""

    @abstractmethod
    def judge(self, observed: Sequence[Any]) -> Finding:
        """What the last ``memory`` values say, oldest first."""

    @property
    def earliest(self) -> int:
        """The first optimizer step at which a series can have settled that is pushed from step 1 on.

        Example:
            >>> HammingFIFO(length=5, interval=10).earliest, SlopeHAC().earliest, ADF(patience=3).earliest
            (50, 500, 700)
        """
        first = max(self.memory * self.stride, self.min_steps)
        return (math.ceil(first / self.interval) + self.patience - 1) * self.interval


@dataclass(frozen=True)
class HammingFIFO(Rule):
    """Settled when the newest mask is within ``tolerance`` of each of the ``length - 1`` before it.

    The statistic is the largest of those distances. A mask that keeps nothing, or everything, never settles.

    Args:
        length: Masks in the queue, ``interval`` steps apart, >= 2.
        tolerance: Largest fraction of the entries that may differ, in [0, 1).
        interval: As in :class:`Rule`, like the others.

    Source: You et al. 2020, section 3.2. Their code draws a mask at the start of each epoch, the first from the
    untrained network; here the first is that of step ``interval``. Theirs settles on the empty masks of equal scales.
    """

    watches = "masks"
    looks_at = "largest distance"
    length: int = 5
    tolerance: float = 0.1
    interval: int = 100
    min_steps: int = 0
    patience: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, length=2)
        if not 0 <= self.tolerance < 1:
            raise LotteryError(f"`tolerance` is the fraction that may differ and must be in [0, 1), got {self}.")

    @property
    def threshold(self) -> float:
        """``tolerance``."""
        return self.tolerance

    @property
    def stride(self) -> int:
        """A mask at every probe."""
        return self.interval

    @property
    def memory(self) -> int:
        """The queue."""
        return self.length

    def keep(self, observed: Masks) -> dict[str, Tensor]:
        """A copy on the CPU."""
        return {name: mask.detach().to("cpu", copy=True) for name, mask in observed.items()}

    def judge(self, observed: Sequence[Masks]) -> Finding:
        """The largest distance of the newest mask to the older ones."""
        largest = max(newest_distances(observed))
        kept, total = count(observed[-1])
        return Finding(largest, None, None, largest <= self.tolerance and 0 < kept < total)


class _OnNorms(Rule):
    watches = "norms"
    looks_at = "p-value"
    p_if_constant: ClassVar[float]
    p: float
    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, window=20)
        if not is_number(self.p) or not 0 < self.p < 1:
            raise LotteryError(f"`p` is a p-value and must be in (0, 1), got {self}.")

    @property
    def threshold(self) -> float:
        """``p``."""
        return self.p

    @property
    def stride(self) -> int:
        """A norm at every step."""
        return 1

    @property
    def memory(self) -> int:
        """The window."""
        return self.window

    @property
    def fixed_lags(self) -> int | None:
        """Lags of the test, where they do not depend on the series."""
        return None

    def keep(self, observed: float) -> float:
        """A finite number."""
        if not math.isfinite(norm := float(observed)):
            raise LotteryError(f"{self} watches finite norms, got {norm}: push nothing where there is no mask.")
        return norm

    def judge(self, observed: Sequence[float]) -> Finding:
        """The test; a constant window is not tested, and where the newest mask is empty (norm 0) nothing holds."""
        series = self.prepare(np.asarray(observed, dtype=np.float64))
        is_constant = np.ptp(series) <= _CONSTANT * np.abs(series).max()
        finding = self.if_constant if is_constant else self.test(series)
        return finding._replace(holds=finding.holds and bool(observed[-1] != 0))

    @property
    def if_constant(self) -> Finding:
        """What a constant series says."""
        return Finding(0.0, self.p_if_constant, self.fixed_lags, True)

    def prepare(self, norms: Series) -> Series:
        """The series that is tested."""
        return norms

    @abstractmethod
    def test(self, series: Series) -> Finding:
        """What a series says that is not constant."""


class _OnAverages(_OnNorms):
    smoothing: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, smoothing=1)
        if self.window < self.smoothing:
            raise LotteryError(
                f"A window of {self.window} averages is shorter than the smoothing, {self.smoothing}, so that all of "
                f"them share norms: lengthen `window` or shorten `smoothing` of {self}."
            )

    @property
    def memory(self) -> int:
        """The window, and what its first average looks back on."""
        return self.window + self.smoothing - 1

    def prepare(self, norms: Series) -> Series:
        """Moving averages."""
        return moving_average(norms, self.smoothing)


@dataclass(frozen=True)
class SlopeHAC(_OnAverages):
    """Settled when the smoothed norm's slope is not significant: its p-value exceeds ``p``.

    Least squares on the step; the statistic is the slope per step, its p-value normal, with a standard error robust to
    autocorrelation (Bartlett kernel, no small-sample correction). A large p-value is absence of evidence: the noisier
    the norm, the earlier this rule settles. A constant window has p-value 1.

    Args:
        p: The p-value to exceed, in (0, 1).
        lags: Lags of the standard error, in [0, window). Default: ``smoothing - 1``, over which moving averages are
            autocorrelated by construction; without smoothing ``floor(4 (window / 100)^(2/9))``. 0 is White's (HC0),
            robust to unequal variances alone, and not that of plain least squares.
        smoothing: As in :class:`Rule`, like the others.

    Source: the ViT case study of early-bird tickets, whose text asks for robustness to serial correlation and whose
    notebook has plain least squares; Newey & West 1987, and 1994 for the lags without smoothing.
    """

    p_if_constant = 1.0
    holds_above = True
    p: float = 0.20
    lags: int | None = None
    smoothing: int = 200
    window: int = 300
    interval: int = 100
    min_steps: int = 0
    patience: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lags is not None:
            _check_counts(self, lags=0)
            if self.lags >= self.window:
                raise LotteryError(f"`lags` must be below `window`, got {self}.")

    @property
    def fixed_lags(self) -> int:
        """``lags``, or their default."""
        if self.lags is not None:
            return self.lags
        return self.smoothing - 1 if self.smoothing > 1 else math.floor(4 * (self.window / 100) ** (2 / 9))

    def test(self, series: Series) -> Finding:
        """Two-sided."""
        slope, p_value = slope_hac(series, self.fixed_lags)
        return Finding(slope, p_value, self.fixed_lags, p_value > self.p)


@dataclass(frozen=True)
class MannKendall(_OnAverages):
    """Settled when the smoothed norm has no significant monotonic trend: the p-value exceeds ``p``.

    The statistic is Mann and Kendall's z. The original test takes the values for independent, which moving averages
    are not, and finds trends everywhere. Hamed and Rao correct its variance; where what they estimate is not positive,
    the p-value is NaN and nothing settles. A constant window has p-value 1.

    Args:
        p: The p-value to exceed, in (0, 1).
        variant: ``"original"`` or ``"hamed_rao"``.
        smoothing: As in :class:`Rule`, like the others.

    Source: the ViT case study of early-bird tickets (original); Hamed & Rao 1998, lags significant at 0.05.
    """

    p_if_constant = 1.0
    holds_above = True
    p: float = 0.20
    variant: Literal["original", "hamed_rao"] = "original"
    smoothing: int = 200
    window: int = 300
    interval: int = 100
    min_steps: int = 0
    patience: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("original", "hamed_rao"):
            raise LotteryError(f"`variant` is 'original' or 'hamed_rao', got {self}.")

    def test(self, series: Series) -> Finding:
        """Two-sided."""
        z, p_value = mann_kendall(series, self.variant)
        return Finding(z, p_value, None, p_value > self.p)


@dataclass(frozen=True)
class ADF(_OnAverages):
    """Settled when a unit root in the smoothed norm is rejected: the p-value is below ``p``.

    The statistic is Dickey and Fuller's, augmented, with a constant and the lags of the best AIC. A constant window
    has p-value 0, a straight line that is not constant p-value 1.

    It draws on trends, of which ``EarlyBird`` warns: of 100 simulated runs whose norm rises by 0.001, 0.002 or 0.004 in
    every step, 62, 42 and 36 were drawn within 3,000 steps and 84, 68 and 58 within 5,000; of those that rise ever more
    slowly (square root) 62 to 97, along a logarithm all (``tests/helpers/settling_process.py``, 2026-11-29).

    Args:
        p: The p-value to stay below, in (0, 1).
        smoothing: As in :class:`Rule`, like the others.

    Source: the ViT case study of early-bird tickets; Dickey & Fuller 1979, p-values of MacKinnon 1994.
    """

    p_if_constant = 0.0
    caution = (
        "takes norms that never settle for settled ones: it drew in 36 to 84 % of simulated fits of 3,000 to 5,000 "
        "steps in which the norm rose on a straight line to the end. SlopeEquivalence(change=0.02) draws only where "
        "the data show that the norm moves by less than 2 % over a window."
    )
    p: float = 0.05
    smoothing: int = 200
    window: int = 300
    interval: int = 100
    min_steps: int = 0
    patience: int = 1

    def test(self, series: Series) -> Finding:
        """Against stationarity around a constant."""
        if np.ptp(np.diff(series)) <= _CONSTANT * np.abs(series).max():
            return Finding(
                0.0, 1.0, None, False
            )  # the regression leaves rounding alone, which processors do differently
        statistic, p_value, lags = adf(series)
        return Finding(statistic, p_value, lags, p_value < self.p)


@dataclass(frozen=True)
class SlopeEquivalence(_OnNorms):
    """Settled when the data show that the norm's slope lies within a margin of 0: two one-sided tests at level ``p``.

    Same as: the confidence interval of level ``1 - 2p`` lies inside ``(-margin, margin)``. The norm is not smoothed.
    The statistic is the least-squares slope per step; its distribution is that of the studentised slope in series
    resampled from the residuals in circular blocks. Noise widens the interval: this rule settles later for it, not
    earlier. A constant window has p-value 0. Every probe tells the margin, and the change, above which it would have
    held.

    A probe keeps the level where autocorrelation has died out over a block; a run of many probes does not. Hence
    ``patience=3``. Simulated runs whose norm moves by exactly the margin in every step were drawn in 76, 91 and 99.7 %
    (within 3,000, 5,000 and 10,000 steps) by one probe, in 2.7, 4.5 and 11 % by three in a row; by autocorrelation that
    outlasts a block, AR(0.98), in 89 to 99.9 and in 7.5 to 26 %. At 1.5 times the margin, lines, square roots,
    logarithms, stairs and random walks (increments of standard deviation 0.01) were never drawn; but a walk whose drift
    is the margin has flatter stretches (75 % in 5,000 steps), and one that wanders more has them at steeper drifts too.
    A norm that settles is drawn about 250 steps later than by one probe, 240 if it is flat from the start. One that
    stands still for a window and two probes more has settled, whatever follows.
    (``tests/helpers/settling_process.py``, 2026-11-29: noise AR(0.9) unless named; 1,000 runs at the margin, 300 that
    settle, 100 of each other shape.)

    Args:
        margin: Largest slope that counts as flat, in norm per optimizer step, > 0.
        change: In place of ``margin``: the largest move over a window that counts as flat, as a fraction of the norm's
            mean over it, in (0, 1). The margin is then ``change * mean / window``.
        p: Level of each of the two tests, in (0, 0.5).
        block: Norms in a block; the window is a whole number of blocks, four or more.
        seed: Seed of the resampling: every probe draws the same blocks.
        window: As in :class:`Rule`, like the others.

    Raises:
        LotteryError: Not exactly one of ``margin`` and ``change``, or an argument out of range.

    Example:
        >>> SlopeEquivalence(change=0.02, window=400)
        SlopeEquivalence(p=0.05, block=100, seed=0, window=400, interval=100, min_steps=0, patience=3, change=0.02)

    Source: ours, from Schuirmann 1987 (two one-sided tests), Politis & Romano 1992 (circular blocks) and Götze &
    Künsch 1996 (studentising by blocks).
    """

    p_if_constant = 0.0
    margin: float | None = None
    p: float = 0.05
    block: int = 100
    seed: int = 0
    window: int = 500
    interval: int = 100
    min_steps: int = 0
    patience: int = 3
    change: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, block=1, seed=0)
        if (self.margin is None) == (self.change is None):
            raise LotteryError(
                "SlopeEquivalence takes either `margin`, the largest slope that counts as flat in norm per step, or "
                "`change`, the largest move over a window as a fraction of the norm (0.02 is 2 %): got "
                f"margin={self.margin} and change={self.change}."
            )
        if self.margin is not None and not (is_number(self.margin) and 0 < self.margin < math.inf):
            raise LotteryError(f"`margin` is the largest slope that counts as flat and must be > 0, got {self}.")
        if self.change is not None and not (is_number(self.change) and 0 < self.change < 1):
            raise LotteryError(
                f"`change` is the fraction of the norm by which it may move over a window and must be in (0, 1): 0.02 "
                f"is 2 %. Got {self}."
            )
        if self.p >= 0.5:
            raise LotteryError(f"`p` is the level of a one-sided test and must be in (0, 0.5), got {self}.")
        if self.window % self.block or 4 * self.block > self.window:
            raise LotteryError(f"`window` must be four times `block` or more, and a multiple of it, got {self}.")

    def __repr__(self) -> str:
        """As it is written: without the one of ``margin`` and ``change`` that is not set."""
        unset = {"margin", "change"} - {self.bound_by}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unset}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def bound_by(self) -> Literal["margin", "change"]:
        """The one of the two that is set."""
        return "margin" if self.change is None else "change"

    def judge(self, observed: Sequence[float]) -> Finding:
        """The test; no margin would have held where the newest mask is empty."""
        finding = super().judge(observed)
        return finding if observed[-1] != 0 else finding._replace(least_margin=math.inf, least_change=math.inf)

    @property
    def if_constant(self) -> Finding:
        """Any margin holds."""
        return super().if_constant._replace(least_margin=0.0, least_change=0.0)

    def test(self, series: Series) -> Finding:
        """The larger p-value of ``slope >= margin`` and ``slope <= -margin``."""
        a_whole = float(np.abs(series.mean()) / len(series))  # slope per step that moves the norm by all of itself
        margin = self.margin or (self.change or 0.0) * a_whole  # one of the two is set
        slope, p_value = slope_equivalence(series, margin, self.block, self.seed)
        least = least_margin(series, self.p, self.block, self.seed)
        return Finding(slope, p_value, None, p_value < self.p, least, least / a_whole if a_whole else math.inf)


def newest_distances(masks: Sequence[Masks]) -> list[float]:
    """Hamming distance of the last of several masks to each one before it, in their order.

    Example:
        >>> a, b = {"w": torch.tensor([True, False])}, {"w": torch.tensor([True, True])}
        >>> newest_distances([a, b, b])
        [0.5, 0.0]

    Source: You et al. 2020, section 3.2.
    """
    return [hamming(older, masks[-1]) for older in masks[:-1]]


def scores_differ(scores: Scores, per: Literal["all", "tensor"] = "all") -> bool:
    """Whether scores tell units apart: not all equal, and with ``per="tensor"`` so in every tensor of two or more.

    Where they do not (slimming coefficients that are all 1 still), a mask says nothing about the network.

    Example:
        >>> scores_differ({"a": torch.ones(2), "b": torch.zeros(2)}), scores_differ({"a": torch.ones(2)})
        (True, False)
    """
    flat = [score.detach().flatten() for score in scores.values()]
    if per == "all":
        flat = [torch.cat(flat)] if flat else []
    return bool(flat) and all(bool((tensor != tensor[0]).any()) for tensor in flat if per == "all" or len(tensor) > 1)


def _check_counts(rule: Rule, **least: int) -> None:
    for name, lowest in least.items():
        if not is_count(getattr(rule, name), lowest):
            raise LotteryError(f"`{name}` must be an integer >= {lowest}, got {rule}.")
