"""Every private name of Lightning that this package uses, with the version on which each was checked.

Nothing else in the package names one: what breaks with a new Lightning breaks here. The one exception is the command's
own ``LightningCLI``, whose steps can only be overridden under their private names.

Checked on Lightning 2.6.0 and 2.6.6.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from itertools import islice
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.trainer.call import _call_callback_hooks, _call_lightning_module_hook, _call_strategy_hook
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_sum

from lightning_lottery.checks import is_count
from lightning_lottery.errors import LotteryError

Loader = TypeVar("Loader")

# The training loop.


def batches_that_stepped(trainer: Trainer) -> int:
    """The number that loggers label the present batch with, whatever optimizers and scalers did."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def batches_that_stepped_in(checkpoint: Mapping[str, Any]) -> int:
    """The same, as a checkpoint holds it."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])


def validates_after_this_batch(trainer: Trainer) -> bool:
    """Whether Lightning validates right after the present training batch; asked in ``on_train_batch_end``."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def restore_loader(trainer: Trainer) -> None:
    """Give a stateful training loader its position back, in ``on_train_start``; nothing to do where it has it.

    Whoever asks for ``estimated_stepping_batches`` before Lightning restores the loops (schedules of sparsity or of the
    learning rate must) makes it set up the loader too early, and it then drops the loader's saved state: a resume in
    the middle of an epoch would begin that epoch's data anew. Lightning 2.6.6, ``_FitLoop.setup_data``.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load and loop._data_fetcher is not None:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)  # the iterator that it has began before the position was known


def loader_states_in(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the training loaders with state were, as a checkpoint holds it."""
    states: list[dict[str, Any]] = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return states


def leave_finished_epoch(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> bool:
    """Where a fit goes on from an epoch's last step, or is prolonged, let that epoch be over; in ``on_train_start``.

    Lightning goes on as in its middle: a loader whose state says "n of n batches" gives none, and the next epoch is
    over before its first batch; ``on_train_epoch_start`` is not called; and the next epoch is not counted as begun, so
    that a second resume repeats batches. Lightning 2.6.6, ``_FitLoop.reset`` and ``_TrainingEpochLoop.reset``.

    Args:
        trainer: Of the fit.
        states: What ``loader_states_in`` gave.

    Returns:
        Whether the next epoch begins at once: ``begin_epoch`` is to be called in its ``on_train_epoch_start``.
    """
    loop, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if not epoch.batch_progress.is_last_batch:
        return False
    if loop._combined_loader_states_to_load and loop._data_fetcher is not None:  # that of a fit that was over
        _load(training_loader(trainer), states)
        iter(loop._data_fetcher)
    _use_up(training_loader(trainer), states)
    if loop.restarted_on_epoch_end or (loop.restarted_mid_epoch and not epoch.restarted_on_train_batch_end):
        return False  # the end of the epoch is still to come, after its validation
    if epoch.restarted_on_train_batch_end:
        epoch.batch_progress.increment_completed()
    for progress in (epoch.batch_progress, epoch.scheduler_progress, epoch.automatic_optimization.optim_progress):
        progress.reset_on_run()
    epoch.val_loop.batch_progress.total.reset()
    epoch.reset_restart_stage()
    loop.reset_restart_stage()
    return True


def _load(loaders: CombinedLoader, states: Sequence[Mapping[str, Any]]) -> None:
    """Give all loaders with state their places, which Lightning does only where it goes on in the middle of a fit."""
    stateful = [loader for loader in loaders.flattened if hasattr(loader, "load_state_dict")]
    for loader, state in zip(stateful, states, strict=False):
        loader.load_state_dict(state)


def _use_up(loaders: CombinedLoader, states: Sequence[Mapping[str, Any]]) -> None:
    """Let no loader that stands at the end of an epoch hold on to its place there: its next iteration begins one."""
    assert loaders._iterator is not None
    length, remaining = sized_len(loaders), iter(states)
    for loader, iterator in zip(loaders.flattened, loaders._iterator.iterators, strict=True):
        if not hasattr(loader, "load_state_dict") or (state := next(remaining, None)) is None:
            continue
        # "0 of n": it has begun the next epoch already, and begins it again. One that is not as long as the epoch is
        # somewhere in its middle: it is cut short, or goes round.
        if list(islice(iterator, 1)) and sized_len(loader) == length:
            loader.load_state_dict(state)


def begin_epoch(trainer: Trainer) -> None:
    """Begin the training loaders anew, as Lightning does at the beginning of every epoch but the first of a fit."""
    assert trainer.fit_loop._data_fetcher is not None
    iter(trainer.fit_loop._data_fetcher)


def training_loader(trainer: Trainer) -> CombinedLoader:
    """The training loaders of a fit as Lightning iterates over them."""
    loader = trainer.fit_loop._combined_loader
    assert loader is not None
    return loader


def without_iterator(loader: Loader) -> Loader:
    """A shallow copy whose iteration begins anew and leaves the loader's own alone.

    ``CombinedLoader`` keeps its iterator, and so does torch's ``DataLoader`` with workers that live on between epochs.
    """
    twin = copy(loader)
    if getattr(twin, "_iterator", None) is not None:
        twin._iterator = None  # type: ignore[attr-defined]
    return twin


def has_gradient_hooks(tensor: Tensor) -> bool:
    """Whether somebody registered a hook on a tensor's gradient: torch (2.14) has no public way to ask."""
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


def training_arguments(trainer: Trainer, batch: Any, index: int) -> "OrderedDict[str, Any]":
    """What ``training_step`` gets for a batch of the loader, as ``_TrainingEpochLoop.advance`` makes it."""
    batch = trainer.strategy.batch_to_device(
        before_transfer(trainer, trainer.lightning_module, batch), dataloader_idx=0
    )
    return step_arguments(trainer, batch, index)


def step_arguments(trainer: Trainer, batch: Any, index: int) -> "OrderedDict[str, Any]":
    """The same for a batch as hooks get it, which is on the device."""
    return trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, index)


def before_transfer(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """A batch as it is handed to the strategy, which moves it to the device."""
    return module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)


# What an epoch logs.


def epoch_results(trainer: Trainer) -> Any:
    """What the training loop accumulates of values logged with ``on_epoch``, by hook and name."""
    return trainer.fit_loop.epoch_loop._results


def results_of_validation(trainer: Trainer) -> Any:
    """The same of the validation within a fit."""
    return trainer.fit_loop.epoch_loop.val_loop._results


class _LoggedBefore(_Metadata):
    """With what arguments a value was logged before a fit went on: where they were edited since, the new ones count.

    Lightning (2.6.6) compares them by ``!=``, and refuses others than those of the epoch's first call. Another way to
    reduce is refused, as what was summed is no maximum.
    """

    def __ne__(self, now: Any) -> bool:
        if (self.reduce_fx, self.on_epoch) != (now.reduce_fx, now.on_epoch):
            raise LotteryError(
                f"The checkpoint was saved in the middle of an epoch that logged '{self.name}' with another `on_epoch` "
                "or `reduce_fx` than this fit does: log it as before, or resume from a checkpoint of an epoch's end."
            )
        vars(self).update(vars(now))
        return False


def value_of_step(result: Any) -> torch.Tensor | None:
    """What one of ``epoch_results`` was in the last step that logged it; None where it is of no step."""
    value = result._forward_cache if result.meta.on_step else None
    return value if isinstance(value, torch.Tensor) else None


def put_result_(result: Any, value: Any, weight: torch.Tensor | None, step: torch.Tensor | None) -> None:
    """Let one of ``epoch_results`` stand at a sum or metric, the weight to divide it by, and the value of a step."""
    result.value, result.meta = value, _LoggedBefore(**vars(result.meta))
    if weight is not None:
        result.cumulated_batch_size = weight
    result._computed, result._forward_cache = None, step


def go_on_with_results(trainer: Trainer) -> None:
    """Keep what ``epoch_results`` hold, which the fit's first batch would reset; asked in ``on_train_start``."""
    trainer._logger_connector._first_loop_iter = True  # the next batch is then no longer the first


def state_of_metric(metric: Metric) -> dict[str, Any]:
    """What a metric has seen: its states, and how many updates they are of. Checked on torchmetrics 1.7 and 1.9."""
    return {"states": metric.metric_state, "updates": metric._update_count}


def restore_metric_(metric: Metric, states: Mapping[str, Any], updates: int) -> None:
    """Let a metric go on from what ``state_of_metric`` gave, on the metric's device.

    Raises:
        LotteryError: They are not states of that metric.
    """
    defaults = metric._defaults
    fits = states.keys() == defaults.keys() and all(_is_state(states[name], defaults[name]) for name in defaults)
    if not fits or not is_count(updates):
        raise LotteryError(f"The checkpoint's states of a metric are not those of {type(metric).__name__}.")
    for name, value in states.items():
        setattr(metric, name, move_data_to_device(value, metric.device))
    metric._update_count, metric._computed = updates, None


class BatchesOfMetric:
    """What a metric object says of each batch by itself: what ``forward`` gave, else the sums that were added to it.

    Its states are only read: the sums of a batch are how far they moved. What its last ``forward`` gave is forgotten
    once it was taken.

    Args:
        metric: Before whose reset all batches are; it has seen the first one.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric, self.batches = metric, 0
        defaults = {name: default for name, default in metric._defaults.items() if torch.is_tensor(default)}
        are_sums = all(metric._reductions[name] is dim_zero_sum for name in defaults)
        self._is_asked = torch.is_tensor(metric._forward_cache)
        self._seen = defaults if are_sums and len(defaults) == len(metric._defaults) else {}
        # Asked for the value of a batch alone where the module only updates the metric.
        self._alone = metric.clone() if self._seen and not self._is_asked else metric

    def of_batch(self) -> float | None:
        """The value of the batch seen last; None where the metric keeps more than sums, gives several, or fails."""
        self.batches += 1
        value: Any = None
        if self._is_asked:
            value, self.metric._forward_cache = self.metric._forward_cache, None  # the next batch has its own
        elif self._seen:
            now = {name: getattr(self.metric, name).detach().clone() for name in self._seen}
            for name, state in now.items():
                setattr(self._alone, name, state - self._seen[name].to(state.device))
            self._seen = now
            # The class's own method: the metric's is wrapped, to gather over ranks and to keep what it found.
            with suppress(Exception):  # somebody's metric, which may not be defined for one batch, as R2 for one sample
                value = type(self._alone).compute(self._alone)
        return float(value) if torch.is_tensor(value) and value.numel() == 1 else None


def _is_state(value: Any, default: Any) -> bool:
    """Whether a metric's state may be one that began as ``default``: a list of tensors, or a tensor."""
    if isinstance(default, list):  # torchmetrics makes one tensor of it where it was computed
        return torch.is_tensor(value) or (isinstance(value, list) and all(torch.is_tensor(v) for v in value))
    # Some begin as one number and take the shape of the first batch.
    return torch.is_tensor(value) and (not default.ndim or value.shape == default.shape)


# The evaluation loop.


def evaluation_loop(trainer: Trainer) -> Any:
    """The loop of the test or validation that runs."""
    return trainer._evaluation_loop


def capture_modes(loop: Any, module: nn.Module) -> None:
    """Let an evaluation loop note every submodule's mode, as it does before it sets evaluation mode."""
    loop._module_mode.capture(module)


def restore_modes(loop: Any, module: nn.Module) -> None:
    """Let an evaluation loop set the modes that it noted."""
    loop._module_mode.restore(module)


def call_callbacks(trainer: Trainer, hook: str, *arguments: Any) -> None:
    """Call a hook of every callback, as the loops do: with Trainer and module, under the profiler."""
    _call_callback_hooks(trainer, hook, *arguments)


def call_module(trainer: Trainer, hook: str, *arguments: Any) -> None:
    """Call a hook of the module, as the loops do: ``module._current_fx_name`` says which while it runs."""
    _call_lightning_module_hook(trainer, hook, *arguments)


def call_strategy(trainer: Trainer, method: str, *arguments: Any, **named: Any) -> Any:
    """Call a method of the strategy, such as ``test_step``, as the loops do."""
    return _call_strategy_hook(trainer, method, *arguments, **named)


# Modules, callbacks and strategies.


def pretend_dtype_(module: LightningModule, dtype: torch.dtype) -> None:
    """Let ``module.dtype`` give another dtype; no tensor changes."""
    module._dtype = dtype


def averaged_copy(callback: Callback) -> nn.Module | None:
    """The copy of the module that an averaging callback keeps (``WeightAveraging`` and its children, SWA), if any."""
    average = getattr(callback, "_average_model", None)
    return average if isinstance(average, nn.Module) else None


def saves_folders(trainer: Trainer) -> bool:
    """Whether a Trainer's checkpoints are folders, to which each rank writes its shards."""
    return bool(getattr(trainer.strategy, "_save_distributed_checkpoint", False))


def spawns(trainer: Trainer) -> bool:
    """Whether a Trainer's ranks are forks or spawns of this process."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def why_not_wrapped_anew(trainer: Trainer) -> str | None:
    """Why a strategy could not go on with other parameters in the middle of a fit; None where it can."""
    strategy = trainer.strategy
    if spawns(trainer):
        return "its processes hand their weights back to a module that is whole"
    if isinstance(strategy, DDPStrategy):
        keeps = strategy._ddp_comm_state is not None
        return "its communication hook keeps tensors of the old shapes" if keeps else None
    is_known = isinstance(strategy, SingleDeviceStrategy)
    return None if is_known else "nobody knows what it keeps of the parameters"


def wrap_anew_(trainer: Trainer) -> None:
    """Let DDP reduce the gradients of the parameters that the module has now: a wrapper knows those it began with.

    Collective. Lightning 2.6.6, ``DDPStrategy.setup``.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        strategy.configure_ddp()


# Loggers.


def purged_from(logger: Logger) -> int | None:
    """The step from which on a TensorBoardLogger takes back what an earlier life logged; None where it does not."""
    options = getattr(logger, "_kwargs", None)
    return options.get("purge_step") if isinstance(options, dict) else None
