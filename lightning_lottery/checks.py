"""Refusals of arguments that mean nothing: one function for each kind of argument.

Each raises ``LotteryError`` with what the argument is, what would be allowed, and what was given.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_lottery.errors import LotteryError


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; a bool is neither, although Python counts it as an int."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any, least: int = 0) -> bool:
    """Whether it is a whole number of at least so much."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_count(name: str, value: Any, what: str, *, least: int = 1) -> None:
    """Refuse anything but an int of at least ``least``.

    Args:
        name: Of the argument.
        value: What was given.
        what: What it is, as in "a number of optimizer steps".
        least: The smallest that is allowed.

    Raises:
        LotteryError: ``value`` is none.

    Example:
        >>> check_count("interval", 0, "a number of optimizer steps")
        Traceback (most recent call last):
        lightning_lottery.errors.LotteryError: `interval` is a number of optimizer steps >= 1, got 0.
    """
    if not is_count(value, least):
        raise LotteryError(f"`{name}` is {what} >= {least}, got {value!r}.")


def check_counts(what: str, *, least: int = 1, **values: Any) -> None:
    """Refuse the first of several arguments that is not an int of at least ``least``.

    Args:
        what: What each of them is, as in "a number".
        least: The smallest that is allowed.
        values: Name to value.

    Raises:
        LotteryError: One is none.

    Example:
        >>> check_counts("a number", layers=2, heads=0)
        Traceback (most recent call last):
        lightning_lottery.errors.LotteryError: `heads` is a number >= 1, got 0.
    """
    for name, value in values.items():
        check_count(name, value, what, least=least)


def check_positive(name: str, value: Any, what: str) -> None:
    """Refuse anything but a finite number above 0.

    Args:
        name: Of the argument.
        value: What was given.
        what: What it is, as in "the loss that still counts as a match".

    Raises:
        LotteryError: ``value`` is none.
    """
    if not is_number(value) or not 0 < value < math.inf:  # NaN fails both
        raise LotteryError(f"`{name}` is {what}, > 0, got {value!r}.")


def check_fraction(name: str, value: Any, what: str, *, zero: bool = True, one: bool = False) -> None:
    """Refuse anything but a number between 0 and 1.

    Args:
        name: Of the argument.
        value: What was given.
        what: What it is, as in "the fraction removed".
        zero: Whether 0 is allowed.
        one: Whether 1 is allowed.

    Raises:
        LotteryError: ``value`` is none.

    Example:
        >>> check_fraction("sparsity", 1.0, "the fraction removed")
        Traceback (most recent call last):
        lightning_lottery.errors.LotteryError: `sparsity` is the fraction removed, in [0, 1), got 1.0.
    """
    inside = is_number(value) and (0 < value < 1 or (zero and value == 0) or (one and value == 1))
    if not inside:
        raise LotteryError(f"`{name}` is {what}, in {'[' if zero else '('}0, 1{']' if one else ')'}, got {value!r}.")


def check_word(name: str, value: Any, words: Sequence[Any]) -> None:
    """Refuse anything but one of several words.

    Raises:
        LotteryError: ``value`` is none of them.

    Example:
        >>> check_word("per", "layer", ("all", "tensor"))
        Traceback (most recent call last):
        lightning_lottery.errors.LotteryError: `per` is 'all' or 'tensor', got 'layer'.
    """
    if value not in words:
        first, last = [repr(word) for word in words[:-1]], repr(words[-1])
        allowed = f"{', '.join(first)} or {last}" if first else last
        raise LotteryError(f"`{name}` is {allowed}, got {value!r}.")


def check_words(name: str, values: Any, words: Sequence[Any]) -> None:
    """Refuse anything but a list of at least one of several words.

    Raises:
        LotteryError: ``values`` is no list, an empty one, or holds another word.

    Example:
        >>> check_words("kinds", ["layer"], ("head", "neuron"))
        Traceback (most recent call last):
        lightning_lottery.errors.LotteryError: `kinds` is a list of 'head', 'neuron', got ['layer'].
    """
    is_list = isinstance(values, Collection) and not isinstance(values, str)
    if not is_list or not values or any(value not in words for value in values):
        raise LotteryError(f"`{name}` is a list of {', '.join(map(repr, words))}, got {values!r}.")


def check_name(name: Any) -> None:
    """Refuse a callback's ``name`` that cannot be part of a file's name; None is no name.

    Raises:
        LotteryError: It cannot.
    """
    if name is not None and (not isinstance(name, str) or not name or Path(name).name != name):
        raise LotteryError(f"`name` becomes part of file names and must be a plain word, got {name!r}.")


def check_different(name: str, values: Collection[Any], what: str, *, least: int = 1) -> None:
    """Refuse a list that is too short or holds something twice.

    Args:
        name: Of the argument.
        values: What was given.
        what: What they are, as in "different seeds".
        least: How many there are at least.

    Raises:
        LotteryError: There are fewer, or some are equal.
    """
    if len(values) < least or len(set(values)) != len(values):
        number = {1: "at least one", 2: "at least two"}.get(least, f"at least {least}")
        raise LotteryError(f"`{name}` are {what}, {number}, got {list(values)}.")


def check_seed_range(name: str, values: Collection[Any]) -> None:
    """Refuse what ``seed_everything`` cannot take: anything but ints from 0 to 2**32 - 1.

    Args:
        name: Of the argument.
        values: What was given.

    Raises:
        LotteryError: One is none.

    Example:
        >>> check_seed_range("seeds", [0, -1])
        Traceback (most recent call last):
        lightning_lottery.errors.LotteryError: `seeds` are whole numbers from 0 to 4294967295, got -1.
    """
    for value in values:
        if not is_count(value) or value >= 2**32:
            raise LotteryError(f"`{name}` are whole numbers from 0 to {2**32 - 1}, got {value!r}.")


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Which of several words somebody meant who wrote another; None where none is like it, however it is spelled.

    Example:
        >>> nearest("platton", ["PLATON", "SynFlow"]), nearest("ckpt", ["ticket", "ckpt_path"])
        ('PLATON', 'ckpt_path')
    """
    folded: dict[str, str] = {}
    for name in words:
        folded.setdefault(name.lower(), name)
    longer = [name for name in folded if word and name.startswith(word.lower())]
    close = longer if len(longer) == 1 else get_close_matches(word.lower(), folded, n=1)
    return folded[close[0]] if close else None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The question to put behind a refusal of a word, or nothing.

    Example:
        >>> did_you_mean("sparsty", ["sparsity", "interval"])
        " Did you mean 'sparsity'?"
    """
    name = nearest(word, words)
    return f" Did you mean '{name}'?" if name else ""
