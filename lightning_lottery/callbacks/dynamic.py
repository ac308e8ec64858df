"""Dynamic sparse training: a network that is sparse from the start, and moves its weights while it trains."""

import math
import os
from collections.abc import Mapping
from operator import index
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_lottery.checks import check_count, check_fraction, check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.counters import mix64
from lightning_lottery.functional.dynamic import (
    Layers,
    drop_and_grow,
    drop_fraction,
    layer_counts,
    random_masks,
)
from lightning_lottery.functional.masks import Masks
from lightning_lottery.functional.schedules import Schedule, Steady
from lightning_lottery.functional.scores import magnitude
from lightning_lottery.functional.shares import share
from lightning_lottery.hooks.explaining import Sheet
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.scope import Scope


class DynamicMask(MaskCallback):
    """Train sparse from the first step to the last; the smallest weights are dropped, and as many others grow.

    Zeros bring no speed by themselves: see ``shrink``. Before the first step random masks are drawn. Every
    ``interval`` optimizer steps until ``end``, of each layer's kept weights the smallest are dropped, and as many of
    the others grow: those with the steepest gradients (RigL) or random ones (SET). Each layer keeps as many weights as
    it began with. Weights that were removed before begin at zero, and without a past in the optimizer; those that
    are dropped and grown at once keep value and state. In between removed weights are exactly zero, in every step,
    checkpoint and validation. Gradients of removed weights are looked at only in the steps after which they grow.

    When the fit ends, the run's folder holds ``ticket.safetensors`` and the picture ``pruning.png``, also as ``.svg``
    and its numbers as ``.csv``: over training loss, how far masks moved at each update.

    Args:
        sparsity: Fraction of the scope that is removed at all times, in [0, 1).
        grow: What grows: by the absolute ``"gradient"`` (RigL), or at ``"random"`` (SET).
        layers: How the sparsity is parted among layers: ``"erk"`` spares small ones, ``"uniform"`` treats all alike.
        drop_fraction: Of each layer's kept weights that is dropped at first, in (0, 1]; it falls as a cosine to 0 at
            ``end``.
        interval: Optimizer steps between updates, >= 1.
        end: When masks stay as they are: optimizer steps (int), or a fraction of the fit (float).
        seed: Draws the first masks, and what grows at random; default: the fit's own.
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: An argument out of range; in ``fit``, a scope that matches nothing, an ``end`` after the fit's, or
            no update before it.

    Example:
        >>> DynamicMask(0.9, grow="random", end=1000).schedule
        Steady(final=0.9, end=1000)

    Source: Evci et al. 2020, "Rigging the lottery: making all tickets winners", algorithm 1; Mocanu et al. 2018,
    "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science"
    (SET), algorithm 1, here with RigL's schedule and magnitudes. Unlike in the authors' code an update follows an
    optimizer step and does not take its place, and exactly ``round((1 - sparsity) * n)`` weights are kept (theirs
    rounds up in each layer).
    """

    def __init__(
        self,
        sparsity: float,
        *,
        grow: Literal["gradient", "random"] = "gradient",
        layers: Layers = "erk",
        drop_fraction: float = 0.3,
        interval: int = 100,
        end: int | float = 0.75,
        seed: int | None = None,
        scope: Scope | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        check_word("grow", grow, ("gradient", "random"))
        check_word("layers", layers, ("erk", "uniform"))
        check_fraction("drop_fraction", drop_fraction, "the fraction of the kept weights dropped", zero=False, one=True)
        if seed is not None:
            check_count("seed", seed, "a number", least=0)
        super().__init__(Steady(sparsity, end), interval=interval, scope=scope, name=name, log_layers=log_layers)
        self.grow = grow
        self.layers = layers
        self.drop_fraction = drop_fraction
        self.seed = seed

    def _reset(self) -> None:
        super()._reset()
        self._seed: int | None = None  # that of the fit that the masks began in
        self._growth: dict[str, Tensor] = {}  # absolute gradients of the batch, where weights grow by them

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        assert schedule is not None
        if self.interval >= schedule.end and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise LotteryError(
                f"{self.label} would move no weight: its first update is at step {self.interval}, and from step "
                f"{schedule.end} on masks stay as they are. Shorten `interval`, or train longer."
            )
        if self._seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
            self._seed = trainer.strategy.broadcast(seed)  # ranks may be seeded apart, and their masks are one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._growth = {}  # of a step that was skipped
        super().on_train_batch_start(trainer, pl_module)

    def look_at_gradients(self, params: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        if self.grow == "random" or not self._is_due(self.step + 1):
            return
        held = {id(param) for group in optimizer.param_groups for param in group["params"]}
        for name, param in params.items():
            if param.grad is not None and id(param) in held:
                grad = param.grad.to_dense() if param.grad.is_sparse else param.grad
                self._growth[name] = magnitude({name: grad})[name]

    def find_masks(self, params: Mapping[str, Tensor], sparsity: float, within: Masks | None) -> Masks:
        """Random ones at first, then those that are kept and grown."""
        assert self._seed is not None and within is not None and self._resolved is not None
        if self.sparsity == 0:
            return random_masks(self.layers, _shapes(params), sparsity, mix64(self._seed) >> 1)
        growth, self._growth = self._growth if self.grow == "gradient" else self._random(params), {}
        if missing := sorted(params.keys() - growth.keys()):
            rank_zero_warn(
                f"{self.label}: no gradient reaches {', '.join(missing)} at step {self.step}: masks there stay."
            )
        if not all(bool(score.isfinite().all()) for score in growth.values()):
            rank_zero_warn(f"{self.label} moves no weight at step {self.step}: gradients are not finite.")
            return within
        fraction = drop_fraction(self.step, int(self._resolved.end), self.drop_fraction)
        return drop_and_grow(magnitude(params), growth, within, fraction)

    def plan_sheet(self, schedule: Schedule) -> Sheet:
        """What each layer keeps, and how much of it moves at first."""
        params, columns = self.parameters, ("parameter", "density", "weights kept", "moved at first")
        fraction = drop_fraction(self.interval, int(schedule.end), self.drop_fraction)
        rows = [
            (name, f"{100 * kept / max(1, params[name].numel()):.2f} %", f"{kept:,}", f"{_dropped(kept, fraction):,}")
            for name, kept in layer_counts(self.layers, _shapes(params), schedule.final).items()
        ]
        title = (
            f"{self.label}: {100 * schedule.final:g} % is removed at all times; every {self.interval} steps before "
            f"step {schedule.end} the smallest are dropped, and others grow by {self.grow}:"
        )
        return Sheet(title, columns, columns[1:], rows)

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and what moves how far."""
        moves = {"grow": self.grow, "layers": self.layers, "drop_fraction": self.drop_fraction, "seed": self.seed}
        return {**super().settings(), **moves}

    def method_state(self) -> dict[str, Any]:
        return {"seed": self._seed}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        self._seed = None if state["seed"] is None else index(state["seed"])

    def _is_due(self, step: int) -> bool:
        schedule = self._resolved
        return schedule is not None and 0 < step < schedule.end and step % self.interval == 0

    def _update(self, trainer: Trainer) -> None:
        # Before masks change: a weight that grows begins without momentum, whatever its gradients were until now.
        self._upkeep.forget_removed(trainer)
        super()._update(trainer)

    def _random(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores that rank at random, the same on all devices and ranks."""
        assert self._seed is not None
        generator = torch.Generator().manual_seed(mix64(self._seed, self.step) >> 1)
        return {
            name: torch.rand(params[name].shape, generator=generator).to(params[name].device) for name in sorted(params)
        }


def _shapes(params: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: param.shape for name, param in params.items()}


def _dropped(kept: int, fraction: float) -> int:
    return math.floor(share(fraction, kept))
