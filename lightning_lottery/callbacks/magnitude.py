"""Magnitude pruning while training."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from lightning_lottery.functional.masks import Scores, ScoresOnDemand
from lightning_lottery.functional.schedules import Schedule, scheduled
from lightning_lottery.functional.scores import magnitude
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.scope import Scope


class MagnitudePruning(MaskCallback):
    """Remove the smallest weights a little at a time while training; a removed weight stays removed.

    Zeros bring no speed by themselves: see ``shrink``. Every ``interval`` optimizer steps the weights in scope are
    ranked by absolute value and as many are removed as the schedule asks for. Removed weights are exactly zero in
    every step, checkpoint and validation from then on.

    When the fit ends, the run's folder holds ``ticket.safetensors`` and the picture ``pruning.png``, also as ``.svg``
    and its numbers as ``.csv``: what each layer lost when, over sparsity, over loss and mask change.

    Args:
        sparsity: Final fraction of the scope that is removed, in [0, 1), reached by a cubic schedule; or a Schedule:
            ``Constant(0.8, begin=1000)`` prunes in one shot.
        interval: Optimizer steps between updates, >= 1.
        begin: When pruning begins: optimizer steps (int), or a fraction of the fit (float).
        end: When the final sparsity is reached, and held to the last step; as ``begin``.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: An argument out of range, or a Schedule together with ``begin`` or ``end``; in ``fit``, a scope
            that matches nothing, or a schedule that cannot end in this fit.

    Example:
        >>> MagnitudePruning(0.9, begin=0, end=1000).schedule(1000)
        0.9

    Source: Zhu & Gupta 2017, section 2; exact counts as everywhere in this package.
    """

    knows_shards = True

    def __init__(
        self,
        sparsity: float | Schedule,
        *,
        interval: int = 10,
        begin: int | float = 0.05,
        end: int | float = 0.7,
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        schedule = scheduled(sparsity, begin, end, defaults=(0.05, 0.7))
        super().__init__(schedule, interval=interval, scope=scope, name=name, per=per, log_layers=log_layers)

    def scores(self, params: Mapping[str, Tensor], step: int) -> Scores:
        return ScoresOnDemand(params, lambda name: magnitude({name: params[name]})[name])
