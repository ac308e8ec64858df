"""What a child does that trains: Lightning's subcommand on somebody's project, resumable, with records."""

import signal
from collections.abc import Mapping, Sequence, Sized
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_lottery.callbacks import ExactResume, MaskFreezing
from lightning_lottery.callbacks.early_bird import EarlyBird
from lightning_lottery.children.by_batch import LogsByBatch
from lightning_lottery.children.child import Child
from lightning_lottery.children.conditions import Conditions
from lightning_lottery.children.folders import load_checkpoint
from lightning_lottery.children.level import with_level, with_snapshots
from lightning_lottery.children.noise import callbacks_of
from lightning_lottery.children.options import (
    DenseLevelOptions,
    LevelOptions,
    LinesTrialOptions,
    NoiseOptions,
    RecordsTrialOptions,
    SnapshotOptions,
    StartOptions,
    TicketOptions,
)
from lightning_lottery.children.progress import DEFAULT_BARS, FitProgress
from lightning_lottery.children.project import Built, Project, project_of
from lightning_lottery.children.records import Row, record
from lightning_lottery.children.signals import Ended, heed, is_asked, take_back, wait_for_step, wait_no_more
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import remove_file
from lightning_lottery.hooks.boards import Settings, add_settings
from lightning_lottery.hooks.clock import put_in_order
from lightning_lottery.hooks.loggers import device_of
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.ordering import Order
from lightning_lottery.hooks.private import batches_that_stepped_in
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.hooks.saving import PlainHyperparameters, save_whole
from lightning_lottery.hooks.strategies import refuse_spawning

_TESTED = ".tested"
"""How the file of the test's curves ends: it has the step of the fit's end, from which on a fit is not repeated."""

_SETTINGS = ".settings"
"""How the file of the row in the table of runs ends, which is written anew with the test."""


def train(child: Child, resume: str, project: Project | None = None) -> list[Row] | None:
    """Run Lightning's subcommand, or ``start``: a fit that ends, saved, before its first step.

    Args:
        child: Its configuration says the project.
        resume: Checkpoint of its own to go on from, or "".
        project: In place of the one that the configuration says.

    Returns:
        Its records; None on ranks other than the first.
    """
    folder, is_fit = child.folder, child.command in ("fit", "start")
    validated, conditions = _LastValidation(), Conditions(resumed=bool(resume))
    # Of children that are judged by their records; the others' lines are evaluated batch by batch.
    by_batch = LogsByBatch() if isinstance(child.options, (DenseLevelOptions, LevelOptions)) else None

    def with_those_of_the_child(callbacks: list[Callback]) -> list[Callback]:
        is_shown = _has_default_bar(child, callbacks)
        callbacks = _with_options(child, callbacks, resumed=bool(resume))
        if is_fit:
            callbacks = [callback for callback in callbacks if type(callback) not in DEFAULT_BARS]
            callbacks.append(PlainHyperparameters())  # or no child could go on from what another leaves
            callbacks.append(FitProgress(folder, is_shown=is_shown and child.command == "fit"))
        if child.command == "fit":
            callbacks += [validated, conditions, *callbacks_of(_noise_of(child), resumed=bool(resume))]
            if by_batch is not None:
                callbacks.append(by_batch)
            if not any(isinstance(callback, ExactResume) for callback in callbacks):
                callbacks.append(ExactResume())
            for callback in callbacks:
                if isinstance(callback, ExactResume):
                    callback.goes_on_its_run = bool(resume)
            callbacks.insert(0, _EndsAtStep())
        return callbacks

    with without_noise():
        logger = _logger(folder, purge_step=_first_step_to_come(resume))
        built = (project or project_of(child.config)).build(
            folder, "fit" if is_fit else child.command, logger, with_those_of_the_child
        )
        trainer = built.trainer
        refuse_spawning(trainer)
        _run(child, built, resume or child.config["ckpt_path"])
        if child.command == "fit":
            save_whole(trainer, folder / "last.ckpt")
            end = conditions.end_of(trainer)  # before the test: `setup` runs anew there, and may build other weights
            _log_test_apart(trainer, folder, logger)
            with nullcontext() if by_batch is None else by_batch.listening(built.model):
                _test(built)
            if by_batch is not None and trainer.is_global_zero:
                by_batch.write(folder)
            conditions.write(trainer, folder, {**end, "order": _order_in(trainer)})
        if not trainer.is_global_zero:
            return None
        rows = _rows(child, trainer, validated.metrics)
        if child.command != "start":
            start_step = conditions.conditions.get("start_step", trainer.global_step)
            _write_settings(folder, trainer, rows, start_step)
        return rows


def _log_test_apart(trainer: Trainer, folder: Path, logger: TensorBoardLogger) -> None:
    """Let the test's curves go to a file of their own, in place of that of a life which was killed after its test."""
    if trainer.is_global_zero:
        for ending in (_TESTED, _SETTINGS):
            for stale in folder.glob(f"events.out.tfevents.*{ending}"):
                remove_file(stale)
    tested = _logger(folder, filename_suffix=_TESTED)
    trainer.loggers = [tested if each is logger else each for each in trainer.loggers]


def _with_options(child: Child, callbacks: list[Callback], *, resumed: bool) -> list[Callback]:
    """A project's callbacks, and those that the child's options ask for."""
    match child.options:
        case StartOptions(prunes=prunes):
            return [*callbacks, _SavesStart(child.folder, prunes)]
        case LinesTrialOptions() | RecordsTrialOptions():
            noise = callbacks_of(_noise_of(child), resumed=False)
            return [*only_bars(callbacks), *noise, _SavesStart(child.folder, prunes=False)]
        case TicketOptions(ticket, end_step):
            frozen = [] if ticket is None else [MaskFreezing(ticket)]
            return [*callbacks, *frozen, *([] if end_step is None else [_EndsAt(end_step)])]
        case SnapshotOptions(snapshots=steps):
            return with_snapshots(callbacks, steps)
        case DenseLevelOptions() | LevelOptions() as level:
            return with_level(callbacks, level, resumed=resumed)
    return [*callbacks]


def _noise_of(child: Child) -> NoiseOptions | None:
    match child.options:
        case TicketOptions(noise=noise) | LinesTrialOptions(child=noise):
            return noise
    return None


def _has_default_bar(child: Child, callbacks: list[Callback]) -> bool:
    """Whether Lightning would show its default bar: a YAML says so, a factory's Trainer has it already."""
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    trainer = child.config.get("trainer")
    is_left_on = trainer is not None and trainer.get("enable_progress_bar") is not False
    return all(type(bar) in DEFAULT_BARS for bar in bars) if bars else is_left_on


def only_bars(callbacks: list[Callback]) -> list[Callback]:
    """Of a project's callbacks those that evaluation keeps: others would mask, average or save."""
    return [callback for callback in callbacks if isinstance(callback, ProgressBar)]


def _run(child: Child, built: Built, checkpoint: str | None) -> None:
    """Run the child's subcommand."""
    if child.command in ("fit", "start"):
        built.trainer.fit(built.model, datamodule=built.datamodule, ckpt_path=checkpoint)
        wait_no_more()
        _heed_on_all_ranks(built.trainer)  # a signal that came with the last step
        # Lightning 2.6.6 leaves the process at Ctrl-C; where a version only returns, the fit must not count as done.
        if built.trainer.interrupted:
            raise KeyboardInterrupt
    else:
        quiet = {"return_predictions": False} if child.command == "predict" else {"verbose": False}
        run_subcommand = getattr(built.trainer, child.command)
        run_subcommand(built.model, datamodule=built.datamodule, ckpt_path=checkpoint, **quiet)


def _order_in(trainer: Trainer) -> dict[int, str] | None:
    """Epoch to a hash of the indices of its first batch; None where the order has no seed of its own."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.first for callback in callbacks if isinstance(callback, Order)), None)


def _heed_on_all_ranks(trainer: Trainer) -> None:
    """End where a signal asked any rank to: one that left alone would be missed in what the others do together."""
    if trainer.strategy.reduce_boolean_decision(is_asked(), all=False):
        heed()
        raise Ended(signal.SIGTERM)  # another rank was asked


def _test(built: Built) -> None:
    """Test what was trained, where the project says how."""
    model, data = built.model, built.datamodule
    if is_overridden("test_step", model) and is_overridden("test_dataloader", model if data is None else data):
        built.trainer.test(model, datamodule=data, verbose=False)
        _heed_on_all_ranks(built.trainer)  # a signal that came to one of them meanwhile
        wait_no_more()


class _SavesStart(Callback):
    """Saves ``start.ckpt`` once masks are installed, and ends the fit; ``prunes`` requires masks by then."""

    lottery_order = 2  # after pruners, whose masks are then in the weights that it saves

    def __init__(self, folder: Path, prunes: bool) -> None:
        self.folder, self.prunes = folder, prunes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.prunes:
            self._require_masks(trainer)
        save_whole(trainer, self.folder / "start.ckpt")
        # `should_stop` alone is not heeded before the project's own minimum of epochs and steps is reached.
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


class _EndsAt(Callback):
    """Ends the fit at an optimizer step, under the schedules of a fit to the project's own end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: schedules that ask the Trainer for its steps have been made by now, as the parent's were.
        trainer.fit_loop.epoch_loop.max_steps = self.step


class _EndsAtStep(Callback):
    """Ends the fit, where a signal asked for it, once the next optimizer step is saved; on all ranks alike.

    It stands first: at a step's end it asks for the checkpoint before ``ExactResume`` decides, and it leaves before
    anything of the next batch, when all of the last one has reached loggers and other callbacks.
    """

    def __init__(self) -> None:
        self._saver: ExactResume | None = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        take_back()  # from Lightning

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wait_for_step()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:  # whose batches may be fewer on one: they can agree on nothing before the end
            wait_for_step()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._saver is not None and not self._saver.is_wanted:
            self._saver.publish(trainer)
            _heed_on_all_ranks(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._saver is None and trainer.strategy.reduce_boolean_decision(is_asked(), all=False):
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            self._saver = next(callback for callback in callbacks if isinstance(callback, ExactResume))
            self._saver.save_at_next_step()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        wait_no_more()
        launcher: Any = trainer.strategy.launcher
        if isinstance(exception, Ended) and self._saver is None and hasattr(launcher, "kill"):
            launcher.kill(signal.SIGTERM)  # heeded at once, by this rank alone: the others would wait for it


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
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    removing = (c for c in callbacks if isinstance(c, MaskCallback) or (isinstance(c, EarlyBird) and c.cutting))
    method = next(removing, None)
    watches = any(isinstance(callback, EarlyBird) for callback in callbacks)
    sparsity = method.sparsity if method else 0.0
    about = {
        "stage": child.folder.name,
        "network": method.network if method else "dense",
        "method": method.method_name if method else "EarlyBird" if watches else "dense",
        "seed": child.config["seed_everything"],
        "step": trainer.global_step,
        "density": 1 - sparsity,
        "device": device_of(trainer),
        **child.labels,
    }
    metrics = trainer.callback_metrics.items()
    measured = {name: float(value) for name, value in metrics if is_recorded(name)}
    return [
        record(**about, metric=name, value=value, n=_samples(trainer, name))
        for name, value in sorted({"sparsity": sparsity, **measured, **validated}.items())
    ]


def _write_settings(folder: Path, trainer: Trainer, rows: Sequence[Row], start_step: int) -> None:
    """The child's row in TensorBoard's table of runs: what was trained, and what the test measured."""
    from torch.utils.tensorboard import SummaryWriter

    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    tickets = [callback.origin for callback in callbacks if isinstance(callback, MaskFreezing)]
    (sparsity,) = (row["value"] for row in rows if row["metric"] == "sparsity")
    settings = Settings(rows[0]["method"], sparsity, start_step, ", ".join(tickets) or "none", str(rows[0]["seed"]))
    with SummaryWriter(str(folder), filename_suffix=_SETTINGS) as board:
        add_settings(board, settings, tested_in(rows))


def tested_in(rows: Sequence[Row]) -> list[str]:
    """The metrics of a child's test among its records; of its validation, where there was no test."""
    metrics = sorted(row["metric"] for row in rows if is_recorded(row["metric"]))
    return [metric for metric in metrics if metric.startswith("test")] or metrics


def is_recorded(metric: str) -> bool:
    """Whether records have a metric that was logged: those of a validation or a test do."""
    return metric.startswith(("val", "test"))


def _logger(folder: Path, **options: Any) -> TensorBoardLogger:
    """Curves straight in the folder."""
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **options)


def _first_step_to_come(resume: str) -> int:
    """As loggers label it: curves of a killed run are replaced from there on."""
    if not resume:
        return 0
    return batches_that_stepped_in(load_checkpoint(Path(resume), "meta")) + 1


def _samples(trainer: Trainer, metric: str) -> int | None:
    """How many samples a metric was averaged over, where the loader knows and was not cut short."""
    split = "test" if metric.startswith("test") else "val"
    dataset = getattr(getattr(trainer, f"{split}_dataloaders"), "dataset", None)
    limit = getattr(trainer, f"limit_{split}_batches")
    return len(dataset) if isinstance(dataset, Sized) and isinstance(limit, float) and limit == 1 else None
