"""Shrink the network of somebody's checkpoint: what ``lightning-lottery shrink`` does."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_lottery.children.cli import BuiltCLI
from lightning_lottery.command.options import parsed, parser_of
from lightning_lottery.connectivity.batches import loader_of
from lightning_lottery.connectivity.checkpoints import read_state
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.hooks.quiet import without_logging, without_noise
from lightning_lottery.units.removal import shrink
from lightning_lottery.units.saved import comparison, measure, save_shrunk


def write_shrunk(arguments: Sequence[str]) -> None:
    """Write the smaller network, and show how much smaller it is."""
    options = parsed(parser_of("shrink", shrink_checkpoint), arguments)
    with without_noise():
        table = shrink_checkpoint(**options.as_dict())
    print(f"{table}\nThe smaller network: {options.out}")  # noqa: T201


def shrink_checkpoint(
    config: str,
    ckpt_path: str,
    ticket: str | None = None,
    heads: float = 0.0,
    neurons: float = 0.0,
    channels: float = 0.0,
    flops: float | None = None,
    tokens: float | None = None,
    tune: bool = False,
    first_token: bool = False,
    submodule: str = "",
    batches: int = 16,
    out: str = "runs/shrink",
    model: str | None = None,
    data: str | None = None,
) -> str:
    """Write a smaller network: without the heads, neurons and channels that a ticket or fractions remove.

    Fractions remove the units of each kind that have the least Fisher information under the module's own training loss.

    Args:
        config: The project: fit's YAML.
        ckpt_path: A checkpoint of the project's module: Lightning's, or a plain state dict.
        ticket: A ticket whose masks of units say what is kept.
        heads: In place of a ticket: fraction of the attention heads to remove, in [0, 1).
        neurons: In place of a ticket: fraction of the neurons of feed-forward networks to remove, in [0, 1).
        channels: In place of a ticket: fraction of the channels of convolutions to remove, in [0, 1).
        flops: In place of these: fraction of the multiply-adds of heads and neurons to remove, in [0, 1).
        tokens: Mean length of a sequence, so that `flops` counts attention's own products.
        tune: Swap units that are better removed together, and scale what is left by least squares.
        first_token: For `tune`: the network reads only the first token of its last layer, as classifiers do.
        submodule: The network within the module that is written, such as "model"; default: the whole module.
        batches: Training batches that units are scored on.
        out: Folder for the smaller network, which `load_shrunk` or `from_pretrained` reads.
        model: package.Class, where the YAML names none.
        data: package.Class, where the YAML names none.

    Returns:
        Parameters, FLOPs and latency before and after, a table of text.

    Raises:
        LotteryError: Both or neither of a ticket and fractions; what ``shrink`` refuses; no such submodule; or a
            checkpoint that does not fit.
    """
    fractions = {"heads": heads, "neurons": neurons, "channels": channels}
    if (ticket is None) == (flops is None and not any(fractions.values())):
        raise LotteryError("Say what to remove: either a ticket, or fractions of heads, neurons, channels or flops.")
    # One device, also where the configuration asks for several: nothing here is trained, and the file is written once.
    alone = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "callbacks": []}
    classes = [word for option, name in (("--model", model), ("--data", data)) if name for word in (option, name)]
    arguments = ["fit", "--seed_everything", "0", *classes, "--config", config]
    project = BuiltCLI(arguments, sections=SECTIONS, trainer=lambda _: alone)
    module = project.model
    if submodule not in dict(module.named_modules()):
        children = ", ".join(name for name, _ in module.named_children())
        raise LotteryError(f"{type(module).__name__} has no submodule '{submodule}'; it has {children}.")
    module.load_state_dict(read_state(Path(ckpt_path), module), strict=False)
    loader = loader_of(module, project.datamodule, "train", project.trainer)
    module.eval()
    options: Any = {
        **fractions,
        "flops": flops,
        "tokens": tokens,
        "tune": tune,
        "first_token": first_token,
        "loss": training_loss,
    }
    small = shrink(module, ticket, **options, calibration=islice(loader, batches)).get_submodule(submodule)
    inputs = _inputs_of(module, submodule, next(iter(loader)))
    save_shrunk(small, out)
    return comparison(*(measure(network, inputs) for network in (module.get_submodule(submodule), small)))


def training_loss(module: nn.Module, batch: Any) -> Tensor:
    """The loss of the module's own ``training_step``."""
    assert isinstance(module, LightningModule)
    with without_logging(module):
        output = module.training_step(batch, 0)
    loss = output["loss"] if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise LotteryError(f"`training_step` of {type(module).__name__} returns no loss to score units by.")
    return loss


def _inputs_of(module: LightningModule, submodule: str, batch: Any) -> Any:
    """What a submodule is given when the module computes its training loss on a batch."""
    inputs: list[Any] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(kwargs if kwargs and not args else args)

    hook = module.get_submodule(submodule).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            training_loss(module, batch)
    finally:
        hook.remove()
    if not inputs:
        raise LotteryError(f"`training_step` of {type(module).__name__} does not call '{submodule or 'forward'}'.")
    return inputs[0]
