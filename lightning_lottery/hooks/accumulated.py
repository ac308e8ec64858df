"""What an epoch has logged so far: means over its batches, which Lightning keeps in no checkpoint."""

from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric, MetricCollection

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.private import (
    epoch_results,
    go_on_with_results,
    put_result_,
    restore_metric_,
    results_of_validation,
    state_of_metric,
    value_of_step,
)

_REDUCTIONS = {
    "torch.mean": torch.mean,
    **{name: getattr(torch, name.removeprefix("torch.")) for name in ("torch.sum", "torch.max", "torch.min")},
    **{function.__name__: function for function in (sum, max, min)},
}
_ARGUMENTS = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch"),
    *("enable_graph", "add_dataloader_idx", "metric_attribute"),
)
"""What a value was logged with, and a checkpoint can hold as it is."""


def accumulated(trainer: Trainer) -> list[dict[str, Any]]:
    """The epoch so far, for a checkpoint. Collective: asked for on every rank, as each has seen batches of its own.

    Returns:
        For every rank ``{"logged": ..., "metrics": ...}``: what was logged, with sums and weights of numbers and the
        last step's value, which Lightning tells loggers again in steps that log none; and the states of the module's
        torchmetrics by name. Tensors on the CPU, and plain values.
    """
    validated = {id(result.value) for result in results_of_validation(trainer).values()}  # reset after its last hook
    metrics = {name: m for name, m in _metrics(trainer.lightning_module).items() if id(m) not in validated}
    states = {name: state_of_metric(metric) for name, metric in metrics.items()}
    names = {id(metric): name for name, metric in metrics.items()}
    logged = [
        _entry(result, names)
        for result in epoch_results(trainer).values()
        if not result.has_reset and result.meta.sync.group is None
    ]
    mine = {"logged": logged, "metrics": {name: state for name, state in states.items() if state["updates"]}}
    mine = move_data_to_device(mine, torch.device("cpu"))
    if trainer.world_size < 2:
        return [mine]
    everyone: list[dict[str, Any]] = [{}] * trainer.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def _entry(result: Any, names: dict[int, str]) -> dict[str, Any]:
    meta = result.meta
    value = {"value": result.value, "weight": getattr(result, "cumulated_batch_size", None)}
    return {
        "arguments": {name: getattr(meta, name) for name in _ARGUMENTS},
        "reduction": next(name for name, function in _REDUCTIONS.items() if function is meta.reduce_fx),
        "sync": {"sync_dist": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only},
        "step": value_of_step(result),
        **(value if result.is_tensor else {"metric": names.get(id(result.value))}),
    }


def put_back_(trainer: Trainer, saved: Any) -> None:
    """Let an epoch go on with what it had logged when a checkpoint was saved in its middle; in ``on_train_start``.

    Args:
        trainer: Of the fit that goes on.
        saved: What ``accumulated`` gave; anything else, and that of another number of ranks, is passed over.

    Raises:
        LotteryError: An argument, a number or a metric's state is none. Other damage raises whatever reading it does.
    """
    if not isinstance(saved, list) or len(saved) != trainer.world_size:
        return
    module, mine = trainer.lightning_module, saved[trainer.global_rank]
    metrics, results = _metrics(module), epoch_results(trainer)
    for name, state in mine["metrics"].items():
        if name in metrics:
            restore_metric_(metrics[name], **state)
    for entry in mine["logged"]:
        _check_arguments(entry["arguments"])
        if "value" in entry:
            value = move_data_to_device(entry["value"], module.device)
        elif entry["metric"] in metrics:
            value = metrics[entry["metric"]]
        else:
            continue
        reduction, sync = {"reduce_fx": _REDUCTIONS[entry["reduction"]]}, {"sync_dist_fn": trainer.strategy.reduce}
        results.log(value=value, **entry["arguments"], **entry["sync"], **reduction, **sync)
        key = f"{entry['arguments']['fx']}.{entry['arguments']['name']}"
        rest = {name: move_data_to_device(entry.get(name), module.device) for name in ("weight", "step")}
        for number in (*rest.values(), *([value] if "value" in entry else [])):
            if number is not None and not (torch.is_tensor(number) and number.ndim == 0):
                raise LotteryError(f"The checkpoint's '{entry['arguments']['name']}' of the epoch so far is no number.")
        put_result_(results[key], value, **rest)
    go_on_with_results(trainer)


def _check_arguments(arguments: Any) -> None:
    """Refuse arguments that nothing was logged with: Lightning would stumble over them at the epoch's end."""
    words, truths = [arguments[name] for name in ("fx", "name")], arguments.keys() - {"fx", "name", "metric_attribute"}
    are_words = all(isinstance(word, str) for word in (*words, arguments["metric_attribute"] or ""))
    if not are_words or not all(isinstance(arguments[name], (bool, type(None))) for name in truths):
        raise LotteryError(f"The checkpoint says that something was logged with {arguments}, which cannot be.")


def _metrics(module: LightningModule) -> dict[str, Metric]:
    """The module's metrics by name."""
    for collection in module.modules():
        if isinstance(collection, MetricCollection):
            collection.values()  # those that share their states get them only when asked for
    return {name: metric for name, metric in module.named_modules() if isinstance(metric, Metric)}
