"""Two children of an instability analysis at once, beside one after the other: processes of one thread each."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from random import sample
from typing import Any

from lightning.pytorch import Trainer

from benchmarks.measure import Row, ratio
from lightning_lottery import InstabilityAnalysis
from lightning_lottery.children.child import Child
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.zoo import Digits, ImageClassifier, vit

EPOCHS = 25


def make_module() -> ImageClassifier:
    """The vision transformer of the digits recipes."""
    return ImageClassifier(vit(), lr=1e-3)


def make_data() -> Digits:
    """Handwritten digits."""
    return Digits()


def make_trainer(**arguments: Any) -> Trainer:
    """As long as makes starting a process small beside it."""
    return Trainer(max_epochs=EPOCHS, accelerator="cpu", devices=1, enable_progress_bar=False, **arguments)


def make_short_trainer(**arguments: Any) -> Trainer:
    """A twentieth of it."""
    return Trainer(max_epochs=2, accelerator="cpu", devices=1, enable_progress_bar=False, **arguments)


def run(toy: bool = False) -> list[Row]:
    """The digits transformer; what children begin with is made before."""
    make = make_short_trainer if toy else make_trainer
    took = {at_once: _children(at_once, make) for at_once in sample([1, 2], 2)}
    return [ratio("two children: in turn / at once", [took[1]], [took[2]], goal=">= 1.8 x")]


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


def _wait(running: list[subprocess.Popen[bytes]]) -> None:
    if any([process.wait() for process in running]):
        raise RuntimeError("a child failed")
