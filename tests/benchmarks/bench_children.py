"""Children: what the start of one takes, forked or not; two at once; a sweep beside the sum of its fits."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import sample
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.measure import Row, plain, ratio
from lightning_lottery import InstabilityAnalysis, InstabilitySweep
from lightning_lottery.children import processes
from lightning_lottery.children.child import Child
from lightning_lottery.children.environment import TIED, WARM
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.warm import Process
from lightning_lottery.zoo import Digits, ImageClassifier, vit

EPOCHS = 25

NOTES = "LOTTERY_BENCH_NOTES"
"""Names a file in which a child notes when something happened; forks of one process may have different ones."""


def _note(**numbers: float) -> None:
    if NOTES in os.environ:
        with open(os.environ[NOTES], "a") as file:
            file.write(json.dumps(numbers) + "\n")


def make_module() -> ImageClassifier:
    """The vision transformer of the digits recipes."""
    return ImageClassifier(vit(), lr=1e-3)


def make_data() -> Digits:
    """Handwritten digits; the first that a child makes of its own."""
    _note(began=time.time(), megabytes=_megabytes_of_its_own())
    return Digits()


def _megabytes_of_its_own() -> float:
    """Of this process's memory what it shares with no other (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class Fits(Callback):
    """Notes how long a fit took, its test likewise, as a script of one's own would pay for them."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.start = time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _note(seconds=time.monotonic() - self.start)


def make_trainer(**arguments: Any) -> Trainer:
    """As long as makes starting a process small beside it."""
    return _trainer(EPOCHS, arguments)


def make_short_trainer(**arguments: Any) -> Trainer:
    """A twentieth of it."""
    return _trainer(2, arguments)


def _trainer(epochs: int, arguments: dict[str, Any]) -> Trainer:
    bar = {"enable_progress_bar": False, "callbacks": Fits()}
    return Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **bar, **arguments)


def run(toy: bool = False) -> Iterator[Row]:
    """The digits transformer; what children begin with is made before."""
    make = make_short_trainer if toy else make_trainer
    took = {at_once: _children(at_once, make) for at_once in sample([1, 2], 2)}
    yield ratio("two children: in turn / at once", [took[1]], [took[2]], goal=">= 1.8 x")
    yield from _starts(2 if toy else 5)
    yield _sweep(make)


def _starts(rounds: int) -> list[Row]:
    """Of a child whose own set-up is data and module: how long until it begins with that, and what memory it has."""
    warm, cold = list[dict[str, float]](), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as out, _noting(Path(out) / "notes") as notes:
        _start(Path(out) / "first", "1")  # starts the process that the others are forked from
        notes.unlink()
        for number in range(rounds):
            for starts, way in sample([(warm, "1"), (cold, "0")], 2):
                begin = time.time()
                _start(Path(out) / f"{number}{way}", way)
                noted = json.loads(notes.read_text().splitlines()[0])
                starts.append({**noted, "seconds": noted["began"] - begin})
                notes.unlink()
    seconds = [[start["seconds"] for start in starts] for starts in (warm, cold)]
    return [
        plain("a child's start, until its own set-up", seconds[0], "s", goal="<= 0.5 s"),
        ratio("a child's start: in a process of its own / forked", seconds[1], seconds[0]),
        plain(
            "a forked child: memory of its own before its data", [s["megabytes"] for s in warm], "MB", goal="<= 150 MB"
        ),
    ]


def _start(folder: Path, way: str) -> None:
    """Do the common beginning of an analysis, a fit of no step, in a child started in this way."""
    plan = InstabilityAnalysis().plan(FactoryProject(make_module, make_data, make_short_trainer), folder)
    (child,), _ = plan.waves
    child.prepare()
    arguments, surroundings = ["child", str(child.folder)], {**os.environ, "OMP_NUM_THREADS": "1", WARM: way, TIED: "1"}
    with (
        open(folder / "output", "wb") as output,
        processes.started(arguments, surroundings, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        _wait([process])


def _sweep(make: Callable[..., Trainer]) -> Row:
    """All that a sweep does, its evaluations too, by what its fits and their tests take."""
    project = FactoryProject(make_module, make_data, make)
    with tempfile.TemporaryDirectory() as out, _noting(Path(out) / "notes") as notes, patch.dict(os.environ):
        os.environ.pop(WARM, None)
        begin = time.monotonic()
        InstabilitySweep(steps=(0, 10), parents=(0,), seeds=(1, 2)).run(project, out=Path(out) / "sweep")
        wall = time.monotonic() - begin
        fits = [note["seconds"] for note in map(json.loads, notes.read_text().splitlines()) if "seconds" in note]
    return ratio("a sweep in one command / the sum of its fits", [wall], [sum(fits)], goal="<= 1.15 x")


@contextmanager
def _noting(file: Path) -> Iterator[Path]:
    with patch.dict(os.environ, {NOTES: str(file), "PYTHONPATH": os.pathsep.join(sys.path)}):
        yield file


def _children(at_once: int, make: Callable[..., Trainer]) -> float:
    """Seconds that two children take, so many at a time."""
    with tempfile.TemporaryDirectory() as out:
        plan = InstabilityAnalysis().plan(FactoryProject(make_module, make_data, make), out)
        (start_of_both,), children = plan.waves
        _wait([_started(start_of_both)])
        start = time.perf_counter()
        for first in range(0, 2, at_once):
            _wait([_started(child) for child in children[first : first + at_once]])
        return time.perf_counter() - start


def _started(child: Child) -> subprocess.Popen[bytes]:
    child.prepare()
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lightning_lottery", "child", str(child.folder)]
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(running: Sequence[Process]) -> None:
    if any([process.wait() for process in running]):
        raise RuntimeError("a child failed")
