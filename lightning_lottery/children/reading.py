"""What finished children left, read as files that anybody may have damaged: with bounds, and refused in a sentence."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_lottery.checks import is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import read_text

Row = dict[str, Any]

DEEPEST = 100
"""Levels of a configuration, and of whatever else children leave."""

MOST_VALUES = 1_000_000
"""Values in one of them."""


def again(folder: Path) -> str:
    """What to do about a child's folder that is no use, as the end of a sentence."""
    return (
        f"To run it again, and what depends on it: --redo {folder.name}, or the stage's name where a recipe runs it "
        "(in Python: `redo`)"
    )


def is_bounded(value: Any) -> bool:
    """Whether nested mappings and lists are no deeper, and hold no more, than anybody writes.

    A short YAML may name one list in many others, or in itself: written out, it has no end.
    """
    values, count = [(value, 0)], 0
    while values:
        inner, depth = values.pop()
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            return False
        if isinstance(inner, dict):
            values += [(each, depth + 1) for each in inner.values()]
        elif isinstance(inner, list):
            values += [(each, depth + 1) for each in inner]
    return True


def read_json(path: Path, what: str) -> Any:
    """The value in a JSON file of a child's.

    Args:
        path: In the child's folder.
        what: What the file is, for the refusal: "mark".

    Raises:
        LotteryError: It is not there, too large, nested too deep, or no JSON.
    """
    try:
        value = json.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:  # LotteryError among them
        raise LotteryError(f"{_why(error, path, what)}. {again(path.parent)}") from error
    if not is_bounded(value):
        raise LotteryError(f"The {what} '{path}' is damaged: it is nested too deep. {again(path.parent)}")
    return value


def read_mapping(path: Path, what: str, fits: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The mapping in a JSON file of a child's.

    Args:
        path: In the child's folder.
        what: What the file is, for the refusal.
        fits: For each key that must be there whether its value can be one.

    Raises:
        LotteryError: As ``read_json``; or it is no mapping, or lacks a key, or has another type of value there.
    """
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise LotteryError(f"The {what} '{path}' is damaged: it holds no mapping. {again(path.parent)}")
    for key, is_one in fits.items():
        if key not in values or not is_one(values[key]):
            raise LotteryError(f"The {what} '{path}' is damaged: its '{key}' is missing or none. {again(path.parent)}")
    return values


def read_rows(path: Path) -> list[Row]:
    """The rows of ``results.jsonl``, at least one.

    Raises:
        LotteryError: It is not there, too large, has no row, or a line that is none.
    """
    try:
        rows = [json.loads(line) for line in read_text(path, "records").splitlines()]
    except (ValueError, RecursionError) as error:
        raise LotteryError(f"{_why(error, path, 'records')}. {again(path.parent)}") from error
    wrong = [number for number, row in enumerate(rows, start=1) if not is_row(row)]
    if wrong or not rows:
        fault = f"line {wrong[0]} is no record" if wrong else "there are none in it"
        raise LotteryError(f"The records '{path}' are damaged: {fault}. {again(path.parent)}")
    return rows


def is_row(row: Any) -> bool:
    """Whether a value is a record, as far as tables and figures rely on it."""
    if not isinstance(row, dict) or not {"stage", "metric", "value", "sparsity", "seeds"} <= row.keys():
        return False
    words = (row["stage"], row["metric"], row.get("method", ""))
    numbers = [value for value in (row["sparsity"], row.get("alpha")) if value is not None]
    seeds = row["seeds"]
    return (
        all(isinstance(word, str) for word in words)
        and all(is_number(value) for value in (row["value"], *numbers))
        and isinstance(seeds, list)
        and not any(isinstance(value, (dict, list)) for value in (*seeds, row.get("parent")))
    )


def is_mapping(value: Any) -> bool:
    """Whether it is a mapping."""
    return isinstance(value, dict)


def is_word(value: Any) -> bool:
    """Whether it is a string."""
    return isinstance(value, str)


def _why(error: Exception, path: Path, what: str) -> str:
    if isinstance(error, LotteryError):
        return str(error).rstrip(".")
    return f"The {what} '{path}' {'are' if what == 'records' else 'is'} damaged: {error}"
