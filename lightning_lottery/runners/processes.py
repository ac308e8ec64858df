"""Children in processes of their own: one after another, or several at once, each with its own devices and threads."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lightning_lottery.errors import LotteryError
from lightning_lottery.runners.children import RESUME_FROM, Child

JOBS = "LOTTERY_JOBS"
"""Environment variable that says how many children a recipe's stage trains at the same time."""


def run_child(child: Child) -> int:
    """Run a prepared child by its command, in a process of its own; its exit code, or minus the signal that ended it.

    Ctrl-C reaches the child as well: it is given the time to shut down.
    """
    process = subprocess.Popen(_command(child), env=_surroundings())
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        process.kill()  # where it still runs: a second Ctrl-C


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
    if code:
        _leave_progress_bar(console)
        raise LotteryError(_failure(what, code))


def run_together(children: Sequence[tuple[str, Child]], jobs: int, console: Console) -> None:
    """Prepare and run several children, ``jobs`` at a time, each with threads and devices of its own.

    What a child prints goes to ``child.log`` in its folder. All are run to their end, whichever fail.

    Args:
        children: What each is called, and the child.
        jobs: How many run at once, >= 1.
        console: Shows how far they are.

    Raises:
        LotteryError: One is refused, or some failed: which.
    """
    for _, child in children:
        child.prepare()
    waiting = [named for named in children if not named[1].is_done]
    free = list(range(jobs))
    running: dict[int, tuple[str, Child, subprocess.Popen[bytes], TaskID]] = {}
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        try:
            while waiting or running:
                while waiting and free:
                    (what, child), slot = waiting.pop(0), free.pop(0)
                    with open(child.folder / "child.log", "ab") as log:
                        process = subprocess.Popen(
                            _command(child), env=_surroundings(slot, jobs), stdout=log, stderr=subprocess.STDOUT
                        )
                    running[slot] = (what, child, process, progress.add_task(what, total=None, told="begins"))
                time.sleep(0.2)
                for slot, (what, child, process, task) in list(running.items()):
                    _show(progress, task, child)
                    if (code := process.poll()) is not None:
                        del running[slot]
                        free.append(slot)
                        if code:
                            failed.append(f"{_failure(what, code)} (see {child.folder / 'child.log'})")
                        progress.update(task, total=1, completed=int(not code), told="failed" if code else "done")
        finally:
            for _, _, process, _ in running.values():
                process.wait()  # Ctrl-C has reached it as well
    if failed:
        raise LotteryError(" ".join(failed))


def _show(progress: Progress, task: TaskID, child: Child) -> None:
    try:
        done, total = (child.folder / "progress").read_text().split(" ")
        progress.update(task, completed=int(done), total=int(total) if total else None, told=f"step {done}/{total}")
    except (FileNotFoundError, ValueError):
        return  # not yet, or being written


def _command(child: Child) -> list[str]:
    return [sys.executable, "-m", "lightning_lottery", "child", str(child.folder)]


def _surroundings(slot: int = 0, jobs: int = 1) -> dict[str, str]:
    """Environment of a child: the paths that modules are found on and, beside others, its own devices and threads."""
    variables = {name: value for name, value in os.environ.items() if name != RESUME_FROM}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if jobs > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        variables.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
        if devices := _devices():
            share = max(1, len(devices) // jobs)
            first = slot * share % len(devices)
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(devices[first : first + share])
    return variables


def _devices() -> list[str]:
    """The GPUs that this process may use, as its children name them."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    return [str(number) for number in range(torch.cuda.device_count())]


def _failure(what: str, code: int) -> str:
    if code < 0:
        return f"{what} was ended by {signal.Signals(-code).name}: the same command goes on from here."
    return f"{what} failed with exit code {code}; what is done stays."


def _leave_progress_bar(console: Console) -> None:
    """What a child that was ended could not do any more: below its last line, with a cursor."""
    console.show_cursor()
    console.print()
