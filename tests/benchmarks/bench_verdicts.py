"""How often verdicts on lines of a known truth say it, and what keeping values batch by batch costs a line."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.measure import Row, plain, ratio
from helpers.line_process import TRUTHS, rates
from helpers.lines import Judged, mlp, quadrants, saved
from helpers.projects import trainer
from lightning_lottery import path
from lightning_lottery.hooks.means import Means
from lightning_lottery.hooks.private import BatchesOfMetric
from lightning_lottery.zoo import resnet

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


ADDED = (
    (BatchesOfMetric, "of_batch"),
    (Means, "by_batch"),
    (import_module("lightning_lottery.connectivity.path"), "blocks_of"),
    (import_module("lightning_lottery.connectivity.report"), "stability_of"),
)
"""What judging by samples adds to a line."""


class ByObject(Judged):
    """Logs a metric object, which it calls or only updates."""

    def __init__(self, network: nn.Module, calls: bool) -> None:
        super().__init__(network)
        classes = [*network.parameters()][-1].numel()  # the last layer's biases
        self.accuracy, self.calls = MulticlassAccuracy(classes), calls

    def test_step(self, batch, batch_idx):
        outputs = self.network(batch[0])
        (self.accuracy if self.calls else self.accuracy.update)(outputs, batch[1])
        self.log_dict({"test_loss": F.cross_entropy(outputs, batch[1])})
        self.log("test_acc", self.accuracy)


class Clock:
    """The seconds that some functions take, their callers left out: what judging adds, timed alone."""

    def __init__(self, *functions: tuple[object, str]) -> None:
        self.seconds, self._depth, self._functions = 0.0, 0, functions

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every call of them."""
        with ExitStack() as stack:
            for holder, name in self._functions:
                stack.enter_context(patch.object(holder, name, self._timed(getattr(holder, name))))
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start, self._depth = time.perf_counter(), self._depth + 1
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:  # one watched function may call another
                    self.seconds += time.perf_counter() - start

        return call


def _cost(toy: bool) -> Iterator[Row]:
    """What is kept batch by batch and made of it, by the rest of the same line."""
    networks: dict[str, tuple[Callable[[], nn.Module], DataLoader]] = {
        "MLP, 4000 points": (mlp, quadrants(200 if toy else 4000, 20 if toy else 100)),
        "ResNet-20, 1000 images": (lambda: resnet(8 if toy else 20), _images(40 if toy else 1000, 4 if toy else 100)),
    }
    logged: dict[str, Callable[[nn.Module], Judged]] = {
        "a number": Judged,
        "a metric object that is called": lambda network: ByObject(network, True),
        "a metric object that is updated": lambda network: ByObject(network, False),
    }
    for (name, (network, loader)), (what, make) in product(networks.items(), logged.items()):
        extra, rest = _rounds(make, network, loader, 2 if toy else 6)
        yield ratio(
            f"judging by samples, {name}, {what}: of the rest of the line", extra, rest, unit="%", goal="<= 1 %"
        )


def _images(n: int, batch_size: int) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(n, 3, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def _rounds(
    make: Callable[[nn.Module], Judged], network: Callable[[], nn.Module], loader: DataLoader, rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of judging and of all else in each round, after one that does not count."""
    extra, rest = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ends = saved(folder, network(), network())
        for _ in range(1 + rounds):
            clock, start = Clock(*ADDED), time.perf_counter()
            with clock.watching():
                _ = path(make(network()), loader, ends, trainer=trainer(folder)).stability
            extra.append(clock.seconds)
            rest.append(time.perf_counter() - start - clock.seconds)
    return extra[1:], rest[1:]
