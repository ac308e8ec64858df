"""The command: Lightning's subcommands on anybody's project, and ours.

Nothing slow is imported before it is known what is asked: ``--help`` and a mistyped subcommand are answered at once.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from lightning_lottery.children.signals import Ended
from lightning_lottery.errors import LotteryError

LIGHTNINGS = ("fit", "validate", "test", "predict")
"""The subcommands that Lightning itself runs."""

OURS = {
    "explain": (
        "explain:explain_fit",
        "Print what a fit would prune, when, and at what cost in memory, without training.",
    ),
    "path": (
        "path:judge_checkpoints",
        "Judge finished networks: the straight line between every two checkpoints, and its error barrier.",
    ),
    "instability": (
        "experiments:instability",
        "Train children of one checkpoint with different seeds, then judge the straight lines between them.",
    ),
    "sweep": (
        "experiments:sweep",
        "From which step on is a network stable to SGD noise? Instability analyses at many steps of several parents.",
    ),
    "imp": (
        "experiments:imp",
        "Iterative pruning with rewinding: train, remove a fraction of what remains, rewind, level by level.",
    ),
    "predict-tickets": (
        "predict_tickets:predict",
        "Does stability at a step go with a good ticket found there? Read from a finished sweep and iterative pruning.",
    ),
    "shrink": (
        "shrink:write_shrunk",
        "Write a smaller network: without the heads, neurons and channels that a ticket or fractions remove.",
    ),
    "run": ("run:run", "Run the numbered stages of a recipe folder over seeds; what is done is not run again."),
    "child": ("child:child", "Run the child of one folder: what `run` starts for each stage."),
}
"""Each of our subcommands: the file of this folder and its function that answers it, and what it does."""


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
        print(_usage())  # noqa: T201
    elif first == "--version":
        print(f"lightning-lottery {version('lightning_lottery')}")  # noqa: T201
    elif first not in (*LIGHTNINGS, *OURS) and not first.startswith("-"):
        raise LotteryError(f"There is no subcommand '{first}': there are {', '.join([*LIGHTNINGS, *OURS])}.")
    elif first in OURS:
        if first != "run":  # which does it itself, once there is a recipe to run
            _import_what_yaml_names()
        module, function = OURS[first][0].split(":")
        getattr(import_module(f"lightning_lottery.command.{module}"), function)(words[1:])
    else:
        _import_what_yaml_names()
        from lightning_lottery.children.cli import LotteryCLI
        from lightning_lottery.experiments.sections import SECTIONS

        LotteryCLI(words, sections=SECTIONS)


def _import_what_yaml_names() -> None:
    """Import the zoo: jsonargparse finds a class by its short name only where the class has been imported."""
    import lightning_lottery.zoo  # noqa: F401


def _refuse(mistake: Exception) -> None:
    print(f"lightning-lottery: error: {mistake}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from mistake


def _usage() -> str:
    lines = ["usage: lightning-lottery SUBCOMMAND [...]", "", "Lightning's subcommands, on any project:"]
    lines += [f"  {name}" for name in LIGHTNINGS]
    lines += ["", "of this package:"]
    lines += [f"  {name:16} {sentence}" for name, (_, sentence) in OURS.items()]
    return "\n".join([*lines, "", "lightning-lottery SUBCOMMAND --help says more."])
