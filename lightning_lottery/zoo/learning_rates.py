"""The learning rate as a function of the optimizer step: a factor on the base rate."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from lightning_lottery.checks import check_fraction
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.schedules import in_steps


class LearningRate(ABC):
    """What the base learning rate is multiplied by at each optimizer step."""

    @abstractmethod
    def factor_at(self, step: int, total_steps: int) -> float:
        """The factor of the base learning rate.

        Args:
            step: Optimizer steps taken so far.
            total_steps: Optimizer steps of the whole fit; 0 when nobody knows.

        Returns:
            The factor, at least 0.

        Raises:
            LotteryError: The schedule needs ``total_steps`` and it is 0, or does not fit into it.
        """


@dataclass(frozen=True)
class ConstantRate(LearningRate):
    """The base rate, after a linear warm-up: (step + 1) / (w + 1) for the first w steps, then 1.

    Args:
        warmup: The w above, in optimizer steps (int) or as a fraction of the fit (float); default 0.

    Raises:
        LotteryError: ``warmup`` is negative, or a fraction outside [0, 1).

    Example:
        >>> [ConstantRate(warmup=3).factor_at(step, total_steps=10) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    warmup: int | float = 0

    def __post_init__(self) -> None:
        _check_moment("warmup", self.warmup)

    def factor_at(self, step: int, total_steps: int) -> float:
        """The factor, 1 after the warm-up; see ``LearningRate.factor_at``."""
        return _warmed_up(step, _in_steps("warmup", self.warmup, total_steps))


@dataclass(frozen=True)
class CosineRate(LearningRate):
    """A linear warm-up over w steps, then half a cosine from 1 down to ``final`` at the end of the fit.

    After the warm-up: final + (1 − final)·(1 + cos(π·(step − w) / (total_steps − w))) / 2.

    Args:
        warmup: The w above, in optimizer steps (int) or as a fraction of the fit (float); default 0.
        final: The factor after the last step, in [0, 1]; default 0.

    Raises:
        LotteryError: ``warmup`` is negative or a fraction outside [0, 1), or ``final`` is outside [0, 1].

    Example:
        >>> [round(CosineRate(final=0.1).factor_at(step, total_steps=4), 3) for step in range(5)]
        [1.0, 0.868, 0.55, 0.232, 0.1]

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, for one period (no restart).
    """

    warmup: int | float = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_moment("warmup", self.warmup)
        check_fraction("final", self.final, "a factor of the base learning rate", one=True)

    def factor_at(self, step: int, total_steps: int) -> float:
        """The factor, ``final`` from ``total_steps`` on; see ``LearningRate.factor_at``."""
        warmup = _in_steps("warmup", self.warmup, total_steps)
        if total_steps < 1:
            raise LotteryError(f"{self} needs the number of steps of this fit, which is not known: set max_steps.")
        if warmup >= total_steps:
            raise LotteryError(f"{self} warms up for {warmup} steps, but this fit ends at step {total_steps}.")
        progress = min(1.0, max(0, step - warmup) / (total_steps - warmup))
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return _warmed_up(step, warmup) * (self.final + (1 - self.final) * cosine)


@dataclass(frozen=True)
class MilestoneRate(LearningRate):
    """A linear warm-up, and a drop by ``factor`` at each milestone: factor^(milestones reached).

    A milestone after the end of the fit never comes.

    Args:
        at: The milestones, increasing: all in optimizer steps (int) or all as fractions of the fit (float).
        factor: In (0, 1); default 0.1.
        warmup: In optimizer steps (int) or as a fraction of the fit (float); default 0.

    Raises:
        LotteryError: Milestones mix steps and fractions, do not increase or lie outside their range, ``factor`` is
            outside (0, 1), or ``warmup`` is negative or a fraction outside [0, 1).

    Example:
        >>> MilestoneRate(at=(0.5, 0.75)).factor_at(5, total_steps=10)
        0.1

    Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2 (÷10 after 50 % and 75 % of it).
    """

    at: tuple[int | float, ...] = (0.5, 0.75)
    factor: float = 0.1
    warmup: int | float = 0

    def __post_init__(self) -> None:
        _check_moment("warmup", self.warmup)
        for milestone in self.at:
            _check_moment("each milestone in `at`", milestone)
        if len({type(milestone) for milestone in self.at}) > 1:
            raise LotteryError(f"Give all milestones as steps (int) or all as fractions (float), got at={self.at}.")
        if any(later <= earlier for earlier, later in zip(self.at, self.at[1:], strict=False)):
            raise LotteryError(f"Milestones must increase, got at={self.at}.")
        check_fraction("factor", self.factor, "what the rate is multiplied by at a milestone", zero=False)

    def factor_at(self, step: int, total_steps: int) -> float:
        """The factor, lower from the milestone's own step on; see ``LearningRate.factor_at``."""
        reached = sum(step >= _in_steps("milestones", milestone, total_steps) for milestone in self.at)
        return _warmed_up(step, _in_steps("warmup", self.warmup, total_steps)) * self.factor**reached


def _warmed_up(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def _in_steps(name: str, moment: int | float, total_steps: int) -> int:
    """A moment of the fit as an optimizer step; a fraction needs to know how long the fit is."""
    if isinstance(moment, float) and total_steps < 1:
        raise LotteryError(
            f"A fraction of the fit ({name}: {moment}) needs the number of steps of this fit, which is not known "
            f"(max_time, or a loader without length): give {name} in steps (int), or set max_steps."
        )
    return in_steps(moment, total_steps)


def _check_moment(name: str, moment: int | float) -> None:
    if isinstance(moment, bool) or not isinstance(moment, int | float):
        raise TypeError(f"{name} must be an int (optimizer steps) or a float (fraction of the fit), got {moment!r}.")
    if moment < 0:
        raise LotteryError(f"{name} must not be negative, got {moment}.")
    if isinstance(moment, float) and not moment < 1:
        raise LotteryError(f"{name} as a fraction of the fit must be in [0, 1), got {moment}; steps are an int.")
