"""Children in processes of their own: one after another, or several at once, each with its own devices and threads."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lightning_lottery.children.child import ERROR, Child
from lightning_lottery.children.environment import TIED, environment_of_child
from lightning_lottery.children.progress import Line, read_progress
from lightning_lottery.children.signals import ENDING, STOPS, Ended, ended_by
from lightning_lottery.children.warm import Process, fork
from lightning_lottery.errors import LotteryError

MANY = 8
"""More children than this are shown by one bar for all, beside the bars of those that run."""

Poll = Callable[[], int | None]
"""The exit code of a child that was launched, None while it runs."""


def run_child(child: Child) -> int:
    """Run a prepared child by its command, in a process of its own; its exit code, or minus the signal that ended it.

    A signal that asks this process to end is passed on, and the child given the time to shut down.
    """
    with (
        ended_by(*STOPS),
        started(_arguments(child), environment_of_child(python_path())) as process,
        _passing_on([process]),
    ):
        return process.wait()


def run_one(child: Child, name: str, console: Console) -> None:
    """Prepare and run a child unless it is done, and say so.

    Raises:
        LotteryError: It is refused, or failed.
    """
    child.prepare()
    if child.is_done:
        console.rule(f"{name}: done before")
        return
    console.rule(f"{name}: goes on from its last checkpoint" if child.is_started else name)
    try:
        with _followed_in_notebook(child, name, console):
            code = run_child(child)
    except (KeyboardInterrupt, Ended):
        _leave_progress_bar(console)
        console.print(f"{name}: interrupted. The same command goes on from here.")
        raise
    if _has_failed(child):
        _leave_progress_bar(console)
        raise LotteryError(_failure(name, child, code))
    if code:
        console.print(f"{name}: {_success(code)}")


def run_together(children: Sequence[tuple[str, Child]], console: Console, *, jobs: int) -> None:
    """Prepare and run several children, ``jobs`` at a time, each with threads and devices of its own.

    What a child prints goes to ``child.log`` in its folder. All are run to their end, whichever fail.

    Raises:
        LotteryError: One is refused, or some failed: which.
    """
    processes: list[Process] = []
    with ended_by(*STOPS), ExitStack() as running, _passing_on(processes):

        def launch(child: Child, slot: int) -> Poll:
            variables = environment_of_child(python_path()) | _share(slot, jobs)
            with open(child.folder / "child.log", "ab") as log:
                output = {"stdout": log, "stderr": subprocess.STDOUT}
                processes.append(running.enter_context(started(_arguments(child), variables, **output)))
            return processes[-1].poll

        try:
            follow(children, launch, jobs, console)
        except (KeyboardInterrupt, Ended):
            console.print("Interrupted. The same command goes on from here.")
            raise


def follow(
    children: Sequence[tuple[str, Child]], launch: Callable[[Child, int], Poll], slots: int, console: Console
) -> None:
    """Prepare children, launch those that are not done, ``slots`` at a time, and show how far each and all are.

    Args:
        children: The name that each is shown by, and the child.
        launch: Launches a child in a free slot.
        slots: How many run at once.
        console: Shows how far they are.

    Raises:
        LotteryError: One is refused, or some failed: which.
    """
    for _, child in children:
        child.prepare()  # all, before any runs: a refusal then has cost no training
    waiting = [(name, child) for name, child in children if not child.is_done]
    free, failures = list(range(slots)), []
    running: dict[int, tuple[str, Child, Poll, TaskID]] = {}
    with _Bars(len(waiting), console) as bars:
        while waiting or running:
            while waiting and free:
                (name, child), slot = waiting.pop(0), free.pop(0)
                running[slot] = (name, child, launch(child, slot), bars.begin(name))
            time.sleep(0.2)
            for slot, (name, child, poll, bar) in list(running.items()):
                bars.show_progress(bar, child)
                if (code := poll()) is not None:
                    del running[slot]
                    free.append(slot)
                    if failed := _has_failed(child):
                        failures.append(f"{_failure(name, child, code)} (see {child.folder / 'child.log'})")
                    bars.end(bar, "failed" if failed else _success(code), failed=failed)
    if failures:
        raise LotteryError(" ".join(failures))


@contextmanager
def _followed_in_notebook(child: Child, name: str, console: Console) -> Iterator[None]:
    """Show how far a child is that runs in the block: in a terminal it says so itself."""
    if not console.is_jupyter:
        yield
        return
    line, is_over = Line(console), Event()

    def follow_it() -> None:
        while not is_over.wait(0.5):
            if progress := read_progress(child.folder):
                line.show(name, *progress)

    thread = Thread(target=follow_it, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        if progress := read_progress(child.folder):  # of a child that is too short to be seen in between as well
            line.show(name, *progress)


class _Bars:
    """A progress bar for each child. Of many, those that run or failed are shown, and one bar for all of them.

    A notebook has one line for all.
    """

    def __init__(self, total: int, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self._line = Line(console) if console.is_jupyter else None
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=self._line is not None)
        self._total, self._ended, self._are_many = total, 0, total > MANY
        self._all = self._progress.add_task("all", total=total, state=f"0/{total}", visible=self._are_many)

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, name: str) -> TaskID:
        return self._progress.add_task(name, total=None, state="begins", visible=not self._are_many)

    def show_progress(self, bar: TaskID, child: Child) -> None:
        if progress := read_progress(child.folder):
            done, total = progress
            state = f"step {done}/{total or ''}"
            self._progress.update(bar, completed=done, total=total, state=state, visible=True)
            if self._line is not None:
                self._line.show(f"child {self._ended + 1}/{self._total} · {child.folder.name}", done, total)

    def end(self, bar: TaskID, state: str, *, failed: bool) -> None:
        self._ended += 1
        shown = failed or not self._are_many
        self._progress.update(bar, total=1, completed=not failed, state=state, visible=shown)
        self._progress.update(self._all, advance=1, state=f"{self._ended}/{self._total}")
        if self._line is not None:
            name = self._progress.tasks[bar].description
            self._line.show(f"{name}: {state}", self._ended, self._total, unit="child")


def _arguments(child: Child) -> list[str]:
    """Of the command that does a child."""
    return ["child", str(child.folder)]


def python_path() -> str:
    """The paths that modules are found on, for a child to find the project's: what ``PYTHONPATH`` holds."""
    return os.pathsep.join(path for path in sys.path if path)


@contextmanager
def started(arguments: Sequence[str], variables: Mapping[str, str], **output: Any) -> Iterator[Process]:
    """A child's process, which ends when this one does, in whatever way: its standard input does.

    Where it can be, a fork of one that has imported everything: see ``warm``.

    Args:
        arguments: Of this package's command that does the child.
        variables: Its whole environment, ``TIED`` among them.
        output: Where it writes, and ``cwd``: arguments of ``subprocess.Popen``.
    """
    # The one handle on the pipe's writing end is in this process. However this process ends, SIGKILL included, the
    # system closes it, and the child reads the end of its input: see `end_with_starter`.
    command = [sys.executable, "-m", "lightning_lottery", *arguments]
    with fork(arguments, variables, **output) or subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, **output
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # where it still runs: a second Ctrl-C


@contextmanager
def _passing_on(processes: Sequence[Process]) -> Iterator[None]:
    """Where the block is left by a signal, have these processes end by it as well; by any exception, wait for them.

    Another signal meanwhile ends the waiting: whoever started the processes then kills them.
    """
    try:
        yield
    except BaseException as error:
        number = error.number if isinstance(error, Ended) else signal.SIGINT
        if isinstance(error, (Ended, KeyboardInterrupt)):
            for process in processes:  # all, before any is waited for
                with suppress(ValueError):  # Windows, where Ctrl-C has reached them by itself
                    process.send_signal(number)
        for process in processes:
            process.wait()
        raise


def end_with_starter() -> None:
    """In a child: end at once when the process that started it is gone, as if killed, to be resumed by another."""
    with suppress(OSError):  # a closed input ties to nothing
        # Ranks and workers of a child inherit TIED but have other inputs, such as /dev/null, which would end at once.
        if os.environ.get(TIED) and stat.S_ISFIFO(os.fstat(0).st_mode):
            Thread(target=_end_at_end_of_input, daemon=True).start()


def _end_at_end_of_input() -> None:
    try:
        while os.read(0, 1):
            pass
    except OSError:
        return
    os.write(2, b"The process that started this child is gone: it ends here, to be resumed.\n")
    # SIGKILL rather than an exit: this thread cannot end the main one, and what a killed child leaves is known to be
    # resumed from; a half-done shutting down is not.
    os.kill(os.getpid(), signal.SIGKILL)


def _share(slot: int, jobs: int) -> dict[str, str]:
    """Threads and devices of one of several children on this machine, as environment variables."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // jobs)))}
    if devices := _devices():
        # 8 GPUs, 3 jobs: 0-1, 2-3, 4-5. 2 GPUs, 3 jobs: 0, 1, 0 again, as a child cannot have less than one.
        each = max(1, len(devices) // jobs)
        first = slot * each % len(devices)
        share["CUDA_VISIBLE_DEVICES"] = ",".join(devices[first : first + each])
    return share


def _devices() -> list[str]:
    """The GPUs that this process may use, as its children name them."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    return [str(number) for number in range(torch.cuda.device_count())]


def _has_failed(child: Child) -> bool:
    # Whatever its exit code: what comes after `done` is its shutting down, and 0 is also how a project leaves early.
    return not child.is_done


def _success(code: int) -> str:
    return f"done, but its process ended with exit code {code} afterwards" if code else "done"


def _failure(name: str, child: Child, code: int) -> str:
    if code < 0 or code - 128 in ENDING:  # killed, or ended by itself because it was asked to
        number = signal.Signals(-code if code < 0 else code - 128)
        return f"{name} was ended by {number.name}: the same command goes on from here."
    with suppress(FileNotFoundError):  # it ended before it could say why
        return f"{name} failed: {(child.folder / ERROR).read_text().rstrip('.')}. What is done stays."
    if not code:
        return f"{name} ended with exit code 0, but did not finish; what is done stays."
    return f"{name} failed with exit code {code}; what is done stays."


def _leave_progress_bar(console: Console) -> None:
    """What a child that was ended could not do any more: below its last line, with a cursor."""
    console.show_cursor()
    console.print()
