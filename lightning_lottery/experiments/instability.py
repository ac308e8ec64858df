"""Is a network stable to SGD noise? Children of one checkpoint with different seeds, and the lines between them."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console

from lightning_lottery.children.child import Child, Row, Work, discard_with_dependents
from lightning_lottery.children.conditions import check_contract
from lightning_lottery.children.engine import engine_of, engine_options
from lightning_lottery.children.environment import IMPORTING
from lightning_lottery.children.factories import FactoryProject, address_of, imported
from lightning_lottery.children.fingerprint import leaves
from lightning_lottery.children.fit import train
from lightning_lottery.children.project import Project, project_of
from lightning_lottery.children.yaml_project import ConfiguredCallback, YamlProject
from lightning_lottery.connectivity.checkpoints import load_plain
from lightning_lottery.connectivity.path import path
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.report import write
from lightning_lottery.experiments.settings import InstabilitySettings
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.hooks.strategies import refuse_spawning

JUDGED = ("monitor", "mode", "threshold", "alphas", "recalibrate", "layer_alphas", "predict")
"""The settings that judge children, as opposed to those that say which are trained."""


class InstabilityAnalysis:
    """Train children of one checkpoint with different seeds, then judge the straight lines between them.

    From the checkpoint everything goes on (weights, optimizer, schedules, step) to the same last step; only the seed
    differs, and with it the order of the data, augmentation and dropout. The network is stable to SGD noise at the
    checkpoint where the error barrier between its children is below a threshold.

    Each child is a folder: done once, resumed when killed, refused when changed. Where the factories are functions at
    the top of a file, each child is a process of its own, under any strategy of Lightning's; otherwise (a notebook, a
    closure) they are trained here, one after another.

    Args:
        make_module: Called with nothing for every child; gives the LightningModule.
        make_data: Called with nothing; gives the LightningDataModule, or None where the module has its own loaders.
        make_trainer: Called with ``default_root_dir=`` and ``logger=``, to be handed to the Trainer that it gives.
        monitor: The metric logged in ``test_step`` (or ``validation_step``) that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss (then the threshold is in its units).
        threshold: Error barrier below which a network is called stable, a fraction.
        alphas: Places on each line, evenly spaced, both ends included; >= 2.
        recalibrate: Training batches for estimating batch norm's statistics anew at each place; 0 for none.
        layer_alphas: Places at which single layers are interpolated, in [0, 1]; empty for none.
        predict: Gives predicted classes for (module, batch), to compare predictions; or its address
            ``package.module:function``.

    Raises:
        TypeError: A factory that cannot be called.

    Source: Frankle et al. 2020, sections 2 and 3. Optimizer state goes on from the checkpoint, as in the paper.
    """

    def __init__(
        self,
        make_module: Callable[[], LightningModule],
        make_data: Callable[[], LightningDataModule | None],
        make_trainer: Callable[..., Trainer],
        *,
        monitor: str = "test_acc",
        mode: Literal["max", "min"] = "max",
        threshold: float = 0.02,
        alphas: int = 21,
        recalibrate: int = 0,
        layer_alphas: Sequence[float] = (),
        predict: Callable[[LightningModule, Any], torch.Tensor] | str | None = None,
    ) -> None:
        self.project: Project = FactoryProject(make_module, make_data, make_trainer)
        self.settings = InstabilitySettings(
            monitor=monitor,
            mode=mode,
            threshold=threshold,
            alphas=alphas,
            recalibrate=recalibrate,
            layer_alphas=tuple(layer_alphas),
            predict=predict if isinstance(predict, str) or predict is None else address_of(predict),
        )
        self.predict = None if isinstance(predict, str) else predict

    @classmethod
    def of(cls, project: Project, settings: InstabilitySettings) -> "InstabilityAnalysis":
        """The analysis of a project."""
        analysis = cls.__new__(cls)
        analysis.project, analysis.settings, analysis.predict = project, settings, None
        return analysis

    def run(
        self,
        ckpt_path: str | os.PathLike[str] | None = None,
        seeds: Sequence[int] = (1, 2),
        *,
        ticket: str | os.PathLike[str] | None = None,
        make_pruner: Callable[[], MaskCallback] | None = None,
        jobs: int = 1,
        dask: str | None = None,
        out: str | os.PathLike[str] = "runs/instability",
        redo: Collection[str] = (),
        labels: Mapping[str, Any] | None = None,
    ) -> PathReport:
        """Train the children that are not done yet, judge the lines between them, and write the report.

        Args:
            ckpt_path: Where children begin; None for the module as built (step 0), one initialisation for all.
            seeds: Of the children: at least two, all different; all equal for a null control.
            ticket: Path of a ticket whose masks every child keeps.
            make_pruner: Gives a callback that prunes once, at the checkpoint (``SNIP``, ``SynFlow``, or
                ``MagnitudePruning`` by a ``Constant`` schedule); every child keeps its masks.
            jobs: Children trained at the same time, each with its share of devices and threads.
            dask: Address of a Dask scheduler whose workers train them instead.
            out: Folder for everything.
            redo: Children to train again: ``start``, ``seed-1``, ..., and with them what uses their files.
            labels: What rows of the records say beside: ``stage``, ``parent``.

        Returns:
            What was found; files are written into ``out`` as well.

        Raises:
            LotteryError: Fewer than two seeds, or some equal; a checkpoint that holds no training state; a child that
                failed, was changed since it ran, or differs in more than its seed; what ``path`` refuses.
        """
        refuse_while_importing()
        folder = Path(out)
        plan = self.plan(folder, ckpt_path, seeds, ticket=ticket, make_pruner=make_pruner, labels=labels)
        discard_with_dependents(plan.children, redo)
        if plan.lines.is_stale:
            plan.lines.discard()  # it only judges: done anew where children were added or asked otherwise
        console = Console()
        do = engine_of(jobs, dask, self._here(make_pruner))
        if plan.start is not None:
            do([("the common beginning", plan.start)], console)
        do(plan.named_seeds(), console)
        shared = plan.check_contract()
        do([("the lines between them", plan.lines)], console)
        return _finish(plan, folder, seeds, shared, labels or {})

    def plan(
        self,
        out: Path,
        ckpt_path: str | os.PathLike[str] | None,
        seeds: Sequence[int],
        *,
        ticket: str | os.PathLike[str] | None = None,
        make_pruner: Callable[[], MaskCallback] | None = None,
        labels: Mapping[str, Any] | None = None,
        may_be_missing: bool = False,
    ) -> "Plan":
        """What ``run`` will do: a child that makes the common beginning where one is needed, one per seed, the lines.

        Args:
            out: As for ``run``, like everything else.
            ckpt_path: Where children begin.
            seeds: Of the children.
            ticket: Path of a ticket.
            make_pruner: Gives a callback that prunes once.
            labels: What rows say beside.
            may_be_missing: The checkpoint may not be there yet.

        Raises:
            LotteryError: As ``run``, as far as it can be known before anything is trained.
        """
        check_seeds(seeds)
        if ckpt_path is not None and not may_be_missing:
            check_checkpoint(Path(ckpt_path))
        pruner = make_pruner or _configured(self.settings.pruner)
        if pruner is not None and (ticket or self.settings.ticket):
            raise LotteryError("Give either a ticket or a pruner: both say which weights the children keep.")
        masks = str(ticket) if ticket else self.settings.ticket
        begin = None if ckpt_path is None else str(ckpt_path)
        start = None
        if begin is None or pruner is not None:
            prunes = {"prunes": pruner is not None}
            start = self._child(out / "start", "start", self.project.seed, begin, prunes, pruner=pruner)
            begin = str(start.folder / "start.ckpt")
            masks = str(start.folder / "ticket.safetensors") if pruner is not None else masks
        said = dict(labels or {})
        children = [
            self._child(out / name, "fit", seed, begin, {"ticket": masks}, labels={**said, "seeds": [seed]})
            for name, seed in zip(_names(seeds), seeds, strict=True)
        ]
        judged = {name: getattr(self.settings, name) for name in JUDGED} | {
            "layer_alphas": list(self.settings.layer_alphas),
            "checkpoints": [str(child.folder / "last.ckpt") for child in children],
            "is_null_control": len(set(seeds)) == 1,
        }
        return Plan(start, children, self._child(out / "lines", "lines", self.project.seed, None, judged))

    def _child(
        self,
        folder: Path,
        command: str,
        seed: int,
        ckpt_path: str | None,
        options: Mapping[str, Any],
        *,
        pruner: Any = None,
        labels: Mapping[str, Any] | None = None,
    ) -> Child:
        project = self.project if pruner is None else self.project.with_pruner(pruner)
        config = {**project.with_seed(seed).config(), "ckpt_path": ckpt_path}
        return Child(folder, command, config, labels or {}, options)

    def _here(self, make_pruner: Callable[[], MaskCallback] | None) -> Callable[[Child], Mapping[str, Work]] | None:
        """What children's commands do in this process, where no other can import what they need."""
        project = self.project
        pruned = project if make_pruner is None else project.with_pruner(make_pruner)
        if pruned.is_importable:
            if self.predict is not None and not self.settings.predict:
                raise LotteryError("`predict` is called in a process of its own: give a function at the top of a file.")
            return None
        return lambda child: {
            "start": partial(train, project=pruned.with_seed(child.config["seed_everything"])),
            "fit": partial(train, project=project.with_seed(child.config["seed_everything"])),
            "lines": partial(judge_lines, project=project, predict=self.predict),
        }


@dataclass(frozen=True)
class Plan:
    """The children of an analysis, in the order in which they depend on each other.

    Args:
        start: Makes the common beginning, and the ticket where there is a pruner; None where a checkpoint is given.
        seeds: One for each seed; they do not depend on each other.
        lines: Judges the lines between them.
    """

    start: Child | None
    seeds: list[Child]
    lines: Child

    @property
    def children(self) -> list[Child]:
        """All of them."""
        return [*([self.start] if self.start else []), *self.seeds, self.lines]

    @property
    def waves(self) -> list[list[Child]]:
        """The children that are trained, in the order of dependence."""
        return [*([[self.start]] if self.start else []), self.seeds]

    def check_contract(self) -> dict[str, Any]:
        """The conditions that the trained children share.

        Raises:
            LotteryError: They differ in more than their seed.
        """
        seeds = [child.config["seed_everything"] for child in self.seeds]
        return check_contract({child.folder.name: child.folder for child in self.seeds}, seeds)

    def rows(self, labels: Mapping[str, Any]) -> list[Row]:
        """The records of the children and of the lines between them, when all are done.

        Args:
            labels: What the lines' rows say beside: ``stage``, ``parent``.
        """
        trained = [row for child in self.seeds for row in child.records()]
        own = {**labels, "step": self.check_contract()["start_step"], "sparsity": trained[0]["sparsity"]}
        seeds = [child.config["seed_everything"] for child in self.seeds]
        return [*trained, *PathReport.load(self.lines.folder / "report.json").rows(seeds, **own)]

    def named_seeds(self) -> list[tuple[str, Child]]:
        """The children of the seeds, and what each is called."""
        total = len(self.seeds)
        return [
            (f"child of seed {child.config['seed_everything']} ({number}/{total})", child)
            for number, child in enumerate(self.seeds, start=1)
        ]


def judge_lines(
    child: Child,
    resume: str,
    project: Project | None = None,
    predict: Callable[[LightningModule, Any], torch.Tensor] | None = None,
) -> list[Row] | None:
    """What the child does that judges: ``path`` between its checkpoints, kept as ``report.json``."""
    options = dict(child.options)
    with without_noise():
        built = (project or project_of(child.config)).build(child.folder, "fit", False, _only_bars)
        refuse_spawning(built.trainer)
        alphas = options["alphas"]
        report = path(
            built.model,
            built.datamodule,
            options["checkpoints"],
            trainer=built.trainer,
            alphas=[k / (alphas - 1) for k in range(alphas)] if alphas > 1 else [0.0],
            predict=imported(options["predict"]) if options["predict"] and predict is None else predict,
            **{name: options[name] for name in JUDGED if name not in ("alphas", "predict")},
            allow_diverged=True,
        )
        report = replace(report, is_null_control=options["is_null_control"])
        if not built.trainer.is_global_zero:
            return None
        report.save(child.folder / "report.json")
        return report.rows()


def analyse(child: Child, resume: str) -> list[Row]:
    """What a recipe's stage ``instability`` does: a whole analysis in the stage's folder."""
    project = {name: value for name, value in child.config.items() if name != "instability"}
    settings = InstabilitySettings(**child.config["instability"])
    analysis = InstabilityAnalysis.of(YamlProject(project), settings)
    labels = {"stage": child.folder.name, "parent": child.config["seed_everything"]} | {
        name: value for name, value in child.labels.items() if name != "seeds"
    }
    analysis.run(
        child.config["ckpt_path"],
        settings.seeds,
        **engine_options(),
        out=child.folder,
        labels=labels,
    )
    return child.records()


def _finish(
    plan: Plan, folder: Path, seeds: Sequence[int], shared: Mapping[str, Any], labels: Mapping[str, Any]
) -> PathReport:
    """Write and show everything.

    Args:
        plan: Whose children are done.
        folder: Where files go.
        seeds: Of the children.
        shared: The conditions that the children share.
        labels: What rows say beside.
    """
    report = PathReport.load(plan.lines.folder / "report.json")
    report = replace(report, names=tuple(f"seed {seed}" for seed in seeds))
    rows = plan.rows({"stage": "instability", **labels})
    hparams = {"start_step": shared["start_step"], "end_step": shared["end_step"], **dict(leaves(shared["hparams"]))}
    write(report, folder, rows, run="path", hparams=hparams, outcome={"path/error_barrier": report.stability.mean})
    console = Console()
    console.print(report.table())
    for sentence in report.sentences():
        console.print(sentence, soft_wrap=True)
    console.print(f"Records: {folder / 'results.jsonl'}. Curves: tensorboard --logdir {folder}", soft_wrap=True)
    return report


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that make no analysis.

    Raises:
        LotteryError: Fewer than two, or some equal.
    """
    if len(seeds) < 2 or len(set(seeds)) not in (1, len(seeds)):
        raise LotteryError(
            f"`seeds` are at least two, all different (all equal for a null control), got {list(seeds)}: two networks "
            "make a line, three a verdict."
        )


def _names(seeds: Sequence[int]) -> list[str]:
    if len(set(seeds)) == len(seeds):
        return [f"seed-{seed}" for seed in seeds]
    return [f"seed-{seed}-{number}" for number, seed in enumerate(seeds, start=1)]


def check_checkpoint(ckpt_path: Path) -> int:
    """Refuse what children cannot go on from, before anything is trained; else the optimizer step it was saved at."""
    loaded = load_plain(ckpt_path, "meta")
    if not isinstance(loaded, dict) or "optimizer_states" not in loaded or "loops" not in loaded:
        raise LotteryError(
            f"'{ckpt_path}' holds weights but no optimizer and no loops to go on from: give a full checkpoint of "
            "Lightning's (`save_weights_only=False`)."
        )
    return int(loaded["global_step"])


def _configured(pruner: Any) -> Any:
    """A pruner of a YAML's section."""
    return ConfiguredCallback(**pruner) if isinstance(pruner, Mapping) else pruner


def _only_bars(callbacks: list[Any]) -> list[Any]:
    """Of a project's callbacks those that evaluation keeps."""
    return [callback for callback in callbacks if isinstance(callback, ProgressBar)]


def refuse_while_importing() -> None:
    """Refuse a runner that a script starts when its children import it.

    Raises:
        LotteryError: One does.
    """
    if os.environ.get(IMPORTING):
        raise LotteryError(
            f"'{os.environ[IMPORTING]}' runs an analysis when it is imported, which its children must do: put the "
            'call under `if __name__ == "__main__":`.'
        )
