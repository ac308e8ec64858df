"""Which children a sweep over steps trains next: cells of children, and the searches that ask for them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_lottery.children.child import Child
from lightning_lottery.children.conditions import read_conditions
from lightning_lottery.children.options import SnapshotOptions
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.siblings import Siblings
from lightning_lottery.experiments.sweep_report import SweepReport
from lightning_lottery.functional.search import Bisection, Grid

PARENT = "parent"
"""Folder of the child that trains a parent, beside the folders of its cells."""


@dataclass(frozen=True)
class Cell:
    """One network at one step of one parent: children, and the lines between them.

    Args:
        network: Its name.
        parent: Seed of the parent, or its number where folders of snapshots were given.
        step: At which the children part.
        siblings: The children.
        labels: What rows of its records say beside.
    """

    network: str
    parent: int
    step: int
    siblings: Siblings
    labels: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.network}, parent {self.parent}, step {self.step}"


@dataclass(frozen=True)
class Searches:
    """Each network's search for its k*, which together ask for the cells that are looked at next.

    Args:
        searches: Network, the dense one first, to what says which steps to look at next.
        snapshots: Parent to the folder of its snapshots.
        parents: The children that train the parents; none where snapshots are given.
        children: How many each parent has at a step.
        empty: The report before anything is found.
        cell: Given (network, parent, step), the cell there.
    """

    searches: Mapping[str, Grid | Bisection]
    snapshots: Mapping[int, Path]
    parents: Sequence[Child]
    children: int
    empty: SweepReport
    cell: Callable[[str, int, int], Cell]

    @property
    def steps(self) -> Sequence[int]:
        """The candidates, rising."""
        return next(iter(self.searches.values())).steps

    @property
    def most(self) -> int:
        """How many children may be trained, beside the parents."""
        return sum(search.trainings(self.children, len(self.snapshots)) for search in self.searches.values())

    def announcement(self) -> str:
        """What it can cost at most."""
        first = next(iter(self.searches.values()))
        parents = f", beside the parents' {len(self.parents)}" if self.parents else ""
        is_pair = len(self.snapshots) == 1 and self.children == 2
        return (
            f"At most {self.most} trainings of children{parents}: {self.children} of each parent at up to "
            f"{first.points} of {len(first.steps)} steps, for {', '.join(self.searches)}."
            + (" One pair gives estimates and no verdict: add a child, or parents." if is_pair else "")
        )

    def report(self, cells: Iterable[Cell]) -> SweepReport:
        """What cells that are done say."""
        reports: dict[str, dict[int, dict[int, PathReport]]] = {network: {} for network in self.searches}
        for cell in sorted(cells, key=lambda cell: cell.step):
            reports[cell.network].setdefault(cell.step, {})[cell.parent] = cell.siblings.report()
        return replace(self.empty, reports=reports)

    def next_cells(self, report: SweepReport) -> list[Cell]:
        """The cells that are asked for after what was found; none when every search is done.

        A search looks at verdicts pooled over parents, so that a step is asked for of every parent at once, and cells
        of one call depend on nothing but the parents: they make one round.
        """
        return [
            self.cell(network, parent, step)
            for network, search in self.searches.items()
            for step in search.next(report.judged(network))
            for parent in self.snapshots
        ]

    def waves(self) -> list[list[Child]]:
        """The children known to be needed after what is done so far, in the order of dependence.

        A bisection's next step is unknown before the lines of those before are judged: further rounds follow when these
        waves are done and are asked for again.
        """
        # Nothing is kept of a search but its children: it is replayed from the beginning over rounds that are done.
        cells: list[Cell] = []
        while asked := self.next_cells(self.report(cells)):
            for cell in asked:
                cell.siblings.discard_stale_lines()
            if not all(cell.siblings.lines.is_done for cell in asked):
                break
            cells += asked
        starts = [cell.siblings.start for cell in asked if cell.siblings.start is not None]
        seeds = [child for cell in asked for child in cell.siblings.seeds]
        lines = [cell.siblings.lines for cell in asked]  # a wave here, unlike an analysis': the next round needs them
        return [list(wave) for wave in (self.parents, starts, seeds, lines) if wave]

    def discard_shorter_parents(self) -> None:
        """Remove parents that were saved at fewer steps: trained again, they leave the same snapshots and more."""
        for child in self.parents:
            before = _child_in(child.folder)
            if before is not None and set(_steps_saved(before)) < set(_steps_saved(child)):
                child.discard()

    def check_snapshots(self) -> None:
        """Refuse steps of which a parent has no snapshot, or after which it trains no more.

        Raises:
            LotteryError: There is one.
        """
        steps = self.steps
        for child in self.parents:
            end = read_conditions(child.folder)["end_step"]
            if steps[-1] >= end:
                raise LotteryError(
                    f"Parent {child.config['seed_everything']} ends at step {end}: children of step {steps[-1]} would "
                    "train no step. Give earlier `steps`."
                )
        for parent, folder in self.snapshots.items():
            if missing := [step for step in steps if not (folder / f"step={step}.ckpt").exists()]:
                raise LotteryError(
                    f"Parent {parent} has no snapshot of step {', '.join(map(str, missing))} in '{folder}': it saved "
                    "others. Give steps that it has."
                )


def children_in(folder: Path) -> list[Child]:
    """The children of a sweep whose folders are there, in the order of dependence.

    All of them, and not only those that a search asks for now: which these are depends on what is done.
    """
    folders = [path.parent for path in sorted(folder.glob("parent-*/**/child.json"))]
    # A damaged one can be named to be done again like any other; what asks for it refuses it.
    children = [_child_in(folder) or Child(folder, "damaged", {}) for folder in folders]
    order = {PARENT: 0, "start": 1, "lines": 3}
    return sorted(children, key=lambda child: order.get(child.folder.name, 2))


def with_steps_before(child: Child) -> Child:
    """A parent that was saved at more steps before keeps them: fewer steps are no other training."""
    if (before := _child_in(child.folder)) is None:
        return child
    steps = {*_steps_saved(before), *_steps_saved(child)}
    return replace(child, options=SnapshotOptions(tuple(sorted(steps))))


def _child_in(folder: Path) -> Child | None:
    """The child of a folder; None where there is none, or a damaged one."""
    try:
        return Child.load(folder)
    except LotteryError:
        return None


def _steps_saved(parent: Child) -> tuple[int, ...]:
    return parent.options.snapshots if isinstance(parent.options, SnapshotOptions) else ()
