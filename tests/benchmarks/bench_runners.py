"""What runners add to the fits and evaluations they are made of, in one process."""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from unittest.mock import patch

from lightning.pytorch import Trainer

from benchmarks.bench_children import make_data, make_module, make_short_trainer, make_trainer
from benchmarks.measure import Row, plain
from lightning_lottery import InstabilityAnalysis, IterativePruning
from lightning_lottery.children.factories import FactoryProject


def run(toy: bool = False) -> list[Row]:
    """The digits transformer."""
    rows = []
    for what, runner in (
        ("instability of two children", _instability),
        ("iterative pruning of one level", _pruning),
    ):
        first = _overhead(runner(make_short_trainer))  # which imports what others have
        measured = first if toy else _overhead(runner(make_trainer))
        rows.append(plain(f"{what}: more than its fits and evaluations", [measured], "%", goal="<= 3 %"))
    return rows


def _instability(make: Callable[..., Trainer]) -> Callable[[str], object]:
    project = FactoryProject(lambda: make_module(), make_data, make)  # a lambda: so in this process
    return lambda out: InstabilityAnalysis().run(project, out=out)


def _pruning(make: Callable[..., Trainer]) -> Callable[[str], object]:
    project = FactoryProject(lambda: make_module(), make_data, make)
    return lambda out: IterativePruning(levels=1).run(project, out=out)


def _overhead(work: Callable[[str], object]) -> float:
    """What a runner takes beside its fits and evaluations, in percent of those."""
    within: list[float] = []

    def timed(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            start = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                within.append(time.perf_counter() - start)

        return call

    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        for method in ("fit", "test", "validate"):
            stack.enter_context(patch.object(Trainer, method, timed(getattr(Trainer, method))))
        stack.enter_context(redirect_stdout(StringIO()))
        start = time.perf_counter()
        work(out)
        took = time.perf_counter() - start
    return 100 * (took / sum(within) - 1)
