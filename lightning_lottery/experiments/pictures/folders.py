"""Folders of runs: which experiment wrote them, what they are called, and what could not be read in them."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_lottery.children.child import read_specification
from lightning_lottery.children.records import Row, read_rows
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.siblings import REPORT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FIT = ("events.out.tfevents.*", "metrics.csv", "pruning*.csv", "early_bird*/scores.log", "early_bird*/draws.csv")
"""What a fit leaves that can be drawn."""


@dataclass
class Drawn:
    """Pictures, and what they lack.

    Args:
        figures: Name of a file, without its ending, to what it shows.
        notes: What could not be drawn, in sentences.
    """

    figures: dict[str, "Figure"] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Part(NamedTuple):
    """A run, or a stage of a recipe's."""

    kind: str
    name: str
    """What it is called in the pictures."""
    folder: Path
    seeds: tuple[int, ...] | None = None
    """Of a recipe, which are drawn; None for all."""

    @property
    def prefix(self) -> str:
        """Before a note on it."""
        return f"{self.name}: " if self.name else ""


def parts_of(runs: Sequence[str]) -> list[Part]:
    """The runs in folders, and those that a recipe's stages are.

    Args:
        runs: Folders, each also as ``NAME=FOLDER``.

    Raises:
        LotteryError: A folder that is not there, or holds no run.
    """
    return [part for folder, name in _named(runs).items() for part in _parts(name, Path(folder))]


def _named(runs: Sequence[str]) -> dict[str, str]:
    """Folder to what it is called: as said, else by the end of its path, as much as tells it from the others."""
    folders: dict[str, str | None] = {}
    for run in runs:
        name, equals, folder = run.rpartition("=")
        # A folder's own name may hold an equals sign.
        is_named = bool(equals) and not Path(run).is_dir()
        folders[folder if is_named else run] = name if is_named else None
    paths = [Path(os.path.abspath(folder)).parts for folder, name in folders.items() if name is None]
    depth = 1
    while len({path[-depth:] for path in paths}) < len({*paths}):
        depth += 1
    alone = len(folders) == 1
    return {
        folder: name if name is not None else "" if alone else "/".join(Path(os.path.abspath(folder)).parts[-depth:])
        for folder, name in folders.items()
    }


def _parts(name: str, folder: Path) -> Iterator[Part]:
    """What a folder holds.

    Raises:
        LotteryError: It is not there, or holds no run.
    """
    if not folder.is_dir():
        raise LotteryError(f"There is no folder '{folder}'.")
    kind = kind_in(folder)
    if kind is None:
        raise LotteryError(
            f"'{folder}' holds no run: a run is a folder that `imp`, `sweep`, `instability`, `path` or `run` wrote "
            "(of a recipe the folder above its seed-0), or that of a fit with the files of its logger."
        )
    yield Part(kind, name, folder)
    if kind == "recipe":
        for stage in sorted(folder.glob("seed-*/*/")):
            if (inner := kind_in(stage)) in ("imp", "sweep"):
                yield Part(inner, f"{name} {stage.name}".strip(), stage)


def kind_in(folder: Path) -> str | None:
    """Which experiment wrote a folder, by the names in it, as it may not have ended."""
    if any(folder.glob("parent-*/*-step-*")) or any(folder.glob("parent-*/parent")):
        return "sweep"
    if any(folder.glob("seed-*/level-*")):
        return "imp"
    if (folder / REPORT).is_file() or (folder / REPORT.name).is_file() or any(folder.glob("seed-*/child.json")):
        return "lines"
    if any(folder.glob("seed-*/*/child.json")):
        return "recipe"
    return "fit" if any(any(folder.glob(pattern)) for pattern in FIT) else None


def damaged_in(folder: Path) -> Iterator[str]:
    """What is wrong with the children of a run whose ``child.json`` nobody can read, in sentences."""
    for path in sorted(folder.glob("**/child.json")):
        try:
            read_specification(path.parent)
        except LotteryError as error:
            yield str(error)


def by_number(name: str) -> list[tuple[int, str]]:
    """An order of names by the numbers in them: 2 before 10.

    Example:
        >>> sorted(["level-10", "level-2", "level-2-shuffled"], key=by_number)
        ['level-2', 'level-2-shuffled', 'level-10']
    """
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name) if word]


def load_lines(path: Path, notes: list[str]) -> PathReport | None:
    """A report of lines, or a note that says why it cannot be read."""
    try:
        return PathReport.load(path)
    except LotteryError as error:
        notes.append(str(error))
        return None


def load_rows(path: Path, notes: list[str]) -> list[Row]:
    """Records, or none and a note that says why they cannot be read."""
    try:
        return read_rows(path)
    except LotteryError as error:
        notes.append(str(error))
        return []
