"""Schedules: optimizer step to sparsity."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from lightning_lottery.checks import is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import check_sparsity
from lightning_lottery.functional.shares import complement, share


class Schedule(ABC):
    """From no sparsity before step ``begin`` to sparsity ``final`` from step ``end`` on; a value that compares.

    ``begin`` and ``end`` are optimizer steps (int) or fractions of the fit in [0, 1] (float: ``1`` is the first step,
    ``1.0`` the last). A schedule with fractions must be resolved before it is called.
    """

    final: float
    begin: int | float
    end: int | float

    @property
    def _arrival(self) -> str:
        """What happens at ``end``, for messages."""
        return f"reaches sparsity {self.final}"

    @abstractmethod
    def at(self, step: int, begin: int, end: int) -> float:
        """Sparsity at a step with ``begin < step < end``."""

    def __post_init__(self) -> None:
        check_sparsity(self.final)
        for name in ("begin", "end"):
            _check_time(name, getattr(self, name))
        if type(self.begin) is type(self.end) and self.begin > self.end:
            raise LotteryError(f"{self} begins after its end: `begin` must not exceed `end`.")

    def resolve(self, total_steps: int | None) -> "Schedule":
        """The same schedule with fractions of the fit turned into optimizer steps (rounded).

        Args:
            total_steps: Optimizer steps of the fit, or None where nobody knows.

        Raises:
            LotteryError: Fractions of an unknown number of steps; an end after the fit's; a begin after the end.
        """
        if total_steps is None and not (isinstance(self.begin, int) and isinstance(self.end, int)):
            raise LotteryError(
                f"{self} asks for fractions of the fit, but this fit has no known number of optimizer steps: "
                "give `begin` and `end` as optimizer steps (int), or set `max_steps`."
            )
        has_end = "end" in self.__dataclass_fields__  # type: ignore[attr-defined]
        times = {"begin": in_steps(self.begin, total_steps), "end": in_steps(self.end, total_steps)}
        if total_steps is not None and times["end"] > total_steps:
            raise LotteryError(
                f"{self} {self._arrival} at step {times['end']}, but this fit ends at step "
                f"{total_steps}: shorten `{'end' if has_end else 'begin'}` or train longer."
            )
        return self.over(times["begin"], times["end"])

    def over(self, begin: int, end: int) -> "Schedule":
        """The same schedule between other optimizer steps."""
        times = {"begin": begin, "end": end}  # a constant schedule has no end of its own
        kept = times.keys() & self.__dataclass_fields__.keys()  # type: ignore[attr-defined]
        return replace(self, **{name: times[name] for name in kept})  # type: ignore[type-var]

    def __call__(self, step: int) -> float:
        """Sparsity after ``step`` optimizer steps, in [0, 1)."""
        if not (isinstance(self.begin, int) and isinstance(self.end, int)):
            raise LotteryError(f"{self} is in fractions of a fit: `resolve(total_steps)` it first.")
        if step >= self.end:
            return self.final
        return 0.0 if step <= self.begin else self.at(step, self.begin, self.end)


@dataclass(frozen=True)
class Constant(Schedule):
    """Sparsity ``final`` from step ``begin`` on: one shot.

    Example:
        >>> [Constant(0.5, begin=2)(step) for step in range(4)]
        [0.0, 0.0, 0.5, 0.5]
    """

    final: float
    begin: int | float = 0

    @property
    def end(self) -> int | float:  # type: ignore[override]
        """The one step at which everything happens."""
        return self.begin

    def at(self, step: int, begin: int, end: int) -> float:
        """Never asked: nothing lies between begin and end."""
        return self.final


@dataclass(frozen=True)
class Cubic(Schedule):
    """Density falls as ``(1 - x)^3``, ``x`` from 0 at ``begin`` to 1 at ``end``: fast at first, gently at last.

    Example:
        >>> [round(Cubic(0.8, begin=0, end=4)(step), 4) for step in range(6)]
        [0.0, 0.4625, 0.7, 0.7875, 0.8, 0.8]

    Source: Zhu & Gupta 2017, equation 1; Zhang et al. 2022 (PLATON), equation 8.
    """

    final: float
    begin: int | float = 0.0
    end: int | float = 0.7

    def at(self, step: int, begin: int, end: int) -> float:
        """``final * (1 - (1 - x)^3)``."""
        return self.final * (1 - (1 - (step - begin) / (end - begin)) ** 3)


@dataclass(frozen=True)
class Exponential(Schedule):
    """The same fraction of what remains is removed at every step: density is ``(1 - final)^x``.

    Example:
        >>> [round(Exponential(0.75, begin=0, end=2)(step), 4) for step in range(4)]
        [0.0, 0.5, 0.75, 0.75]

    Source: Tanaka et al. 2020 (SynFlow), algorithm 1.
    """

    final: float
    begin: int | float = 0.0
    end: int | float = 0.7

    def at(self, step: int, begin: int, end: int) -> float:
        """``1 - (1 - final)^x``."""
        return 1 - math.pow(complement(self.final), (step - begin) / (end - begin))


@dataclass(frozen=True)
class Steady(Schedule):
    """Sparsity ``final`` from before the first step on; until step ``end`` other weights may take the place of these.

    Example:
        >>> [Steady(0.5, end=2)(step) for step in range(4)]
        [0.5, 0.5, 0.5, 0.5]
    """

    final: float
    end: int | float = 0.75

    @property
    def begin(self) -> int | float:  # type: ignore[override]
        """From the first step on."""
        return 0

    @property
    def _arrival(self) -> str:
        return "moves weights for the last time"

    def __call__(self, step: int) -> float:
        """The same at every step, in [0, 1)."""
        return self.final

    def at(self, step: int, begin: int, end: int) -> float:
        """The same."""
        return self.final


def scheduled(
    sparsity: float | Schedule, begin: int | float, end: int | float, defaults: tuple[float, float]
) -> Schedule:
    """The schedule that a method's arguments mean: a cubic one to a number, or the one given.

    Raises:
        LotteryError: A schedule together with ``begin`` or ``end``.
    """
    if not isinstance(sparsity, Schedule):
        return Cubic(sparsity, begin=begin, end=end)
    if (begin, end) != defaults:
        raise LotteryError(f"{sparsity} has its own begin and end: give either a schedule, or `begin` and `end`.")
    return sparsity


def in_steps(time: int | float, total_steps: int | None) -> int:
    """A moment of the fit as an optimizer step: a fraction (float) is rounded to one, a step (int) is itself.

    Args:
        time: Optimizer step or fraction of the fit: ``1`` is the first step, ``1.0`` the last.
        total_steps: Optimizer steps of the fit, or None where nobody knows.

    Raises:
        LotteryError: A fraction of an unknown number of steps.

    Example:
        >>> in_steps(0.25, 10), in_steps(3, None)
        (2, 3)
    """
    if isinstance(time, int):
        return time
    if total_steps is None:
        raise LotteryError(f"{time} of the fit is no step while nobody knows how many it has: give a step (int).")
    return round(share(time, total_steps))


def _check_time(name: str, time: Any) -> None:
    """A step of the fit: int >= 0, or a float in [0, 1]."""
    if not is_number(time):
        raise LotteryError(f"`{name}` is an optimizer step (int) or a fraction of the fit (float), got {time!r}.")
    if time < 0 or (isinstance(time, float) and not time <= 1):
        raise LotteryError(
            f"`{name}` must be an optimizer step >= 0 (int) or a fraction in [0, 1] (float), got {time!r}."
        )
