"""What finished children left, read as files that anybody may have damaged: with bounds, and refused in a sentence."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import read_text

TRIAL = "trial"
"""Command, and name of the folder, of a child that trains nothing, done and removed before others are trained."""

DEEPEST = 100
"""Levels of a configuration, and of whatever else children leave."""

MOST_VALUES = 1_000_000
"""Values in one of them."""


def again(folder: Path) -> str:
    """What to do about a child's folder that is no use, as the end of a sentence."""
    return (
        f"To run it again, and what depends on it: --redo {folder.resolve().name}, or the stage's name where a recipe "
        "runs it (in Python: `redo`)"
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
        raise LotteryError(f"{why(error, path, what)}. {again(path.parent)}") from error
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


def is_mapping(value: Any) -> bool:
    """Whether it is a mapping."""
    return isinstance(value, dict)


def is_word(value: Any) -> bool:
    """Whether it is a string."""
    return isinstance(value, str)


def not_a_checkpoint(path: Any) -> LotteryError:
    """What is said of a file that torch does not load; for those that are none it has many exceptions, in its words."""
    return LotteryError(
        f"'{path}' does not load as a checkpoint without executing what is in it: it is none, is truncated, or holds "
        "more than tensors and plain values (hyper-parameters? `save_hyperparameters(ignore=...)`)."
    )


def why(error: Exception, path: Path, what: str) -> str:
    """What is wrong with a file, as the beginning of a sentence."""
    if isinstance(error, LotteryError):
        return str(error).rstrip(".")
    return f"The {what} '{path}' {'are' if what == 'records' else 'is'} damaged: {error}"
