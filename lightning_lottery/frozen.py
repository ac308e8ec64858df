"""Removed weights kept at zero in a training loop that knows nothing of them: plain torch, Hugging Face's Trainer."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, zero_removed_
from lightning_lottery.shards import is_sharded, local

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Frozen:
    """Parameters whose removed entries are zero after every optimizer step, until ``release``.

    Gradients are masked as they accumulate, so that clipping sees the gradient of the ticket alone and optimizers learn
    nothing of removed weights; weights are masked right after the step. Made by ``Ticket.freeze``.

    Args:
        params: By name, changed in place.
        masks: Under the same names, bool tensors of their shapes, ``True`` = kept.
        optimizers: Every one that trains any of them.

    Raises:
        LotteryError: No optimizer, one under which nothing can be frozen, or none that holds any of the parameters,
            such as one of another copy of the module; or a parameter that is no plain tensor, as of FSDP. Nothing has
            been changed.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], masks: Masks, optimizers: Sequence[Optimizer]) -> None:
        if not optimizers:
            raise LotteryError("`freeze` needs the optimizers that train the module: without one, `apply` suffices.")
        refuse_unfreezable(optimizers, "`freeze`")
        for name, param in params.items():
            if type(param.data) is not Tensor:
                raise LotteryError(
                    f"'{name}' is stored as {type(param.data).__name__}, which cannot be masked by entry."
                )
        held = {id(param) for optimizer in optimizers for group in optimizer.param_groups for param in group["params"]}
        if not any(id(param) in held for param in params.values()):
            raise LotteryError(
                f"`freeze` was given no optimizer that holds any of the ticket's {len(params)} parameters, such as "
                f"'{next(iter(params))}': build it from this very module."
            )
        self._params = dict(params)
        self._masks = {name: masks[name].to(param.device) for name, param in params.items()}
        forget_removed_(optimizers, self._params, self._masks)
        self._mask_weights_()
        self._hooks: list[RemovableHandle] = [
            optimizer.register_step_post_hook(self._after) for optimizer in optimizers
        ]
        for name, param in self._params.items():
            if param.requires_grad:
                hooked: Any = param  # torch 2.14 has no types for this
                self._hooks.append(hooked.register_post_accumulate_grad_hook(_gradient_masked_by(self._masks[name])))

    def revived(self) -> int:
        """How many removed weights are not zero now: none, unless somebody wrote weights since the last step."""
        return sum(int((p.detach().ne(0) & ~self._masks[name]).sum()) for name, p in self._params.items())

    def release(self) -> None:
        """Zero what somebody else may have written, and let go: from now on every weight is trained again."""
        self._mask_weights_()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.no_grad()
    def _mask_weights_(self) -> None:
        for name, param in self._params.items():
            zero_removed_(param, self._masks[name])

    def _after(self, *_: Any) -> None:
        self._mask_weights_()


def trainer_callback(freeze: Callable[[nn.Module, Optimizer], Frozen]) -> "TrainerCallback":
    """A callback that freezes the model when the training of Hugging Face's Trainer begins and lets go at its end.

    Args:
        freeze: Of a model and its optimizer, as ``Ticket.freeze``.
    """
    from transformers import TrainerCallback

    class TicketCallback(TrainerCallback):
        """Keeps a ticket's removed weights at zero while the Trainer trains."""

        def __init__(self) -> None:
            self.frozen: Frozen | None = None

        # The Trainer has put its model on the device and read optimizer and weights of a checkpoint before this
        # (transformers 5.24).
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            optimizer = kwargs["optimizer"]
            # Accelerate wraps the optimizer in one without hooks of its own, which steps the one inside.
            self.frozen = freeze(kwargs["model"], getattr(optimizer, "optimizer", optimizer))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.frozen is not None:
                if revived := self.frozen.revived():
                    warnings.warn(f"{revived} removed weights were no longer zero, and were set back.", stacklevel=2)
                self.frozen.release()

    return TicketCallback()


def refuse_without_hooks(optimizers: Iterable[Optimizer], label: str) -> None:
    """Refuse what is no optimizer of torch: nobody could act right after its steps.

    Raises:
        LotteryError: One is none; the message begins with ``label``.
    """
    if any(not isinstance(optimizer, Optimizer) for optimizer in optimizers):
        raise LotteryError(f"{label} needs optimizers of torch.optim.Optimizer's kind, whose steps have hooks.")


def refuse_unfreezable(optimizers: Sequence[Optimizer], label: str) -> None:
    """Refuse optimizers under which no weight can be frozen.

    Raises:
        LotteryError: LBFGS, or something that is no optimizer of torch; the message begins with ``label``.
    """
    refuse_without_hooks(optimizers, label)
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        raise LotteryError(
            f"{label} cannot freeze weights under LBFGS, whose history mixes all of them: use an optimizer with state "
            "per weight."
        )


@torch.no_grad()
def forget_removed_(optimizers: Iterable[Optimizer], params: Mapping[str, nn.Parameter], masks: Masks) -> None:
    """Set to zero the momentum and whatever else optimizers keep for each removed weight, in place.

    Of sharded parameters masks and changes are of this rank's parts.
    """
    for optimizer in optimizers:
        for name, param in params.items():
            for key, value in optimizer.state.get(param, {}).items():
                # What has the weight's shape is of its entries; a scalar weight's 'step' only looks so. Low-bit
                # optimizers keep kinds of tensors that cannot be set by entry; gradients are masked there.
                is_set = type(value) in (Tensor, nn.Parameter) or is_sharded(value)
                if key != "step" and is_set and value.shape == param.shape:
                    zero_removed_(local(value), masks[name])


def _gradient_masked_by(mask: Tensor) -> Callable[[Tensor], None]:
    def mask_gradient(param: Tensor) -> None:
        # Exactly zero also where a loss is infinitely steep at 0. Sparse ones are left to the masking of weights.
        if param.grad is not None and not param.grad.is_sparse:
            zero_removed_(param.grad, mask)

    return mask_gradient
