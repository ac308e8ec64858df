"""What keeps removed weights zero while a fit runs, whoever writes weights or replaces tensors and optimizers."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_lottery.errors import LotteryError
from lightning_lottery.frozen import refuse_unfreezable, refuse_without_hooks
from lightning_lottery.hooks.binding import Binding, refuse_shared_memory
from lightning_lottery.hooks.clock import weights_may_be_written
from lightning_lottery.hooks.left_out import held_by
from lightning_lottery.hooks.masked import Masked
from lightning_lottery.scope import Candidate, size_of


class Upkeep:
    """The masks of a fit on the tensors that it trains now; a callback calls it in each of its hooks.

    Args:
        label: What messages call the callback.
        frozen: Whether removed weights never come back, so that they are zero right after each optimizer step.

    Attributes:
        masked: Masks and their parameters.
        trained: What optimizers hold; None before a fit, and where Lightning knows of no optimizer.
        is_unsure: Whether somebody may have written weights since the last batch.
        remembers_removed: Whether an optimizer saw gradients of removed weights.
    """

    def __init__(self, label: str, *, frozen: bool) -> None:
        self._label, self._frozen = label, frozen
        self.masked = Masked()
        self.trained: list[nn.Parameter] | None = None
        self.is_unsure = True
        self.remembers_removed = False
        self._may_be_written = True  # between the optimizer's step and the batch's end
        self._binding: Binding | None = None
        self._model_size = 0
        self._hooks: list[RemovableHandle] = []

    def meet(self, optimizers: Sequence[Optimizer]) -> None:
        """Learn what is trained when a fit begins.

        Raises:
            LotteryError: An optimizer without hooks, or under which nothing can be frozen.
        """
        self._refuse(optimizers)
        # Without `configure_optimizers` Lightning puts one in that holds nothing: a module then steps its own.
        self.trained = held_by(optimizers) or None

    def bind(
        self,
        module: LightningModule,
        params: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
        candidates: Iterable[Candidate],
    ) -> None:
        """Watch the parameters that get masks, and the candidates for them that nobody trains yet.

        Raises:
            LotteryError: Two of them lie in one memory.
        """
        refuse_shared_memory(module, params, self._label)
        self._model_size = size_of(module)
        self._binding = Binding(module, params, self._label)
        self._binding.watch(optimizers, candidates)

    def begin(self, trainer: Trainer) -> None:
        """Find out who else may write weights, once every hook is in place."""
        self._may_be_written = weights_may_be_written(trainer)

    def end(self) -> None:
        """Let go of the fit's tensors; the masks stay, on the CPU."""
        self.unhook()
        self._binding = self.trained = None
        self.masked = self.masked.without_params()

    # At each batch.

    def follow(self, trainer: Trainer, step: int, *, is_promised: bool) -> None:
        """Go with parameters and optimizers that were replaced, and say what is trained now and not pruned.

        Args:
            trainer: The fit's.
            step: Optimizer steps that happened.
            is_promised: Whether removed weights are zero whenever somebody looks.

        Raises:
            LotteryError: The callback came too late to prepare; a parameter is gone, has another shape or is tied no
                more; an optimizer as in ``meet``.
        """
        if self._binding is None:
            raise LotteryError(
                f"{self._label} was added to the Trainer's callbacks when the fit had begun, too late to prepare: give "
                "it to the Trainer, or return it from `configure_callbacks`."
            )
        params = self._binding.find_replaced()
        if params is not None:
            self.masked = self.masked.on(params)
            if is_promised:
                self.make_true(trainer)
        is_changed, joined = self._binding.look(trainer.optimizers)
        if is_changed:
            self._refuse(trainer.optimizers)
            if self._hooks:
                self.hook(trainer)
        if (params is not None or is_changed) and self.trained is not None:
            held = {id(param) for param in held_by(trainer.optimizers)}
            if lost := [name for name, param in self.masked.params.items() if id(param) not in held]:
                rank_zero_warn(f"{self._label}: no optimizer holds '{lost[0]}' any more ({len(lost)} in all).")
        if joined:
            share = sum(param.numel() for param in joined.values()) / self._model_size
            rank_zero_warn(
                f"{self._label} does not prune '{next(iter(joined))}', which is trained from step {step} on "
                f"({len(joined)} parameters, {share:.0%} of the model): its scope was settled when the fit began. To "
                "prune them, unfreeze them before `fit`, or prune in a second fit."
            )

    def before_batch(self, *, is_promised: bool) -> None:
        """Mask what somebody may have written since the last batch: a module's hook at its end comes after ours."""
        if (self._may_be_written or self.is_unsure) and is_promised:
            self.masked.mask_weights_()
        self.is_unsure = False

    def after_batch(self) -> None:
        """Mask at a batch's end, where a hook right after the optimizer's step does not suffice."""
        if self._frozen and self._may_be_written:
            self.masked.mask_weights_()

    def make_true(self, trainer: Trainer) -> None:
        """Make everything that keeps weights agree with the masks."""
        if self._frozen:
            self.masked.clear_optimizer_state_(trainer.optimizers)
        self.masked.mask_weights_()
        self.masked.mask_averages_(trainer.callbacks)  # type: ignore[attr-defined]

    def forget_removed(self, trainer: Trainer) -> None:
        """Before anybody looks at the optimizers' state: as if gradients had been masked in every step."""
        if self.remembers_removed:
            self.masked.clear_optimizer_state_(trainer.optimizers)
            self.remembers_removed = False

    def audit(self, trainer: Trainer) -> int:
        """Count removed weights that are not zero, warn of them, and zero them."""
        self.forget_removed(trainer)
        revived = self.masked.revived()
        if revived:
            rank_zero_warn(
                f"{self._label} found {sum(revived.values())} removed weights in {', '.join(revived)} that were no "
                "longer zero, and set them back."
            )
            self.masked.mask_weights_()
        return sum(revived.values())

    # Optimizers.

    def hook(self, trainer: Trainer) -> None:
        """Mask weights right after the step, not at the batch's end: nobody between may see or save a revived one."""
        self.unhook()
        fitting = weakref.ref(trainer)

        def mask(*_: Any) -> None:
            # An optimizer may outlive its fit: one that ended in an exception does not mask the next.
            state = trainer.state if (trainer := fitting()) else None
            if state is not None and (state.fn, state.status) == (TrainerFn.FITTING, TrainerStatus.RUNNING):
                self.masked.mask_weights_()

        self._hooks = [optimizer.register_step_post_hook(mask) for optimizer in trainer.optimizers]

    def unhook(self) -> None:
        """Leave no hook on any optimizer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _refuse(self, optimizers: Sequence[Optimizer]) -> None:
        (refuse_unfreezable if self._frozen else refuse_without_hooks)(optimizers, self._label)
