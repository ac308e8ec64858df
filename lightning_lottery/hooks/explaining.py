"""What a fit prunes, when, and at what cost in memory: tables for the terminal, and the same as text for loggers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.shares import share
from lightning_lottery.scope import Candidate

NO_SPEED = "Zeros alone bring no speed: dense hardware multiplies them all the same. Removing whole units does."


class Sheet(NamedTuple):
    """A table of words: ``numbers`` are the columns of numbers among its ``columns``."""

    title: str
    columns: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Explanation:
    """What a callback is about to do.

    Args:
        label: What messages call the callback.
        parameters: Every parameter of the module, in scope or why not.
        warnings: What one would expect to be pruned and is not.
        schedule: What is removed and what is kept at a dozen steps; None where masks never change.
        memory: What the callback adds, in a sentence.
    """

    label: str
    parameters: Sheet
    warnings: Sequence[str]
    schedule: Sheet | None
    memory: str

    def markdown(self) -> str:
        """All of it as text in Markdown."""
        schedule = [] if self.schedule is None else [_markdown_of(self.schedule)]
        parts = [f"## {self.label}", *schedule, self.memory, NO_SPEED, *self.warnings, _markdown_of(self.parameters)]
        return "\n\n".join(parts)


def parameters_sheet(
    label: str, candidates: Sequence[Candidate], masked: Mapping[str, nn.Parameter], aliases: Mapping[str, str]
) -> Sheet:
    """A row for each parameter of a module.

    Args:
        label: What messages call the callback.
        candidates: All of them.
        masked: Those that get masks, by name.
        aliases: Each further name of a tied parameter to its first.
    """
    rows, total = [], 0
    for name, parameter, module_type, reason, _ in candidates:
        tied = [alias for alias, first in aliases.items() if first == name]
        note = f" (tied: {', '.join(tied)})" if tied else ""
        in_scope = "yes" if name in masked else f"no: {reason or 'not masked'}"
        shape, weights = "not yet known", ""  # of a lazy layer
        if not isinstance(parameter, UninitializedParameter):
            shape, weights = " x ".join(map(str, parameter.shape)), f"{parameter.numel():,}"
            total += parameter.numel()
        rows.append((name + note, module_type, shape, weights, in_scope))
    title = f"{label} can remove {_entries(masked):,} of the module's {total:,} weights:"
    return Sheet(title, ("parameter", "layer", "shape", "weights", "pruned"), ("weights",), rows)


def schedule_sheet(schedule: Schedule, interval: int, masked: Mapping[str, nn.Parameter]) -> Sheet:
    """A dozen steps between the begin of a schedule and its end, as they fall on updates.

    Args:
        schedule: In optimizer steps.
        interval: Optimizer steps between updates.
        masked: The parameters that get masks, by name.
    """
    scoped, begin, end = _entries(masked), int(schedule.begin), int(schedule.end)
    stride = max(interval, (end - begin) // 10 // interval * interval)
    steps = sorted({begin, *range(begin - begin % interval + interval, end, stride), end})
    rows = [
        (str(step), f"{100 * schedule(step):.2f} %", f"{round(share(1 - schedule(step), scoped)):,}") for step in steps
    ]
    columns = ("after step", "removed", "weights kept")
    return Sheet(f"{schedule}, an update every {interval} steps:", columns, columns, rows)


def _entries(parameters: Mapping[str, nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters.values())


def _markdown_of(sheet: Sheet) -> str:
    rules = ["---:" if column in sheet.numbers else "---" for column in sheet.columns]
    rows = [sheet.columns, rules, *([_plain(cell) for cell in row] for row in sheet.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"**{_plain(sheet.title)}**", "", *lines])


def _plain(words: str) -> str:
    """Words of which none is Markdown: patterns are full of its signs."""
    return "".join(f"&#{ord(sign)};" if sign in "\\`*_|[]" else sign for sign in escape(words, quote=False))
