"""Iterative magnitude pruning: train, remove a fraction of what remains, rewind, level by level."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from rich.console import Console

from lightning_lottery.children.child import Child, Row, Work, discard_with_dependents
from lightning_lottery.children.engine import engine_of, engine_options
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.fit import train
from lightning_lottery.children.project import Project
from lightning_lottery.children.yaml_project import YamlProject
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp_report import ImpReport, row_of, table_of, write_report
from lightning_lottery.experiments.instability import check_checkpoint, refuse_while_importing
from lightning_lottery.experiments.settings import ImpSettings
from lightning_lottery.scope import Scope

REINITIALISED = 1000
"""The re-initialised control of seed S is built, and sees its data in the order of, seed S + 1000."""


class IterativePruning:
    """Train the dense network, then level by level remove a fraction of what remains and train the rest again.

    Level 0 trains everything. For level n, the ``round(prune_fraction * kept)`` smallest of the ``kept`` weights that
    level n - 1 ended with are removed, and the others trained from ``rewind_step`` to the end of the fit: from the
    weights and buffers that level 0 had there (``rewind="weights"``), or from those that level n - 1 ended with, only
    the schedules and the step going back (``rewind="learning_rate"``). All levels of a seed see the same data in the
    same order, where the loader's order follows the seed.

    Controls, at every level: ``"shuffled"`` trains, from the same start, masks that keep as many weights in each layer
    at places drawn anew (which is random pruning at the ticket's density in each layer); ``"reinitialised"`` trains the
    ticket's masks in the network as built under another seed (S + 1000), from step 0 and for the whole fit.

    Each level of each seed is a child: a folder, done once, resumed when killed, refused when changed. Zeros bring no
    speed by themselves: see ``shrink``.

    Args:
        make_module: Called with nothing for every child; gives the LightningModule.
        make_data: Called with nothing; gives the LightningDataModule, or None where the module has its own loaders.
        make_trainer: Called with ``default_root_dir=`` and ``logger=``, to be handed to the Trainer that it gives.
        prune_fraction: Fraction of what remains that each level removes, in (0, 1).
        levels: How many levels are pruned; give either this or ``sparsity``.
        sparsity: Prune to the first level that removes at least this fraction of the scope, in (0, 1).
        rewind_step: Optimizer step that every level begins again at; 0 for the initialisation.
        rewind: What goes back to that step: ``"weights"`` (and buffers), or only the ``"learning_rate"``.
        optimizer: Its state is forgotten at every level (``"fresh"``), or that of the step (``"restored"``).
        per: Rank all weights together (``"all"``), or remove the fraction of each tensor by itself (``"tensor"``).
        scope: Which weights compete; default: those of linear and convolution layers.
        controls: Of ``"shuffled"`` and ``"reinitialised"``.
        monitor: The metric logged in ``test_step`` (or ``validation_step``) that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss.
        margin: Loss of the metric that still counts as a match, > 0.

    Raises:
        TypeError: A factory that cannot be called.
        LotteryError: An argument out of its range.

    Source: Frankle & Carbin 2019; Frankle et al. 2020 (rewinding to a later step); Renda et al. 2020 (learning-rate
    rewinding); Frankle et al. 2021, section 4 (controls). Counts are exact, where the authors' code removes one more.
    """

    def __init__(
        self,
        make_module: Callable[[], LightningModule],
        make_data: Callable[[], LightningDataModule | None],
        make_trainer: Callable[..., Trainer],
        *,
        prune_fraction: float = 0.2,
        levels: int | None = None,
        sparsity: float | None = None,
        rewind_step: int = 0,
        rewind: Literal["weights", "learning_rate"] = "weights",
        optimizer: Literal["fresh", "restored"] = "fresh",
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        controls: Sequence[Literal["shuffled", "reinitialised"]] = (),
        monitor: str = "test_acc",
        mode: Literal["max", "min"] = "max",
        margin: float = 0.01,
    ) -> None:
        self.project: Project = FactoryProject(make_module, make_data, make_trainer)
        self.settings = ImpSettings(
            prune_fraction=prune_fraction,
            levels=levels,
            sparsity=sparsity,
            rewind_step=rewind_step,
            rewind=rewind,
            optimizer=optimizer,
            per=per,
            scope=scope,
            controls=tuple(controls),
            monitor=monitor,
            mode=mode,
            margin=margin,
        )
        self.levels = self.settings.levels_to_prune()

    @classmethod
    def of_config(cls, project: Project, settings: ImpSettings) -> "IterativePruning":
        """Iterative pruning of a project given as the resolved YAML of a fit.

        Raises:
            LotteryError: A setting out of its range.
        """
        pruning = cls.__new__(cls)
        pruning.project, pruning.settings, pruning.levels = project, settings, settings.levels_to_prune()
        return pruning

    def run(
        self,
        ckpt_path: str | os.PathLike[str] | None = None,
        seeds: Sequence[int] = (0,),
        *,
        jobs: int = 1,
        dask: str | None = None,
        out: str | os.PathLike[str] = "runs/imp",
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> ImpReport:
        """Train the children that are not done yet, level by level, and write the report.

        Args:
            ckpt_path: Where level 0 begins; None for the module as built under each seed.
            seeds: Each trains all levels; different, at least one. One seed gives no verdict.
            jobs: Children trained at the same time, each with its share of devices and threads.
            dask: Address of a Dask scheduler whose workers train them instead.
            out: Folder for everything: ``seed-S/level-N``, and ``seed-S/level-N-shuffled`` for a control.
            redo: Names to train again, such as ``level-2``, for all seeds, and with them what uses their files.
            labels: What rows of the records say beside: ``stage``, ``parent``.

        Returns:
            What was found; files are written into ``out`` as well.

        Raises:
            LotteryError: No seed, or one twice; a checkpoint that holds no training state, or begins after
                ``rewind_step``; a fit that ends before it; a child that failed or was changed since it ran; a metric
                that is not logged.
        """
        refuse_while_importing()
        plan = self.plan(Path(out), ckpt_path, seeds, labels=labels)
        discard_with_dependents(plan.children, redo)
        do, console = engine_of(jobs, dask, self._here()), Console()
        for level, children in enumerate(plan.levels):
            if level:
                plan.check_snapshots()
            do(plan.named(level), console)
            if not level:
                for child in children:
                    row_of(child.records(), self.settings.monitor)  # before many more are trained for nothing
        return self._finish(plan, Path(out), seeds, console)

    def plan(
        self,
        out: Path,
        ckpt_path: str | os.PathLike[str] | None,
        seeds: Sequence[int],
        *,
        labels: Mapping[str, Any] | None = None,
    ) -> "Plan":
        """What ``run`` will do: for each level a child of every seed and of every control.

        Raises:
            LotteryError: As ``run``, as far as it can be known before anything is trained.
        """
        if not seeds or len(set(seeds)) != len(seeds):
            raise LotteryError(f"`seeds` are different numbers, at least one, got {list(seeds)}.")
        step = self.settings.rewind_step
        begins_at = 0 if ckpt_path is None else check_checkpoint(Path(ckpt_path))
        if step < begins_at:
            raise LotteryError(f"`rewind_step` {step} lies before '{ckpt_path}', which begins at step {begins_at}.")
        given = None if ckpt_path is None else str(ckpt_path)
        said = {"stage": "imp", **(labels or {})}
        levels: list[list[Child]] = [[] for _ in range(self.levels + 1)]
        snapshots = []
        for seed in seeds:
            folder = out / f"seed-{seed}"
            taken = str(folder / "level-0" / "snapshots" / f"step={step}.ckpt")
            snapshots.append(taken if given is None or step > begins_at else given)
            for level, children in enumerate(levels):
                children += self._of_level(folder, level, seed, given if level == 0 else snapshots[-1], said)
        return Plan(levels, snapshots)

    def _of_level(
        self, folder: Path, level: int, seed: int, begin: str | None, labels: Mapping[str, Any]
    ) -> list[Child]:
        """The child of a level and those of its controls."""
        own = self.settings
        if level == 0:
            scope = asdict(own.scope if isinstance(own.scope, Scope) else Scope(**(own.scope or {})))
            options: dict[str, Any] = {"level": 0, "scope": scope, "rewind_step": own.rewind_step}
            return [
                self._child(folder, "level-0", seed, begin, options, {**labels, "seeds": [seed], "method": "dense"})
            ]
        before = folder / f"level-{level - 1}"
        weights = str(before / "last.ckpt")
        options = {
            "level": level,
            "prune": {
                "weights": weights,
                "within": str(before / "ticket.safetensors"),
                "prune_fraction": own.prune_fraction,
                "per": own.per,
            },
            "begin": {"weights": weights if own.rewind == "learning_rate" else None, "optimizer": own.optimizer},
            "shuffle_seed": None,
        }
        said = {**labels, "seeds": [seed], "method": "IterativePruning"}
        children = [self._child(folder, f"level-{level}", seed, begin, options, said)]
        for control in own.controls:
            name, method = f"level-{level}-{control}", {"method": f"IterativePruning {control}"}
            if control == "shuffled":
                other = self._child(folder, name, seed, begin, {**options, "shuffle_seed": seed}, {**said, **method})
            else:
                anew = {**options, "begin": None}
                other = self._child(folder, name, seed + REINITIALISED, None, anew, {**said, **method})
            children.append(other)
        return children

    def _child(
        self,
        folder: Path,
        name: str,
        seed: int,
        ckpt_path: str | None,
        options: Mapping[str, Any],
        labels: Mapping[str, Any],
    ) -> Child:
        config = {**self.project.with_seed(seed).config(), "ckpt_path": ckpt_path}
        return Child(folder / name, "fit", config, {**labels, "stage": f"{labels['stage']}/{name}"}, options)

    def _here(self) -> Callable[[Child], Mapping[str, Work]] | None:
        """What a child's command does in this process, where no other can import the factories."""
        if self.project.is_importable:
            return None
        return lambda child: {"fit": partial(train, project=self.project.with_seed(child.config["seed_everything"]))}

    def _finish(self, plan: "Plan", folder: Path, seeds: Sequence[int], console: Console) -> ImpReport:
        """Judge, write and show everything."""
        own = self.settings
        records: dict[str, list[list[Row]]] = {}
        for child in plan.children:
            records.setdefault(child.folder.name, []).append(child.records())
        report = ImpReport.of_records(records, seeds, own.monitor, own.mode, own.margin)
        rows = [row for of_seeds in records.values() for of_child in of_seeds for row in of_child]
        write_report(report, folder, rows)
        console.print(table_of(report))
        console.print(f"Records: {folder / 'results.jsonl'}. Curves: tensorboard --logdir {folder}", soft_wrap=True)
        return report


@dataclass(frozen=True)
class Plan:
    """The children of iterative pruning.

    Args:
        levels: Of each level those of all seeds, its controls among them; they depend only on the levels before.
        snapshots: Of each seed the checkpoint that levels rewind to.
    """

    levels: list[list[Child]]
    snapshots: list[str]

    @property
    def children(self) -> list[Child]:
        """All of them, in the order in which they depend on each other."""
        return [child for children in self.levels for child in children]

    def named(self, level: int) -> list[tuple[str, Child]]:
        """The children of a level, and what each is called."""
        before, total = sum(len(children) for children in self.levels[:level]), len(self.children)
        return [
            (f"{child.folder.parent.name}/{child.folder.name} ({number}/{total})", child)
            for number, child in enumerate(self.levels[level], start=before + 1)
        ]

    def check_snapshots(self) -> None:
        """Refuse to go on from a level 0 that stopped before the step to rewind to.

        Raises:
            LotteryError: One did.
        """
        for path in self.snapshots:
            if not Path(path).is_file():
                raise LotteryError(f"There is no '{path}': level 0 ended before that step. Rewind to an earlier one.")


def prune_iteratively(child: Child, resume: str) -> list[Row]:
    """What a recipe's stage ``imp`` does: all levels of its seeds in the stage's folder."""
    project = {name: value for name, value in child.config.items() if name != "imp"}
    settings = ImpSettings(**child.config["imp"])
    labels = {"stage": child.folder.name, "parent": child.config["seed_everything"]} | {
        name: value for name, value in child.labels.items() if name != "seeds"
    }
    pruning = IterativePruning.of_config(YamlProject(project), settings)
    pruning.run(
        child.config["ckpt_path"],
        settings.seeds,
        **engine_options(),
        out=child.folder,
        labels=labels,
    )
    return child.records()
