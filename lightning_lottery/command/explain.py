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
from lightning_lottery.hooks.clock import comes_later
from lightning_lottery.hooks.explaining import NO_SPEED, Explanation, Sheet
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.quiet import without_noise


class _Explained(Exception):
    """The fit has got as far as it was meant to."""


class _Explainer(Callback):
    """Prints what the callbacks are about to do, and ends the fit before its first batch."""

    # After every callback of ours, which are called in the order of this number: by then each has resolved its scope
    # and its schedule in `on_fit_start`, and refused what it refuses; nothing has been trained yet.
    lottery_order: ClassVar[int] = 99

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if comes_later(pl_module):
            pl_module.on_fit_start()
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, MaskCallback):
                callback.plan(trainer, pl_module)  # on every rank: some compare over ranks what they were given
        if trainer.is_global_zero:
            terminal = console()
            for callback in callbacks:
                if isinstance(callback, MaskCallback):
                    _print(callback.explanation(pl_module), terminal)
                elif isinstance(callback, EarlyBird) and callback.cutting:
                    _print(callback.explanation(trainer, pl_module), terminal)
            if any(isinstance(callback, MaskCallback) for callback in callbacks):
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
        # An EarlyBird that masks units brings the callback that does only when the fit is set up.
        birds = [callback for callback in callbacks if isinstance(callback, EarlyBird)]
        removing = [bird for bird in birds if bird.freezing or bird.cutting]
        if not removing and not any(isinstance(callback, MaskCallback) for callback in callbacks):
            raise LotteryError("There is nothing to explain: `trainer.callbacks` holds no callback that makes masks.")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return {**quiet, "callbacks": [*callbacks, _Explainer()]}

    with without_noise():
        built = BuiltCLI(["fit", *arguments], sections=SECTIONS, trainer=trainer_arguments)
        with suppress(_Explained):
            built.trainer.fit(built.model, datamodule=built.datamodule)


def _print(explanation: Explanation, terminal: Console) -> None:
    terminal.rule(explanation.label)
    longest = max(len(name) for name, *_ in explanation.parameters.rows)
    _print_sheet(explanation.parameters, terminal, first_at_least=longest)
    for sentence in explanation.warnings:
        terminal.print(sentence)
    if explanation.schedule is not None:
        _print_sheet(explanation.schedule, terminal)
    terminal.print(explanation.memory)


def _print_sheet(sheet: Sheet, terminal: Console, *, first_at_least: int | None = None) -> None:
    """A sheet below its title; its first column is never cut."""
    terminal.print(sheet.title, soft_wrap=True)
    table = Table()
    for number, column in enumerate(sheet.columns):
        justify: Any = "right" if column in sheet.numbers else "left"
        first: dict[str, Any] = {} if number else {"no_wrap": True, "min_width": first_at_least}
        table.add_column(column, justify=justify, **first)
    for row in sheet.rows:
        table.add_row(*row)
    terminal.print(table)
