"""Pruning once, at a chosen optimizer step, by scores from training batches: what SynFlow, SNIP and GraSP share."""

from collections.abc import Iterable
from inspect import signature
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_lottery.checks import check_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.schedules import Constant, Schedule
from lightning_lottery.functional.scores import Weights
from lightning_lottery.hooks.clock import steps_of_fit
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.scope import Scope, named_parameters


def first_line(error: Exception) -> str:
    """What a foreign error says, short enough for a sentence."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class OneShot(MaskCallback):
    """Prunes once, right after optimizer step ``at_step``; 0 is before the first. Arguments: see the methods."""

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int,
        batches: int,
        per: Literal["all", "tensor"],
        scope: Scope | None,
        name: str | None,
        log_layers: bool,
    ) -> None:
        check_count("at_step", at_step, "a whole number", least=0)
        check_count("batches", batches, "a whole number")
        schedule = Constant(sparsity, begin=at_step)
        super().__init__(schedule, interval=1, scope=scope, name=name, per=per, log_layers=log_layers)
        self.at_step = at_step
        self.batches = batches

    def _reset(self) -> None:
        super()._reset()
        self._trainer: Trainer | None = None  # while it fits: a reference kept longer would keep all its memory

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        self._trainer = trainer
        # Lightning hands such a step its own iterator (2.6.6): whatever is drawn from it is lost to training.
        if "dataloader_iter" in signature(trainer.lightning_module.training_step).parameters:
            raise LotteryError(
                f"{self.label} draws batches itself, which `training_step(dataloader_iter)` cannot share."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._trainer = None

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and on how many batches."""
        return {**super().settings(), "batches": self.batches}

    def _resolve(self, schedule: Schedule, trainer: Trainer, pl_module: LightningModule) -> Schedule:
        steps = steps_of_fit(trainer, pl_module)
        if steps is not None and self.at_step > steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise LotteryError(
                f"{self.label} prunes at step {self.at_step}, but this fit ends at step {steps}: choose an earlier "
                "`at_step` or train longer."
            )
        return super()._resolve(schedule, trainer, pl_module)

    def _refuse_manual(self, trainer: Trainer, instead: str) -> None:
        """Scores by a loss need a ``training_step`` that only computes it."""
        if not trainer.lightning_module.automatic_optimization:
            raise LotteryError(
                f"{self.label} needs the loss alone, and a `training_step` in manual optimization steps the optimizers "
                f"itself: use automatic optimization, or {instead}."
            )

    def _sum_over_ranks_(self, tensors: Iterable[Tensor]) -> None:
        assert self._trainer is not None
        for tensor in tensors if self._trainer.world_size > 1 else ():
            torch.distributed.all_reduce(tensor)

    def _average(self, sums: Weights, batches: int) -> dict[str, Tensor]:
        """Means over the batches of all ranks."""
        # Counted like the sums: ranks may have drawn unequal numbers of batches.
        batches_of_all_ranks = next(iter(sums.values())).new_tensor(batches)
        self._sum_over_ranks_((*sums.values(), batches_of_all_ranks))
        return {name: total / batches_of_all_ranks for name, total in sums.items()}

    def _hint_of_zeros(self) -> str:
        """What else a method knows that may help where every score is zero: the end of a sentence."""
        return ""

    def _refuse_zeros(self, scores: Weights) -> None:
        if any(bool(score.any()) for score in scores.values()):
            return
        assert self._trainer is not None
        params = named_parameters(self._trainer.lightning_module)
        # Also outside of the scope, as a head may be; biases begin as zeros in any network.
        zero = [name for name, param in params.items() if param.ndim > 1 and not bool(param.detach().any())]
        why = (
            f"'{zero[0]}' is all zero, as last layers often begin: its own scores are zero, and it lets no gradient "
            f"through to what is before it. Prune after a step, by `at_step={self.step + 1}`"
            if zero
            else f"No gradient reaches the scope: look at the loss, or at layers that cancel it{self._hint_of_zeros()}"
        )
        raise LotteryError(
            f"{self.label}: every score at step {self.step} is zero, so nothing tells one weight from another. {why}."
        )
