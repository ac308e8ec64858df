"""Children of one checkpoint that differ in their seed, and the lines between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_lottery.callbacks.freezing import origin_of
from lightning_lottery.children.child import Child
from lightning_lottery.children.conditions import check_contract
from lightning_lottery.children.factories import imported
from lightning_lottery.children.fit import only_bars
from lightning_lottery.children.noise import Noise, noise_in_words, seeds_of_child
from lightning_lottery.children.options import LinesOptions, LinesTrialOptions, StartOptions, TicketOptions
from lightning_lottery.children.project import Project, project_of
from lightning_lottery.children.records import STAMP, Row
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.connectivity.path import path
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.plan import child_of
from lightning_lottery.functional.perturbation import Perturbation
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.hooks.strategies import refuse_spawning

REPORT = Path("lines", "report.json")
"""Where the lines between children are reported, in the folder that holds theirs."""

Predict = Callable[[LightningModule, Any], torch.Tensor]
"""Given a module and a batch, the predicted classes."""


@dataclass(frozen=True)
class Siblings:
    """The children of one checkpoint, in the order in which they depend on each other.

    Args:
        start: Makes the common beginning, and the ticket where there is a pruner; None where a checkpoint is given.
        seeds: One for each seed; they do not depend on each other.
        lines: Judges the lines between them.
        noise: By what they differ.
    """

    start: Child | None
    seeds: Sequence[Child]
    lines: Child
    noise: Noise = None

    @property
    def waves(self) -> list[list[Child]]:
        """The children that are trained, in the order of dependence."""
        return [*([[self.start]] if self.start else []), list(self.seeds)]

    @property
    def ticket(self) -> str:
        """What tables call the ticket whose masks they keep, or ``"none"``."""
        options = self.seeds[0].options
        return origin_of(options.ticket) if isinstance(options, TicketOptions) and options.ticket else "none"

    def check_contract(self) -> dict[str, Any]:
        """The conditions that the trained children share.

        Raises:
            LotteryError: They differ in more than their seed.
        """
        folders = {child.folder.name: child.folder for child in self.seeds}
        return check_contract(folders, _seeds_of(self.seeds), self.noise)

    def discard_stale_lines(self) -> None:
        """Have the lines judged anew where children were added or are judged otherwise: nothing is trained for that."""
        if self.lines.is_stale:
            self.lines.discard()

    def report(self) -> PathReport:
        """The lines, when they are done."""
        return PathReport.load(self.lines.folder / REPORT.name)

    def rows(self, labels: Mapping[str, Any]) -> list[Row]:
        """The records of the children and of the lines between them, when all are done.

        Args:
            labels: What the lines' rows say beside: ``stage``, ``parent``.
        """
        trained = [row for child in self.seeds for row in child.records()]
        alike = {name: trained[0].get(name) for name in ("network", "method", "density")}
        stamp = {name: self.lines.records()[0].get(name) for name in STAMP}
        about = {**alike, **labels, **stamp, "step": self.check_contract()["start_step"]}
        return [*trained, *self.report().rows(_seeds_of(self.seeds), **about)]


@dataclass(frozen=True)
class Family:
    """What the children of every checkpoint of an experiment have in common.

    Args:
        project: What they train.
        judging: How the lines between them are judged.
        predict: Address of a function of predicted classes, to compare predictions; None for none.
        noise: By what children of one checkpoint differ.
    """

    project: Project
    judging: Judging
    predict: str | None = None
    noise: Noise = None

    def siblings(
        self,
        folder: Path,
        begin: str | None,
        seeds: Sequence[int],
        labels: Mapping[str, Any],
        *,
        ticket: str | None = None,
        pruner: Callable[[], MaskCallback] | None = None,
        end_step: int | None = None,
    ) -> Siblings:
        """The children of one checkpoint.

        Args:
            folder: Where theirs go.
            begin: The checkpoint; None for the module as built.
            seeds: Of the children.
            labels: What rows of their records say.
            ticket: Path of a ticket whose masks they keep.
            pruner: In place of a ticket: gives a callback that prunes once, at the checkpoint.
            end_step: Optimizer step at which they end; None for the project's own end.
        """
        project, start = self.project, None
        if begin is None or pruner is not None:
            # One module as built, or one pruning, for all: in a child of its own, so that no child's seed is in it.
            pruned = project if pruner is None else project.with_pruner(pruner)
            options = StartOptions(prunes=pruner is not None)
            start = child_of(pruned.with_seed(project.seed), folder / "start", "start", begin, options=options)
            begin = str(start.folder / "start.ckpt")
            ticket = ticket if pruner is None else str(start.folder / "ticket.safetensors")
        children = []
        for name, seed in zip(_names(seeds), seeds, strict=True):
            built_with, noise = seeds_of_child(self.noise, seed, seeds[0])
            about = {**labels, "seed": seed, "noise": noise_in_words(self.noise)}
            keeps = TicketOptions(ticket, end_step, noise)
            trained = project.with_seed(built_with)
            children.append(child_of(trained, folder / name, "fit", begin, options=keeps, labels=about))
        return Siblings(start, children, self._lines(folder / REPORT.parent, children), self.noise)

    @property
    def trial(self) -> LinesTrialOptions:
        """What is tried before anything is trained."""
        judging = self.judging
        return LinesTrialOptions(
            monitor=judging.monitor,
            mode=judging.mode,
            recalibrate=judging.recalibrate,
            predict=self.predict,
            threshold_ratio=judging.threshold_ratio,
            train_split=judging.train_split or None,
            child=seeds_of_child(self.noise, 0, 0)[1],
        )

    def _lines(self, folder: Path, children: Sequence[Child]) -> Child:
        judging = self.judging
        is_null = isinstance(self.noise, Perturbation) and self.noise.sigma == 0
        options = LinesOptions(
            monitor=judging.monitor,
            mode=judging.mode,
            threshold=judging.threshold,
            threshold_ratio=judging.threshold_ratio,
            alphas=tuple(judging.alphas),
            recalibrate=judging.recalibrate,
            layer_alphas=tuple(judging.layer_alphas),
            predict=self.predict,
            checkpoints=tuple(str(child.folder / "last.ckpt") for child in children),
            is_null_control=len(set(_seeds_of(children))) == 1 or is_null,
            noise=None if self.noise in (None, "seed") else noise_in_words(self.noise),
            train_split=judging.train_split or None,
        )
        return child_of(self.project.with_seed(self.project.seed), folder, "lines", None, options=options)


def judge_lines(
    child: Child, resume: str, project: Project | None = None, *, predict: Predict | None = None
) -> list[Row] | None:
    """What the child does that judges: ``path`` between its checkpoints, kept as ``report.json``.

    Nothing is resumed. ``project`` and ``predict`` stand in place of those that the child's files name.
    """
    options = child.options
    assert isinstance(options, LinesOptions)
    if predict is None and options.predict:
        predict = imported(options.predict)
    with without_noise():
        built = (project or project_of(child.config)).build(child.folder, "fit", False, only_bars)
        refuse_spawning(built.trainer)
        report = path(
            built.model,
            built.datamodule,
            options.checkpoints,
            trainer=built.trainer,
            monitor=options.monitor,
            mode=options.mode,
            threshold=options.threshold,
            threshold_ratio=options.threshold_ratio,
            alphas=options.alphas,
            recalibrate=options.recalibrate,
            layer_alphas=options.layer_alphas,
            predict=predict,
            train_split=bool(options.train_split),
            allow_diverged=True,  # one child of many that diverged makes its step undecided, and no error
        )
        if not built.trainer.is_global_zero:
            return None
        noise = options.noise or noise_in_words(None)
        report = report.of_children(noise, is_null_control=options.is_null_control)
        report.save(child.folder / REPORT.name)
        return report.rows()


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that make no analysis: fewer than two, or some equal."""
    if len(seeds) < 2 or len(set(seeds)) not in (1, len(seeds)):
        raise LotteryError(
            f"`seeds` are at least two, all different (all equal for a null control), got {list(seeds)}: two networks "
            "make a line, three a verdict."
        )


def _seeds_of(children: Sequence[Child]) -> list[int]:
    """The seed that each child is called by, which need not be that of all its training."""
    return [child.labels["seed"] for child in children]


def _names(seeds: Sequence[int]) -> list[str]:
    if len(set(seeds)) == len(seeds):
        return [f"seed-{seed}" for seed in seeds]
    return [f"seed-{seed}-{number}" for number, seed in enumerate(seeds, start=1)]
