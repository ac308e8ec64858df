"""``lightning-lottery instability``, ``sweep`` and ``imp``: experiments that train children."""

import shlex
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_lottery.children.cli import resolve
from lightning_lottery.children.slurm import commands, write_slurm
from lightning_lottery.children.yaml_project import YamlProject
from lightning_lottery.command.options import CKPT_PATH, THE_PROJECT, add_redo, seeds_of
from lightning_lottery.experiments.sections import SECTIONS, read_section


def instability(arguments: Sequence[str]) -> None:
    """Train children of one checkpoint with different seeds, then judge the straight lines between them.

    Example: ``lightning-lottery instability --config mine.yaml --ckpt_path k.ckpt --seeds 1,2,3``

    Every option of ``fit`` is one here. The YAML may have a section ``instability``: threshold, alphas, ticket, ...
    ``lightning-lottery fit --help`` lists both.
    """
    parser = _parser_of(instability, "of the children, such as 1,2,3; default: the YAML's, else 1,2")
    parser.add_argument("--ticket", default=None, help="whose masks every child keeps")
    _run("instability", *parser.parse_known_args(list(arguments)))


def sweep(arguments: Sequence[str]) -> None:
    """From which step on is a network stable to SGD noise? Instability analyses at many steps of several parents.

    Example: ``lightning-lottery sweep --config mine.yaml --sweep.steps [0,10,30,100,300] --sweep.search bisect``

    Every option of ``fit`` is one here. The YAML may have a section ``sweep``: steps, parents, pruners, search, ...
    ``lightning-lottery fit --help`` lists both.
    """
    parser = _parser_of(sweep, "of the children of the first parent, such as 1,2,3; default: the YAML's")
    _run("sweep", *parser.parse_known_args(list(arguments)))


def imp(arguments: Sequence[str]) -> None:
    """Iterative pruning with rewinding: train, remove a fraction of what remains, rewind, level by level.

    Example: ``lightning-lottery imp --config mine.yaml --imp.sparsity 0.9 --imp.rewind_step 100 --seeds 0,1,2``

    Every option of ``fit`` is one here. The YAML may have a section ``imp``: prune_fraction, levels, controls, ...
    ``lightning-lottery fit --help`` lists both.
    """
    parser = _parser_of(imp, "each trains all levels, such as 0,1,2; default: the YAML's, else 0")
    _run("imp", *parser.parse_known_args(list(arguments)))


def _parser_of(command: Callable[[Sequence[str]], None], seeds: str) -> ArgumentParser:
    """The options of every experiment's command.

    It is argparse's own parser: jsonargparse's cannot leave to ``fit`` what it does not know itself.
    """
    name = command.__name__
    begin = "" if command is sweep else CKPT_PATH  # a sweep has parents instead
    parser = ArgumentParser(
        prog=f"lightning-lottery {name}",
        usage=f"lightning-lottery {name} --config FILE [options]",
        description=command.__doc__,
        epilog=THE_PROJECT + begin,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", default=None, help=seeds)
    parser.add_argument("--jobs", type=int, default=1, help="children trained at once, each with its share of devices")
    parser.add_argument("--out", default=f"runs/{name}", help="folder for children, records, figures and curves")
    add_redo(parser, "child")
    parser.add_argument("--dask", default=None, help="address of a Dask scheduler whose workers train the children")
    parser.add_argument("--dry_run", action="store_true", help="only print the commands of the children, for a cluster")
    parser.add_argument("--slurm", action="store_true", help="only write SLURM job arrays of them into OUT/slurm")
    return parser


def _run(name: str, options: Namespace, fit_arguments: Sequence[str]) -> None:
    """Run an experiment, or only say how its children are trained; what its parser did not know is for ``fit``."""
    config = resolve([name, *fit_arguments], SECTIONS)
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
