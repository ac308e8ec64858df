"""SNIP and GraSP: prune once, before training or early in it, by gradients of the loss."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from lightning_lottery.checks import check_positive
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.scores import Loss, Weights, grasp, snip
from lightning_lottery.hooks.one_shot import OneShot, first_line
from lightning_lottery.hooks.scoring import (
    cast,
    loss_of,
    outputs_divided,
    state_of,
    training_batches,
    untouched,
)
from lightning_lottery.scope import Scope


class _ByLoss(OneShot):
    """Scores from the gradients of the module's own ``training_step``."""

    method: ClassVar[Callable[..., dict[str, Tensor]]]
    temperature: float = 1.0

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int = 0,
        batches: int = 1,
        train_mode: bool = False,
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        about: dict[str, Any] = {"per": per, "scope": scope, "name": name, "log_layers": log_layers}
        super().__init__(sparsity, at_step=at_step, batches=batches, **about)
        self.train_mode = train_mode

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        super().begin_method(trainer, schedule)
        self._refuse_manual(trainer, "SynFlow, which needs no loss")

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and in which mode."""
        return {**super().settings(), "train_mode": self.train_mode}

    def _hint_of_zeros(self) -> str:
        hint = "; in training mode, by `train_mode=True`, another part of the network may run"
        return "" if self.train_mode else hint

    def scores(self, params: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        # At least float32: gradients of half precision would tie, or vanish.
        wide = reduce(torch.promote_types, (param.dtype for param in params.values()), torch.float32)
        # A detector has a loss in training mode only; a module that casts its own input runs in its own dtypes only.
        ways = [(wide, self.train_mode), (wide, True), (None, self.train_mode), (None, True)]
        errors: list[Exception] = []
        for way in dict.fromkeys(ways):
            try:
                scores = self._scores(params, *way)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the project's own code runs here
                errors.append(error)
                continue
            if errors:
                dtype, train_mode = way
                mode = "training mode, as `train_mode=True` asks for" if train_mode else "evaluation mode"
                dtypes = "" if dtype else ", in the dtypes of the module's own weights"
                first = "training" if self.train_mode else "evaluation"
                rank_zero_warn(
                    f"{self.label}: `training_step` fails in {first} mode and {str(wide).removeprefix('torch.')} "
                    f"({first_line(errors[0])}), so scores are those of {mode}{dtypes}."
                )
            self._refuse_zeros(scores)
            return scores
        if isinstance(errors[0], LotteryError):
            raise errors[0]
        raise LotteryError(
            f"{self.label} scores by the module's `training_step`, which fails: {first_line(errors[0])}. Prune later, "
            "by `at_step`, try the other `train_mode`, or prune by SynFlow, which needs no loss."
        ) from errors[0]

    def _scores(self, params: Mapping[str, Tensor], dtype: torch.dtype | None, train_mode: bool) -> dict[str, Tensor]:
        assert self._trainer is not None
        with untouched(self._trainer, dtype) as module:
            for child in module.modules():
                # Never from evaluation to training mode: a frozen norm stays frozen. Dropout would score at random.
                child.training &= train_mode and not isinstance(child, _DropoutNd)
            state = state_of(module, dtype or torch.float32)
            batches = [cast(batch, dtype) for batch in training_batches(self._trainer, self.batches)]
            weights = {name: state[name] for name in params}
            return type(self).method(self._loss(module, state, dtype), weights, batches, average=self._average)

    def _loss(self, module: LightningModule, state: Weights, dtype: torch.dtype | None) -> Loss:
        loss = loss_of(module, state, dtype, self.label)

        def divided(weights: Weights, arguments: Mapping[str, Any]) -> Tensor:
            with outputs_divided(module, self.temperature):
                return loss(weights, arguments)

        return divided


class SNIP(_ByLoss):
    """Remove the weights that the loss feels least, at once: before training or after ``at_step`` steps.

    Zeros bring no speed by themselves: see ``shrink``. The score of a weight is ``|w * dL/dw|``, with the loss of the
    module's own ``training_step`` on the first training batches of an epoch; all ranks' batches count. Removed weights
    stay removed. At high sparsity whole layers may lose their weights: a warning names them.

    When the fit ends, the run's folder holds ``ticket.safetensors`` and the picture ``pruning.png``, also as ``.svg``
    and its numbers as ``.csv``: what each layer lost when, over sparsity, over loss and mask change.

    Args:
        sparsity: Fraction of the scope that is removed, in [0, 1).
        at_step: Optimizer steps before pruning, >= 0.
        batches: Training batches on each rank, >= 1; the authors take one, others ten samples of each class.
        train_mode: Leave the module in the modes it trains in, dropout layers aside; else evaluation mode. Running
            statistics do not move either way.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: An argument out of range; in ``fit``, a scope that matches nothing, ``at_step`` beyond the fit,
            manual optimization, a ``training_step`` without loss, or scores that are all zero.

    Example:
        >>> SNIP(0.9).schedule
        Constant(final=0.9, begin=0)

    Source: Lee et al. 2019, "SNIP: Single-shot network pruning based on connection sensitivity", algorithm 1.
    """

    method = staticmethod(snip)


class GraSP(_ByLoss):
    """Remove the weights that the gradient's flow needs least, at once: before training or after ``at_step`` steps.

    Zeros bring no speed by themselves: see ``shrink``. The score of a weight is ``w * Hg``, gradient and Hessian being
    those of the module's own ``training_step`` on the first training batches of an epoch; all ranks' batches count.
    Each batch is differentiated twice, which takes more memory than training does. Removed weights stay removed.

    When the fit ends, the run's folder holds ``ticket.safetensors`` and the picture ``pruning.png``, also as ``.svg``
    and its numbers as ``.csv``: what each layer lost when, over sparsity, over loss and mask change.

    Args:
        sparsity: Fraction of the scope that is removed, in [0, 1).
        at_step: Optimizer steps before pruning, >= 0.
        batches: Training batches on each rank, >= 1; the authors take ten samples of each class.
        train_mode: Leave the module in the modes it trains in, dropout layers aside; else evaluation mode. Running
            statistics do not move either way.
        temperature: What logits are divided by while scoring, > 0: the authors take 200, by which softmax is nearly
            even and other weights are kept. ``training_step`` must get its logits by ``self(...)``, as one tensor.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: As for ``SNIP``, or a ``temperature`` that cannot be applied.

    Example:
        >>> GraSP(0.9, at_step=10).schedule
        Constant(final=0.9, begin=10)

    Source: Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", algorithm 1. The
    authors divide logits by 200 (``temperature``) and draw a new classifier; here the loss and the weights are the
    project's own.
    """

    method = staticmethod(grasp)

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int = 0,
        batches: int = 1,
        train_mode: bool = False,
        temperature: float = 1.0,
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        check_positive("temperature", temperature, "what logits are divided by")
        about: dict[str, Any] = {"per": per, "scope": scope, "name": name, "log_layers": log_layers}
        super().__init__(sparsity, at_step=at_step, batches=batches, train_mode=train_mode, **about)
        self.temperature = temperature

    def settings(self) -> dict[str, str | int | float | None]:
        """As of SNIP, and the temperature; its default is left out, for older checkpoints do not know it."""
        return {**super().settings(), **({} if self.temperature == 1 else {"temperature": self.temperature})}
