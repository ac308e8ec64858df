"""Explain: what a fit would prune, when, and at what cost in memory, found out by the fit's own code."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from lightning_lottery.callbacks.early_bird import EarlyBird
from lightning_lottery.children.yaml_project import BuiltCLI
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.scope import Place, ties

NO_SPEED = "Zeros alone bring no speed: dense hardware multiplies them all the same. Removing whole units does."


class _Explained(Exception):
    """The fit has got as far as it was meant to."""


class _Explainer(Callback):
    """Acts last: when it is asked, scopes and schedules are resolved and nothing has been trained."""

    lottery_order: ClassVar[int] = 99

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            console = _wide_console()
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MaskCallback):
                    _print(callback, pl_module, console)
            console.print(NO_SPEED)
        raise _Explained


def explain_fit(arguments: Sequence[str]) -> None:
    """Set a fit up as ``fit`` would, print what its callbacks are about to do, and stop before the first batch.

    Args:
        arguments: What ``fit`` would be given, ``--config X`` and so on.

    Raises:
        LotteryError: The configuration has no callback of ours, or one of them refuses the fit.
    """

    def trainer_arguments(config: dict[str, Any]) -> dict[str, Any]:
        callbacks = config["callbacks"]
        # An EarlyBird that removes units brings the callback that masks them only when the fit is set up.
        removing = [callback for callback in callbacks if isinstance(callback, EarlyBird) and callback.freezing]
        if not removing and not any(isinstance(callback, MaskCallback) for callback in callbacks):
            raise LotteryError("There is nothing to explain: `trainer.callbacks` holds no callback that makes masks.")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return {**quiet, "callbacks": [*callbacks, _Explainer()]}

    with without_noise():
        built = BuiltCLI(["fit", *arguments], sections=SECTIONS, trainer=trainer_arguments)
        with suppress(_Explained):
            built.trainer.fit(built.model, datamodule=built.datamodule)


def _wide_console() -> Console:
    """The terminal's; into a file or a pipe, wide enough for qualified names."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _print(callback: MaskCallback, module: LightningModule, console: Console) -> None:
    places = callback.scope.explain(module)
    inside = callback.parameters
    named = {place.name: place for place in places}
    aliases = ties(module)
    scoped = sum(param.numel() for param in inside.values())
    total = sum(place.parameter.numel() for place in places)
    console.rule(callback.label)
    table = Table(title=f"{scoped:,} of {total:,} parameters in scope")
    table.add_column("parameter", no_wrap=True, min_width=max(map(len, named)))
    for column in ("of", "shape", "entries", "in scope"):
        table.add_column(column, justify="right" if column == "entries" else "left")
    for name, place in named.items():
        tied = [alias for alias, first in aliases.items() if first == name]
        note = f" (tied: {', '.join(tied)})" if tied else ""
        table.add_row(
            name + note, *_described(place), "yes" if name in inside else f"no: {place.reason or 'not masked'}"
        )
    console.print(table)
    if callback.resolved_schedule is not None:
        console.print(_schedule_table(callback.resolved_schedule, callback.interval, scoped))
    added = sum(param.numel() * callback.bytes_per_weight(param) for param in inside.values())
    console.print(
        f"Memory that {callback.label} adds: {added / 2**20:.2f} MiB ({added / scoped:.1f} bytes per weight)."
    )


def _described(place: Place) -> tuple[str, str, str]:
    shape = tuple(place.parameter.shape)
    return place.module_type, " x ".join(map(str, shape)), f"{place.parameter.numel():,}"


def _schedule_table(schedule: Schedule, interval: int, scoped: int) -> Table:
    """A dozen steps between the begin of the schedule and its end, as they fall on updates."""
    table = Table(title=f"{schedule}, an update every {interval} steps")
    for column in ("after step", "sparsity", "weights kept"):
        table.add_column(column, justify="right")
    begin, end = int(schedule.begin), int(schedule.end)
    stride = max(interval, (end - begin) // 10 // interval * interval)
    for step in sorted({begin, *range(begin - begin % interval + interval, end, stride), end}):
        table.add_row(str(step), f"{schedule(step):.4f}", f"{round((1 - schedule(step)) * scoped):,}")
    return table
