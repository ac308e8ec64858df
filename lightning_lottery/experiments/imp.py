"""Iterative magnitude pruning: train, remove a fraction of what remains, rewind, level by level."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lightning_lottery.checks import check_count, check_different, check_word
from lightning_lottery.children.by_batch import read_by_batch
from lightning_lottery.children.child import Child
from lightning_lottery.children.engine import engine_of
from lightning_lottery.children.fit import train
from lightning_lottery.children.options import Begin, DenseLevelOptions, LevelOptions, Prune, RecordsTrialOptions
from lightning_lottery.children.project import Project
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.children.records import Row
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp_blocks import Tested
from lightning_lottery.experiments.imp_report import ImpReport, row_of
from lightning_lottery.experiments.plan import Plan, check_checkpoint, check_not_importing, child_of
from lightning_lottery.experiments.report import show, write
from lightning_lottery.experiments.trial import try_before, try_out
from lightning_lottery.functional.iterative import check_prune_fraction, levels_to
from lightning_lottery.functional.matching import check_margin
from lightning_lottery.notebook import call_of_fields
from lightning_lottery.scope import Scope

CONTROLS = ("shuffled", "effective", "reinitialised", "erk", "uniform")

REINITIALISED = 1000
"""The re-initialised control of seed S is built, and sees its data in the order of, seed S + 1000."""


@dataclass(frozen=True, kw_only=True)
class IterativePruning:
    """Train the dense network, then level by level remove a fraction of what remains and train the rest again.

    Level 0 trains everything. For level n, the ``round(prune_fraction * kept)`` smallest of the ``kept`` weights that
    level n - 1 ended with are removed, and the others trained from ``rewind_step`` to the end of the fit: from the
    weights and buffers that level 0 had there (``rewind="weights"``), or from those that level n - 1 ended with, only
    the schedules and the step going back (``rewind="learning_rate"``). All levels of a seed see the same data in the
    same order, where the loader's order follows the seed.

    Controls, at every level: ``"shuffled"`` trains, from the same start, masks that keep as many weights in each layer
    at places drawn anew (which is random pruning at the ticket's density in each layer), ``"effective"`` such ones of
    which as many lie on a path from input to output, ``"erk"`` and ``"uniform"`` as many in all, parted among layers by
    these densities; ``"reinitialised"`` trains the ticket's masks in the network as built under another seed
    (S + 1000), from step 0 and for the whole fit.

    Levels are judged beside the dense network, the densest first, until one does not match (``matches_down_to``); a
    control by whether its ticket is superior to it (``judge_controls``). Where each child's test comes in eight batches
    or more, and the monitor is a mean over them, test samples are judged beside seeds; else seeds alone, which is said.

    Each level of each seed is a child: a folder, done once, resumed when killed, refused when changed. Zeros bring no
    speed by themselves: see ``shrink``.

    The same fields are read from the section ``imp`` of a YAML.

    Args:
        seeds: Each trains all levels; different, at least one. One seed's verdict is about its own networks.
        prune_fraction: Fraction of what remains that each level removes, in (0, 1).
        levels: How many levels are pruned; give either this or ``sparsity``.
        sparsity: Prune to the first level that removes at least this fraction of the scope, in (0, 1).
        rewind_step: Optimizer step that every level begins again at; 0 for the initialisation.
        rewind: To that step go the weights and buffers (``"weights"``), or, these kept, only the learning-rate schedule
            (``"learning_rate"``).
        optimizer: Its state is forgotten at every level (``"fresh"``), or goes back to that step's (``"restored"``).
        per: Rank all weights together (``"all"``), or remove the fraction of each tensor by itself (``"tensor"``).
        scope: Which weights compete; default: those of linear and convolution layers.
        controls: Trained at every level beside the ticket, of ``"shuffled"``, ``"effective"``, ``"reinitialised"``,
            ``"erk"`` and ``"uniform"``.
        monitor: The metric logged in ``test_step`` (or ``validation_step``) that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss.
        margin: Loss of the metric that still counts as a match, > 0.

    Raises:
        LotteryError: An argument out of its range, or two that contradict each other.

    Example:
        >>> IterativePruning(sparsity=0.9, prune_fraction=0.2).last_level
        11

    Source: Frankle & Carbin 2019; Frankle et al. 2020 (rewinding to a later step); Renda et al. 2020 (learning-rate
    rewinding); Frankle et al. 2021, section 4 (controls). Counts are exact, where the authors' code removes one more.
    """

    seeds: Sequence[int] = (0,)
    prune_fraction: float = 0.2
    levels: int | None = None
    sparsity: float | None = None
    rewind_step: int = 0
    rewind: Literal["weights", "learning_rate"] = "weights"
    optimizer: Literal["fresh", "restored"] = "fresh"
    per: Literal["all", "tensor"] = "all"
    scope: Scope | None = None
    controls: Sequence[Literal["shuffled", "effective", "reinitialised", "erk", "uniform"]] = ()
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    margin: float = 0.01

    def __repr__(self) -> str:
        return call_of_fields(self)

    def __post_init__(self) -> None:
        check_different("seeds", self.seeds, "different numbers")
        check_prune_fraction(self.prune_fraction)
        check_margin(self.margin)
        check_word("rewind", self.rewind, ("weights", "learning_rate"))
        check_word("optimizer", self.optimizer, ("fresh", "restored"))
        check_word("per", self.per, ("all", "tensor"))
        check_word("mode", self.mode, ("max", "min"))
        if odd := [control for control in self.controls if control not in CONTROLS]:
            raise LotteryError(f"`controls` are {', '.join(map(repr, CONTROLS))}, got {odd[0]!r}.")
        check_count("rewind_step", self.rewind_step, "an optimizer step", least=0)
        if self.rewind == "learning_rate" and self.optimizer == "restored":
            raise LotteryError(
                "With rewind='learning_rate' the weights are kept, and the optimizer state of `rewind_step` belongs to "
                "others: take optimizer='fresh'."
            )
        if self.rewind == "learning_rate" and self.controls:
            raise LotteryError(
                "Controls begin where their ticket does, at rewound weights: they need rewind='weights'."
            )
        if (self.levels is None) == (self.sparsity is None):
            raise LotteryError("Give either `levels` or a target `sparsity`: each says where pruning ends.")
        if self.levels is not None:
            check_count("levels", self.levels, "how many levels are pruned,")
        _ = self.last_level  # which checks `sparsity`

    @property
    def last_level(self) -> int:
        """The number of the last level, which is how many are pruned."""
        return int(self.levels or 0) if self.sparsity is None else levels_to(self.sparsity, self.prune_fraction)

    def run(
        self,
        project: Project,
        ckpt_path: str | os.PathLike[str] | None = None,
        *,
        jobs: int = 1,
        dask: str | None = None,
        out: str | os.PathLike[str] = "runs/imp",
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> ImpReport:
        """Train the children that are not done yet, level by level, and write the report.

        Args:
            project: What every level trains: a ``FactoryProject`` or a ``YamlProject``.
            ckpt_path: Where level 0 begins; None for the module as built under each seed.
            jobs: Children trained at the same time, each with its share of devices and threads.
            dask: Address of a Dask scheduler whose workers train them instead.
            out: Folder for everything: ``seed-S/level-N``, and ``seed-S/level-N-shuffled`` for a control.
            redo: Names to train again, such as ``level-2``, for all seeds, and with them what uses their files.
            labels: What rows of the records say beside: ``stage``, ``parent``.

        Returns:
            What was found; files are written into ``out`` as well.

        Raises:
            LotteryError: A checkpoint that holds no training state, or begins after ``rewind_step``; a fit that ends
                before it; a child that failed or was changed since it ran; a metric that is not logged.
        """
        check_not_importing()
        folder, console = Path(out), Console()
        do = engine_of(jobs, dask, None if project.is_importable else {"fit": train, TRIAL: try_out})
        plan = self.plan(project, folder, ckpt_path, redo=redo, labels=labels)
        begin = None if ckpt_path is None else str(ckpt_path)
        trial = RecordsTrialOptions(self.monitor, self.mode)
        try_before(plan.waves[0], project.with_seed(self.seeds[0]), folder, begin, trial, do, console)
        number, total = 0, len(plan.children)
        for level, children in enumerate(plan.waves):
            if level:
                _check_snapshots(children)
            numbered = enumerate(children, start=number + 1)
            do(
                [(f"{child.folder.parent.name}/{child.folder.name} ({n}/{total})", child) for n, child in numbered],
                console,
            )
            number += len(children)
            if not level:
                for child in children:
                    row_of(child.records(), self.monitor)  # before many more are trained for nothing
        records: dict[str, list[list[Row]]] = {}
        tested: dict[str, list[Tested]] = {}
        for child in plan.children:
            records.setdefault(child.folder.name, []).append(child.records())
            tested.setdefault(child.folder.name, []).append(read_by_batch(child.folder))
        report = ImpReport.of_records(records, self.seeds, self.monitor, self.mode, self.margin, tested)
        write(report, folder, run="levels")
        show(report, folder, console)
        return report

    def plan(
        self,
        project: Project,
        out: str | os.PathLike[str] = "runs/imp",
        ckpt_path: str | os.PathLike[str] | None = None,
        *,
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> Plan:
        """What ``run`` does with these arguments, a wave for each level; what ``redo`` names is removed.

        Raises:
            LotteryError: As ``run``, as far as it can be known before anything is trained.
        """
        begins_at = 0 if ckpt_path is None else check_checkpoint(Path(ckpt_path))
        if self.rewind_step < begins_at:
            raise LotteryError(
                f"`rewind_step` {self.rewind_step} lies before '{ckpt_path}', which begins at step {begins_at}."
            )
        begin = None if ckpt_path is None else str(ckpt_path)
        labels = {"stage": "imp", **(labels or {})}
        levels: list[list[Child]] = [[] for _ in range(self.last_level + 1)]
        for seed in self.seeds:
            seeded, folder = project.with_seed(seed), Path(out) / f"seed-{seed}"
            snapshot = str(folder / "level-0" / "snapshots" / f"step={self.rewind_step}.ckpt")
            # A fit saves nothing at the step that it begins at: there the checkpoint given is the snapshot.
            snapshot = snapshot if begin is None or self.rewind_step > begins_at else begin
            levels[0].append(self._dense(seeded, folder, begin, labels))
            for level in range(1, self.last_level + 1):
                levels[level] += self._level(seeded, folder, level, snapshot, labels)
        plan = Plan([child for children in levels for child in children], levels)
        plan.discard(redo, Path(out))
        return plan

    def _dense(self, project: Project, folder: Path, begin: str | None, labels: Mapping[str, Any]) -> Child:
        """The child of level 0."""
        about = {"stage": f"{labels['stage']}/level-0", "seed": project.seed, "method": "dense", "level": 0}
        options = DenseLevelOptions(self.scope or Scope(), self.rewind_step)
        return child_of(project, folder / "level-0", "fit", begin, options=options, labels={**labels, **about})

    def _level(
        self, project: Project, folder: Path, level: int, snapshot: str, labels: Mapping[str, Any]
    ) -> list[Child]:
        """The child of a level after level 0, and those of its controls."""
        before = folder / f"level-{level - 1}"
        weights = str(before / "last.ckpt")
        prune = Prune(weights, str(before / "ticket.safetensors"), self.prune_fraction, self.per)
        begin = Begin(weights if self.rewind == "learning_rate" else None, self.optimizer)
        options = LevelOptions(level, prune, begin, None)

        def child(kind: str, project: Project, ckpt_path: str | None, options: LevelOptions) -> Child:
            name = f"level-{level}{kind and '-'}{kind}"
            # A control's rows are of its ticket's seed, whatever seed it is built under: by it they are compared.
            about = {
                "stage": f"{labels['stage']}/{name}",
                "network": kind or "ticket",
                "method": f"IterativePruning {kind}".rstrip(),
                "seed": seed,
                "level": level,
            }
            return child_of(project, folder / name, "fit", ckpt_path, options=options, labels={**labels, **about})

        seed = project.seed
        controls = {
            "shuffled": (project, snapshot, replace(options, shuffle_seed=seed)),
            **{
                layers: (project, snapshot, replace(options, shuffle_seed=seed, shuffle_layers=layers))
                for layers in ("effective", "erk", "uniform")
            },
            "reinitialised": (project.with_seed(seed + REINITIALISED), None, replace(options, begin=None)),
        }
        return [
            child("", project, snapshot, options),
            *(child(control, *controls[control]) for control in self.controls),
        ]


def _check_snapshots(children: Sequence[Child]) -> None:
    """Refuse to go on from a level 0 that stopped before the step to rewind to."""
    for path in dict.fromkeys(child.config["ckpt_path"] for child in children):
        if path is not None and not Path(path).is_file():
            raise LotteryError(f"There is no '{path}': level 0 ended before that step. Rewind to an earlier one.")
