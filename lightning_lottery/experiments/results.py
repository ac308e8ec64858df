"""All that recipes, experiments and children recorded, as one data frame."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_lottery.children.frames import frame_of, import_pandas
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.children.records import Row, read_rows
from lightning_lottery.errors import LotteryError

if TYPE_CHECKING:
    from pandas import DataFrame

STAGES_BELOW = "seed-*/[0-9]*-*/child.json"
"""Below a recipe's folder, and no other."""

PASSED_OVER = (TRIAL, "lines")
"""Children whose records are of nothing, or stand with their labels in those of the experiment."""

OF_RUNS = ("child.json", "results.jsonl", "seed-*", "parent-*")
"""What lies in the folder of a run: a link to any other folder, such as one of data, is not followed."""

MOST_NAMES = 5
"""How many folders or stages one sentence names."""


def results(*folders: str | os.PathLike[str]) -> "DataFrame":
    """Everything that is recorded in folders of runs, a row for each value, as a data frame of pandas.

    Needs pandas. What is not done yet, cannot be read, is not a number or was written by several versions is said in
    one warning, and kept in ``frame.attrs["missing"]``; the rest is there. ``results.jsonl`` and ``results.csv`` in
    the folder of a recipe or an experiment have the same columns:

    | column | what it says |
    | --- | --- |
    | recipe | the recipe's name; none outside of one |
    | stage | the recipe's stage, or the experiment; with `/` behind it a sweep's `NETWORK-step-K`, a level of imp |
    | network | `dense`, `pruned` (while it trains), `ticket`, a control (`shuffled`, ...), or a sweep's name for it |
    | method | what removes weights: `PLATON`, `MaskFreezing`, ...; `dense` for nothing |
    | metric | what was measured; a point on a line is `line/METRIC`, never `METRIC` |
    | value | the number |
    | n | samples that it is a mean over, where that is known |
    | seed | of the network; none for what is of two networks |
    | parent | seed of the network that children come from |
    | noise | by what children differ: `SGD noise`, `data order`, ...; none where nothing is said of children |
    | child_a | of two networks the one at alpha 1: its seed, or the path of its checkpoint |
    | child_b | of two networks the one at alpha 0 |
    | step | of a network its last optimizer step; of two the step at which they part |
    | alpha | place on the line, 0 to 1; none for a network, and for what is of a whole line |
    | density | fraction of the scope that is kept |
    | level | of iterative pruning, 0 is dense |
    | device | that computed it |
    | version | of lightning_lottery; none of records older than the column |
    | commit | git commit of the folder that it was started in, where it is a repository; of changes it says nothing |
    | time | when it was done, ISO 8601, UTC |

    ``frame[frame.metric == "test_acc"].groupby("stage").value.mean()`` gives the numbers of a recipe's table; the
    metric ``error_barrier`` is that of the raw line, ``recalibrated/error_barrier`` of the recalibrated one.

    Args:
        folders: Each the folder of a recipe (``runs/quickstart``), an experiment, a child, or of several of these
            (``runs``); or a file ``results.jsonl``.

    Returns:
        The frame. Rows of a recipe are of all its seeds and stages that are done, whichever command ran them.

    Raises:
        LotteryError: There is no such folder, nothing was ever run in it, or pandas is not installed.
    """
    import_pandas()  # before anything is read
    if not folders:
        raise LotteryError("`results` needs the folder of a run, such as results('runs/quickstart').")
    if odd := [folder for folder in folders if not isinstance(folder, (str, os.PathLike))]:
        raise LotteryError(f"`results` takes folders of runs, such as results('runs/quickstart'), got {odd[0]!r}.")
    gathering = _Gathering()
    for folder in map(Path, folders):
        if folder.is_file():
            if folder.suffix != ".jsonl":
                raise LotteryError(f"'{folder}' is no records: give the folder of a run, or its results.jsonl.")
            gathering.rows += read_rows(folder)
        elif not folder.is_dir():
            raise LotteryError(f"There is no folder '{folder}': give that of a run, such as runs/quickstart.")
        elif not gathering.walk(folder):
            raise LotteryError(f"Nothing was run in '{folder}': give the folder of a run, such as runs/quickstart.")
    frame = frame_of(gathering.rows)
    frame.attrs["missing"] = missing = list(gathering.missing())
    if missing:
        warnings.warn(" ".join(missing), stacklevel=2)
    return frame


@dataclass
class _Gathering:
    """What runs recorded, and what of them is missing."""

    rows: list[Row] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    entered: dict[Path, bool] = field(default_factory=dict)
    """Folder, as no link leads to it, to whether there is a run in it."""

    def walk(self, folder: Path) -> bool:
        """Take what a folder holds, once, whatever links lead to it; whether there is a run in it."""
        if (real := folder.resolve()) not in self.entered:
            self.entered[real] = False  # a link in it may lead back to it
            self.entered[real] = self._take(folder)
        return self.entered[real]

    def _take(self, folder: Path) -> bool:
        is_child = (folder / "child.json").is_file()
        if is_child and not (folder / "done").is_file():
            self.undone.append(str(folder))
        # A recipe's are those of its last command alone; its stages have all.
        elif (is_child or (folder / "results.jsonl").is_file()) and not any(folder.glob(STAGES_BELOW)):
            self._read(folder)
            self.undone += [] if is_child else _undone(folder)
            return True
        below = [path for path in folder.iterdir() if path.is_dir() and path.name not in PASSED_OVER]
        below = [path for path in below if not path.is_symlink() or any(any(path.glob(name)) for name in OF_RUNS)]
        below.sort(key=lambda path: (path.is_symlink(), _natural(path)))  # a run by its own name first
        return any([self.walk(path) for path in below]) or is_child  # all, whatever the first says

    def _read(self, folder: Path) -> None:
        try:
            rows = read_rows(folder / "results.jsonl")
        except LotteryError as error:
            self.faults.append(str(error))
            return
        recipe = _recipe_of(folder)
        self.rows += [{**row, "recipe": row.get("recipe") or recipe} for row in rows]

    def missing(self) -> Iterator[str]:
        """What a reader of the rows might not see, in sentences."""
        yield from _listed("Not done", self.undone)
        yield from self.faults
        nans = {f"{row['metric']} of {row['stage']}" for row in self.rows if math.isnan(row["value"])}
        yield from _listed("NaN, which means leave out", sorted(nans))
        measured = {row["stage"] for row in self.rows if row["metric"] != "sparsity"}
        yield from _listed("No metric of a validation or test", sorted({row["stage"] for row in self.rows} - measured))
        recipes = sorted({row["recipe"] or "none" for row in self.rows})
        yield from _listed("Of several recipes, so group by `recipe` too", recipes if len(recipes) > 1 else [])
        versions = sorted({row.get("version") or "one that did not say so" for row in self.rows})
        yield from _listed("Written by several versions", versions if len(versions) > 1 else [])


def _undone(folder: Path) -> list[str]:
    """Children of an experiment that are not done, although its records are written: of a later, unfinished command."""
    children = sorted((path.parent for path in folder.glob("**/child.json")), key=_natural)
    return [str(child) for child in children if child.name != TRIAL and not (child / "done").is_file()]


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts `seed-2` before `seed-10`."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", str(path))]


def _recipe_of(folder: Path) -> str | None:
    """The recipe that a folder is a stage of, or lies in one of, for records older than the column that says it."""
    match = re.search(r"([^/]+)/seed-\d+/\d+-[^/]+(/|$)", folder.resolve().as_posix())
    return match[1] if match else None


def _listed(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        yield f"{what}: {', '.join(names[:MOST_NAMES])}{more}."
