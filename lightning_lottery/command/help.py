"""Help that fits a terminal of 80 columns, written from the table of subcommands."""

import re
from collections.abc import Iterable, Iterator
from textwrap import fill

from lightning_lottery.command.signatures import Argument
from lightning_lottery.command.subcommands import LIGHTNINGS, SUBCOMMANDS, Option, Subcommand

WIDTH = 79
COLUMN = 26  # where the words on an option begin

PROJECT = (
    (
        "--config FILE",
        "fit's YAML with model, data and trainer; several lay one over another, options after them on top",
    ),
    ("--model CLASS", "package.Class, where the YAML names none; its arguments: --model.NAME VALUE"),
    ("--data CLASS", "the same of the data module"),
)

COMMONEST = (
    ("--trainer.callbacks+=NAME", "one callback more, by name; its arguments follow: --trainer.callbacks.NAME=VALUE"),
    ("--trainer.max_epochs N", "or --trainer.max_steps N: how long to train"),
    ("--trainer.accelerator NAME", "cpu, gpu, ...; and --trainer.devices N"),
    ("--trainer.precision P", "32-true, bf16-mixed, 16-mixed, ..."),
    ("--trainer.fast_dev_run true", "one batch of everything, to see that it works"),
    ("--optimizer CLASS", "of torch.optim, in place of the module's own; and --lr_scheduler CLASS"),
    ("--seed_everything N", "seed of the run"),
    ("--ckpt_path FILE", "checkpoint that the run goes on from, or that is looked at"),
    ("--print_config", "print the whole configuration and stop: the beginning of a YAML"),
)

OF_TRAINING = ("--trainer.callbacks", "--trainer.max", "--optimizer")
"""How those of them begin that mean nothing to a run that does not train."""

CALLBACKS = (
    "PLATON, MagnitudePruning, SynFlow, SNIP, GraSP, DynamicMask, NetworkSlimming (pruning); "
    "EarlyBird (when to prune); MaskFreezing (train a ticket); Snapshots, ExactResume (checkpoints). "
    "All of Lightning's, too."
)


def usage() -> str:
    """What there is: every subcommand in a line or two."""
    lines = ["usage: lightning-lottery SUBCOMMAND [options]", "", _wrapped(_ABOUT), ""]
    groups = {"Lightning's subcommands, on any project:": LIGHTNINGS, "Of this package:": SUBCOMMANDS.keys()}
    shown: set[str] = set()
    for title, names in groups.items():
        rows = [(name, SUBCOMMANDS[name].does) for name in names if name not in shown]
        lines += [title, *rows_of(rows, column=18), ""]
        shown |= set(names)
    return "\n".join([*lines, _wrapped("`lightning-lottery SUBCOMMAND --help` says more; --version which version.")])


_ABOUT = "Find, verify and ship lottery tickets in a Lightning project that you already have, with the evidence."


def help_of(subcommand: Subcommand) -> str:
    """One subcommand: what it does, examples, options, and where the rest is.

    Args:
        subcommand: Which.
    """
    name, positions = subcommand.name, [option for option in subcommand.options if option.is_position]
    words = ["lightning-lottery", name, *map(_position, positions), "--config FILE" * subcommand.is_on_project]
    lines = ["usage: " + " ".join([*filter(None, words), "[options]"]), "", _wrapped(subcommand.does)]
    lines += [_wrapped(subcommand.more)] if subcommand.more else []
    lines += ["", "Examples:" if len(subcommand.examples) > 1 else "Example:"]
    lines += [line for example in subcommand.examples for line in _command(f"lightning-lottery {example}")]
    if subcommand.is_on_project:
        lines += ["", "The project:", *rows_of(PROJECT)]
    if subcommand.options:
        lines += ["", "Options:" if not subcommand.is_on_project else "Options of this command:"]
        lines += rows_of(
            _row(option) for option in (*positions, *(o for o in subcommand.options if o not in positions))
        )
    if signature := subcommand.signature:
        section = f"{signature.section}." if signature.section else ""
        title = f"Of the experiment, here or in the YAML's section `{signature.section}`:" if section else ""
        lines += ["", title] if title else [] if subcommand.options else ["", "Options:"]
        lines += rows_of(_row_of(argument, section) for argument in signature.arguments)
    if name in (*LIGHTNINGS, "explain"):
        trains = name in ("fit", "explain")
        rows = [row for row in COMMONEST if trains or not row[0].startswith(OF_TRAINING)]
        lines += ["", "The commonest options:", *rows_of(rows, column=34)]
        lines += ["", _wrapped(f"Callbacks by name: {CALLBACKS}")] if trains else []
    return "\n".join([*lines, *_more(subcommand)])


def _more(subcommand: Subcommand) -> Iterator[str]:
    """Where the rest is."""
    if not subcommand.is_on_project:
        return
    command = f"lightning-lottery {subcommand.name if subcommand.name in LIGHTNINGS else 'fit'}"
    yield from ("", "More:")
    yield f"  {command} --help_all: every option of the Trainer"
    yield "  lightning-lottery fit --trainer.callbacks.help PLATON: a callback's arguments"
    if subcommand.name == "fit":
        yield "  lightning-lottery instability --help, sweep, imp: their sections of the YAML"


def _position(option: Option) -> str:
    name = option.name.upper()
    several = f"{name} [{name} ...]" if option.is_required else f"[{name} ...]"
    return {"position": name, "perhaps": f"[{name}]", "several": several}[option.kind]


def _row(option: Option) -> tuple[str, str]:
    name = option.name.upper() if option.is_position else f"--{option.name} {option.value}".rstrip()
    is_shown = option.value and option.default not in (None, "")
    ends = "(required)" if option.is_required and not option.is_position else f"(default: {option.default})"
    return name, f"{option.help} {ends}" if is_shown or ends == "(required)" else option.help


def _row_of(argument: Argument, section: str) -> tuple[str, str]:
    text = argument.help.rstrip(".")
    text = text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
    ends = " (required)" if argument.is_required else f" (default: {argument.default})" if argument.default else ""
    return f"--{section}{argument.name} {argument.value}", text + ends


def rows_of(rows: Iterable[tuple[str, str]], column: int = COLUMN) -> Iterator[str]:
    """Lines of two columns; where the first is too long, the second begins below it.

    Args:
        rows: Pairs of text.
        column: Where the second column begins.
    """
    for name, text in rows:
        first = f"  {name}"
        if len(first) > column - 2:
            yield first
            first = ""
        yield fill(text, WIDTH, initial_indent=first.ljust(column), subsequent_indent=" " * column)


def _command(line: str) -> Iterator[str]:
    """An example, broken as a shell reads it, and never between an option and its value."""
    parts = re.findall(r"--\S+ (?!--|>)\S+|\S+", line)
    written = f"  {parts[0]}"
    for part in parts[1:]:
        if len(written) + len(part) > WIDTH - 3:
            yield f"{written} \\"
            written = "     "
        written += f" {part}"
    yield written


def _wrapped(text: str) -> str:
    return fill(text, WIDTH)
