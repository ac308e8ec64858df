"""Records: the one schema of everything that is measured, how rows are made, written and read back."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_lottery.checks import is_number
from lightning_lottery.children.reading import again, why
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import read_text, write_table, write_whole

Row = dict[str, Any]
"""Column to a plain value: text, number, or None where a column says nothing of it."""

COLUMNS = {
    "recipe": "the recipe's name; none outside of one",
    "stage": "the recipe's stage, or the experiment; with `/` behind it a sweep's `NETWORK-step-K`, a level of imp",
    "network": "`dense`, `pruned` (while it trains), `ticket`, a control (`shuffled`, ...), or a sweep's name for it",
    "method": "what removes weights: `PLATON`, `MaskFreezing`, ...; `dense` for nothing",
    "metric": "what was measured; a point on a line is `line/METRIC`, never `METRIC`",
    "value": "the number",
    "n": "samples that it is a mean over, where that is known",
    "seed": "of the network; none for what is of two networks",
    "parent": "seed of the network that children come from",
    "noise": "by what children differ: `SGD noise`, `data order`, ...; none where nothing is said of children",
    "child_a": "of two networks the one at alpha 1: its seed, or the path of its checkpoint",
    "child_b": "of two networks the one at alpha 0",
    "step": "of a network its last optimizer step; of two the step at which they part",
    "alpha": "place on the line, 0 to 1; none for a network, and for what is of a whole line",
    "density": "fraction of the scope that is kept",
    "level": "of iterative pruning, 0 is dense",
    "device": "that computed it",
    "version": "of lightning_lottery; none of records older than the column",
    "commit": "git commit of the folder that it was started in, where it is a repository; of changes it says nothing",
    "time": "when it was done, ISO 8601, UTC",
}
"""Every column and what it says, in order."""

STAMP = ("version", "commit", "time")
"""The columns that whoever finishes the work writes, and no one who measures."""

LINE = "line/"
"""Begins the metric of every point on a line, so that no network's metric is called so."""


def record(**values: Any) -> Row:
    """A row, its columns in order, None in those that are not named; the stamp is not among them unless it is named.

    Example:
        >>> record(stage="here", metric="test_acc", value=0.5, seed=3)["alpha"] is None
        True
    """
    if unknown := values.keys() - COLUMNS.keys():
        raise TypeError(f"Records have no column {', '.join(sorted(unknown))}.")
    return {column: values.get(column) for column in COLUMNS if column in values or column not in STAMP}


def metric_of_line(kind: str, metric: str) -> str:
    """What a measure of a whole line is called: ``error_barrier``, ``recalibrated/error_barrier``.

    Args:
        kind: Of the line; ``"raw"`` needs no word.
        metric: The measure.
    """
    return metric if kind == "raw" else f"{kind}/{metric}"


def is_of_whole_network(row: Row) -> bool:
    """Whether a row is of whole networks or of whole lines between them: tables show these, figures the others too."""
    return not row["metric"].startswith(LINE) and " layer " not in row["metric"]


def stamped(rows: Sequence[Row], commit: str | None) -> list[Row]:
    """Rows with version, commit and time, where they have none yet.

    Args:
        rows: What was measured.
        commit: Of the user's project when the work began, as ``commit_here`` tells it.
    """
    stamp = {"version": _version(), "commit": commit, "time": now()}
    return [row if "version" in row else {**row, **stamp} for row in rows]


def now() -> str:
    """The time as records write it; ``SOURCE_DATE_EPOCH`` (seconds) in its place, for files equal bit for bit."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    time = datetime.fromtimestamp(int(fixed), timezone.utc) if fixed.isdecimal() else datetime.now(timezone.utc)
    return time.isoformat(timespec="seconds")


def commit_here() -> str | None:
    """The git commit of the working directory; None where there is no git, or no repository."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5)
        return run.stdout.strip() or None if run.returncode == 0 else None
    return None


def write_records(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``results.jsonl``, a row a line.

    Raises:
        LotteryError: It cannot be written.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_whole(folder / "results.jsonl", text.encode(), "records")


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``results.jsonl``, and ``results.csv`` with the same columns.

    Raises:
        LotteryError: A file cannot be written.
    """
    write_records(folder, rows)
    write_table(folder / "results.csv", rows, "records", columns=tuple(COLUMNS))


def read_rows(path: Path) -> list[Row]:
    """The rows of ``results.jsonl``, at least one; those that an older version wrote in today's columns.

    Raises:
        LotteryError: It is not there, too large, has no row, or a line that is none.
    """
    try:
        rows = [current(json.loads(line)) for line in read_text(path, "records").splitlines()]
    except (ValueError, RecursionError) as error:
        raise LotteryError(f"{why(error, path, 'records')}. {again(path.parent)}") from error
    wrong = [number for number, row in enumerate(rows, start=1) if not is_row(row)]
    if wrong or not rows:
        fault = f"line {wrong[0]} is no record" if wrong else "there are none in it"
        raise LotteryError(f"The records '{path}' are damaged: {fault}. {again(path.parent)}")
    return rows


def is_row(row: Any) -> bool:
    """Whether a value is a record, as far as tables and figures rely on it."""
    if not isinstance(row, dict) or not {"stage", "metric", "value", "density", "seed"} <= row.keys():
        return False
    words = [row.get(name) for name in ("recipe", "network", "method", "device", *STAMP) if row.get(name) is not None]
    numbers = [row.get(name) for name in ("n", "step", "alpha", "density", "level") if row.get(name) is not None]
    names = [row.get(name) for name in ("seed", "parent", "child_a", "child_b")]
    whole = [value for value in (row["value"], *numbers, *names) if isinstance(value, int)]
    return (
        all(isinstance(word, str) for word in (row["stage"], row["metric"], *words))
        and all(is_number(value) for value in (row["value"], *numbers))
        and not any(isinstance(name, (dict, list)) for name in names)
        and all(abs(value) < 2**63 for value in whole)  # what a column of a table holds
    )


# Records of version 0.1.0: a list of `seeds` in place of `seed` and the children, `sparsity` in place of `density`, and
# the kind of line as the `method`, so that points on a line were called as a network's metric is.

_OF_SEVERAL = re.compile(r"raw|recalibrated|aligned|midpoint|.* layer .*|aligned group .*")
_NETWORKS = {
    "dense": "dense",
    "EarlyBird": "dense",
    "MaskFreezing": "ticket",
    "IterativePruning": "ticket",
    "IterativePruning shuffled": "shuffled",
    "IterativePruning reinitialised": "reinitialised",
}


def current(row: Any) -> Any:
    """A row of an older version in today's columns; any other value as it is."""
    if not isinstance(row, dict) or not isinstance(row.get("seeds"), list) or not is_row({**row, **_DAMAGES_NOTHING}):
        return row
    old = dict(row)
    seeds, sparsity, kind = old.pop("seeds"), old.pop("sparsity", None), str(old.get("method"))
    if any(isinstance(seed, (dict, list)) for seed in seeds) or not (sparsity is None or is_number(sparsity)):
        return row
    sizes = {"density": None if sparsity is None else 1 - sparsity}
    if _OF_SEVERAL.fullmatch(kind):
        ends = dict(zip(("child_a", "child_b"), seeds if len(seeds) == 2 else (), strict=False))
        metric = ("" if old.get("alpha") is None else LINE) + metric_of_line(kind, old["metric"])
        changed = {"method": None, "metric": metric, "seed": None, **ends}
    else:
        changed = {"network": _NETWORKS.get(kind, "pruned"), "seed": seeds[0] if len(seeds) == 1 else None}
    if cell := re.search(r"/([^/]+)-step-\d+$", old["stage"]):
        changed["network"] = cell[1]
    if level := re.search(r"/level-(\d+)", old["stage"]):
        changed["level"] = int(level[1])
    known = {name: value for name, value in {**old, **sizes, **changed}.items() if name in COLUMNS}
    return {**record(**known), **{name: known.get(name) for name in STAMP}}


_DAMAGES_NOTHING = {"density": None, "seed": None}


def labels_of(labels: Mapping[str, Any]) -> dict[str, Any]:
    """What every row of a child says, as a specification of this or an older version holds it."""
    labels = dict(labels)
    if isinstance(seeds := labels.pop("seeds", None), list) and len(seeds) == 1:
        labels["seed"] = seeds[0]
    return labels


def _version() -> str | None:
    with suppress(PackageNotFoundError):
        return version("lightning_lottery")
    return None


def is_accuracy(metric: str) -> bool:
    """Whether a metric is a share of samples by its name."""
    return re.search(r"(^|[^a-z])acc", metric.lower()) is not None
