"""Set a module to places on lines between states, and read off what its own step logs there."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_lottery.connectivity.evaluation import Evaluator, Split, step_of, takes_index
from lightning_lottery.connectivity.path_report import Curve, LayerKey, Pair
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import State, interpolate_, recalibrate_batch_norm_
from lightning_lottery.hooks.quiet import without_logging
from lightning_lottery.scope import ties


@dataclass(frozen=True)
class Lines:
    """Evaluates a module along straight lines.

    Args:
        evaluate: Runs the module's own step over the data.
        submodule: Where in the module the states go.
        monitor: The metric that must be there.
        mode: With ``"max"`` it must be a fraction.
        training: Batches for batch norm's statistics, where they are estimated anew.
    """

    evaluate: Evaluator
    submodule: str
    monitor: str
    mode: str
    training: Sequence[Any] = ()

    def between(self, a: State, b: State, alphas: Sequence[float], *, recalibrated: bool = False) -> Curve:
        """Every metric along the line from ``b`` at 0 to ``a`` at 1; only the monitor, as NaN, where one is not finite.

        Raises:
            LotteryError: The monitor is not logged, or is in percent.
        """
        if not (is_finite(a) and is_finite(b)):
            return {self.monitor: [math.nan] * len(alphas)}
        settings = [self.setting(a, b, alpha, recalibrated=recalibrated) for alpha in alphas]
        return self._curve(self.evaluate(*settings))

    def with_every_metric(self, curves: Mapping[Pair, Curve]) -> dict[Pair, Curve]:
        """Curves that have the metrics of all: NaN along lines to networks that are not finite."""
        names = dict.fromkeys(name for curve in curves.values() for name in curve)
        return {
            pair: {name: curve.get(name, [math.nan] * len(curve[self.monitor])) for name in names}
            for pair, curve in curves.items()
        }

    def at(self, state: State) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Every metric of one network, recalibrated where there are training batches; and its state after that."""
        reached: dict[str, Tensor] = {}
        recalibrate = self.setting(state, state, 1.0, recalibrated=True)

        def prepare(module: LightningModule) -> None:
            recalibrate(module)
            own = tensors_in(module.get_submodule(self.submodule).state_dict())
            reached.update({name: tensor.detach().cpu().clone() for name, tensor in own.items()})

        (metrics,) = self.evaluate(prepare)
        return metrics, reached

    def predictions(self, state: State, predict: Callable[[LightningModule, Any], Tensor]) -> Tensor:
        """What a network predicts for every sample of this rank."""
        found: list[Tensor] = []
        setting = self.setting(state, state, 1.0)
        self.evaluate(setting, on_batch=lambda module, batch: found.append(predict(module, batch).cpu()))
        return torch.cat(found)

    def setting(
        self, a: State, b: State, alpha: float, *, recalibrated: bool = False
    ) -> Callable[[LightningModule], None]:
        """What sets a module to a place on a line, batch norm estimated anew where asked and there are batches."""

        def prepare(module: LightningModule) -> None:
            interpolate_(tensors_in(module.get_submodule(self.submodule).state_dict()), a, b, alpha)
            if recalibrated and self.training:
                self._recalibrate_(module)

        return prepare

    def _recalibrate_(self, module: LightningModule) -> None:
        step = forward_of(module, self.evaluate.split)
        strategy, precision = module.trainer.strategy, module.trainer.precision_plugin
        moved = (precision.convert_input(strategy.batch_to_device(batch)) for batch in self.training)
        with without_logging(module), precision.test_step_context():
            recalibrate_batch_norm_(module, step, moved)

    def _curve(self, line: Sequence[Mapping[str, float]]) -> Curve:
        if self.monitor not in line[0]:
            raise LotteryError(f"The module does not log '{self.monitor}'; it logs {', '.join(sorted(line[0]))}.")
        curve = {name: [at[name] for at in line] for name in line[0]}
        if self.mode == "max" and (highest := max(curve[self.monitor])) > 1:
            raise LotteryError(
                f"'{self.monitor}' goes up to {highest:.4g}: with mode='max' it must be a fraction in [0, 1]. "
                "Log it as a fraction, or judge an error or a loss with mode='min'."
            )
        return curve


def forward_of(module: LightningModule, split: Split) -> Callable[[Any], Any]:
    """A module's own test or validation step as a function of a batch alone."""
    step = step_of(module, split)
    return (lambda batch: step(batch, 0)) if takes_index(module, split) else step


def is_finite(state: State) -> bool:
    """Whether the floating-point tensors of a state are; an attention mask may hold minus infinity."""
    return all(not (tensor.isnan().any() or tensor.isposinf().any()) for tensor in state.values())


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state without what modules keep beside tensors."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def with_aliases(groups: Mapping[str, Sequence[str]], target: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """Layers with the further names of their tied weights, which a state lists as well."""
    aliases = ties(target)
    return {
        layer: (*names, *(alias for alias, first in aliases.items() if first in names))
        for layer, names in groups.items()
    }


def layer_ends(a: State, b: State, groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[LayerKey, State, State]]:
    """Ends of the lines on which one layer, or all up to it, differ and the rest is the host's."""
    so_far: tuple[str, ...] = ()
    for layer, own in groups.items():
        so_far = (*so_far, *own)
        for kind, names in (("single", own), ("cumulative", so_far)):
            yield (layer, 0, kind), a, {**a, **{name: b[name] for name in names}}
            yield (layer, 1, kind), {**b, **{name: a[name] for name in names}}, b
