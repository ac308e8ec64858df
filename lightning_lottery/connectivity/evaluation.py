"""Evaluate one module with many sets of weights: batches are loaded once, every metric is averaged over samples."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torchmetrics import Metric

from lightning_lottery.children.progress import Line, output
from lightning_lottery.connectivity.batches import Batches, Split
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.means import ByBatch, Means, sum_over_ranks
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
from lightning_lottery.shards import reshard

Setting = Callable[[LightningModule], None]
"""Sets a module's weights."""

OnBatch = Callable[[LightningModule, Any], None]
"""Sees a module and a batch on its device."""


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
        self.by_batch: list[ByBatch | None] = []  # of the last call's ``kept``, with each set of weights
        is_shown = evaluations and trainer.progress_bar_callback is not None and trainer.is_global_zero
        self._line = Line(output()) if is_shown else None
        self._done, self._evaluations, self._batch = 0, evaluations, 0
        # Lightning's rule: an int limits the number of batches, a float (1.0 as well) is a fraction of them.
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        total = limit if isinstance(limit, int) else int(limit * len(batches))
        self._batches = min(total, len(batches))

    def close(self) -> None:
        """Leave the line that says how far it is."""
        if self._line is not None:
            self._line.close()

    def tell(self, *, batch: int = 0, evaluation: int = 0) -> None:
        """Say that so many batches more are done of the present evaluation, or that it is."""
        self._done, self._batch = self._done + evaluation, 0 if evaluation else self._batch + batch
        if self._line is not None:
            within = f"batch {self._batch}/{self._batches}"
            self._line.show("lines", self._done, self._evaluations, within, unit="evaluation")

    def __call__(self, *settings: Setting, on_batch: OnBatch | None = None, kept: str = "") -> list[dict[str, float]]:
        """Every logged metric with each set of weights, averaged over the samples of all ranks in float64.

        Args:
            settings: Called with the module once it is on its device, before its first batch: sets the weights.
            on_batch: Called with the module and every batch on its device.
            kept: The metric whose values of each batch are kept in ``by_batch``; "" for none.

        Returns:
            For each setting, metric name to value.

        Raises:
            LotteryError: The module logs nothing.
        """
        # Such a step is handed the loader's iterator, which only Lightning's own loop makes: a run for each setting.
        draws_itself = is_param_in_hook_signature(step_of(self.module, self.split), "dataloader_iter", explicit=True)
        if draws_itself and len(settings) > 1:
            results, by_batch = list[dict[str, float]](), list[ByBatch | None]()
            for setting in settings:
                results += self(setting, on_batch=on_batch, kept=kept)
                by_batch += self.by_batch
            self.by_batch = by_batch
            return results
        one_run = _SettingsInOneRun(self, settings, on_batch, kept)
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        without_bars = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
        self.trainer.callbacks = [*without_bars, one_run]  # type: ignore[attr-defined]
        try:
            with logging_to(self.module, one_run.log):
                run = self.trainer.test if self.split == "test" else self.trainer.validate
                run(self.module, datamodule=self.serving, verbose=False)
        finally:
            self.trainer.callbacks = callbacks  # type: ignore[attr-defined]
            reshard(self.module)  # the next run's `configure_model` looks whether there are shards
        if not one_run.results:  # the run's hooks were not even called
            raise LotteryError("There is no batch to evaluate on: the Trainer limits their number to 0.")
        self.samples = int(sum_over_ranks(one_run.means.samples, self.trainer))
        self.by_batch = one_run.by_batch
        return one_run.results


class _SettingsInOneRun(Callback):
    """Evaluates a module with several sets of weights in one run of the Trainer.

    To enter and leave a Trainer takes longer than to evaluate a small network, so a run is entered once. Lightning's
    own loop evaluates the last setting. Before that loop comes to its first batch, this callback does by hand, for each
    earlier setting, what the loop would do: module and callbacks see the hooks of as many runs.
    """

    def __init__(self, evaluator: Evaluator, settings: Sequence[Setting], on_batch: OnBatch | None, kept: str) -> None:
        self.evaluator, self.settings, self.on_batch, self.kept = evaluator, settings, on_batch, kept
        self.means, self.is_mean = Means(kept), True  # the latter is said of the kept metric by the first setting
        self.results: list[dict[str, float]] = []
        self.by_batch: list[ByBatch | None] = []

    def log(self, *arguments: Any, **options: Any) -> None:
        """Stands in for ``LightningModule.log``."""
        self.means.log(*arguments, **options)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here and not before the run, whose `setup` may build layers anew: only now they are there, on their device.
        for setting in self.settings[:-1]:
            self._set(setting, pl_module)
            self._repeat_loop(trainer, pl_module)
        self._set(self.settings[-1], pl_module)

    on_test_start = on_validation_start = _start

    def _set(self, setting: Setting, pl_module: LightningModule) -> None:
        self.means = Means(self.kept if self.is_mean else "")
        setting(pl_module)
        # The setting may have run batches of its own, for batch norm's statistics: metrics must not count them.
        for child in pl_module.modules():
            if isinstance(child, Metric):
                child.reset()

    def _repeat_loop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what Lightning does from this callback's ``on_test_start`` in one run to the same point of the next run.

        The order is that of ``_EvaluationLoop.run`` (Lightning 2.6.6). With callbacks ``c`` before this one and ``d``
        behind it (those that the module configures), two runs in a row are::

            model_eval  start: c          d module  epoch_start  batches  epoch_end  end  model_train
            model_eval  start: c  (here)  d module  epoch_start  batches  epoch_end  end  model_train

        and what is done here reaches from one "(here)" over the line's end to the next. Left out are the strategy's own
        hooks, which do nothing in any strategy of Lightning's, and what it does with logged values, which come here.
        """
        split, loop = self.evaluator.split, evaluation_loop(trainer)
        prefix = "on_test" if split == "test" else "on_validation"
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        here = callbacks.index(self)

        def start(some: Sequence[Callback]) -> None:
            for callback in some:
                getattr(callback, f"{prefix}_start")(trainer, pl_module)

        def call(hook: str, *arguments: Any) -> None:
            call_callbacks(trainer, f"{prefix}_{hook}", *arguments)
            call_module(trainer, f"{prefix}_{hook}", *arguments)

        start(callbacks[here + 1 :])
        call_module(trainer, f"{prefix}_start")
        call("epoch_start")
        self._repeat_batches(trainer, pl_module, call)
        call("epoch_end")
        call("end")
        if is_overridden(f"{prefix}_model_train", pl_module):
            call_module(trainer, f"{prefix}_model_train")
        else:
            restore_modes(loop, pl_module)
        loop.batch_progress.reset_on_run()
        # Modes are noted before evaluation mode is set: what is restored at the end of the next run is noted here.
        capture_modes(loop, pl_module)
        call_module(trainer, f"{prefix}_model_eval")
        start(callbacks[:here])

    def _repeat_batches(self, trainer: Trainer, pl_module: LightningModule, call: Callable[..., None]) -> None:
        """What ``_EvaluationLoop._evaluation_step`` does (Lightning 2.6.6), for every batch.

        Its own fetcher is left alone: it is set up once a run, and the last setting needs it.
        """
        split, loop = self.evaluator.split, evaluation_loop(trainer)
        limit, with_index = int(loop.max_batches[0]), takes_index(pl_module, split)
        for index, batch in enumerate(islice(self.evaluator.batches, limit)):
            loop.batch_progress.is_last_batch = index == limit - 1
            batch = before_transfer(trainer, pl_module, batch)
            batch = call_strategy(trainer, "batch_to_device", batch, dataloader_idx=0)
            # Modules may read how far the loop is, so the counters rise between the same hooks as they do there.
            loop.batch_progress.increment_ready()
            call("batch_start", batch, index)
            loop.batch_progress.increment_started()
            output = call_strategy(trainer, step_name(split), *((batch, index) if with_index else (batch,)))
            loop.batch_progress.increment_processed()
            call("batch_end", output, batch, index)
            loop.batch_progress.increment_completed()
            if trainer.received_sigterm:  # also after the last batch, unlike Lightning: another setting follows
                raise SIGTERMException

    def _begin_batch(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.means.begin_batch(self.evaluator.batches.sizes[batch_idx])

    def _end_batch(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.evaluator.tell(batch=1)
        if self.on_batch is not None:
            self.on_batch(pl_module, batch)
        self.means.end_batch()

    on_test_batch_start = on_validation_batch_start = _begin_batch
    on_test_batch_end = on_validation_batch_end = _end_batch

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not after the run: Lightning moves the module, and its metrics with it, off the device there.
        metrics = self.means.compute(trainer)
        if self.kept:
            by_batch = self.means.by_batch(trainer) if self.is_mean else None
            self.by_batch.append(by_batch)
            # To keep values of what is no mean over batches would be in vain.
            self.is_mean = by_batch is not None and by_batch.averages_to(metrics[self.kept])
        if not metrics:
            raise LotteryError(
                f"{type(pl_module).__name__} logs nothing in `{step_name(self.evaluator.split)}`: log there what is to "
                "be compared, `self.log('test_acc', accuracy)` for instance."
            )
        self.results.append(metrics)
        self.evaluator.tell(evaluation=1)

    on_test_end = on_validation_end = _end


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


def forward_of(module: LightningModule, split: Split) -> Callable[[Any], Any]:
    """A module's own test or validation step as a function of a batch alone."""
    step = step_of(module, split)
    return (lambda batch: step(batch, 0)) if takes_index(module, split) else step


def _serving(batches: Batches, split: Split, data: Any) -> LightningDataModule:
    """A data module that serves batches as they are, with another one's hooks around their transfer."""
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    overridden = [hook for hook in hooks if isinstance(data, LightningDataModule) and is_overridden(hook, data)]
    methods: dict[str, Any] = {f"{split}_dataloader": lambda self: batches}
    # No other hooks: where the data module overrides none, Lightning (2.6.6) calls the module's in its place.
    for hook in overridden:
        methods[hook] = lambda self, *arguments, _hook=hook, **named: getattr(data, _hook)(*arguments, **named)
    serving: LightningDataModule = type("Serving", (LightningDataModule,), methods)()
    return serving
