"""Is a network stable to SGD noise? Children of one checkpoint with different seeds, and the lines between them."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lightning_lottery.children.engine import ProjectWork, engine_of
from lightning_lottery.children.factories import address_of
from lightning_lottery.children.fit import tested_in, train
from lightning_lottery.children.noise import Noise, check_noise
from lightning_lottery.children.project import Project
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.connectivity.judging import ALPHAS, Judging
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.plan import Plan, check_checkpoint, check_not_importing
from lightning_lottery.experiments.report import BoardRow, show, write
from lightning_lottery.experiments.siblings import Family, Predict, Siblings, check_seeds, judge_lines
from lightning_lottery.experiments.trial import try_before, try_out
from lightning_lottery.hooks.boards import BARRIER, Settings
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.notebook import call_of_fields


@dataclass(frozen=True, kw_only=True)
class InstabilityAnalysis:
    """Train children of one checkpoint with different seeds, then judge the straight lines between them.

    From the checkpoint everything goes on (weights, optimizer, schedules, step) to the same last step; only the seed
    differs, and with it the order of the data, augmentation and dropout, or what ``noise`` says of these. The network
    is stable to that noise at the checkpoint where the error barrier between its children is below a threshold.

    With ``noise="order"`` every other random number is the first child's: seeds of workers, and Python's, NumPy's and
    torch's generators at the start of every training batch. So dropout's masks are the same at a step, and the n-th
    sample of a batch is augmented by the same random numbers, though it is another sample. With ``"augmentation"`` all
    of these differ and the order is the first child's; with a ``Perturbation`` all is the first child's, and only the
    weights are changed, once. Where a loader draws order and samples together (an ``IterableDataset``, or a class of
    its own that has no ``order_seed``), the first two are refused before anything is trained; where a sampler draws
    from what cannot be seeded from outside, once children are compared. Under a noise that none of them has (no dropout
    and no augmentation) they end alike, and are refused.

    Each child is a folder: done once, resumed when killed, refused when changed. Where another process can build the
    project (YAML, or factories that are functions at the top of a file), each child is a process of its own, under any
    strategy of Lightning's; otherwise (a notebook, a closure) they are trained here, one after another.

    The same fields are read from the section ``instability`` of a YAML.

    Args:
        seeds: Of the children; at least two, all different, or all equal for a null control.
        monitor: The metric logged in ``test_step`` (or ``validation_step``) that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss (then the threshold is in its units).
        threshold: Error barrier below which a network is called stable, a fraction.
        threshold_ratio: In place of ``threshold``: a barrier of that fraction of the mean error of the ends, such as
            0.02 for a loss that rises by 2 %.
        alphas: Fractions of each line at which it is evaluated, in [0, 1], both ends among them.
        recalibrate: Training batches for estimating batch norm's statistics anew at each alpha; 0 for none.
        layer_alphas: Fractions of the line at which single layers are interpolated, in [0, 1]; empty for none.
        ticket: Path of a ticket whose masks every child keeps.
        pruner: In place of a ticket: gives a callback that prunes once, at the checkpoint (``SNIP``, ``SynFlow``, or
            ``MagnitudePruning`` by a ``Constant`` schedule); every child keeps its masks. In YAML: the callback.
        predict: Gives predicted classes for (module, batch), to compare predictions; or its address
            ``package.module:function``.
        noise: By what the children differ: ``"seed"`` (default, by all that is random), ``"order"`` (of the data),
            ``"augmentation"`` (and dropout: all but the order), or a ``Perturbation`` of their weights at the
            checkpoint, in YAML its arguments.
        train_split: Also evaluate the lines on the training split, by the same step; the verdict is on the test split.

    Raises:
        LotteryError: An argument out of its range, or two that contradict each other.

    Example:
        >>> InstabilityAnalysis(seeds=(1, 2, 3), threshold=0.01).judging.threshold
        0.01

    Source: Frankle et al. 2020, sections 2 and 3. Optimizer state goes on from the checkpoint, as in the paper. Noises
    apart: Summers and Dinneen 2021; Altıntaş et al. 2025, who compare a perturbed network with one that is not: here
    every child is perturbed, so that all are alike, and two Gaussian ones lie sqrt(2) sigma apart.
    """

    seeds: Sequence[int] = (1, 2)
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    threshold: float = 0.02
    threshold_ratio: float | None = None
    alphas: Sequence[float] = ALPHAS
    recalibrate: int = 0
    layer_alphas: Sequence[float] = ()
    ticket: str | None = None
    pruner: Callable[[], MaskCallback] | None = None
    predict: str | Predict | None = None
    noise: Noise = None
    train_split: bool | None = None

    def __repr__(self) -> str:
        return call_of_fields(self)

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        check_noise(self.noise)
        _ = self.judging  # which checks its part
        if self.ticket is not None and self.pruner is not None:
            raise LotteryError("Give either a ticket or a pruner: both say which weights the children keep.")

    @property
    def judging(self) -> Judging:
        """How the lines are judged."""
        along = (self.alphas, self.recalibrate, self.layer_alphas)
        return Judging(self.monitor, self.mode, self.threshold, *along, self.threshold_ratio, bool(self.train_split))

    def run(
        self,
        project: Project,
        ckpt_path: str | os.PathLike[str] | None = None,
        *,
        jobs: int = 1,
        dask: str | None = None,
        out: str | os.PathLike[str] = "runs/instability",
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> PathReport:
        """Train the children that are not done yet, judge the lines between them, and write the report.

        Args:
            project: What children train: a ``FactoryProject`` or a ``YamlProject``.
            ckpt_path: Where children begin; None for the module as built (step 0), one initialisation for all.
            jobs: Children trained at the same time, each with its share of devices and threads.
            dask: Address of a Dask scheduler whose workers train them instead.
            out: Folder for everything.
            redo: Children to train again: ``start``, ``seed-1``, ..., and with them what uses their files.
            labels: What rows of the records say beside: ``stage``, ``parent``.

        Returns:
            What was found; files are written into ``out`` as well.

        Raises:
            LotteryError: A checkpoint that holds no training state; a child that failed, was changed since it ran, or
                differs in more than its seed; what ``path`` refuses.
        """
        check_not_importing()
        folder, console = Path(out), Console()
        family, begin = self._family(project), None if ckpt_path is None else str(ckpt_path)
        siblings = self._siblings(family, folder, ckpt_path, labels or {})
        predict = self.predict if callable(self.predict) else None
        pruned = project if self.pruner is None else project.with_pruner(self.pruner)
        if pruned.is_importable and predict is not None and not address_of(predict):
            raise LotteryError("`predict` is called in a process of its own: give a function at the top of a file.")
        here: dict[str, ProjectWork] = {"start": train, "fit": train, "lines": partial(judge_lines, predict=predict)}
        here[TRIAL] = partial(try_out, predict=predict)
        do = engine_of(jobs, dask, None if pruned.is_importable else here)
        _plan_of(siblings).discard(redo, folder)
        siblings.discard_stale_lines()
        trained = [child for wave in siblings.waves for child in wave]
        try_before(trained, project, folder, begin, family.trial, do, console)
        if siblings.start is not None:
            do([("the common beginning", siblings.start)], console)
        total = len(self.seeds)
        children = enumerate(zip(self.seeds, siblings.seeds, strict=True), start=1)
        do([(f"child of seed {seed} ({number}/{total})", child) for number, (seed, child) in children], console)
        shared = siblings.check_contract()  # before lines are judged that would say nothing
        do([("the lines between them", siblings.lines)], console)
        report = siblings.report().called(f"seed {seed}" for seed in self.seeds)
        labels = {"stage": "instability", **(labels or {}), "noise": report.noise or None}
        rows = siblings.rows(labels)
        settings = Settings(
            method=rows[0]["method"],
            sparsity=next(each["value"] for each in rows if each["metric"] == "sparsity"),
            start_step=shared["start_step"],
            ticket=siblings.ticket,
            seed=str(labels.get("parent", project.seed)),
        )
        row = BoardRow(settings, tested_in(siblings.seeds[0].records()), {BARRIER: report.stability.mean})
        write(report, folder, run="path", rows=rows, row=row)
        show(report, folder, console)
        return report

    def plan(
        self,
        project: Project,
        out: str | os.PathLike[str] = "runs/instability",
        ckpt_path: str | os.PathLike[str] | None = None,
        *,
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> Plan:
        """What ``run`` does with these arguments, the common beginning first; what ``redo`` names is removed.

        Raises:
            LotteryError: As ``run``, as far as it can be known before anything is trained.
        """
        plan = _plan_of(self._siblings(self._family(project), Path(out), ckpt_path, labels or {}))
        plan.discard(redo, Path(out))
        return plan

    def _family(self, project: Project) -> Family:
        predict = address_of(self.predict) if callable(self.predict) else self.predict
        return Family(project, self.judging, predict, self.noise)

    def _siblings(
        self, family: Family, folder: Path, ckpt_path: str | os.PathLike[str] | None, labels: Mapping[str, Any]
    ) -> Siblings:
        if ckpt_path is not None:
            check_checkpoint(Path(ckpt_path))
        begin = None if ckpt_path is None else str(ckpt_path)
        ticket = None if self.ticket is None else str(self.ticket)
        return family.siblings(folder, begin, self.seeds, labels, ticket=ticket, pruner=self.pruner)


def _plan_of(siblings: Siblings) -> Plan:
    # The lines are no wave: the command that is given again when children are done judges them, and all beside.
    return Plan([*(child for wave in siblings.waves for child in wave), siblings.lines], siblings.waves)
