"""Shrink the network of somebody's checkpoint: what ``lightning-lottery shrink`` does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from lightning_lottery.connectivity.evaluation import loader_of
from lightning_lottery.connectivity.path import read_state
from lightning_lottery.errors import LotteryError
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.removal import shrink
from lightning_lottery.units.saved import comparison, measure, save_shrunk
from lightning_lottery.units.scores import unit_masks


def shrink_checkpoint(
    module: LightningModule,
    data: LightningDataModule | None,
    trainer: Trainer,
    checkpoint: Path,
    out: Path,
    *,
    ticket: Path | None = None,
    submodule: str = "",
    fractions: Mapping[str, float] | None = None,
    batches: int = 16,
) -> str:
    """Write the network of a checkpoint without the units that a ticket or fractions remove, and compare the two.

    Args:
        module: A module of the checkpoint's kind; it gets its weights.
        data: Gives training batches, for scoring units and for measuring; None for the module's own loaders.
        trainer: Not used to train: data modules may ask it.
        checkpoint: Of Lightning's, or a plain state dict of the module.
        out: Folder that ``load_shrunk`` (or ``from_pretrained``) reads.
        ticket: Whose masks of units say what is kept.
        submodule: The network within the module that is written, such as ``"model"``; default: the whole module.
        fractions: In place of a ticket: ``heads``, ``ffn``, ``channels`` to remove, each in [0, 1), by their Fisher
            information under the module's own training loss.
        batches: Training batches that units are scored on.

    Returns:
        Parameters, FLOPs and latency before and after, a table of text.

    Raises:
        LotteryError: What ``shrink`` refuses; no such submodule; or a checkpoint that does not fit.
    """
    removed: dict[str, Any] = {kind: fraction for kind, fraction in (fractions or {}).items() if fraction}
    if (ticket is None) == (not removed):
        raise LotteryError("Say what to remove: either a ticket, or fractions of heads, ffn or channels.")
    if submodule not in dict(module.named_modules()):
        children = ", ".join(name for name, _ in module.named_children())
        raise LotteryError(f"{type(module).__name__} has no submodule '{submodule}'; it has {children}.")
    module.load_state_dict(read_state(checkpoint, module), strict=False)
    loader = loader_of(module, data, "train", trainer)
    module.eval()
    if ticket is not None:
        kept = Ticket.load(ticket)
    else:
        kept = Ticket({}, units=unit_masks(module, islice(loader, batches), loss=_training_loss, **removed))
    inputs = _inputs_of(module, submodule, next(iter(loader)))
    small = shrink(module, kept).get_submodule(submodule)
    save_shrunk(small, out)
    sizes = [measure(network, inputs) for network in (module.get_submodule(submodule), small)]
    return comparison(*sizes)


def _training_loss(module: nn.Module, batch: Any) -> Tensor:
    """The loss of the module's own ``training_step``."""
    assert isinstance(module, LightningModule)
    with _silent(module):
        found = module.training_step(batch, 0)
    loss = found["loss"] if isinstance(found, Mapping) else found
    if not isinstance(loss, Tensor):
        raise LotteryError(f"`training_step` of {type(module).__name__} returns no loss to score units by.")
    return loss


def _inputs_of(module: LightningModule, submodule: str, batch: Any) -> Any:
    """What a submodule is given when the module computes its training loss on a batch."""
    found: list[Any] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(kwargs if kwargs and not args else args)

    hook = module.get_submodule(submodule).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            _training_loss(module, batch)
    finally:
        hook.remove()
    if not found:
        raise LotteryError(f"`training_step` of {type(module).__name__} does not call '{submodule or 'forward'}'.")
    return found[0]


@contextmanager
def _silent(module: LightningModule) -> Iterator[None]:
    """What the module logs goes nowhere: there is no Trainer that would take it."""
    names = ("log", "log_dict")
    module.__dict__.update(dict.fromkeys(names, lambda *_, **__: None))
    try:
        yield
    finally:
        for name in names:
            del module.__dict__[name]
