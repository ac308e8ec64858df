"""When does a network become stable to SGD noise? Instability analyses at many steps of several parents."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from rich.console import Console

from lightning_lottery.children.child import Child, Row, Work
from lightning_lottery.children.engine import Engine, engine_of, engine_options
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.fit import train
from lightning_lottery.children.project import Project
from lightning_lottery.children.yaml_project import YamlProject
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.instability import (
    InstabilityAnalysis,
    _configured,
    check_seeds,
    judge_lines,
    refuse_while_importing,
)
from lightning_lottery.experiments.settings import SweepSettings
from lightning_lottery.experiments.sweep_plan import PARENT, Cell, SweepPlan
from lightning_lottery.experiments.sweep_report import (
    DENSE,
    SweepReport,
    summary_in,
    table_of,
    verdicts_of,
    write_report,
)
from lightning_lottery.functional.search import Bisection, Grid
from lightning_lottery.hooks.mask_callback import MaskCallback

SEED_STRIDE = 1000
"""Children of the parents have different noise: those of the n-th parent (from 0) have the seeds S + 1000 n."""


class InstabilitySweep:
    """The error barrier as a function of the step at which children part, and the step k* from which on it is small.

    Parents are trained from different initialisations and saved at the candidate steps (or are given as folders of
    such snapshots). At a step, children of every parent's snapshot are trained to the end with different seeds, and
    the lines between them judged, as ``InstabilityAnalysis`` does; beside the dense network any that is pruned at that
    step. ``search="bisect"`` looks at few steps until k* is known to a relative precision; the most trainings that it
    can take are said beforehand.

    k* is the first evaluated step from which on all evaluated steps are stable. Verdicts are one-sided tests of the raw
    barrier over parents and children (``functional.judge``); steps that contradict each other are named. A child that
    diverged makes its step undecided.

    Everything is a child in a folder of its own: done once, resumed when killed, refused when changed.

    Args:
        make_module: Called with nothing for every child; gives the LightningModule.
        make_data: Called with nothing; gives the LightningDataModule, or None where the module has its own loaders.
        make_trainer: Called with ``default_root_dir=`` and ``logger=``, to be handed to the Trainer that it gives.
        steps: Candidates: optimizer steps of the parents, rising, at least two, each before their last; with
            ``snapshots`` default: all that every folder has.
        parents: Seeds of the parents, each an initialisation.
        seeds: Of the children of the first parent, at least two, all different; further parents' are 1000 more each.
        snapshots: Folders of ``step=K.ckpt``, each of a parent trained before, in place of ``parents``.
        search: ``"grid"`` for every step, ``"bisect"`` for few; each network has its own search.
        precision: Of k*, relative, where it is searched: 1 ends where neighbours are a factor of 2 apart.
        make_pruners: Name of a network to what gives a callback that prunes it once, at the step (``SynFlow``,
            ``SNIP``, ``MagnitudePruning`` by a ``Constant`` schedule).
        tickets: Name of a network to the path of the ticket whose masks its children keep.
        beside: Name to the folder of another sweep, drawn in the same picture.
        monitor: The metric logged in ``test_step`` (or ``validation_step``) that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss (then the threshold is in its units).
        threshold: Error barrier below which a network is called stable, a fraction.
        alphas: Places on each line, evenly spaced, both ends included; >= 2.
        recalibrate: Training batches for estimating batch norm's statistics anew at each place; 0 for none. The raw
            barrier is judged; the recalibrated one stands beside it in the records.
        margin: Error of a pruned network above the dense one's that still counts as a match, > 0.

    Raises:
        TypeError: A factory that cannot be called.
        LotteryError: An argument out of its range.

    Source: Frankle et al. 2020, section 3 and figure 3; Bolwerk 2021 (pruning once stable).
    """

    def __init__(
        self,
        make_module: Callable[[], LightningModule],
        make_data: Callable[[], LightningDataModule | None],
        make_trainer: Callable[..., Trainer],
        *,
        steps: Sequence[int] = (),
        parents: Sequence[int] = (0, 1, 2),
        seeds: Sequence[int] = (1, 2, 3),
        snapshots: Sequence[str | os.PathLike[str]] = (),
        search: Literal["grid", "bisect"] = "grid",
        precision: float = 1.0,
        make_pruners: Mapping[str, Callable[[], MaskCallback]] | None = None,
        tickets: Mapping[str, str | os.PathLike[str]] | None = None,
        beside: Mapping[str, str | os.PathLike[str]] | None = None,
        monitor: str = "test_acc",
        mode: Literal["max", "min"] = "max",
        threshold: float = 0.02,
        alphas: int = 21,
        recalibrate: int = 0,
        margin: float = 0.01,
    ) -> None:
        self.project: Project = FactoryProject(make_module, make_data, make_trainer)
        pruners: Any = dict(make_pruners or {})
        self.settings = SweepSettings(
            steps=tuple(steps),
            parents=tuple(parents),
            seeds=tuple(seeds),
            snapshots=tuple(map(str, snapshots)),
            search=search,
            precision=precision,
            pruners=pruners,
            tickets={name: str(path) for name, path in (tickets or {}).items()},
            beside={name: str(path) for name, path in (beside or {}).items()},
            monitor=monitor,
            mode=mode,
            threshold=threshold,
            alphas=alphas,
            recalibrate=recalibrate,
            margin=margin,
        )

    @classmethod
    def of(cls, project: Project, settings: SweepSettings) -> "InstabilitySweep":
        """The sweep of a project given as factories, or as the resolved YAML of a fit."""
        sweep = cls.__new__(cls)
        sweep.project, sweep.settings = project, settings
        return sweep

    def run(
        self,
        *,
        jobs: int = 1,
        dask: str | None = None,
        out: str | os.PathLike[str] = "runs/sweep",
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> SweepReport:
        """Train what is not done yet, step by step as the search asks, and write the report.

        Args:
            jobs: Children trained at the same time, each with its share of devices and threads.
            dask: Address of a Dask scheduler whose workers train them instead.
            out: Folder for everything: ``parent-P/NETWORK-step-K/seed-S``, ``parent-P/parent``.
            redo: Names to do again: ``parent-0``, ``synflow-step-10``, ``seed-1``, and with them what uses their files.
            labels: What rows of the records say beside: ``stage``.

        Returns:
            What was found; files are written into ``out`` as well.

        Raises:
            LotteryError: A parent that ends before a step; what ``InstabilityAnalysis.run`` refuses; a child that
                failed, where several run at once after all others of its round were done.
        """
        refuse_while_importing()
        plan = self.plan(Path(out), labels=labels)
        beside = {name: summary_in(Path(other)) for name, other in self.settings.beside.items()}
        plan.discard(redo)
        do, console = engine_of(jobs, dask, self._here()), Console()
        console.print(plan.announcement(), soft_wrap=True)
        plan.discard_shorter_parents()
        do([(f"parent {child.config['seed_everything']}", child) for child in plan.parents], console)
        plan.check_snapshots()
        cells: list[Cell] = []
        while asked := plan.next_cells(report := plan.report(cells)):
            _do_cells(asked, do, console, trained=len(cells) * plan.children, most=plan.most)
            cells += asked
        rows = [row for child in plan.parents for row in child.records()]
        rows += [row for cell in cells for row in cell.rows()]
        summary = report.summary()
        write_report(report, summary, Path(out), rows, beside)
        console.print(table_of(summary))
        for sentence in verdicts_of(report):
            console.print(sentence, soft_wrap=True)
        console.print(f"Records: {Path(out) / 'results.jsonl'}. Curves: tensorboard --logdir {out}", soft_wrap=True)
        return report

    def plan(self, out: Path, *, labels: Mapping[str, Any] | None = None) -> SweepPlan:
        """What ``run`` will do: the parents that it trains, and the cells that a search may ask for.

        Args:
            out: Folder for everything.
            labels: What rows of the records say beside.

        Raises:
            LotteryError: As ``run``, as far as it can be known before anything is trained.
        """
        own, said = self.settings, {"stage": "sweep", **(labels or {})}
        check_seeds(own.seeds)
        begins = {number: Path(folder) for number, folder in enumerate(own.snapshots)}
        steps = own.steps or _steps_in(begins.values())
        parents = []
        if not begins:
            begins = {seed: out / f"parent-{seed}" / PARENT / "snapshots" for seed in own.parents}
            parents = [self._parent(folder.parent, seed, steps, said) for seed, folder in begins.items()]
        if missing := [path for path in own.tickets.values() if not Path(path).is_file()]:
            raise LotteryError(f"There is no ticket '{missing[0]}'.")
        noise = {seed + SEED_STRIDE * number for number in range(len(begins)) for seed in own.seeds}
        if len(noise) < len(begins) * len(own.seeds):
            raise LotteryError(
                f"Children of different parents would share seeds: those of the next parent are {SEED_STRIDE} more. "
                f"Choose `seeds` closer together than {list(own.seeds)}."
            )
        networks = (DENSE, *own.pruners, *own.tickets)
        of = {name: Grid(steps) if own.search == "grid" else Bisection(steps, own.precision) for name in networks}
        cell = partial(self._cell, out, begins, said)
        empty = SweepReport(own.judging.threshold, {}, own.margin)
        plan = SweepPlan(out, begins, parents, of, len(own.seeds), empty, cell)
        if own.snapshots:
            plan.check_snapshots()
        return plan

    def _parent(self, folder: Path, seed: int, steps: Sequence[int], labels: Mapping[str, Any]) -> Child:
        config = {**self.project.with_seed(seed).config(), "ckpt_path": None}
        said = {**labels, "stage": f"{labels['stage']}/parent", "parent": seed, "seeds": [seed]}
        child = Child(folder, "fit", config, said, {"snapshots": list(steps)})
        if (folder / "child.json").exists():  # saved at more steps before: fewer are no other training
            before = Child.load(folder).options["snapshots"]
            child = replace(child, options={"snapshots": sorted({*before, *steps})})
        return child

    def _cell(
        self, out: Path, begins: Mapping[int, Path], labels: Mapping[str, Any], network: str, parent: int, step: int
    ) -> Cell:
        own, name = self.settings, f"{network}-step-{step}"
        said = {**labels, "stage": f"{labels['stage']}/{name}", "parent": parent}
        plan = InstabilityAnalysis.of(self.project, own.judging).plan(
            out / f"parent-{parent}" / name,
            begins[parent] / f"step={step}.ckpt",
            [seed + SEED_STRIDE * list(begins).index(parent) for seed in own.seeds],
            ticket=own.tickets.get(network),
            make_pruner=_configured(own.pruners.get(network)),
            labels=said,
            may_be_missing=not own.snapshots,
        )
        return Cell(network, parent, step, plan, said)

    def _here(self) -> Callable[[Child], Mapping[str, Work]] | None:
        """What children's commands do in this process, where no other can import what they need."""
        project = self.project
        pruning = {name: project.with_pruner(_configured(pruner)) for name, pruner in self.settings.pruners.items()}
        if all(one.is_importable for one in (project, *pruning.values())):
            return None
        return lambda child: {
            "start": partial(train, project=pruning.get(child.folder.parent.name.rpartition("-step-")[0])),
            "fit": partial(train, project=project.with_seed(child.config["seed_everything"])),
            "lines": partial(judge_lines, project=project),
        }


def sweep_steps(child: Child, resume: str) -> list[Row]:
    """What a recipe's stage ``sweep`` does: a whole sweep in the stage's folder."""
    project = {name: value for name, value in child.config.items() if name != "sweep"}
    labels = {name: value for name, value in child.labels.items() if name != "seeds"}
    InstabilitySweep.of(YamlProject(project), SweepSettings(**child.config["sweep"])).run(
        **engine_options(),
        out=child.folder,
        labels={"stage": child.folder.name, **labels},
    )
    return child.records()


def _do_cells(cells: Sequence[Cell], do: Engine, console: Console, *, trained: int, most: int) -> None:
    """Train the children of cells, numbered over the whole sweep, and judge the lines between them."""
    starts = [(f"{cell.name}: start", cell.plan.start) for cell in cells]
    do([(what, child) for what, child in starts if child is not None], console)
    named = [(f"{cell.name}: {child.folder.name}", child) for cell in cells for child in cell.plan.seeds]
    do([(f"{what} ({number}/{most})", child) for number, (what, child) in enumerate(named, trained + 1)], console)
    for cell in cells:
        cell.plan.check_contract()
        cell.discard_stale_lines()
    do([(f"{cell.name}: lines", cell.plan.lines) for cell in cells], console)


def _steps_in(folders: Iterable[Path]) -> list[int]:
    """The steps of which every folder has a snapshot.

    Raises:
        LotteryError: There is none.
    """
    names = [[re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in folder.glob("*")] for folder in folders]
    found = [{int(match[1]) for match in of if match} for of in names]
    if common := sorted(set.intersection(*found)) if found else []:
        return common
    raise LotteryError(
        "A sweep needs `steps`: candidates, or folders of `snapshots` that have 'step=K.ckpt' in common."
    )
