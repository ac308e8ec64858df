"""When does a network become stable to SGD noise? Instability analyses at many steps of several parents."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lightning_lottery.checks import check_different, check_word
from lightning_lottery.children.child import Child
from lightning_lottery.children.conditions import FILE as CONDITIONS
from lightning_lottery.children.conditions import read_conditions
from lightning_lottery.children.engine import Engine, engine_of
from lightning_lottery.children.fit import train
from lightning_lottery.children.noise import Noise, check_noise, noise_in_words
from lightning_lottery.children.options import SnapshotOptions
from lightning_lottery.children.project import Project
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.connectivity.judging import ALPHAS, Judging
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.plan import Plan, check_checkpoint, check_not_importing, child_of
from lightning_lottery.experiments.report import show, write
from lightning_lottery.experiments.siblings import Family, check_seeds, judge_lines
from lightning_lottery.experiments.sweep_report import DENSE, SweepReport, summary_in
from lightning_lottery.experiments.sweep_search import PARENT, Cell, Searches, children_in, with_steps_before
from lightning_lottery.experiments.trial import try_before, try_out
from lightning_lottery.functional.matching import check_margin
from lightning_lottery.functional.search import Bisection, Grid
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.notebook import call_of_fields

SEED_STRIDE = 1000
"""Children of the parents have different noise: those of the n-th parent (from 0) have the seeds S + 1000 n."""

PARENT_IN_PATH = "{parent}"
"""In the path of a ticket, what stands for the seed of a parent."""


@dataclass(frozen=True, kw_only=True)
class InstabilitySweep:
    """The error barrier as a function of the step at which children part, and the step k* from which on it is small.

    Parents are trained from different initialisations and saved at the candidate steps (or are given as folders of
    such snapshots). At a step, children of every parent's snapshot are trained to the end with different seeds, and
    the lines between them judged, as ``InstabilityAnalysis`` does; beside the dense network any that is pruned at that
    step. ``search="bisect"`` looks at few steps until k* is known to a relative precision; the most trainings that it
    can take are said beforehand, and how often its k* may come too early afterwards (``functional.Bisection.level``).

    k* is the first evaluated step from which on all evaluated steps are stable; of steps between them nothing is known.
    Verdicts are one-sided tests of the raw barrier over parents and children (``functional.judge`` says why by
    t-bounds); steps that contradict each other are named. A child that diverged makes its step undecided.

    Everything is a child in a folder of its own: done once, resumed when killed, refused when changed.

    The same fields are read from the section ``sweep`` of a YAML.

    Args:
        seeds: Of the children of the first parent, at least two, all different; further parents' are 1000 more each.
        steps: Candidates: optimizer steps of the parents, rising, at least two, each before their last; with
            ``snapshots`` default: all that every folder has.
        parents: Seeds of the parents, each an initialisation.
        snapshots: Folders of ``step=K.ckpt``, each of a parent trained before, in place of ``parents``.
        search: ``"grid"`` for every step, ``"bisect"`` for few; each network has its own search.
        precision: Of k*, relative, where it is searched: 1 ends where neighbours are a factor of 2 apart.
        target: What a bisection brackets: ``"mean"`` for where the mean barrier falls below the threshold,
            ``"verdict"`` for that and the first step that is judged stable, which costs one or two steps more.
        pruners: Name of a network to what gives a callback that prunes it once, at the step (``SynFlow``, ``SNIP``,
            ``MagnitudePruning`` by a ``Constant`` schedule). In YAML: the callback.
        tickets: Name of a network to the path of the ticket whose masks its children keep, or to one for each step;
            ``{parent}`` in it stands for the parent, as in ``runs/imp/seed-{parent}/level-3/ticket.safetensors``.
        beside: Name to the folder of another sweep, drawn in the same picture.
        monitor: The metric logged in ``test_step`` (or ``validation_step``) that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss (then the threshold is in its units).
        threshold: Error barrier below which a network is called stable, a fraction.
        threshold_ratio: In place of ``threshold``: a barrier of that fraction of the mean error of the ends, such as
            0.02 for a loss that rises by 2 %.
        alphas: Fractions of each line at which it is evaluated, in [0, 1], both ends among them.
        recalibrate: Training batches for estimating batch norm's statistics anew at each alpha; 0 for none. The raw
            barrier is judged; the recalibrated one stands beside it in the records.
        remaining: How long children train: to the project's end (``"end"``), so that those of later steps train less;
            or all as many steps as from the last of ``steps`` to that end (``"equal"``), under the project's schedules.
        margin: Error of a pruned network above the dense one's that still counts as a match, > 0.
        noise: By what children differ, as for ``InstabilityAnalysis``: ``"seed"``, ``"order"``, ``"augmentation"`` or a
            ``Perturbation``, made at the step.
        train_split: Also evaluate the lines on the training split; verdicts are on the test split.

    Raises:
        LotteryError: An argument out of its range.

    Example:
        >>> InstabilitySweep(steps=(0, 100, 1000), search="bisect").parents
        (0, 1, 2)

    Source: Frankle et al. 2020, section 3 and figure 3; Bolwerk 2021 (pruning once stable).
    """

    seeds: Sequence[int] = (1, 2, 3)
    steps: Sequence[int] = ()
    parents: Sequence[int] = (0, 1, 2)
    snapshots: Sequence[str] = ()
    search: Literal["grid", "bisect"] = "grid"
    precision: float = 1.0
    target: Literal["mean", "verdict"] = "verdict"
    pruners: Mapping[str, Callable[[], MaskCallback]] = field(default_factory=dict)
    tickets: Mapping[str, str | Mapping[int, str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    threshold: float = 0.02
    threshold_ratio: float | None = None
    alphas: Sequence[float] = ALPHAS
    recalibrate: int = 0
    remaining: Literal["end", "equal"] = "end"
    margin: float = 0.01
    noise: Noise = None
    train_split: bool | None = None

    def __repr__(self) -> str:
        return call_of_fields(self)

    def __post_init__(self) -> None:
        check_margin(self.margin)
        check_noise(self.noise)
        check_word("search", self.search, ("grid", "bisect"))
        check_word("target", self.target, ("mean", "verdict"))
        check_word("remaining", self.remaining, ("end", "equal"))
        if not self.snapshots:
            check_different("parents", self.parents, "different seeds")
        if len(set(self.seeds)) < len(self.seeds):
            raise LotteryError(f"`seeds` of a sweep are all different, got {list(self.seeds)}.")
        check_seeds(self.seeds)
        _ = self.judging  # which checks its part
        names = [DENSE, *self.pruners, *self.tickets]
        if len(set(names)) < len(names) or any("/" in name for name in names):
            raise LotteryError(
                "Every network needs a name that no other has and that a folder can have; 'dense' is the whole one: "
                f"{names}."
            )

    @property
    def judging(self) -> Judging:
        """How the children at each step are judged."""
        along = (self.alphas, self.recalibrate, ())
        return Judging(self.monitor, self.mode, self.threshold, *along, self.threshold_ratio, bool(self.train_split))

    def run(
        self,
        project: Project,
        *,
        jobs: int = 1,
        dask: str | None = None,
        out: str | os.PathLike[str] = "runs/sweep",
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> SweepReport:
        """Train what is not done yet, round by round of the search, judge it, and write the report.

        Args:
            project: What parents and children train: a ``FactoryProject`` or a ``YamlProject``.
            jobs: Children of a round trained at the same time, each with its share of devices and threads.
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
        check_not_importing()
        folder, console = Path(out), Console()
        searches = self._searches(project, folder, labels)
        summaries = {name: summary_in(Path(folder_beside)) for name, folder_beside in self.beside.items()}
        projects = [project, *(project.with_pruner(pruner) for pruner in self.pruners.values())]
        here = {"start": train, "fit": train, "lines": judge_lines, TRIAL: try_out}
        do = engine_of(jobs, dask, None if all(each.is_importable for each in projects) else here)
        Plan(children_in(folder), []).discard(redo, folder)
        console.print(searches.announcement(), soft_wrap=True)
        searches.discard_shorter_parents()
        self._try_before(searches, project, folder, do, console)
        do([(f"parent {child.config['seed_everything']}", child) for child in searches.parents], console)
        searches.check_snapshots()
        cells: list[Cell] = []
        while asked := searches.next_cells(report := searches.report(cells)):
            _do_cells(asked, do, console, trained=len(cells) * searches.children, most=searches.most)
            cells += asked
        rows = [row for child in searches.parents for row in child.records()]
        rows += [row for cell in cells for row in cell.siblings.rows(cell.labels)]
        report = replace(report, records=rows, beside=summaries)
        write(report, folder, run="sweep")
        show(report, folder, console)
        return report

    def plan(
        self,
        project: Project,
        out: str | os.PathLike[str] = "runs/sweep",
        *,
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> Plan:
        """The children that are there, and the waves that ``run`` with these arguments needs after what is done so far.

        What ``redo`` names is removed first.

        Raises:
            LotteryError: As ``run``, as far as it can be known before anything is trained.
        """
        folder = Path(out)
        searches = self._searches(project, folder, labels)
        Plan(children_in(folder), []).discard(redo, folder)  # first: the waves depend on what is done
        waves = searches.waves()
        if self.remaining == "equal" and not all(parent.is_done for parent in searches.parents):
            waves = [list(searches.parents)]  # where their children end is known once the parents have ended
        return Plan(children_in(folder), waves)

    def _family(self, project: Project) -> Family:
        return Family(project, self.judging, noise=self.noise)

    def _try_before(self, searches: Searches, project: Project, folder: Path, do: Engine, console: Console) -> None:
        """A trial, where parents or children of the first round are still to be trained."""
        first = [cell.siblings for cell in searches.next_cells(searches.report([]))]
        trained = [child for siblings in first for wave in siblings.waves for child in wave]
        snapshot = next(iter(searches.snapshots.values())) / f"step={searches.steps[0]}.ckpt"
        begin = None if searches.parents else str(snapshot)
        trial = self._family(project).trial
        try_before([*searches.parents, *trained], project, folder, begin, trial, do, console)

    def _searches(self, project: Project, folder: Path, labels: Mapping[str, Any] | None) -> Searches:
        labels = {"stage": "sweep", **(labels or {})}
        snapshots = {number: Path(path) for number, path in enumerate(self.snapshots)}
        steps, parents = self.steps or _steps_in(snapshots.values()), []
        if not snapshots:
            folders = {seed: folder / f"parent-{seed}" / PARENT for seed in self.parents}
            parents = [self._parent(project.with_seed(seed), folders[seed], steps, labels) for seed in self.parents]
            snapshots = {seed: parent / "snapshots" for seed, parent in folders.items()}
        tickets = [self._ticket(name, parent, step) for name in self.tickets for parent in snapshots for step in steps]
        if missing := [path for path in tickets if not Path(str(path)).is_file()]:
            raise LotteryError(f"There is no ticket '{missing[0]}'.")
        if len({seed for parent in range(len(snapshots)) for seed in self._seeds_of(parent)}) < (
            len(snapshots) * len(self.seeds)
        ):
            raise LotteryError(
                f"Children of different parents would share seeds: those of the next parent are {SEED_STRIDE} more. "
                f"Choose `seeds` closer together than {list(self.seeds)}."
            )
        is_grid = self.search == "grid"
        search = Grid(steps) if is_grid else Bisection(steps, self.precision, target=self.target)
        searches = dict.fromkeys((DENSE, *self.pruners, *self.tickets), search)
        cell_at = partial(self._cell, self._family(project), folder, snapshots, steps[-1], labels)
        empty = SweepReport(self.judging.bound, {}, self.margin, search.level)
        together = Searches(searches, snapshots, parents, len(self.seeds), empty, cell_at)
        if self.snapshots:
            together.check_snapshots()
        return together

    def _parent(self, project: Project, folder: Path, steps: Sequence[int], labels: Mapping[str, Any]) -> Child:
        labels = {**labels, "stage": f"{labels['stage']}/parent", "parent": project.seed, "seed": project.seed}
        options = SnapshotOptions(tuple(steps))
        return with_steps_before(child_of(project, folder, "fit", None, options=options, labels=labels))

    def _cell(
        self,
        family: Family,
        folder: Path,
        snapshots: Mapping[int, Path],
        last: int,
        labels: Mapping[str, Any],
        network: str,
        parent: int,
        step: int,
    ) -> Cell:
        """The cell of a network at a step of a parent; a checkpoint that a parent makes need not be there yet."""
        name, ckpt_path = f"{network}-step-{step}", snapshots[parent] / f"step={step}.ckpt"
        if self.snapshots:
            check_checkpoint(ckpt_path)
        labels = {**labels, "stage": f"{labels['stage']}/{name}", "network": network, "parent": parent}
        labels["noise"] = noise_in_words(self.noise)
        siblings = family.siblings(
            folder / f"parent-{parent}" / name,
            str(ckpt_path),
            self._seeds_of(list(snapshots).index(parent)),
            labels,
            ticket=self._ticket(network, parent, step),
            pruner=self.pruners.get(network),
            end_step=self._end_of(step, last, snapshots),
        )
        return Cell(network, parent, step, siblings, labels)

    def _ticket(self, network: str, parent: int, step: int) -> str | None:
        """The path of the ticket of a network's cell; None for a network that has none.

        Raises:
            LotteryError: The network has tickets, and none for this step.
        """
        if network not in self.tickets:
            return None
        path = self.tickets[network]
        if isinstance(path, Mapping):
            if step not in path:
                raise LotteryError(
                    f"`tickets` names for {network} one at the steps {sorted(path)}, none at step {step}."
                )
            path = path[step]
        return str(path).replace(PARENT_IN_PATH, str(parent))  # not `format`: a path may hold other braces

    def _end_of(self, step: int, last: int, snapshots: Mapping[int, Path]) -> int | None:
        """At which step children of a step end; None for the project's end, or where no parent has come there yet.

        Raises:
            LotteryError: Snapshots of a parent that no sweep has trained do not say where it ended.
        """
        if self.remaining == "end":
            return None
        trained = [path.parent for path in snapshots.values() if (path.parent / CONDITIONS).is_file()]
        if self.snapshots and len(trained) < len(snapshots):
            raise LotteryError(
                "`remaining: equal` counts from the last step to the parents' end, and these snapshots do not say "
                "where that is: give `parents`, which the sweep trains itself."
            )
        ends = [read_conditions(folder)["end_step"] for folder in trained]
        return step + min(ends) - last if len(ends) == len(snapshots) else None

    def _seeds_of(self, number: int) -> list[int]:
        """Seeds of the children of the parent of a number, from 0."""
        return [seed + SEED_STRIDE * number for seed in self.seeds]


def _do_cells(cells: Sequence[Cell], do: Engine, console: Console, *, trained: int, most: int) -> None:
    """Train the children of cells, numbered over the whole sweep, and judge the lines between them.

    Each of the three kinds of children of all cells together, and not a cell after another: so that as many run at once
    as may.
    """
    starts = [(f"{cell.name}: start", cell.siblings.start) for cell in cells]
    do([(name, child) for name, child in starts if child is not None], console)
    seeds = [(f"{cell.name}: {child.folder.name}", child) for cell in cells for child in cell.siblings.seeds]
    do([(f"{name} ({number}/{most})", child) for number, (name, child) in enumerate(seeds, trained + 1)], console)
    for cell in cells:
        cell.siblings.check_contract()
        cell.siblings.discard_stale_lines()
    do([(f"{cell.name}: lines", cell.siblings.lines) for cell in cells], console)


def _steps_in(folders: Iterable[Path]) -> list[int]:
    """The steps of which every folder has a snapshot.

    Raises:
        LotteryError: There is none.
    """
    names = [[re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in folder.glob("*")] for folder in folders]
    steps = [{int(match[1]) for match in matches if match} for matches in names]
    if common := sorted(set.intersection(*steps)) if steps else []:
        return common
    raise LotteryError(
        "A sweep needs `steps`: candidates, or folders of `snapshots` that have 'step=K.ckpt' in common."
    )
