"""``lightning-lottery instability``, ``sweep`` and ``imp``: experiments that train children."""

import shlex
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from lightning_lottery.children.cli import resolve
from lightning_lottery.children.slurm import commands, write_slurm
from lightning_lottery.children.yaml_project import YamlProject
from lightning_lottery.command.options import seeds_of
from lightning_lottery.command.subcommands import SUBCOMMANDS
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.sections import SECTIONS, read_section


def instability(arguments: Sequence[str]) -> None:
    """Train children of one checkpoint with different seeds, then judge the straight lines between them."""
    _run("instability", arguments)


def sweep(arguments: Sequence[str]) -> None:
    """From which step on is a network stable to SGD noise? Instability analyses at many steps of several parents."""
    _run("sweep", arguments)


def imp(arguments: Sequence[str]) -> None:
    """Iterative pruning with rewinding: train, remove a fraction of what remains, rewind, level by level."""
    _run("imp", arguments)


def _run(name: str, arguments: Sequence[str]) -> None:
    """Run an experiment, or only say how its children are trained; what its parser does not know is for ``fit``."""
    # It is argparse's own parser: jsonargparse's cannot leave to `fit` what it does not know itself.
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for option in SUBCOMMANDS[name].options:
        if option.name != "ckpt_path":  # which is one of `fit`, too
            option.add_to(parser)
    try:
        options, of_fit = parser.parse_known_args(list(arguments))
    except ArgumentError as error:
        raise LotteryError(f"`{name}`: {error}.") from error
    config = resolve([name, *of_fit], SECTIONS)
    settings = config.pop(name)
    if options.seeds is not None:
        settings["seeds"] = seeds_of(options.seeds)
    if getattr(options, "ticket", None):
        settings["ticket"] = options.ticket
    experiment = read_section(name, settings)
    project = YamlProject(config)
    begin = {} if name == "sweep" else {"ckpt_path": config["ckpt_path"]}  # a sweep has parents instead
    if not options.dry_run and not options.slurm:
        chosen = {option: getattr(options, option) for option in ("jobs", "dask", "out", "redo")}
        experiment.run(project, **begin, **chosen)
        return
    waves = experiment.plan(project, options.out, **begin, redo=options.redo).waves
    if options.slurm:
        script = write_slurm(waves, Path(options.out) / "slurm")
        print(f"To submit: bash {shlex.quote(str(script))}\nWhen all are done: this command again, without --slurm.")  # noqa: T201
    else:
        print(commands(waves))  # noqa: T201
