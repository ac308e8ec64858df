"""A child that writes down every step it takes, and takes its time: to be killed on its way."""

import os
import signal
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from rich.console import Console

from helpers.factories import Net, make_data
from helpers.projects import trainer
from lightning_lottery import ExactResume
from lightning_lottery.children import factories
from lightning_lottery.children.child import Child
from lightning_lottery.children.options import TicketOptions

QUIET = Console(file=StringIO())


class Slow(Callback):
    """Writes down every step with the process that started this one, and waits."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        with open(Path(trainer.default_root_dir) / "steps", "a") as steps:
            steps.write(f"{trainer.global_step} {os.getppid()}\n")
        time.sleep(0.3)


def make_slow_trainer(**arguments):
    return trainer(arguments["default_root_dir"], Slow(), ExactResume(interval=2), logger=arguments["logger"])


def steps_of(child: Child) -> list[int]:
    path = child.folder / "steps"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def slow_child(folder: Path, parent: Path) -> Child:
    """A prepared child that goes on from step 0 of a parent's snapshots."""
    project = factories.FactoryProject(Net, make_data, make_slow_trainer)
    config = {**project.config(), "seed_everything": 1, "ckpt_path": str(parent / "step=0.ckpt")}
    child = Child(folder, "fit", config, {}, TicketOptions())
    child.prepare()
    return child


def wait_for_steps(child: Child, number: int, seconds: float = 180.0) -> None:
    """Wait until a child has taken so many steps.

    Raises:
        TimeoutError: It has not within so many seconds: what was to start it may be gone.
    """
    end = time.monotonic() + seconds
    while len(taken := steps_of(child)) < number:
        if time.monotonic() > end:
            raise TimeoutError(f"'{child.folder}' took {len(taken)} of {number} steps in {seconds:g} s.")
        time.sleep(0.05)


def kill_after_five_steps(child: Child, pid_of_starter: Callable[[], int]) -> None:
    """Wait until a child has taken five steps, then kill what started it."""
    wait_for_steps(child, 5)
    os.kill(pid_of_starter(), signal.SIGKILL)
