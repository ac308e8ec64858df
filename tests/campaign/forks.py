"""Processes that cost no import: forks of one that has imported everything, trained nothing and runs no thread."""

import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pytest

from helpers.processes import TESTS
from lightning_lottery.children import signals

Answer = TypeVar("Answer")
PRELOADED = (
    "pytest",
    "omegaconf",
    "torch.utils.tensorboard",
    "campaign.fits",
    "campaign.runners",
    "campaign.fuzz",
)


def warm(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """What a function answers in a process that forks may be made of."""
    context = get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    path = f"{TESTS}{os.pathsep}{TESTS.parent}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # until Python 3.13 its imports do not see the `sys.path` of this process
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, *arguments).result()


class Fork:
    """A function in a fork of this process: as much of ``subprocess.Popen`` as whoever starts children asks for.

    Args:
        call: The function; what it raises becomes the exit code.
        env: Its whole environment; default: as here.
        stdin: ``subprocess.PIPE``, or nothing.
        stdout: A file.
        stderr: ``subprocess.STDOUT``, or as here.
    """

    _pipes: set[int] = set()
    """Writing ends of standard inputs that this process holds: no fork but theirs may keep one open."""

    def __init__(
        self,
        call: Callable[[], object],
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: Any = None,
        stderr: int | None = None,
    ) -> None:
        self.returncode: int | None = None
        reading, self._writing = os.pipe() if stdin == subprocess.PIPE else (None, None)
        sys.stdout.flush(), sys.stderr.flush()
        # A signal that came between the fork and the `try` would let the fork go on as whoever made it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
        self.pid = os.fork()
        if self.pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
            if reading is not None and self._writing is not None:
                os.close(reading)
                self._pipes.add(self._writing)
            return
        code = 1
        try:
            for pipe in [*self._pipes, *([self._writing] if self._writing is not None else [])]:
                os.close(pipe)
            self._pipes.clear()
            os.dup2(os.open(os.devnull, os.O_RDONLY) if reading is None else reading, 0)
            if stdout is not None:
                os.dup2(stdout.fileno(), 1)
            if stderr == subprocess.STDOUT:
                os.dup2(1, 2)
            _as_if_started_anew(env)
            code = _exit_code(call)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._pipes.discard(self._writing)
            self._writing = None
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork", timeout or 0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _as_if_started_anew(env: Mapping[str, str] | None) -> None:
    """Forget what this process has of the one that it is a fork of."""
    signals._wish = signals._Wish()
    for number in signals.STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    # What wrote into a buffer of pytest's writes to the file descriptors.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115


def _exit_code(call: Callable[[], object]) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)  # here: nothing before would say a sentence
        call()
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return 130
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    return 0


@contextmanager
def all_gone(seconds: float, orphans: list[str]) -> Iterator[None]:
    """After the block, which starts forks, everything that it started is gone within so many seconds, or noted.

    All of them hold the writing end of a pipe, whose reading end says when the last one is gone, in whatever way.
    """
    reading, writing = os.pipe()
    try:
        yield
    finally:
        os.close(writing)
        if not select.select([reading], [], [], seconds)[0]:
            orphans.append(f"something still ran {seconds} seconds later")
        os.close(reading)


@contextmanager
def none_left_in(folder: Path, seconds: float, orphans: list[str]) -> Iterator[None]:
    """After the block no process works in a folder within so many seconds, whoever started it, or it is noted."""
    yield
    end = time.monotonic() + seconds
    while left := [pid for pid in filter(str.isdigit, os.listdir("/proc")) if _works_in(pid, folder)]:
        if time.monotonic() > end:
            orphans.append(f"processes {', '.join(left)} still ran {seconds} seconds later")
            return
        time.sleep(0.01)


def _works_in(pid: str, folder: Path) -> bool:
    with suppress(OSError):  # it is gone, or somebody else's
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    return False


@contextmanager
def into(path: Path) -> Iterator[Any]:
    """A file that is written on from its end, for a process's output."""
    with open(path, "ab") as file:
        yield file
