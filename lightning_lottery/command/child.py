"""``lightning-lottery child``: the work of one folder, in this process."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from lightning_lottery.children.cli import COMMANDS
from lightning_lottery.children.fit import train
from lightning_lottery.children.processes import end_with_starter
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.children.resume import Work, do_child
from lightning_lottery.command.subcommands import SUBCOMMANDS
from lightning_lottery.experiments.sections import SECTIONS, run_section
from lightning_lottery.experiments.siblings import judge_lines
from lightning_lottery.experiments.trial import try_out


def child(arguments: Sequence[str]) -> None:
    """Do the child of a folder."""
    end_with_starter()
    parser = ArgumentParser(prog="lightning-lottery child")
    for option in SUBCOMMANDS["child"].options:
        option.add_to(parser)
    options = parser.parse_args(list(arguments))
    works: dict[str, Work] = {command: train for command in (*COMMANDS, "start")}
    works |= {"lines": judge_lines, TRIAL: try_out, **dict.fromkeys(SECTIONS, run_section)}
    do_child(Path(options.folder), works, wait=options.wait)
