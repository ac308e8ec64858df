"""The command: Lightning's subcommands on anybody's project, and ours.

Nothing slow is imported before it is known what is asked: help, typos and missing files are answered at once.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from lightning_lottery.children.signals import Ended
from lightning_lottery.command.at_once import checked, subcommand_of
from lightning_lottery.command.help import help_of, usage
from lightning_lottery.command.subcommands import LIGHTNINGS, Subcommand
from lightning_lottery.errors import LotteryError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake is one sentence on stderr and exit code 2.

    Args:
        arguments: Command line without the program's name; default: the program's own.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the project's own modules, as under `python -m`
    try:
        _answer(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print("lightning-lottery: interrupted.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
    except Ended as end:
        print(f"lightning-lottery: {end}", file=sys.stderr)  # noqa: T201
        raise SystemExit(end.code) from None
    except LotteryError as error:
        _refuse(error)
    except Exception as error:
        # A mistake may lie below what the parser or Lightning raised; to look there takes what is imported by now.
        from lightning_lottery.children.cli import mistake_in

        mistake = mistake_in(error)
        if mistake is None:
            raise
        _refuse(mistake)


def _answer(words: Sequence[str]) -> None:
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(usage())  # noqa: T201
    elif first == "--version":
        print(f"lightning-lottery {version('lightning_lottery')}")  # noqa: T201
    elif first.startswith("-"):
        raise LotteryError(f"A subcommand comes first, before '{first}': `lightning-lottery --help` lists them.")
    elif first == "warm":  # which nobody types: whoever starts children does
        _import_what_yaml_names()
        import_module("lightning_lottery.command.warm").warm(words[1:])
    else:
        _answer_subcommand(subcommand_of(first), words[1:])


def _answer_subcommand(subcommand: Subcommand, words: Sequence[str]) -> None:
    if {"-h", "--help"} & {*words}:
        print(help_of(subcommand))  # noqa: T201
        return
    if subcommand.is_on_project and {"--help_all", "--help-all"} & {*words}:
        lightnings = subcommand.name if subcommand.name in LIGHTNINGS else "fit"
        _run_lightnings([lightnings, "--help"])
        return
    words = checked(subcommand, words)
    if subcommand.answer:
        if subcommand.imports_zoo:
            _import_what_yaml_names()
        module, function = subcommand.answer.split(":")
        getattr(import_module(f"lightning_lottery.command.{module}"), function)(words)
    else:
        _run_lightnings([subcommand.name, *words])


def _run_lightnings(words: Sequence[str]) -> None:
    _import_what_yaml_names()
    from lightning_lottery.children.cli import LotteryCLI
    from lightning_lottery.experiments.sections import SECTIONS

    LotteryCLI(words, sections={} if words[1:] == ["--help"] else SECTIONS)


def _import_what_yaml_names() -> None:
    """Import the zoo: jsonargparse finds a class by its short name only where the class has been imported."""
    import lightning_lottery.zoo  # noqa: F401


def _refuse(mistake: Exception) -> None:
    print(f"lightning-lottery: error: {mistake}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from mistake
