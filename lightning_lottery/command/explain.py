"""Explain: what a fit would prune, when, and at what cost in memory, found out by the fit's own code."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from lightning_lottery.callbacks.early_bird import EarlyBird
from lightning_lottery.children.cli import BuiltCLI
from lightning_lottery.command.options import console
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.hooks.clock import comes_later
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.quiet import without_noise
from lightning_lottery.scope import ties

NO_SPEED = "Zeros alone bring no speed: dense hardware multiplies them all the same. Removing whole units does."


class _Explained(Exception):
    """The fit has got as far as it was meant to."""


class _Explainer(Callback):
    """Prints what the callbacks are about to do, and ends the fit before its first batch."""

    # After every callback of ours, which are called in the order of this number: by then each has resolved its scope
    # and its schedule in `on_fit_start`, and refused what it refuses; nothing has been trained yet.
    lottery_order: ClassVar[int] = 99

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            terminal = console()
            if comes_later(pl_module):
                pl_module.on_fit_start()
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MaskCallback):
                    callback.plan(trainer, pl_module)
                    _print(callback, pl_module, terminal)
            terminal.print(NO_SPEED)
        raise _Explained


def explain_fit(arguments: Sequence[str]) -> None:
    """Set a fit up as ``fit`` would, print what its callbacks are about to do, and stop before the first batch.

    Args:
        arguments: Every option of ``fit`` is one here.

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


def _print(callback: MaskCallback, module: LightningModule, terminal: Console) -> None:
    parameters = {entry.name: entry for entry in callback.candidates(module)}
    masked = callback.parameters
    aliases = ties(module)
    scoped = sum(param.numel() for param in masked.values())
    total = sum(entry.parameter.numel() for entry in parameters.values())
    terminal.rule(callback.label)
    terminal.print(f"{callback.label} can remove {scoped:,} of the module's {total:,} weights:")
    table = Table()
    table.add_column("parameter", no_wrap=True, min_width=max(map(len, parameters)))
    for column in ("layer", "shape", "weights", "pruned"):
        table.add_column(column, justify="right" if column == "weights" else "left")
    for name, entry in parameters.items():
        tied = [alias for alias, first in aliases.items() if first == name]
        note = f" (tied: {', '.join(tied)})" if tied else ""
        in_scope = "yes" if name in masked else f"no: {entry.reason or 'not masked'}"
        shape = " x ".join(map(str, entry.parameter.shape))
        table.add_row(name + note, entry.module_type, shape, f"{entry.parameter.numel():,}", in_scope)
    terminal.print(table)
    for sentence in callback.warnings(module):
        terminal.print(sentence)
    if callback.resolved_schedule is not None:
        terminal.print(f"{callback.resolved_schedule}, an update every {callback.interval} steps:", soft_wrap=True)
        terminal.print(_schedule_table(callback.resolved_schedule, callback.interval, scoped))
    added = sum(param.numel() * callback.bytes_per_weight(param) for param in masked.values())
    terminal.print(
        f"Memory that {callback.label} adds: {added / 2**20:.2f} MiB ({added / scoped:.1f} bytes per weight)."
    )


def _schedule_table(schedule: Schedule, interval: int, scoped: int) -> Table:
    """A dozen steps between the begin of the schedule and its end, as they fall on updates."""
    table = Table()
    for column in ("after step", "removed", "weights kept"):
        table.add_column(column, justify="right")
    begin, end = int(schedule.begin), int(schedule.end)
    stride = max(interval, (end - begin) // 10 // interval * interval)
    for step in sorted({begin, *range(begin - begin % interval + interval, end, stride), end}):
        table.add_row(str(step), f"{100 * schedule(step):.2f} %", f"{round((1 - schedule(step)) * scoped):,}")
    return table
