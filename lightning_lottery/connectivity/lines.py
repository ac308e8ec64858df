"""Set a module to points on lines between states, and read off what its own step logs there."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_lottery.connectivity.checkpoints import tensor_entries
from lightning_lottery.connectivity.evaluation import Evaluator, Setting, forward_of
from lightning_lottery.connectivity.judging import Judging, check_monitor
from lightning_lottery.connectivity.report import EXTENTS, Curve, Layer, Pair
from lightning_lottery.functional.connectivity import State, as_real, interpolate_, recalibrate_batch_norm_
from lightning_lottery.hooks.means import ByBatch
from lightning_lottery.hooks.quiet import without_logging
from lightning_lottery.scope import ties
from lightning_lottery.shards import gathered, local, part_like, reshard


@dataclass(frozen=True)
class Lines:
    """Evaluates a module along straight lines.

    Args:
        evaluate: Runs the module's own step over the data.
        submodule: Where in the module the states go.
        judging: The metric that must be logged, and whether it must be a fraction.
        training: Batches for batch norm's statistics, where they are estimated anew.
    """

    evaluate: Evaluator
    submodule: str
    judging: Judging
    training: Sequence[Any] = ()

    def in_batches(self, a: State, b: State, alphas: Sequence[float]) -> tuple[Curve, list[ByBatch | None]]:
        """The same as ``between``, and the monitor batch by batch at each place; none where one is not finite."""
        self.evaluate.by_batch = []
        return self.between(a, b, alphas, kept=self.judging.monitor), self.evaluate.by_batch

    def between(
        self, a: State, b: State, alphas: Sequence[float], *, recalibrated: bool = False, kept: str = ""
    ) -> Curve:
        """Every metric along the line from ``b`` at 0 to ``a`` at 1; only the monitor, as NaN, where one is not finite.

        ``kept`` is the evaluator's.

        Raises:
            LotteryError: The monitor is not logged, or is in percent.
        """
        # A diverged network is not evaluated: what it logs may be any number, an accuracy of chance for instance.
        if not (is_finite(a) and is_finite(b)):
            return {self.judging.monitor: [math.nan] * len(alphas)}
        settings = [self.setting(a, b, alpha, recalibrated=recalibrated) for alpha in alphas]
        return self.curve(self.evaluate(*settings, kept=kept))

    def with_every_metric(self, curves: Mapping[Pair, Curve]) -> dict[Pair, Curve]:
        """Curves that have the metrics of all: NaN along lines to networks that are not finite."""
        names = dict.fromkeys(name for curve in curves.values() for name in curve)
        return {
            pair: {name: curve.get(name, [math.nan] * len(curve[self.judging.monitor])) for name in names}
            for pair, curve in curves.items()
        }

    def at(self, state: State) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Every metric of one network, recalibrated where there are training batches; and its state after that."""
        reached: dict[str, Tensor] = {}
        recalibrate = self.setting(state, state, 1.0, recalibrated=True)

        def prepare(module: LightningModule) -> None:
            recalibrate(module)
            entries = tensor_entries(module.get_submodule(self.submodule).state_dict())
            reached.update({name: gathered(tensor) for name, tensor in entries.items()})

        (metrics,) = self.evaluate(prepare)
        return metrics, reached

    def predictions(self, state: State, predict: Callable[[LightningModule, Any], Tensor]) -> Tensor:
        """What a network predicts for every sample of this rank."""
        predicted: list[Tensor] = []
        setting = self.setting(state, state, 1.0)
        self.evaluate(setting, on_batch=lambda module, batch: predicted.append(predict(module, batch).cpu()))
        return torch.cat(predicted)

    def setting(self, a: State, b: State, alpha: float, *, recalibrated: bool = False) -> Setting:
        """What sets a module to a point on a line, batch norm estimated anew where asked and there are batches."""

        def prepare(module: LightningModule) -> None:
            reshard(module)
            # The tensors of `state_dict` are the module's own, without a copy: writing into them sets the module.
            entries = tensor_entries(module.get_submodule(self.submodule).state_dict())
            start, end = ({name: part_like(entry, state[name]) for name, entry in entries.items()} for state in (b, a))
            interpolate_({name: local(entry) for name, entry in entries.items()}, end, start, alpha)
            if recalibrated and self.training:
                self._recalibrate_(module)

        return prepare

    def _recalibrate_(self, module: LightningModule) -> None:
        forward = forward_of(module, self.evaluate.split)
        strategy, precision = module.trainer.strategy, module.trainer.precision_plugin
        moved = (precision.convert_input(strategy.batch_to_device(batch)) for batch in self.training)
        # The step also logs: what it logs of training batches is none of the evaluation's metrics.
        with without_logging(module), precision.test_step_context():
            recalibrate_batch_norm_(module, forward, moved)

    def curve(self, line: Sequence[Mapping[str, float]]) -> Curve:
        """Each metric along an evaluator's results, found to be what can be judged."""
        check_monitor(line, self.judging)
        return {name: [point[name] for point in line] for name in line[0]}


def is_finite(state: State) -> bool:
    """Whether the tensors of a state are; a buffer may hold minus infinity, as attention masks do."""
    return all(not (tensor.isnan().any() or tensor.isposinf().any()) for tensor in map(as_real, state.values()))


def with_aliases(layers: Mapping[str, Sequence[str]], target: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """Layers with the further names of their tied weights, which a state lists as well."""
    aliases = ties(target)
    return {
        layer: (*names, *(alias for alias, first in aliases.items() if first in names))
        for layer, names in layers.items()
    }


def layer_ends(a: State, b: State, layers: Mapping[str, Sequence[str]]) -> Iterator[tuple[Layer, State, State]]:
    """Ends of the lines on which one layer, or all up to it, differ and the rest is the host's.

    Args:
        a: The first network, host 0.
        b: The second, host 1.
        layers: In order, each to the names of its parameters and buffers.

    Yields:
        Which line it is, its end at alpha 1 and its end at alpha 0.
    """
    so_far: tuple[str, ...] = ()
    for layer, names in layers.items():
        so_far = (*so_far, *names)
        # Host 0 is all of `a` at alpha 1, and `a` with the layer of `b` at alpha 0; host 1 the other way round.
        for extent, mixed in zip(EXTENTS, (names, so_far), strict=True):
            yield Layer(layer, 0, extent), a, {**a, **{name: b[name] for name in mixed}}
            yield Layer(layer, 1, extent), {**b, **{name: a[name] for name in mixed}}, b
