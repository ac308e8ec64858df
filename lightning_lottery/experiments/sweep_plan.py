"""What a sweep over steps is made of: cells of children, and the searches that ask for them."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_lottery.children.child import Child, Row, discard_with_dependents
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments import instability
from lightning_lottery.experiments.sweep_report import SweepReport
from lightning_lottery.functional.search import Bisection, Grid

PARENT = "parent"
"""Folder of the child that trains a parent, beside those of its cells."""


@dataclass(frozen=True)
class Cell:
    """One network at one step of one parent: children, and the lines between them.

    Args:
        network: Its name.
        parent: Seed of the parent, or its number where folders were given.
        step: At which the children part.
        plan: The children.
        labels: What rows of its records say beside.
    """

    network: str
    parent: int
    step: int
    plan: instability.Plan
    labels: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.network}, parent {self.parent}, step {self.step}"

    def discard_stale_lines(self) -> None:
        """Judge anew where children were added or asked otherwise."""
        if self.plan.lines.is_stale:
            self.plan.lines.discard()

    def report(self) -> PathReport:
        """The lines, which are done."""
        return PathReport.load(self.plan.lines.folder / "report.json")

    def rows(self) -> list[Row]:
        """The records of the children and of the lines."""
        return self.plan.rows(self.labels)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep may do.

    Args:
        folder: Of everything.
        begins: Parent to the folder of its snapshots.
        parents: The children that train them; none where they are given.
        searches: Network, the dense one first, to what says which steps to look at next.
        children: How many each parent has at a step.
        empty: The report before anything is found.
        cell: Given (network, parent, step), the children there.
    """

    folder: Path
    begins: Mapping[int, Path]
    parents: list[Child]
    searches: Mapping[str, Grid | Bisection]
    children: int
    empty: SweepReport
    cell: Callable[[str, int, int], Cell]

    @property
    def most(self) -> int:
        """How many children may be trained, beside the parents."""
        return sum(search.trainings(self.children, len(self.begins)) for search in self.searches.values())

    def announcement(self) -> str:
        """What it can cost at most."""
        first = next(iter(self.searches.values()))
        beside = f", beside the parents' {len(self.parents)}" if self.parents else ""
        pair = len(self.begins) == 1 and self.children == 2
        return (
            f"At most {self.most} trainings of children{beside}: {self.children} of each parent at up to "
            f"{first.points} of {len(first.steps)} steps, for {', '.join(self.searches)}."
            + (" One pair gives estimates and no verdict: add a child, or parents." if pair else "")
        )

    def report(self, cells: Sequence[Cell]) -> SweepReport:
        """What cells that are done say."""
        reports: dict[str, dict[int, dict[int, PathReport]]] = {network: {} for network in self.searches}
        for cell in sorted(cells, key=lambda cell: cell.step):
            reports[cell.network].setdefault(cell.step, {})[cell.parent] = cell.report()
        return replace(self.empty, reports=reports)

    def next_cells(self, report: SweepReport) -> list[Cell]:
        """The cells that the searches ask for after what was found."""
        return [
            self.cell(network, parent, step)
            for network, search in self.searches.items()
            for step in search.next(report.judged(network))
            for parent in self.begins
        ]

    @property
    def waves(self) -> list[list[Child]]:
        """The children known to be needed after what is done so far, in the order of dependence."""
        cells: list[Cell] = []
        while asked := self.next_cells(self.report(cells)):
            for cell in asked:
                cell.discard_stale_lines()
            if not all(cell.plan.lines.is_done for cell in asked):
                break
            cells += asked
        starts = [cell.plan.start for cell in asked if cell.plan.start is not None]
        seeds = [child for cell in asked for child in cell.plan.seeds]
        return [wave for wave in (self.parents, starts, seeds, [cell.plan.lines for cell in asked]) if wave]

    @property
    def existing(self) -> list[Child]:
        """The children whose folders are there, in the order of dependence."""
        there = [Child.load(path.parent) for path in sorted(self.folder.glob("parent-*/**/child.json"))]
        order = {"start": 1, "fit": 2, "lines": 3}
        return sorted(there, key=lambda child: 0 if child.folder.name == PARENT else order[child.command])

    def discard(self, redo: Collection[str]) -> None:
        """Remove what is to be done again, and what uses its files.

        Raises:
            LotteryError: There is no such child, or another process is in it.
        """
        if redo:
            discard_with_dependents(self.existing, redo, root=self.folder)

    def discard_shorter_parents(self) -> None:
        """Remove parents that were saved at fewer steps: trained again, they leave the same snapshots and more."""
        for child in self.parents:
            if (child.folder / "child.json").exists():
                before = Child.load(child.folder)
                if set(before.options["snapshots"]) < set(child.options["snapshots"]):
                    child.discard()

    def check_snapshots(self) -> None:
        """Refuse steps of which a parent has no snapshot, or after which it trains no more.

        Raises:
            LotteryError: There is one.
        """
        steps = next(iter(self.searches.values())).steps
        for child in self.parents:
            end = json.loads((child.folder / "conditions.json").read_text())["end_step"]
            if steps[-1] >= end:
                raise LotteryError(
                    f"Parent {child.config['seed_everything']} ends at step {end}: children of step {steps[-1]} would "
                    "train no step. Give earlier `steps`."
                )
        for parent, folder in self.begins.items():
            if missing := [step for step in steps if not (folder / f"step={step}.ckpt").is_file()]:
                raise LotteryError(
                    f"Parent {parent} has no snapshot of step {', '.join(map(str, missing))} in '{folder}': it saved "
                    "others. Give steps that it has."
                )
