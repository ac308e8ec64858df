"""Options of subcommands: read from the signature and the docstring of the function that does the work."""

from argparse import ArgumentError
from collections.abc import Callable, Collection, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_lottery.errors import LotteryError

THE_PROJECT = """
the project, and everything else that fit takes:
  --config FILE         fit's YAML; several lay one over another, and options after them lie over all
  --model CLASS, --data CLASS
                        package.Class, where the YAML names none: a program's own LightningCLI(Model, Data) saved it
"""
"""Help for commands that leave the project to the parser of ``fit``."""

CKPT_PATH = """  --ckpt_path FILE      checkpoint that training goes on from; default: none, the module as built
"""


def parser_of(
    subcommand: str, function: Callable[..., Any], *, skip: Collection[str] = (), positional: bool = False
) -> ArgumentParser:
    """A parser whose options are a function's arguments.

    Args:
        subcommand: Of ``lightning-lottery``.
        function: Its docstring is the help.
        skip: Arguments that are no options.
        positional: Whether arguments without a default are given by their position.
    """
    # Mistakes are raised and not printed: `main` tells all of them alike, in one sentence.
    parser = ArgumentParser(prog=f"lightning-lottery {subcommand}", exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(function, skip=set(skip), as_positional=positional)
    return parser


def add_redo(parser: Any, what: str) -> None:
    """Add ``--redo``, which may be given several times."""
    parser.add_argument("--redo", action="append", default=[], help=f"{what} to run again, and what depends on it")


def parsed(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """What a command line says.

    Raises:
        LotteryError: An option that does not exist, or a value that is none.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise LotteryError(" ".join(str(error).split())) from error


def seeds_of(text: str) -> list[int]:
    """The seeds of ``--seeds 0,1,2``.

    Raises:
        LotteryError: They are no numbers.
    """
    try:
        return [int(number) for number in str(text).split(",")]
    except ValueError as error:
        raise LotteryError(f"--seeds are numbers separated by commas, got '{text}'.") from error
