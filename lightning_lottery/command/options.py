"""Options of subcommands: read from the signature and the docstring of the function that does the work."""

import argparse
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from lightning_lottery.children.parser_words import in_plain_words
from lightning_lottery.command.subcommands import SUBCOMMANDS
from lightning_lottery.errors import LotteryError


def parser_of(name: str, function: Callable[..., Any]) -> ArgumentParser:
    """A parser of a subcommand: its options in the table of subcommands, and a function's arguments.

    Args:
        name: Of the subcommand.
        function: That of the subcommand's signature.
    """
    subcommand = SUBCOMMANDS[name]
    # Mistakes are raised and not printed: `main` tells all of them alike, in one sentence.
    parser = ArgumentParser(prog=f"lightning-lottery {name}", exit_on_error=False, allow_abbrev=False)
    skip: set[str | int] = set(subcommand.signature.skip) if subcommand.signature else set()
    parser.add_function_arguments(function, skip=skip)
    for option in subcommand.options:
        option.add_to(parser)
    return parser


def words_of(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """What a command line says to a subcommand that takes nothing but the options of the table.

    Raises:
        LotteryError: A value that is none, or a word too many.
    """
    parser = argparse.ArgumentParser(prog=f"lightning-lottery {name}", exit_on_error=False, allow_abbrev=False)
    for option in SUBCOMMANDS[name].options:
        option.add_to(parser)
    try:
        options, left = parser.parse_known_args(list(arguments))
    except ArgumentError as error:
        raise LotteryError(f"`{name}`: {error}.") from error
    if left:
        raise LotteryError(f"`{name}` does not know what to do with '{left[0]}'.")
    return options


def console() -> Console:
    """The terminal's; into a file or a pipe, wide enough for qualified names."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160)


def parsed(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """What a command line says.

    Raises:
        LotteryError: An option that does not exist, or a value that is none.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise LotteryError(in_plain_words(" ".join(str(error).split()))) from error


def seeds_of(text: str) -> list[int]:
    """The seeds of ``--seeds 0,1,2``.

    Raises:
        LotteryError: They are no numbers.
    """
    try:
        return [int(number) for number in str(text).split(",")]
    except ValueError as error:
        raise LotteryError(f"--seeds are numbers separated by commas, got '{text}'.") from error
