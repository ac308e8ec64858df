"""Evaluate one module with many sets of weights: batches are loaded once, every metric is averaged over samples."""

from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torchmetrics import Metric

from lightning_lottery.connectivity.batches import Batches
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.private import (
    before_transfer,
    call_callbacks,
    call_module,
    call_strategy,
    capture_modes,
    evaluation_loop,
    restore_modes,
)
from lightning_lottery.hooks.quiet import logging_to

Split = Literal["train", "val", "test"]

Setting = Callable[[LightningModule], None]
"""Sets a module's weights."""

OnBatch = Callable[[LightningModule, Any], None]
"""Sees a module and a batch on its device."""


def loader_of(module: LightningModule, data: Any, split: Split, trainer: Trainer) -> Iterable[Any]:
    """The one loader of a split, before Lightning has changed anything about it; with all samples for every rank.

    Raises:
        LotteryError: There is none, or several.
    """
    if isinstance(data, (LightningDataModule, LightningModule)) or data is None:
        source = data if data is not None else module
        if not is_overridden(f"{split}_dataloader", source):
            raise LotteryError(f"{type(source).__name__} has no `{split}_dataloader` to take batches from.")
        alone: Any = trainer if trainer.world_size == 1 else _AsIfAlone(trainer)
        source.trainer = alone
        source.prepare_data()
        source.setup({"train": "fit", "val": "validate", "test": "test"}[split])
        loader = getattr(source, f"{split}_dataloader")()
    else:
        loader = data
    if isinstance(loader, (list, tuple, dict)) and len(loader) == 1:
        loader = next(iter(loader.values() if isinstance(loader, dict) else loader))
    if isinstance(loader, (list, tuple, dict)) or not isinstance(loader, Iterable):
        found = f"{len(loader)} loaders" if isinstance(loader, Sized) else "no loader"
        raise LotteryError(f"Evaluation needs one {split} loader, found {found}.")
    return loader


class _AsIfAlone:
    """A Trainer as a data module sees it that would share its data out: here each rank loads all of it."""

    world_size, global_rank, local_rank = 1, 0, 0

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def stage_of(module: LightningModule, data: Any) -> Split:
    """``"test"`` where module and data know how, else ``"val"``.

    Raises:
        LotteryError: The module has neither ``test_step`` nor ``validation_step``.
    """
    given = not isinstance(data, LightningDataModule) and data is not None
    source = data if isinstance(data, LightningDataModule) else module
    if is_overridden("test_step", module) and (given or is_overridden("test_dataloader", source)):
        return "test"
    if is_overridden("validation_step", module) and (given or is_overridden("val_dataloader", source)):
        return "val"
    raise LotteryError(f"{type(module).__name__} has no `test_step` or `validation_step` to evaluate with.")


class Evaluator:
    """Runs a module's own test or validation step over the same batches for any weights.

    Args:
        module: The module; its weights are set from outside before each evaluation.
        trainer: Runs the loop; its own callbacks run as well, so give it none that mind.
        batches: What to evaluate on.
        split: Which of the module's steps.
        data: The project's data module, whose hooks around the transfer of a batch are used.
        evaluations: How many there will be, for a progress bar in place of the Trainer's own, where it has one.
    """

    def __init__(
        self,
        module: LightningModule,
        trainer: Trainer,
        batches: Batches,
        split: Split,
        *,
        data: Any = None,
        evaluations: int = 0,
    ) -> None:
        self.module, self.trainer, self.batches, self.split = module, trainer, batches, split
        self.serving = _serving(batches, split, data)
        self.samples = 0  # that the last evaluation used, over all ranks
        shown = evaluations and trainer.progress_bar_callback is not None and trainer.is_global_zero
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=not shown)
        self.places = self.bar.add_task("evaluations", total=evaluations)
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        ran = limit if isinstance(limit, int) else int(limit * len(batches))
        self.within = self.bar.add_task("batches", total=min(ran, len(batches)))
        self.bar.start()

    def close(self) -> None:
        """Leave the progress bar."""
        self.bar.stop()

    def __call__(self, *settings: Setting, on_batch: OnBatch | None = None) -> list[dict[str, float]]:
        """Every logged metric with each set of weights, averaged over the samples of all ranks in float64.

        Args:
            settings: Called with the module once it is on its device, before its first batch: sets the weights.
            on_batch: Called with the module and every batch on its device.

        Returns:
            For each setting, metric name to value.

        Raises:
            LotteryError: The module logs nothing.
        """
        draws_itself = is_param_in_hook_signature(step_of(self.module, self.split), "dataloader_iter", explicit=True)
        if draws_itself and len(settings) > 1:
            return [values for setting in settings for values in self(setting, on_batch=on_batch)]
        recorder = _Recorder(self, settings, on_batch)
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        others = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        self.trainer.callbacks = [*others, recorder]  # type: ignore[attr-defined]
        try:
            with logging_to(self.module, recorder.log):
                run = self.trainer.test if self.split == "test" else self.trainer.validate
                run(self.module, datamodule=self.serving, verbose=False)
        finally:
            self.trainer.callbacks = callbacks  # type: ignore[attr-defined]
        if not recorder.found:
            raise LotteryError("There is no batch to evaluate on: the Trainer limits their number to 0.")
        self.samples = int(sum_over_ranks(recorder.samples, self.trainer))
        return recorder.found


class _Recorder(Callback):
    """Evaluates all settings in one run of the Trainer: the last in Lightning's loop, those before it as that does.

    Entering and leaving a Trainer for each of them would take longer than many a network does. Stands in for
    ``LightningModule.log`` meanwhile; knows each batch's size instead of guessing it.
    """

    def __init__(self, evaluator: "Evaluator", settings: Sequence[Setting], on_batch: OnBatch | None) -> None:
        self.evaluator, self.settings, self.on_batch = evaluator, settings, on_batch
        self.found: list[dict[str, float]] = []

    def _before_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for setting in self.settings[:-1]:
            self._begin(setting, pl_module)
            self._run_through(trainer, pl_module)
        self._begin(self.settings[-1], pl_module)

    on_test_start = on_validation_start = _before_all

    def _begin(self, setting: Setting, pl_module: LightningModule) -> None:
        self.samples = 0  # of the batches that ran: a Trainer may limit them
        self.weight = 1.0  # of what is logged outside a batch: all samples so far
        self.totals: dict[str, tuple[float, float]] = {}
        self.metrics: dict[str, Metric] = {}
        self.evaluator.bar.reset(self.evaluator.within)
        setting(pl_module)  # may run batches of its own, which metrics must forget
        for child in pl_module.modules():
            if isinstance(child, Metric):
                child.reset()

    def _run_through(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What Lightning's loop does from one setting's ``on_test_start`` of this callback to that of the next."""
        split, loop = self.evaluator.split, evaluation_loop(trainer)
        prefix = "on_test" if split == "test" else "on_validation"
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        here = callbacks.index(self)  # those that the module configures stand behind

        def start(some: Sequence[Callback]) -> None:
            for callback in some:
                getattr(callback, f"{prefix}_start")(trainer, pl_module)

        def call(hook: str, *given: Any) -> None:
            call_callbacks(trainer, f"{prefix}_{hook}", *given)
            call_module(trainer, f"{prefix}_{hook}", *given)

        start(callbacks[here + 1 :])
        call_module(trainer, f"{prefix}_start")
        call("epoch_start")
        limit, with_index = int(loop.max_batches[0]), takes_index(pl_module, split)
        for index, batch in enumerate(islice(self.evaluator.batches, limit)):
            loop.batch_progress.is_last_batch = index == limit - 1
            batch = before_transfer(trainer, pl_module, batch)
            batch = call_strategy(trainer, "batch_to_device", batch, dataloader_idx=0)
            loop.batch_progress.increment_ready()
            call("batch_start", batch, index)
            loop.batch_progress.increment_started()
            given = (batch, index) if with_index else (batch,)
            output = call_strategy(trainer, step_name(split), *given)
            loop.batch_progress.increment_processed()
            call("batch_end", output, batch, index)
            loop.batch_progress.increment_completed()
            if trainer.received_sigterm:
                raise SIGTERMException
        call("epoch_end")
        call("end")
        if is_overridden(f"{prefix}_model_train", pl_module):
            call_module(trainer, f"{prefix}_model_train")
        else:
            restore_modes(loop, pl_module)
        loop.batch_progress.reset_on_run()
        capture_modes(loop, pl_module)
        call_module(trainer, f"{prefix}_model_eval")
        start(callbacks[:here])

    def _begin_batch(self, *given: Any) -> None:
        self.weight = float(self.evaluator.batches.sizes[given[3]])

    def _end_batch(self, *given: Any) -> None:
        self.evaluator.bar.advance(self.evaluator.within)
        if self.on_batch is not None:
            self.on_batch(given[1], given[3])
        self.samples += int(self.weight)
        self.weight = float(self.samples)

    on_test_batch_start = on_validation_batch_start = _begin_batch  # type: ignore[assignment]
    on_test_batch_end = on_validation_batch_end = _end_batch  # type: ignore[assignment]

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = self._means(trainer)  # while the module is still on its device
        if not values:
            raise LotteryError(
                f"{type(pl_module).__name__} logs nothing in `{step_name(self.evaluator.split)}`: log there what is to "
                "be compared, `self.log('test_acc', accuracy)` for instance."
            )
        self.found.append(values)
        self.evaluator.bar.advance(self.evaluator.places)

    on_test_end = on_validation_end = _end

    def log(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **given: Any) -> None:
        """Take a value as ``LightningModule.log`` would, weighted by its batch."""
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        if given.get("reduce_fx", "mean") not in ("mean", torch.mean):
            return  # only means over samples can be compared
        weight = float(batch_size or self.weight)
        total, count = self.totals.get(name, (0.0, 0.0))
        self.totals[name] = (total + float(value) * weight, count + weight)

    def _means(self, trainer: Trainer) -> dict[str, float]:
        """What was logged, over all ranks."""
        values = {
            name: sum_over_ranks(total, trainer) / sum_over_ranks(count, trainer)
            for name, (total, count) in sorted(self.totals.items())
        }
        for name, metric in self.metrics.items():  # these gather over ranks by themselves
            values[name] = float(metric.compute())
            metric.reset()
        return values


def step_name(split: Split) -> str:
    """What a module's own test or validation step is called."""
    return "test_step" if split == "test" else "validation_step"


def step_of(module: LightningModule, split: Split) -> Callable[..., Any]:
    """A module's own test or validation step."""
    step: Callable[..., Any] = getattr(module, step_name(split))
    return step


def takes_index(module: LightningModule, split: Split) -> bool:
    """Whether that step is given the batch's number, as Lightning decides it."""
    return is_param_in_hook_signature(step_of(module, split), "batch_idx", min_args=2)


def sum_over_ranks(value: float, trainer: Trainer) -> float:
    """A number of each rank, added up in float64 on all of them."""
    if trainer.world_size < 2:
        return value
    everyone: list[float] = [0.0] * trainer.world_size
    torch.distributed.all_gather_object(everyone, value)
    return sum(everyone)


def _serving(batches: Batches, split: Split, data: Any) -> LightningDataModule:
    """A data module that serves batches as they are, with another one's hooks around their transfer."""
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    own = [hook for hook in hooks if isinstance(data, LightningDataModule) and is_overridden(hook, data)]
    methods: dict[str, Any] = {f"{split}_dataloader": lambda self: batches}
    for hook in own:
        methods[hook] = lambda self, *given, _hook=hook, **named: getattr(data, _hook)(*given, **named)
    serving: LightningDataModule = type("Serving", (LightningDataModule,), methods)()
    return serving
