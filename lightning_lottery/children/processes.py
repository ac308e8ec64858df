"""Children in processes of their own: one after another, or several at once, each with its own devices and threads."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lightning_lottery.children.child import RESUME_FROM, Child
from lightning_lottery.errors import LotteryError

JOBS = "LOTTERY_JOBS"
"""Environment variable that says how many children a recipe's stage trains at the same time."""

TIED = "LOTTERY_TIED"
"""Environment variable that tells a child that its standard input ends with the process that started it."""

MANY = 8
"""Children from which on only those that run are shown, and a bar for all."""

Poll = Callable[[], int | None]
"""The exit code of a child that was launched, None while it goes on."""


def run_child(child: Child) -> int:
    """Run a prepared child by its command, in a process of its own; its exit code, or minus the signal that ended it.

    Ctrl-C reaches the child as well: it is given the time to shut down.
    """
    with started(_command(child), surroundings(search_path())) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def run_one(child: Child, what: str, console: Console) -> None:
    """Prepare and run a child unless it is done, and say so.

    Raises:
        LotteryError: It is refused, or failed.
    """
    child.prepare()
    if child.is_done:
        console.rule(f"{what}: done before")
        return
    console.rule(f"{what}: goes on from its last checkpoint" if child.is_started else what)
    try:
        code = run_child(child)
    except KeyboardInterrupt:
        _leave_progress_bar(console)
        console.print(f"{what}: interrupted. The same command goes on from here.")
        raise
    if _has_failed(child, code):
        _leave_progress_bar(console)
        raise LotteryError(_failure(what, code))
    if code:
        console.print(f"{what}: {_told(code)}")


def run_together(children: Sequence[tuple[str, Child]], console: Console, *, jobs: int) -> None:
    """Prepare and run several children, ``jobs`` at a time, each with threads and devices of its own.

    What a child prints goes to ``child.log`` in its folder. All are run to their end, whichever fail.

    Args:
        children: What each is called, and the child.
        console: Shows how far they are.
        jobs: How many run at once, >= 1.

    Raises:
        LotteryError: One is refused, or some failed: which.
    """
    with ExitStack() as running:

        def launch(child: Child, slot: int) -> Poll:
            variables = surroundings(search_path()) | _share(slot, jobs)
            with open(child.folder / "child.log", "ab") as log:
                output = {"stdout": log, "stderr": subprocess.STDOUT}
                process = running.enter_context(started(_command(child), variables, **output))
            running.callback(process.wait)  # where this process is interrupted: Ctrl-C has reached the child as well
            return process.poll

        follow(children, launch, jobs, console)


def follow(
    children: Sequence[tuple[str, Child]], launch: Callable[[Child, int], Poll], slots: int, console: Console
) -> None:
    """Prepare children, launch those that are not done, ``slots`` at a time, and show how far each and all are.

    Args:
        children: What each is called, and the child.
        launch: Launches a child in a free slot.
        slots: How many run at once.
        console: Shows how far they are.

    Raises:
        LotteryError: One is refused, or some failed: which.
    """
    for _, child in children:
        child.prepare()
    waiting = [named for named in children if not named[1].is_done]
    free, failed, many = list(range(slots)), [], len(waiting) > MANY
    running: dict[int, tuple[str, Child, Poll, TaskID]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("all", total=len(waiting), told=f"0/{len(waiting)}", visible=many)
        while waiting or running:
            while waiting and free:
                (what, child), slot = waiting.pop(0), free.pop(0)
                task = progress.add_task(what, total=None, told="begins", visible=not many)
                running[slot] = (what, child, launch(child, slot), task)
            time.sleep(0.2)
            for slot, (what, child, poll, task) in list(running.items()):
                _show(progress, task, child)
                if (code := poll()) is not None:
                    del running[slot]
                    free.append(slot)
                    if has_failed := _has_failed(child, code):
                        failed.append(f"{_failure(what, code)} (see {child.folder / 'child.log'})")
                    told = "failed" if has_failed else _told(code)
                    progress.update(task, total=1, completed=not has_failed, told=told, visible=has_failed or not many)
                    total = int(progress.tasks[whole].total or 0)
                    progress.update(whole, advance=1, told=f"{total - len(waiting) - len(running)}/{total}")
    if failed:
        raise LotteryError(" ".join(failed))


def _show(progress: Progress, task: TaskID, child: Child) -> None:
    try:
        done, total = (child.folder / "progress").read_text().split(" ")
        told = f"step {done}/{total}"
        progress.update(task, completed=int(done), total=int(total) if total else None, told=told, visible=True)
    except (FileNotFoundError, ValueError):
        return  # not yet, or being written


def _command(child: Child) -> list[str]:
    return [sys.executable, "-m", "lightning_lottery", "child", str(child.folder)]


def search_path() -> str:
    """The paths that modules are found on, for a child to find the project's."""
    return os.pathsep.join(path for path in sys.path if path)


def surroundings(path: str) -> dict[str, str]:
    """Environment of a child: this process's, with the paths that modules are found on."""
    return {name: value for name, value in os.environ.items() if name != RESUME_FROM} | {"PYTHONPATH": path, TIED: "1"}


@contextmanager
def started(command: Sequence[str], variables: Mapping[str, str], **given: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A child's process, which ends when this one does, in whatever way: its standard input does."""
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, **given) as process:
        try:
            yield process
        finally:
            process.kill()  # where it still runs: a second Ctrl-C


def end_with_starter() -> None:
    """In a child: end at once when the process that started it is gone, as if killed, to be resumed by another."""
    with suppress(OSError):  # a closed input ties to nothing
        if os.environ.get(TIED) and stat.S_ISFIFO(os.fstat(0).st_mode):
            Thread(target=_end_at_end_of_input, daemon=True).start()


def _end_at_end_of_input() -> None:
    try:
        while os.read(0, 1):
            pass
    except OSError:
        return
    os.write(2, b"The process that started this child is gone: it ends here, to be resumed.\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _share(slot: int, jobs: int) -> dict[str, str]:
    """Threads and devices of one of several children on this machine, as environment variables."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // jobs)))}
    if devices := _devices():
        own = max(1, len(devices) // jobs)
        first = slot * own % len(devices)
        share["CUDA_VISIBLE_DEVICES"] = ",".join(devices[first : first + own])
    return share


def _devices() -> list[str]:
    """The GPUs that this process may use, as its children name them."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    return [str(number) for number in range(torch.cuda.device_count())]


def _has_failed(child: Child, code: int) -> bool:
    """A child that wrote everything has not, however its process ended: what comes after is its shutting down."""
    return code != 0 and not child.is_done


def _told(code: int) -> str:
    return f"done, but its process ended with exit code {code} afterwards" if code else "done"


def _failure(what: str, code: int) -> str:
    if code < 0:
        return f"{what} was ended by {signal.Signals(-code).name}: the same command goes on from here."
    return f"{what} failed with exit code {code}; what is done stays."


def _leave_progress_bar(console: Console) -> None:
    """What a child that was ended could not do any more: below its last line, with a cursor."""
    console.show_cursor()
    console.print()
