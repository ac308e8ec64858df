"""What keeps masks true: weights, gradients, optimizer state, averaged copies and checkpoints that agree with them."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.frozen import forget_removed_
from lightning_lottery.functional.masks import Masks, count_each, zero_removed_
from lightning_lottery.functional.sharded import mask_hash
from lightning_lottery.hooks.private import averaged_copy
from lightning_lottery.scope import named_parameters, plain_name
from lightning_lottery.shards import Shards, local


class Masked:
    """Parameters and their masks, by name; in-place operations make the rest agree. Nothing removed costs nothing.

    Where parameters are sharded, all that is here is of this rank's part, and only counts and hashes are sent.

    Args:
        masks: Parameter name to bool tensor of the shape that this rank holds, ``True`` = kept.
        params: The parameters under the same names; without them the masks are only kept.
        like: The same masks elsewhere, whose counts stay: then nothing is sent. Without it, collective.
    """

    def __init__(
        self,
        masks: Masks | None = None,
        params: Mapping[str, nn.Parameter] | None = None,
        *,
        like: "Masked | None" = None,
    ) -> None:
        self.params = dict(params or {})
        self.shards: Shards = Shards(params) if like is None or params else like.shards
        self.masks = {
            name: mask.to(self.params[name].device) if params else mask for name, mask in (masks or {}).items()
        }
        self.counts: dict[str, tuple[int, int]]
        """How many entries of each are kept, and how many there are; on all ranks together."""
        self._hashes: dict[str, int]  # as they were made; empty where each rank holds all
        self.counts, self._hashes = self._seen() if like is None else (like.counts, like._hashes)
        kept, total = (sum(numbers) for numbers in zip(*self.counts.values(), strict=True)) if self.counts else (0, 0)
        self.sparsity = 1 - kept / total if total else 0.0
        self.anything_removed = kept < total
        self.stayed: int | None = None
        """How many entries the next masks keep of those that these kept, where they have taken these ones' memory."""

    def _seen(self) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
        """Counts and, of shards, hashes: one message."""
        hashes = self._hashes_here() if self.shards else {}
        here = [(kept, self.masks[name].numel(), hashes.get(name, 0)) for name, kept in count_each(self.masks).items()]
        everywhere = self.shards.sum(torch.tensor(here, dtype=torch.int64)).tolist()
        counts = {name: (kept, total) for name, (kept, total, _) in zip(self.masks, everywhere, strict=True)}
        return counts, {name: number for name, (_, _, number) in zip(hashes, everywhere, strict=False)}

    def _hashes_here(self) -> dict[str, int]:
        return {name: mask_hash(name, mask, self.shards.first_row(name)) for name, mask in self.masks.items()}

    @property
    def hashes(self) -> dict[str, int]:
        """Of each whole mask, as it was made: equal on any number of ranks."""
        return self._hashes or self._hashes_here()

    def refuse_changed(self, who: str) -> None:
        """Look whether masks of shards are those that were made: what one rank alone does to its part, none sees.

        Raises:
            LotteryError: One is not, on every rank alike.
        """
        if not self._hashes:
            return
        now = self.shards.sum(torch.tensor([*self._hashes_here().values()], dtype=torch.int64)).tolist()
        if odd := [name for name, number in zip(self.masks, now, strict=True) if number != self._hashes[name]]:
            raise LotteryError(
                f"{who}: some rank's part of the mask of '{odd[0]}' is not what it was made. Something writes into "
                "`masks`: clone what you change."
            )

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """What this rank holds of the parameters, with their gradients."""
        return {name: local(param) for name, param in self.params.items()} if self.shards else self.params

    @torch.no_grad()
    def mask_weights_(self) -> None:
        """Set removed weights to zero, whatever they were; +0.0, so that equal runs have equal bits."""
        if self.anything_removed:
            for name, param in self.params.items():
                zero_removed_(local(param), self.masks[name])

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Set the gradients of removed weights to zero, NaN too: a loss may be infinitely steep at 0.

        Sparse gradients are left alone: the weights are masked after the step.
        """
        if self.anything_removed:
            for name, param in self.params.items():
                if param.grad is not None and not param.grad.is_sparse:
                    zero_removed_(local(param.grad), self.masks[name])

    def clear_optimizer_state_(self, optimizers: Iterable[Optimizer]) -> None:
        """Forget momentum and whatever else optimizers keep for each removed weight."""
        if self.anything_removed:
            forget_removed_(optimizers, self.params, self.masks)

    @torch.no_grad()
    def mask_averages_(self, callbacks: Sequence[Callback]) -> None:
        """Mask the averaged copies that EMA, SWA and their like keep: what was removed would live on in them."""
        for average in averaged_copies(callbacks) if self.anything_removed else ():
            params = named_parameters(average)
            for name, mask in self.masks.items():
                zero_removed_(local(params[name]), mask)

    @torch.no_grad()
    def mask_checkpoint(self, checkpoint: dict[str, Any], ties: Mapping[str, str]) -> None:
        """Replace the states in a checkpoint by masked ones, out of place; ``ties``: further names to first ones."""
        # A state dict holds a tied weight under every name. Where `WeightAveraging` saves averages as `state_dict`, the
        # weights that train stand under `current_model_state` (Lightning 2.6.6). Both share memory with the module.
        masks = self.masks | {alias: self.masks[name] for alias, name in ties.items() if name in self.masks}
        for key in checkpoint.keys() & {"state_dict", "current_model_state"} if self.anything_removed else ():
            state = copy(checkpoint[key])  # keeps the versions that a state dict carries beside its tensors
            for name, value in state.items():
                mask = masks.get(plain_name(name))
                # Of shards the first rank may be given whole tensors, or others none: they are true already.
                if mask is not None and local(value).shape == mask.shape:
                    state[name] = value.clone()
                    zero_removed_(local(state[name]), mask)
            checkpoint[key] = state

    def revived(self) -> dict[str, int]:
        """How many removed weights are not zero, for each parameter where there are any; of all ranks. Collective."""
        counts = [int((part.detach().ne(0) & ~self.masks[name]).sum()) for name, part in self.parts.items()]
        everywhere = self.shards.sum(torch.tensor(counts, dtype=torch.int64)).tolist()
        return {name: n for name, n in zip(self.params, everywhere, strict=True) if n}

    def on(self, params: Mapping[str, nn.Parameter]) -> "Masked":
        """The same masks on parameters that were put in the place of others."""
        return Masked(self.masks, params, like=self)

    def without_params(self) -> "Masked":
        """The masks alone, on the CPU."""
        return Masked({name: mask.cpu() for name, mask in self.masks.items()}, like=self)


def check_agreement(
    trainer: Trainer,
    masks: Masks,
    what: str,
    why: str = "Their gradients or weights differ, so something in the training loop is not synchronised.",
) -> None:
    """Refuse to go on where ranks hold different masks; ``why`` says where that comes from.

    Raises:
        LotteryError: They do, on every rank alike.
    """
    if trainer.world_size < 2:
        return
    # Hashes, not masks: what is sent does not grow with the model. Gathered, so that every rank raises, and none waits.
    everyone: list[str] = [""] * trainer.world_size
    torch.distributed.all_gather_object(everyone, hash_of_tensors(masks))
    if len(set(everyone)) > 1:
        raise LotteryError(f"{what}: the ranks found different masks. {why}")


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that later steps do not touch."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def averaged_copies(callbacks: Sequence[Callback]) -> list[nn.Module]:
    """Copies of the module that averaging callbacks keep: WeightAveraging wraps its own once more, SWA does not.

    Also those that a project's own callback has in an attribute, as ``torch.optim.swa_utils.AveragedModel``.
    """
    averages = [average for callback in callbacks if (average := averaged_copy(callback)) is not None]
    averages += [
        value
        for callback in callbacks
        for value in vars(callback).values()
        if isinstance(value, AveragedModel) and isinstance(value.module, LightningModule) and value not in averages
    ]
    return [average.module if isinstance(average, AveragedModel) else average for average in averages]
