"""Run a recipe: the numbered stages of a folder in order, each a child, over seeds."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lightning_lottery.checks import check_count, check_different, check_seed_range
from lightning_lottery.children.environment import DASK, JOBS, PROVISIONAL, environment
from lightning_lottery.children.records import is_of_whole_network, write_results
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.stages import stages_of
from lightning_lottery.files import read_text, write_image, write_whole

if TYPE_CHECKING:
    from lightning_lottery.children.child import Child

AT_THE_END = "at_the_end.py"
"""A script that a recipe may bring, for what no stage says: comparisons of stages, pictures of its own."""


def run_recipe(
    recipe: str | os.PathLike[str],
    seeds: Sequence[int] = (0,),
    *,
    out: str | os.PathLike[str] = "runs",
    redo: Collection[str] = (),
    overlay: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    jobs: int = 1,
    dask: str | None = None,
) -> dict[str, Any]:
    """Run every stage for every seed, each in a process of its own; what is done is not run again.

    A stage's files go to ``OUT/RECIPE/seed-S/STAGE/``. In its YAML ``${oc.env:LOTTERY_RUN}`` is ``OUT/RECIPE/seed-S``,
    by which stages name one another's files. At the end tables over seeds, ``results.jsonl``, ``results.csv``,
    ``summary.json``, and pictures as PNG and SVG: ``summary`` and, of analyses, ``stability``, of iterative pruning
    ``levels``, of sweeps ``barrier``. For each analysis of stability the verdict over the seeds, which are its parents,
    stands in ``verdicts.json``. ``${stable_step:01-when-stable}`` is the step k* that the sweep of that stage found;
    without one the stage that names it is refused. A script ``at_the_end.py`` that the recipe brings runs last, in
    ``OUT/RECIPE``.

    Args:
        recipe: Folder with stages ``01-NAME.SUBCOMMAND.yaml``, ``02-...``.
        seeds: One run of all stages for each.
        out: Where runs go.
        redo: Names of stages to run again, and with them the stages that use their files.
        overlay: A YAML that is laid over every stage's, or several, later ones over earlier ones.
        jobs: Children that a stage of several trains at the same time.
        dask: Address of a Dask scheduler whose workers train them instead.

    Returns:
        The summary: stage to metric to ``mean``, ``sd`` (None for one seed), ``n`` and ``values`` over seeds.

    Raises:
        LotteryError: A stage is refused, changed since it ran, or failed, or the script at the end did; what is done
            stays.
    """
    recipe = Path(recipe)
    stages = stages_of(recipe)
    check_different("seeds", seeds, "different numbers")
    check_seed_range("seeds", seeds)
    check_count("jobs", jobs, "a number of children at the same time")
    overlays = [Path(each) for each in ([overlay] if isinstance(overlay, (str, os.PathLike)) else overlay or ())]
    for each in overlays:
        read_text(each, "overlay")
    # Only now: this takes seconds to import, which a recipe that is not there need not wait for.
    from lightning_lottery.children.child import discard_with_dependents
    from lightning_lottery.experiments.stage_children import (
        child_of_stage,
        is_known,
        refuse_changed,
        refuse_repeated,
        run_stage,
    )

    target = Path(out) / recipe.resolve().name
    folders = {seed: target / f"seed-{seed}" for seed in seeds}
    with environment(**{PROVISIONAL: "1"}):  # all, before any runs
        runs = {
            seed: [child_of_stage(stage, seed, folder, overlays) for stage in stages]
            for seed, folder in folders.items()
        }
    again = {*redo, *(stage.name for stage in stages if stage.waits_for(overlays) & {*redo})}
    for children in runs.values():
        discard_with_dependents(children, again)
    sure = [child for children in runs.values() for child in children if is_known(child, stages, overlays)]
    refuse_changed(sure)
    refuse_repeated(runs)
    console = Console()
    for seed, children in runs.items():
        for number, stage in enumerate(stages, start=1):
            if stage.waits_for(overlays):  # its step k* is known only now; any other configuration is already final
                children[number - 1] = child_of_stage(stage, seed, folders[seed], overlays)
            child = children[number - 1]
            with environment(**{JOBS: str(jobs)}, **({DASK: dask} if dask else {})):
                run_stage(child, f"seed {seed} · {child.folder.name} ({number}/{len(children)})", console)
    return _end(
        recipe, target, runs, console, takes_more_seeds=not {stage.command for stage in stages} & {"imp", "sweep"}
    )


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stage to metric to mean, standard deviation, count and values over networks, or over pairs of them.

    Example:
        >>> from lightning_lottery.children.records import record
        >>> rows = [record(stage="01-dense", metric="test_acc", value=value) for value in (0.5, 1.0)]
        >>> summarise(rows)["01-dense"]["test_acc"]["mean"]
        0.75
    """
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if is_of_whole_network(row):
            values.setdefault(row["stage"], {}).setdefault(row["metric"], []).append(row["value"])
    return {stage: {name: _moments(each) for name, each in metrics.items()} for stage, metrics in values.items()}


def _end(
    recipe: Path, target: Path, runs: dict[int, list["Child"]], console: Console, *, takes_more_seeds: bool
) -> dict[str, Any]:
    """Write what all stages of all seeds recorded, draw it, and say what was found and what next; the summary."""
    from lightning_lottery.experiments.pictures.draw import draw_recipe
    from lightning_lottery.experiments.recipe_end import (
        findings,
        table_of_lines,
        table_of_networks,
        what_next,
        where_to_look,
    )
    from lightning_lottery.experiments.stage_verdicts import sentences_of_stages, verdicts_of

    seeds = [*runs]
    # Records older than the column do not say their recipe.
    rows = [
        {**row, "recipe": target.name} for children in runs.values() for child in children for row in child.records()
    ]
    write_results(target, rows)
    summary = summarise(rows)
    verdicts = verdicts_of(runs)
    _write(summary, {stage: asdict(verdict) for stage, verdict in verdicts.items()}, target)
    for name, figure in draw_recipe(target, seeds).figures.items():
        write_image(target, name, figure)
    console.print(table_of_networks(summary, _title(target.name, seeds), console.width))
    if (lines := table_of_lines(summary, verdicts)) is not None:
        console.print(lines)
    undecided = {stage: verdict for stage, verdict in verdicts.items() if verdict.verdict == "undecided"}
    for sentence in (*findings(summary, rows, verdicts), *sentences_of_stages(undecided, len(seeds))):
        console.print(sentence, soft_wrap=not console.is_terminal, highlight=False)
    _run_script(recipe, target)
    for sentence in (*where_to_look(target), *what_next(recipe, seeds, takes_more_seeds=takes_more_seeds)):
        console.print(sentence, soft_wrap=True, highlight=False)
    return summary


def _run_script(recipe: Path, target: Path) -> None:
    """Run what the recipe brings for its end, in the folder of the run."""
    script = recipe.resolve() / AT_THE_END
    if script.is_file() and (code := subprocess.run([sys.executable, str(script)], cwd=target, check=False).returncode):
        raise LotteryError(
            f"'{script}' ended with exit code {code}; every stage is done, and `run` repeats the script alone."
        )


def _title(recipe: str, seeds: Sequence[int]) -> str:
    return f"{recipe}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _write(summary: dict[str, Any], verdicts: dict[str, Any], target: Path) -> None:
    write_whole(target / "summary.json", json.dumps(summary, indent=1).encode(), "summary")
    write_whole(target / "verdicts.json", json.dumps(verdicts, indent=1).encode(), "verdicts")


def _moments(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values), "values": values}
