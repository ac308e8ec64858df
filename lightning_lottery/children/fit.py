"""What a child does that trains: Lightning's subcommand on somebody's project, resumable, with records."""

from collections.abc import Mapping, Sized
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_lottery.callbacks import ExactResume, MaskFreezing
from lightning_lottery.children.child import Child, Row, tell_progress
from lightning_lottery.children.conditions import Conditions
from lightning_lottery.children.factories import Factories
from lightning_lottery.children.level import with_level, with_snapshots
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.clock import enter
from lightning_lottery.hooks.loggers import device_of
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.private import batches_that_stepped_in
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.hooks.saving import save_whole
from lightning_lottery.hooks.strategies import refuse_spawning


class Built(Protocol):
    """A project that stands: module, data and Trainer."""

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer


def train(child: Child, resume: str, factories: Factories | None = None) -> list[Row] | None:
    """Run Lightning's subcommand, or ``start``: a fit that ends, saved, before its first step.

    Args:
        child: Its configuration names the project: fit's YAML resolved, or factories.
        resume: Checkpoint of its own to go on from, or "".
        factories: In place of those that the configuration names.

    Returns:
        Its records; None on ranks other than the first.
    """
    folder, is_fit = child.folder, child.command in ("fit", "start")
    validated, conditions = _LastValidation(), Conditions(resumed=bool(resume))
    found: list[list[Row] | None] = []

    def own_callbacks(given: list[Callback]) -> list[Callback]:
        callbacks: list[Callback] = [*given]
        if child.options.get("ticket"):
            callbacks.append(MaskFreezing(child.options["ticket"]))
        if "snapshots" in child.options:
            callbacks = with_snapshots(callbacks, child.options["snapshots"])
        if "level" in child.options:
            callbacks = with_level(callbacks, child.options, resumed=bool(resume))
        if child.command == "start":
            return [*callbacks, _EndsBeforeItsFirstStep(folder, bool(child.options.get("prunes")))]
        if is_fit:
            callbacks += [validated, conditions, _Told(folder)]
            if not any(isinstance(callback, ExactResume) for callback in callbacks):
                callbacks.append(ExactResume())
        return callbacks

    def run(project: Built, _: str = "") -> None:
        trainer, model, data = project.trainer, project.model, project.datamodule
        refuse_spawning(trainer)
        checkpoint = resume or child.config["ckpt_path"]
        if is_fit:
            _fit(trainer, model, data, checkpoint)
        else:
            quiet = {"return_predictions": False} if child.command == "predict" else {"verbose": False}
            getattr(trainer, child.command)(model, datamodule=data, ckpt_path=checkpoint, **quiet)
        if child.command == "fit":
            save_whole(trainer, folder / "last.ckpt")
            end = conditions.end_of(trainer)
            if is_overridden("test_step", model) and is_overridden("test_dataloader", model if data is None else data):
                trainer.test(model, datamodule=data, verbose=False)
            conditions.write(trainer, folder, end)
        found.append(_rows(child, trainer, validated.metrics) if trainer.is_global_zero else None)

    logger = _logger(folder, resume)
    with without_noise():
        if factories is not None or Factories.are_in(child.config):
            build = factories or Factories.load(child.config)
            run(build.project(child.config["seed_everything"], str(folder), logger, own_callbacks))
        else:
            _run_config(child, logger, own_callbacks, run)
    return found[0]


def _run_config(child: Child, logger: TensorBoardLogger, own_callbacks: Any, run: Any) -> None:
    """Build the project of a resolved YAML, with folder, logger and callbacks of the child, and run it."""

    def trainer_arguments(config: dict[str, Any]) -> dict[str, Any]:
        callbacks = own_callbacks(config["callbacks"])
        own = any(isinstance(callback, Checkpoint) for callback in callbacks)
        return {
            "default_root_dir": str(child.folder),
            "logger": logger,
            "callbacks": callbacks,
            "enable_checkpointing": config["enable_checkpointing"] if own else False,
        }

    from lightning_lottery.children.project import ResolvedProject  # the parser takes long to import

    command = "fit" if child.command == "start" else child.command
    arguments = [command, "--config", str(child.folder / "config.yaml")]
    ResolvedProject(arguments, run=run, trainer=trainer_arguments)


def _fit(trainer: Trainer, model: LightningModule, data: LightningDataModule | None, checkpoint: str | None) -> None:
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    if trainer.interrupted:
        raise KeyboardInterrupt


class _EndsBeforeItsFirstStep(Callback):
    """Saves ``start.ckpt`` once masks are installed, and ends the fit.

    Args:
        folder: Where.
        prunes: Whether a callback of the Trainer is to have pruned by then.
    """

    lottery_place = 2

    def __init__(self, folder: Path, prunes: bool) -> None:
        self.folder, self.prunes = folder, prunes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        enter(self, trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.prunes:
            self._require_masks(trainer)
        save_whole(trainer, self.folder / "start.ckpt")
        trainer.should_stop = True
        trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None

    def _require_masks(self, trainer: Trainer) -> None:
        pruners = [callback for callback in trainer.callbacks if isinstance(callback, MaskCallback)]  # type: ignore[attr-defined]
        if not pruners or pruners[-1].name is not None:
            raise LotteryError("The pruner is a callback that makes masks, such as SynFlow, and has no `name`.")
        schedule = pruners[-1].resolved_schedule
        if schedule is None or schedule(pruners[-1].step) != schedule.final or pruners[-1].sparsity == 0:
            raise LotteryError(
                f"{pruners[-1].label} has not pruned to its end at step {pruners[-1].step}: take one that prunes at "
                "once, such as SynFlow, SNIP, or MagnitudePruning(Constant(0.8, begin=0))."
            )


class _Told(Callback):
    """Leaves in the folder how far the fit is, at most once a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.last = folder, 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_global_zero and monotonic() - self.last > 1:
            self.last = monotonic()
            steps = trainer.estimated_stepping_batches
            tell_progress(self.folder, trainer.global_step, int(steps) if 0 < steps < float("inf") else None)


class _LastValidation(Callback):
    """What the last validation measured, kept in checkpoints: a fit that goes on from its end validates no more."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what was measured, before anybody writes a checkpoint."""
        metrics = trainer.callback_metrics.items()
        self.metrics = {name: float(value) for name, value in metrics if name.startswith("val")}

    def state_dict(self) -> dict[str, Any]:
        """The metrics."""
        return {"metrics": dict(self.metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The metrics of the unbroken run so far."""
        self.metrics = dict(state_dict["metrics"])


def _rows(child: Child, trainer: Trainer, validated: Mapping[str, float]) -> list[Row]:
    """A row for each metric of the last validation and test."""
    method = next((callback for callback in trainer.callbacks if isinstance(callback, MaskCallback)), None)  # type: ignore[attr-defined]
    row = {
        "stage": child.folder.name,
        "method": type(method).__name__ if method else "dense",
        "parent": None,
        "seeds": [child.config["seed_everything"]],
        "step": trainer.global_step,
        "alpha": None,
        "sparsity": method.sparsity if method else 0.0,
        **child.labels,
    }
    metrics = trainer.callback_metrics.items()
    measured = {name: float(value) for name, value in metrics if name.startswith(("val", "test"))}
    return [
        {**row, "metric": name, "value": value, "n": _samples(trainer, name), "device": device_of(trainer)}
        for name, value in sorted({"sparsity": row["sparsity"], **measured, **validated}.items())
    ]


def _logger(folder: Path, resume: str) -> TensorBoardLogger:
    """Curves straight in the folder; they replace those that a killed run left of the steps still to come."""
    purge = 0
    if resume:
        purge = batches_that_stepped_in(torch.load(resume, map_location="meta", weights_only=True)) + 1
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=purge)


def _samples(trainer: Trainer, metric: str) -> int | None:
    """How many samples a metric was averaged over, where the loader knows and was not cut short."""
    split = "test" if metric.startswith("test") else "val"
    dataset = getattr(getattr(trainer, f"{split}_dataloaders"), "dataset", None)
    limit = getattr(trainer, f"limit_{split}_batches")
    return len(dataset) if isinstance(dataset, Sized) and isinstance(limit, float) and limit == 1 else None
