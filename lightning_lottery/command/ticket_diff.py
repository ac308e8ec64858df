"""``lightning-lottery ticket diff``: how far tickets keep the same entries, beside what chance would give."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lightning_lottery.command.options import console
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole
from lightning_lottery.functional.masks import count, jaccard, overlap, overlap_by_chance
from lightning_lottery.ticket import Ticket

LEVEL = 0.05
"""Of all pairs of a layer together."""

SMALLEST_P = 1e-12
"""That is told: further out no p-value means anything, the normal distribution's least of all."""


def diff(tickets: Sequence[Ticket], out: str | None = None) -> None:
    """Print how far tickets keep the same entries, layer by layer, and write it as JSON where ``out`` is given.

    Raises:
        LotteryError: More than two tickets have no layer in common; the file cannot be written.
    """
    # Weights that go with their units would count one draw as many: a matrix of four heads as a thousand weights.
    noun = "units" if all(ticket.units for ticket in tickets) else "weights"
    masks = [
        {**({} if noun == "units" else ticket.distinct), **{f"units of {name}": m for name, m in ticket.units.items()}}
        for ticket in tickets
    ]
    common = [name for name, mask in masks[0].items() if all(_has(each, name, mask) for each in masks[1:])]
    layers = {name: [{name: each[name]} for each in masks] for name in common}
    if len(common) > 1:
        layers["all"] = [{name: each[name] for name in common} for each in masks]
    if len(tickets) == 2:
        _show_two(layers, masks, noun)
    elif not common:
        raise LotteryError(f"These {len(tickets)} tickets have no layer in common.")
    else:
        _show_pairs(layers, len(tickets), noun)
    if out is not None:
        compared = {name: compare_pairs(of_layer) for name, of_layer in layers.items()}
        write_whole(Path(out), json.dumps(compared, indent=1).encode(), "comparison")


def compare_pairs(masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """How far every two of several sets of masks overlap.

    Args:
        masks: At least two, of the same parameters in the same shapes.

    Returns:
        Over pairs: ``pairs``, how many; means of ``overlap`` (of the entries that either keeps, those that both keep),
        ``by_chance`` (the same of masks as dense in each layer at places drawn anew) and ``times_chance`` (entries that
        both keep, by those of chance), with ``least`` and ``most``; ``beyond_chance``, how many pairs differ from
        chance at 5 % for all of them together (Bonferroni).

    Raises:
        LotteryError: They are of other parameters or shapes.
    """
    rows = []
    for a, b in combinations(masks, 2):
        both, chance = overlap(a, b), overlap_by_chance(a, b)
        either = count(a)[0] + count(b)[0] - chance.mean
        of_either = chance.mean / either if either else 1.0
        rows.append((jaccard(a, b), of_either, both / chance.mean if chance.mean else 1.0, chance.p))
    overlaps, by_chance, times, p = zip(*rows, strict=True)
    return {
        "pairs": len(rows),
        "overlap": fmean(overlaps),
        "by_chance": fmean(by_chance),
        "times_chance": fmean(times),
        "least": min(times),
        "most": max(times),
        "beyond_chance": sum(each <= LEVEL / len(rows) for each in p),
        "largest_p": max(p),
    }


def table_of(first: str, *columns: str) -> Table:
    """An empty table whose columns but the first are numbers."""
    table = Table()
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _has(masks: Mapping[str, Tensor], name: str, mask: Tensor) -> bool:
    return name in masks and masks[name].shape == mask.shape


def _show_two(
    layers: Mapping[str, Sequence[Mapping[str, Tensor]]], masks: Sequence[Mapping[str, Tensor]], noun: str
) -> None:
    terminal = console()
    table = table_of(f"{noun} kept", "by the first", "the second", "both", "overlap", "by chance", "p")
    for name, (a, b) in layers.items():
        if name == "all":
            table.add_section()
        compared = compare_pairs((a, b))
        kept = (f"{number:,}" for number in (count(a)[0], count(b)[0], overlap(a, b)))
        shares = (f"{compared[key]:.1%}" for key in ("overlap", "by_chance"))
        p = compared["largest_p"]
        table.add_row(escape(name), *kept, *shares, f"{p:.2g}" if p >= SMALLEST_P else f"< {SMALLEST_P:g}")
    if layers:
        terminal.print(table)
        terminal.print(
            f"Overlap: the {noun} that both keep, of those that either keeps; 100 % where they are equal.\n"
            f"By chance: the overlap of tickets that keep as many {noun} of each layer at places drawn anew.\n"
            f"p: how often these would overlap so much, or so little.{_left_out(noun)}"
        )
    for name in {**masks[0], **masks[1]}:
        if name not in layers:
            sides = [side for side, each in zip(("first", "second"), masks, strict=True) if name in each]
            where = f"only in the {sides[0]}" if len(sides) == 1 else "of another shape in each"
            terminal.print(f"{name} is {where}.", soft_wrap=True, highlight=False, markup=False)


def _show_pairs(layers: Mapping[str, Sequence[Mapping[str, Tensor]]], tickets: int, noun: str) -> None:
    terminal = console()
    table = table_of(f"{noun} kept", "overlap", "by chance", "times chance", "least", "most", "beyond chance")
    pairs = tickets * (tickets - 1) // 2
    for name, masks in layers.items():
        if name == "all":
            table.add_section()
        compared = compare_pairs(masks)
        shares = (f"{compared[key]:.1%}" for key in ("overlap", "by_chance"))
        times = (f"{compared[key]:.2f}" for key in ("times_chance", "least", "most"))
        table.add_row(escape(name), *shares, *times, f"{compared['beyond_chance']} of {pairs}")
    terminal.print(table)
    terminal.print(
        f"Means over the {pairs} pairs of {tickets} tickets. Overlap: the {noun} that both keep, of those that either "
        f"keeps. By chance: that of tickets that keep as many {noun} of each layer at places drawn anew. Times chance: "
        f"the {noun} that both keep, by those of chance. Beyond chance: pairs that differ from it, at 5 % for all of "
        f"them together.{_left_out(noun)}",
        soft_wrap=True,
    )


def _left_out(noun: str) -> str:
    return "\nOf tickets with units these alone are compared: weights go with them." if noun == "units" else ""
