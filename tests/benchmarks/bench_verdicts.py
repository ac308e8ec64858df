"""How often verdicts on lines of a known truth say it, and what keeping values batch by batch costs a line."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.measure import Row, interleaved, plain, ratio
from helpers.line_process import TRUTHS, rates
from helpers.lines import Judged, mlp, quadrants, saved, trained
from helpers.projects import trainer
from lightning_lottery import path
from lightning_lottery.connectivity.evaluation import Evaluator

DESIGNS = {"flat, error .05": ((1, 3), (3, 3)), "barrier .02, cv .2": ((1, 3), (3, 3), (5, 3))}


def run(toy: bool = False) -> Iterator[Row]:
    """Rates at 360 samples in 12 blocks, then the line of an MLP."""
    for truth, designs in DESIGNS.items():
        for parents, children in designs:
            process = TRUTHS[truth]
            process = replace(process, parents=process.parents if parents > 1 else 0.0)
            shares = rates(process, parents, children, repetitions=20 if toy else 1000)
            for word in ("stable",) if "flat" in truth else ("stable", "unstable"):
                goal = {(1, 3): ">= 80 %", (3, 3): ">= 95 %"}[parents, children] if "flat" in truth else "<= 6 %"
                what = f"{truth}, n = 360, {parents} x {children}: {word}"
                yield plain(what, [100 * shares[word]], "%", goal=goal)
    yield from _cost(toy)


class ByObject(Judged):
    """Logs a metric object, which it calls or only updates."""

    def __init__(self, calls: bool) -> None:
        super().__init__(mlp())
        self.accuracy, self.calls = MulticlassAccuracy(2), calls

    def test_step(self, batch, batch_idx):
        outputs = self.network(batch[0])
        (self.accuracy if self.calls else self.accuracy.update)(outputs, batch[1])
        self.log_dict({"test_loss": F.cross_entropy(outputs, batch[1])})
        self.log("test_acc", self.accuracy)


def _cost(toy: bool) -> Iterator[Row]:
    loader, called = quadrants(200 if toy else 4000, 20 if toy else 100), Evaluator.__call__
    modules: dict[str, Callable[[], Judged]] = {
        "a number": lambda: Judged(mlp()),
        "a metric object that is called": lambda: ByObject(True),
        "a metric object that is updated": lambda: ByObject(False),
    }
    for name, make in modules.items():
        with tempfile.TemporaryDirectory() as name_of_folder:
            folder = Path(name_of_folder)
            files = saved(folder, *(trained(seed, steps=3) for seed in (0, 1)))

            def judged(make=make, files=files, folder=folder):
                return path(make(), loader, files, trainer=trainer(folder)).stability

            def without(make=make, files=files, folder=folder):
                def call(evaluator, *settings, on_batch=None, kept=""):
                    return called(evaluator, *settings, on_batch=on_batch)

                with patch.object(Evaluator, "__call__", call):
                    return path(make(), loader, files, trainer=trainer(folder)).stability

            times = interleaved({"judged": judged, "without": without}, 2 if toy else 6)
            yield ratio(f"a line of {name}, judged by samples: of one without", times["judged"], times["without"])
