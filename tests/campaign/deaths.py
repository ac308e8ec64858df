"""How a process ends before its time: by a signal after some seconds, or by itself within one of its writes."""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Moment = Literal["in the middle", "before its name", "after its name"]
MOMENTS: tuple[Moment, ...] = ("in the middle", "before its name", "after its name")

_FSYNC, _REPLACE = os.fsync, os.replace


@dataclass(frozen=True)
class After:
    """A signal after so many seconds, whatever the process does by then."""

    seconds: float
    number: int = signal.SIGKILL


@dataclass(frozen=True)
class Within:
    """SIGKILL within a process's write of this number, counted from 1."""

    write: int
    moment: Moment


Death = After | Within


def arm(death: Death | None) -> None:
    """Have this process die within its write, and of no other's that it is a fork of.

    Every file that appears whole is forced to the disk and then renamed.
    """
    os.fsync, os.replace = _FSYNC, _REPLACE
    if not isinstance(death, Within):
        return
    if death.moment == "in the middle":
        os.fsync = _counted(_FSYNC, death.write, before=_lose_half)
    elif death.moment == "before its name":
        os.replace = _counted(_REPLACE, death.write, before=_die)
    else:
        os.replace = _counted(_REPLACE, death.write, after=_die)


def _counted(function: Callable[..., Any], number: int, **around: Callable[..., None]) -> Callable[..., Any]:
    """A function whose call of this number has something before or after it."""
    calls = 0

    def counting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and "before" in around:
            around["before"](*arguments)
        answer = function(*arguments)
        if calls == number and "after" in around:
            around["after"](*arguments)
        return answer

    return counting


def _lose_half(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    _die()


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def draw(chance: random.Random, seconds: float, writes: int) -> Death:
    """Half of them after up to so many seconds, half of them within one of so many writes."""
    if chance.random() < 0.5:
        return After(chance.uniform(0.0, seconds))
    return Within(chance.randint(1, writes), chance.choice(MOMENTS))
