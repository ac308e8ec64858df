"""``lightning-lottery ticket``: show a ticket, compare several, mask a checkpoint by one, or move one elsewhere."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from rich.markup import escape
from torch import Tensor, nn

from lightning_lottery.checks import did_you_mean
from lightning_lottery.command.options import console, words_of
from lightning_lottery.command.ticket_diff import diff, table_of
from lightning_lottery.connectivity.checkpoints import load_plain
from lightning_lottery.diagnosis import Layer, LayerTable
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import location, write_whole
from lightning_lottery.functional.masks import count, zero_removed_
from lightning_lottery.hooks.one_shot import first_line
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.hooks.saving import save_whole
from lightning_lottery.hooks.scoring import outputs_of
from lightning_lottery.scope import in_words, plain_name
from lightning_lottery.ticket import Ticket

if TYPE_CHECKING:
    from lightning_lottery.children.cli import BuiltCLI

STATES = ("state_dict", "current_model_state")
"""Where a checkpoint holds weights; the second beside averages."""


def ticket(arguments: Sequence[str]) -> None:
    """Answer the subcommand."""
    options = words_of("ticket", arguments)
    action, files = options.action, options.tickets
    if (len(files) < 2) if action == "diff" else (len(files) != 1 and action != "show"):
        number = "two tickets or more" if action == "diff" else "one ticket"
        raise LotteryError(f"`ticket {action}` takes {number}, got {', '.join(files)}.")
    tickets = [Ticket.load(file) for file in files]
    if action == "show":
        show(tickets, options.config, options.prefix, options.out)
    elif action == "diff":
        diff(tickets, options.out)
    elif action == "transport":
        move(tickets[0], options)
    else:
        apply(tickets[0], options)


def show(tickets: Sequence[Ticket], config: str | None, prefix: str, out: str | None) -> None:
    """Print what a ticket keeps, or several on average, and what a project's module has of it; as JSON where asked.

    Raises:
        LotteryError: Several tickets have other layers; ``out`` without a project, or it cannot be written.
    """
    tables = [ticket.table() for ticket in tickets] if config is None else _on_project(tickets, config, prefix)
    if len(tickets) == 1:
        _show_one(tickets[0], tables[0])
    else:
        _show_several(tables)
    if out is not None:
        write_whole(Path(out), json.dumps(effective_of(tables), indent=1).encode(), "summary")


def effective_of(tables: Sequence[LayerTable]) -> dict[str, Any]:
    """What tickets have on average, of each layer and of all: kept and effective weights, their share, dead units.

    Raises:
        LotteryError: They have other layers, or no module was asked.
    """
    names = [[row.name for row in table] for table in tables]
    if any(each != names[0] for each in names) or not all(names):
        raise LotteryError("Tickets are shown together where they mask the same layers.")
    if any(table.multiply_adds is None for table in tables):
        raise LotteryError("Which weights do anything only the project tells: give it by --config.")
    layers = {name: [[table[number]] for table in tables] for number, name in enumerate(names[0])}
    return {name: _averaged(rows) for name, rows in {**layers, "all": tables}.items()} | {"tickets": len(tables)}


def _averaged(tickets: Sequence[Sequence[Layer]]) -> dict[str, Any]:
    kept = [sum(row.kept for row in rows) for rows in tickets]
    effective = [sum(row.effective or 0 for row in rows) for rows in tickets]
    shares = [part / whole if whole else 1.0 for part, whole in zip(effective, kept, strict=True)]
    dead = fmean(sum(row.dead or 0 for row in rows) for rows in tickets)
    means = {"kept": fmean(kept), "effective": fmean(effective), "dead units": dead, "share on a path": fmean(shares)}
    return {**means, "least": min(shares), "most": max(shares)}


def _show_several(tables: Sequence[LayerTable]) -> None:
    averages = effective_of(tables)
    number = averages.pop("tickets")
    table = table_of("mean over tickets", "kept", "on a path", "dead units", "share", "least", "most")
    for name, row in averages.items():
        if name == "all":
            table.add_section()
        counts = (f"{row[key]:,.1f}" for key in ("kept", "effective", "dead units"))
        table.add_row(escape(name), *counts, *(f"{row[key]:.2%}" for key in ("share on a path", "least", "most")))
    console().print(table)
    console().print(f"{number} tickets; on a path: weights on one from input to output, which alone do anything.")


def _show_one(ticket: Ticket, rows: LayerTable) -> None:
    """Print what a ticket keeps, layer by layer, what it does to a project's module, and where it comes from."""
    terminal = console()
    kept, total = count(ticket.distinct)
    if total:
        whole = ticket.provenance.get("model_sparsity")
        share = f", {whole:.1%} of the model" if isinstance(whole, float) else ""
        title = f"{kept:,} of {total:,} weights kept: {ticket.sparsity:.1%} removed{share}"
        terminal.print(title)
        is_diagnosed = rows.multiply_adds is not None
        table = table_of("layer", "shape", "kept", "of", "removed", *(_DIAGNOSED if is_diagnosed else ()))
        for layer in rows:
            shape = " x ".join(map(str, layer.shape))
            cells = (shape, f"{layer.kept:,}", f"{layer.total:,}", f"{layer.sparsity:.1%}")
            table.add_row(escape(layer.name), *cells, *(_diagnosed(layer) if is_diagnosed else ()))
        terminal.print(table)
        if is_diagnosed:
            terminal.print(_in_sentences(rows), soft_wrap=True, highlight=False)
    if ticket.units:
        table = table_of("units", "kept", "of", "removed")
        for name, mask in ticket.units.items():
            kept, total = count({name: mask})
            table.add_row(escape(name), f"{kept:,}", f"{total:,}", f"{1 - kept / total:.1%}" if total else "")
        terminal.print(table)
    for name, value in ticket.provenance.items():
        text = value if isinstance(value, str) else json.dumps(value)
        terminal.print(f"{name}: {in_words(text)}", soft_wrap=True, highlight=False, markup=False)


def apply(ticket: Ticket, options: Namespace) -> None:
    """Write a checkpoint whose removed weights are zero: an existing one's, or of the module as configured."""
    if (options.ckpt_path is None) == (options.config is None):
        raise LotteryError("`ticket apply` masks either a checkpoint (--ckpt_path) or a project as built (--config).")
    out = options.out or "masked.ckpt"
    if options.ckpt_path is not None:
        content = masked(load_plain(Path(options.ckpt_path), "cpu"), ticket, options.prefix, options.ckpt_path)
        file = BytesIO()
        torch.save(content, file)
        write_whole(Path(out), file.getvalue(), "checkpoint")
    else:
        _write_built(ticket, options, out)
    kept, total = count(ticket.distinct)
    print(  # noqa: T201
        f"{out}: {total - kept:,} of {total:,} weights are zero. A fit that goes on from there keeps them so "
        "by the callback MaskFreezing with this ticket."
    )


def move(ticket: Ticket, options: Namespace) -> None:
    """Write a ticket for another initialisation, by the alignment of two dense networks."""
    if None in (options.source, options.target, options.config):
        raise LotteryError(
            "`ticket transport` needs the dense network that the ticket comes from (--source), the one it goes to "
            "(--target), and the project (--config)."
        )
    from lightning_lottery.connectivity.transport import transport

    built = _built(options.config)
    with without_noise():
        moved, groups = transport(
            ticket, built.model, built.datamodule, options.source, options.target, trainer=built.trainer
        )
    out = options.out or "moved.safetensors"
    moved.save(out)
    units, total = (sum(numbers) for numbers in zip(*groups.values(), strict=True))
    print(f"{out}: {units:,} of {total:,} units in {len(groups)} groups change places.")  # noqa: T201


def masked(content: Any, ticket: Ticket, prefix: str, what: str) -> dict[str, Any]:
    """A checkpoint, or a plain state dict, whose removed weights are zero; nothing else is changed.

    Args:
        content: As it was loaded.
        ticket: Whose masks.
        prefix: What the ticket's names begin with and the checkpoint's do not, such as ``"model."``.
        what: The checkpoint, for messages.

    Raises:
        LotteryError: The ticket masks no weight, or one that the checkpoint does not hold, or in another shape.
    """
    if not isinstance(content, dict):
        raise LotteryError(f"'{what}' holds no weights by name.")
    if not ticket.masks:
        raise LotteryError("The ticket has masks of units only: `lightning-lottery shrink` removes those.")
    dotted = prefix and f"{prefix.removesuffix('.')}."
    masks = {name.removeprefix(dotted): mask for name, mask in ticket.masks.items()}
    if "state_dict" not in content:
        return _masked_state(content, masks, what)
    states = {key: _masked_state(content[key], masks, what) for key in STATES if key in content}
    return {**content, **states}


def _masked_state(state: Mapping[str, Any], masks: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise LotteryError(f"'{what}' holds no weights by name.")
    names = {plain_name(name): name for name in state}
    missing = [name for name in masks if name not in names]
    if missing:
        raise LotteryError(
            f"'{what}' has no weights '{missing[0]}' ({len(missing)} of the ticket's {len(masks)} are missing)."
            f"{did_you_mean(missing[0], names)} Where only the beginning of names differs, say it by --prefix."
        )
    for name, mask in masks.items():
        if not isinstance(state[names[name]], Tensor):
            raise LotteryError(f"'{what}' has '{name}', which is no tensor.")
        if (shape := tuple(state[names[name]].shape)) != tuple(mask.shape):
            raise LotteryError(f"'{what}' has '{name}' in the shape {shape}, the ticket in {tuple(mask.shape)}.")
    return {**state, **{names[name]: zero_removed_(state[names[name]].clone(), mask) for name, mask in masks.items()}}


def _write_built(ticket: Ticket, options: Namespace, out: str) -> None:
    """Write a checkpoint of the module as a configuration builds it, masked."""
    built = _built(options.config)
    ticket.apply(built.model, options.prefix)
    built.trainer.strategy.connect(built.model)  # as if a fit had begun: a Trainer saves the module that it has
    save_whole(built.trainer, location(out))


def _built(config: str) -> "BuiltCLI":
    """A project as its configuration builds it, on the CPU and without callbacks."""
    from lightning_lottery.children.cli import BuiltCLI
    from lightning_lottery.experiments.sections import SECTIONS

    alone = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "callbacks": []}
    with without_noise():
        return BuiltCLI(["fit", "--config", config], sections=SECTIONS, trainer=lambda _: alone)


_DIAGNOSED = ("effective", "dead units", "multiply-adds", "left")


def _diagnosed(layer: Layer) -> tuple[str, ...]:
    products = layer.multiply_adds or 0
    left = f"{(layer.multiply_adds_kept or 0) / products:.1%}" if products else ""
    return f"{layer.effective:,}", f"{layer.dead:,} of {layer.units:,}", f"{products:,}", left


def _in_sentences(table: LayerTable) -> str:
    speed_up = "without end" if table.speed_up is None else f"{table.speed_up:.2f}"
    return (
        f"With the weights that are kept and on no path to the output, {table.effective_sparsity:.1%} are removed "
        "(effective sparsity).\n"
        f"Multiply-adds of a batch: {table.multiply_adds:,}, of which {table.multiply_adds_kept:,} are left, layers "
        f"without masks included: a theoretical speed-up of {speed_up}, which dense hardware does not have."
    )


def _on_project(tickets: Sequence[Ticket], config: str, prefix: str) -> list[LayerTable]:
    """The tables of tickets on the module that a configuration builds, run on a training batch of its own."""
    from lightning_lottery.connectivity.batches import loader_of

    built = _built(config)
    batch = next(iter(loader_of(built.model, built.datamodule, "train", built.trainer)))
    return [ticket.table(built.model, batch, prefix=prefix, forward=_outputs) for ticket in tickets]


def _outputs(module: nn.Module, batch: Any) -> Any:
    """What a module makes of a training batch."""
    from lightning_lottery.command.shrink import training_loss

    try:
        return outputs_of(module, batch, 0)
    except Exception as error:  # a `forward` that takes something else than the batch's inputs
        rank_zero_warn(
            f"`forward` of {type(module).__name__} fails on a training batch ({first_line(error)}): effective weights "
            "are those that `training_step`'s loss holds, which a penalty makes all of them."
        )
        return training_loss(module, batch)
