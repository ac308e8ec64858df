"""Accuracy against density of iterative pruning that lies in folders, of one run or several."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_lottery.checks import is_number
from lightning_lottery.children.reading import is_mapping, is_word, read_json
from lightning_lottery.children.records import is_accuracy
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp_report import draw_levels, kind_of
from lightning_lottery.experiments.pictures.folders import Drawn, Part, by_number, load_rows
from lightning_lottery.figures.density import TICKET, Levels

DIGITS = 12
"""To which densities are rounded: those of equal levels of several runs are then equal."""


def draw_pruned(parts: Sequence[Part], drawn: Drawn) -> None:
    """Accuracy against density, of the parts of a name together."""
    runs: dict[str, dict[str, dict[float, list[float]]]] = {}
    notes: list[str] = []
    monitor = _monitor_of(parts)
    marks: dict[str, float | None] = {}
    for part in parts:
        curves = runs.setdefault(part.name, {})
        for name, density, value in _levels_in(part, monitor, notes):
            kind = "dense" if name == "level-0" else kind_of(name)
            curves.setdefault(kind, {}).setdefault(density, []).append(value)
        marks[part.name] = _matches_in(part.folder) if part.name not in marks else None
    levels = {
        name: Levels(
            [value for values in curves.pop("dense", {}).values() for value in values],
            {TICKET: curves.pop("ticket", {}), **curves},
            marks[name],
        )
        for name, curves in runs.items()
        if any(curves.values())
    }
    if levels:
        drawn.figures["levels"] = draw_levels(levels, monitor, notes)
    drawn.notes += notes


def _levels_in(part: Part, monitor: str, notes: list[str]) -> Iterator[tuple[str, float, float]]:
    """Name, density and metric of every level and control of every seed, as far as they are done."""
    waiting = []
    for child in sorted(part.folder.glob("seed-*/level-*/"), key=lambda path: (path.parent.name, by_number(path.name))):
        if not (child / "results.jsonl").is_file():
            waiting.append(f"{child.parent.name}/{child.name}")
            continue
        rows = load_rows(child / "results.jsonl", notes)
        row = next((row for row in rows if row["metric"] == monitor), None)
        if rows and row is None:
            notes.append(f"{part.prefix}{child.parent.name}/{child.name} has no {monitor}.")
        elif row is not None and row["density"] is not None:
            yield child.name, round(row["density"], DIGITS), row["value"]
    if waiting:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        notes.append(f"{part.prefix}not done yet: {', '.join(waiting[:3])}{more}.")


def _imp_summary(folder: Path) -> Mapping[str, Any]:
    """What iterative pruning that has ended says; empty where it has not, or where nobody can read it."""
    path = folder / "summary.json"
    try:
        summary = read_json(path, "summary of iterative pruning") if path.is_file() else {}
    except LotteryError:
        return {}
    return summary if is_mapping(summary) else {}


def _monitor_of(parts: Sequence[Part]) -> str:
    """The metric that was judged; where no run has ended, a test accuracy, or what else is recorded first."""
    for part in parts:
        if is_word(monitor := _imp_summary(part.folder).get("monitor")):
            return str(monitor)
    for path in (path for part in parts for path in sorted(part.folder.glob("seed-*/level-0/results.jsonl"))):
        if metrics := [str(row["metric"]) for row in load_rows(path, [])]:
            return min(metrics, key=lambda metric: (not metric.startswith("test"), not is_accuracy(metric)))
    return "test_acc"


def _matches_in(folder: Path) -> float | None:
    density: Any = _imp_summary(folder).get("matches_down_to")
    return round(float(density), DIGITS) if is_number(density) else None
