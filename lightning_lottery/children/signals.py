"""Signals that ask a process to end: heeded at once, and within a fit only where it can go on from."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

STOPS = (signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
"""What batch systems send: SLURM's preemption, a time limit that comes near."""

ENDING = (signal.SIGINT, *STOPS)
"""All that ask a child to end."""

ECHO = 1.0
"""Seconds within which another signal is the same wish: the terminal and whoever started this process send one each."""


AGAIN = 0.05
"""Seconds after which a signal is sent again that met a moment in which nothing can be raised."""


class Ended(SystemExit):
    """A signal asked this process to end; no ``Exception``, so that nobody takes it for a mistake of the project's.

    Args:
        number: The signal's. The exit code is the one of shells, 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.number).name}: the same command goes on from here."


class _Wish:
    """Whether a signal has asked, and whether it is heeded later: one for the process, as its handlers are."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.handled: tuple[int, ...] = ()
        self.number: int | None = None
        self.since = 0.0
        self.waits = False


_wish = _Wish()


def begin_anew(handlers: Mapping[int, Any]) -> None:
    """In a fork that is to be as a process of its own: nothing has been asked of it, and signals are let in.

    Args:
        handlers: What answers each signal, ``ENDING`` among them.
    """
    global _wish
    _wish = _Wish()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)


@contextmanager
def ended_by(*numbers: int) -> Iterator[None]:
    """Raise ``Ended`` in the block when one of these signals comes, or where the block next calls ``heed``.

    Signals that are ignored, as under nohup, or that somebody else handles are left alone; outside of the main thread,
    which alone may handle signals, all are.
    """
    global _wish
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    outer = _wish
    if taken:
        _wish = _Wish()
        _wish.handled = (*outer.handled, *taken)
    unraisable = sys.unraisablehook

    def ask_again(lost: "UnraisableHookArgs") -> None:
        """Python only prints what is raised while it tidies up an object: the signal is sent once more."""
        if not isinstance(lost.exc_value, (Ended, KeyboardInterrupt)):
            unraisable(lost)
            return
        _wish.number = None  # or it would count as an echo
        number = lost.exc_value.number if isinstance(lost.exc_value, Ended) else signal.SIGINT
        Timer(AGAIN, os.kill, (os.getpid(), number)).start()  # not at once: this is still the tidying

    try:
        for number in taken:
            signal.signal(number, _answer)
        sys.unraisablehook = ask_again
        yield
    finally:
        sys.unraisablehook = unraisable
        for number in taken:
            signal.signal(number, before[number])
        _wish = outer


def take_back() -> None:
    """Answer the signals that ``ended_by`` took, whoever has set a handler since.

    Lightning (2.6.6) does: it answers SIGTERM by leaving without a checkpoint of the step, with exit code 0, and of
    several ranks by a collective from within the handler, which meets whatever collective the others are in.
    """
    for number in _wish.handled:
        signal.signal(number, _answer)


def wait_for_step() -> None:
    """Heed signals only where ``heed`` is called, from now on."""
    take_back()
    _wish.waits = bool(_wish.handled)


def wait_no_more() -> None:
    """Heed signals at once again: where a fit is over."""
    _wish.waits = False


def is_asked() -> bool:
    """Whether a signal has asked this process to end."""
    return _wish.number is not None


def heed() -> None:
    """Raise ``Ended`` where a signal has asked for it."""
    if _wish.number is not None:
        raise Ended(_wish.number)


def _answer(number: int, _: FrameType | None) -> None:
    if os.getpid() != _wish.process:
        # In a fork, such as a loader's worker. SIGTERM is how pools end theirs; the others, which a terminal sends to
        # every process, are this process's to answer, which needs its workers until the step is over.
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    is_echo = _wish.number is not None and monotonic() - _wish.since < ECHO
    is_first = _wish.number is None
    if is_first:
        _wish.number, _wish.since = number, monotonic()
    if not is_echo and not (is_first and _wish.waits):
        raise Ended(number)
