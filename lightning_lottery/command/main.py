"""The command: Lightning's subcommands on anybody's project, and ours."""

import os
import sys
from argparse import ArgumentParser as PlainParser
from argparse import Namespace as PlainNamespace
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from lightning_lottery.children.yaml_project import COMMANDS, BuiltCLI, LotteryCLI, YamlProject, mistake_in, resolve
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.hooks.quiet import without_noise

if TYPE_CHECKING:
    from lightning_lottery.children.slurm import Waves


def explain(arguments: Sequence[str]) -> None:
    """Print what a fit would prune, when, and at what cost in memory, without training.

    Example: ``lightning-lottery explain --config recipe.yaml``
    """
    from lightning_lottery.command.explain import explain_fit

    explain_fit(arguments)


def run(arguments: Sequence[str]) -> None:
    """Run the numbered stages of a recipe folder over seeds; what is done is not run again.

    Example: ``lightning-lottery run recipes/quickstart --seeds 0,1,2``
    """
    from lightning_lottery.experiments import recipe

    parser = ArgumentParser(prog="lightning-lottery run", description=run.__doc__)
    parser.add_argument("recipe", help="folder with stages such as 01-dense.fit.yaml")
    parser.add_argument("--seeds", default="0", help="comma-separated, one run of all stages for each")
    parser.add_argument("--out", default="runs", help="where runs go")
    parser.add_argument("--redo", action="append", default=[], help="stage to run again, and what depends on it")
    parser.add_argument("--overlay", default=None, help="a YAML laid over every stage's")
    parser.add_argument("--jobs", type=int, default=1, help="children that a stage trains at the same time")
    parser.add_argument("--dask", default=None, help="scheduler whose workers train a stage's children instead")
    given = parser.parse_args(list(arguments))
    own = {name: given[name] for name in ("out", "redo", "overlay", "jobs", "dask")}
    recipe.run_recipe(given.recipe, _seeds(given.seeds), **own)


def path(arguments: Sequence[str]) -> None:
    """Judge finished networks: the straight line between every two checkpoints, and their error barrier.

    Example: ``lightning-lottery path A.ckpt B.ckpt --config recipe.yaml``
    """
    from rich.console import Console

    from lightning_lottery.children.factories import imported
    from lightning_lottery.connectivity.path import path as lines_between
    from lightning_lottery.experiments.report import write

    parser = ArgumentParser(prog="lightning-lottery path", description=path.__doc__)
    parser.add_argument("checkpoints", nargs="+", help="Lightning checkpoints or plain state dicts, at least two")
    parser.add_argument("--config", required=True, help="the project: fit's YAML")
    parser.add_argument("--monitor", default="test_acc", help="the logged metric that is judged, a fraction")
    parser.add_argument("--mode", default="max", choices=("max", "min"), help="max for an accuracy, min for an error")
    parser.add_argument("--alphas", type=int, default=21, help="places on the line, evenly spaced, both ends included")
    parser.add_argument("--threshold", type=float, default=0.02, help="error barrier below which networks are stable")
    parser.add_argument("--recalibrate", type=int, default=0, help="training batches for batch norm's statistics")
    parser.add_argument("--align", action="store_true", help="also with units in the other's order (git re-basin)")
    parser.add_argument("--save-midpoint", default=None, metavar="PATH", help="write the mean of all networks there")
    parser.add_argument("--layer_alphas", default="", help="places for single layers, such as 0,0.5,1; none: no layers")
    parser.add_argument("--predict", default="", help="package.module:function of predicted classes, to compare them")
    parser.add_argument("--submodule", default="", help="where in the module the checkpoints' weights go")
    parser.add_argument("--out", default="runs/path", help="folder for records, figure and curves")
    given = parser.parse_args(list(arguments))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "callbacks": []}

    with without_noise():
        project = _built(given.config, quiet)
        report = lines_between(
            project.model,
            project.datamodule,
            given.checkpoints,
            trainer=project.trainer,
            alphas=[k / (given.alphas - 1) for k in range(given.alphas)] if given.alphas > 1 else [0.0],
            layer_alphas=_numbers("--layer_alphas", given.layer_alphas, float) if given.layer_alphas else [],
            predict=imported(given.predict) if given.predict else None,
            **{name: given[name] for name in ("monitor", "mode", "threshold", "recalibrate", "submodule")},
            **{name: given[name] for name in ("align", "save_midpoint")},
        )
        if project.trainer.is_global_zero:
            outcome = {"path/error_barrier": report.stability.mean}
            write(report, Path(given.out), run="path", hparams={}, outcome=outcome)
            console = Console()
            console.print(report.table())
            console.print(f"{' '.join(report.sentences())} Records: {given.out}", soft_wrap=True)


def instability(arguments: Sequence[str]) -> None:
    """Train children of one checkpoint with different seeds, then judge the straight lines between them.

    Example: ``lightning-lottery instability --config recipe.yaml --ckpt_path k.ckpt --seeds 1,2,3``

    Every option of ``fit`` is one here; the YAML may have a section ``instability``: threshold, alphas, ticket, ...
    """
    parser = _parser_of_experiment(instability, "of the children, comma-separated; default: the YAML's, else 1,2")
    parser.add_argument("--ticket", default=None, help="whose masks every child keeps")
    _experiment("instability", *parser.parse_known_args(list(arguments)))


def sweep(arguments: Sequence[str]) -> None:
    """From which step on is a network stable to SGD noise? Instability analyses at many steps of several parents.

    Example: ``lightning-lottery sweep --config recipe.yaml --sweep.steps [0,10,30,100,300] --sweep.search bisect``

    Every option of ``fit`` is one here; the YAML may have a section ``sweep``: steps, parents, pruners, search, ...
    """
    parser = _parser_of_experiment(sweep, "of the children of the first parent, comma-separated; default: the YAML's")
    _experiment("sweep", *parser.parse_known_args(list(arguments)))


def imp(arguments: Sequence[str]) -> None:
    """Iterative pruning with rewinding: train, remove a fraction of what remains, rewind, level by level.

    Example: ``lightning-lottery imp --config recipe.yaml --imp.sparsity 0.9 --imp.rewind_step 100 --seeds 0,1,2``

    Every option of ``fit`` is one here; the YAML may have a section ``imp``: prune_fraction, levels, controls, ...
    """
    parser = _parser_of_experiment(imp, "each trains all levels, comma-separated; default: the YAML's, else 0")
    _experiment("imp", *parser.parse_known_args(list(arguments)))


def shrink(arguments: Sequence[str]) -> None:
    """Write a smaller network: without the heads, neurons and channels that a ticket or a fraction removes.

    Example: ``lightning-lottery shrink --config recipe.yaml --ckpt_path last.ckpt --submodule network --heads 0.5``
    """
    from lightning_lottery.command.shrink import shrink_checkpoint

    parser = ArgumentParser(prog="lightning-lottery shrink", description=shrink.__doc__)
    parser.add_argument("--config", required=True, help="the project: fit's YAML")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint of the project's module")
    parser.add_argument("--ticket", default=None, help="whose masks of units say what is kept")
    for kind in ("heads", "neurons", "channels"):
        parser.add_argument(
            f"--{kind}", type=float, default=0.0, help="in place of a ticket: fraction of them to remove"
        )
    parser.add_argument("--submodule", default="", help="the network within the module that is written")
    parser.add_argument("--batches", type=int, default=16, help="training batches that units are scored on")
    parser.add_argument("--out", default="runs/shrink", help="folder for the smaller network")
    options = parser.parse_args(list(arguments))
    with without_noise():
        table = shrink_checkpoint(**options.as_dict())
    print(f"{table}\nThe smaller network: {options.out}")  # noqa: T201


def child(arguments: Sequence[str]) -> None:
    """Run the child of one folder: what ``run`` starts for each stage.

    Example: ``lightning-lottery child runs/quickstart/seed-0/1-dense``
    """
    from lightning_lottery.children.child import Work, do_child
    from lightning_lottery.children.fit import train
    from lightning_lottery.children.processes import end_with_starter
    from lightning_lottery.experiments.sections import run_section
    from lightning_lottery.experiments.siblings import judge_lines

    end_with_starter()
    parser = ArgumentParser(prog="lightning-lottery child", description=child.__doc__)
    parser.add_argument("folder", help="the child's folder")
    parser.add_argument("--wait", action="store_true", help="wait where another process is in the folder")
    given = parser.parse_args(list(arguments))
    commands: dict[str, Work] = {command: train for command in (*COMMANDS, "start")}
    commands |= {"lines": judge_lines, **dict.fromkeys(SECTIONS, run_section)}
    do_child(Path(given.folder), commands, wait=given.wait)


def _built(config: str, trainer: dict[str, Any]) -> BuiltCLI:
    """Module, data and Trainer of a fit's YAML, with arguments of the Trainer's that override its own."""
    arguments = ["fit", "--seed_everything", "0", "--config", config]
    return BuiltCLI(arguments, sections=SECTIONS, trainer=lambda _: trainer)


def _experiment(name: str, options: PlainNamespace, of_fit: Sequence[str]) -> None:
    """Run an experiment, or tell the commands of its children.

    Args:
        name: Of the experiment and its section.
        options: Of the experiment's command.
        of_fit: What its parser did not know, for ``fit``.
    """
    from lightning_lottery.experiments.sections import read_section

    config = resolve([name, *of_fit], SECTIONS)
    experiment = read_section(name, config.pop(name))
    if options.seeds is not None:
        experiment = replace(experiment, seeds=tuple(_seeds(options.seeds)))
    if getattr(options, "ticket", None):
        experiment = replace(experiment, ticket=options.ticket)
    begin = {} if name == "sweep" else {"ckpt_path": config["ckpt_path"]}  # a sweep has parents instead
    if options.dry_run or options.slurm:
        plan = experiment.plan(YamlProject(config), options.out, **begin, redo=options.redo)
        _tell_commands(plan.waves, options)
    else:
        how = {option: getattr(options, option) for option in ("jobs", "dask", "out", "redo")}
        experiment.run(YamlProject(config), **begin, **how)


def _parser_of_experiment(command: Callable[[Sequence[str]], None], seeds: str) -> PlainParser:
    """The options of every experiment; what it does not know is left to ``fit``."""
    name = command.__name__
    parser = PlainParser(
        prog=f"lightning-lottery {name}",
        description=command.__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", default=None, help=seeds)
    parser.add_argument("--jobs", type=int, default=1, help="children trained at once, each with its share of devices")
    parser.add_argument("--out", default=f"runs/{name}", help="folder for children, records, figures and curves")
    parser.add_argument("--redo", action="append", default=[], help="child to train again, and what depends on it")
    parser.add_argument("--dask", default=None, help="address of a Dask scheduler whose workers train the children")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands of the children, for a cluster")
    parser.add_argument("--slurm", action="store_true", help="only write SLURM job arrays of them into OUT/slurm")
    return parser


def _tell_commands(waves: "Waves", options: PlainNamespace) -> None:
    """Print the commands of children that are not done, or write SLURM job arrays of them."""
    from lightning_lottery.children.slurm import commands, write_slurm

    if options.slurm:
        script = write_slurm(waves, Path(options.out) / "slurm")
        print(f"To submit: bash {script}\nAt last this command again, without --slurm.")  # noqa: T201
    else:
        print(commands(waves))  # noqa: T201


def _seeds(given: object) -> list[int]:
    return _numbers("--seeds", given, int)


def _numbers(option: str, given: object, kind: type) -> list[Any]:
    try:
        return [kind(number) for number in str(given).split(",")]
    except ValueError as error:
        raise LotteryError(f"{option} are numbers separated by commas, got '{given}'.") from error


OURS: dict[str, Callable[[Sequence[str]], None]] = {
    "explain": explain,
    "path": path,
    "instability": instability,
    "sweep": sweep,
    "imp": imp,
    "shrink": shrink,
    "run": run,
    "child": child,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a user's mistake is one sentence on stderr and exit code 2.

    Args:
        arguments: Command line without the program's name; default: the program's own.
    """
    import lightning_lottery.zoo  # noqa: F401 (its classes answer to their short names once imported)

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the project's own modules, as under `python -m`
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given or given[0] in ("-h", "--help"):
            print(_usage())  # noqa: T201
        elif given[0] in OURS:
            OURS[given[0]](given[1:])
        elif given[0] not in COMMANDS and not given[0].startswith("-"):
            raise LotteryError(f"There is no subcommand '{given[0]}': there are {', '.join([*COMMANDS, *OURS])}.")
        else:
            LotteryCLI(given, sections=SECTIONS)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        mistake = mistake_in(error)
        if mistake is None:
            raise
        print(f"lightning-lottery: error: {mistake}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error


def _usage() -> str:
    lines = ["usage: lightning-lottery SUBCOMMAND [...]", "", "Lightning's subcommands, on any project:"]
    lines += [f"  {name}" for name in COMMANDS]
    lines += ["", "of this package:"]
    lines += [f"  {name:12} {(command.__doc__ or '').splitlines()[0]}" for name, command in OURS.items()]
    return "\n".join([*lines, "", "lightning-lottery SUBCOMMAND --help says more."])
