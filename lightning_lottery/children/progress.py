"""How far a fit is: one line that is written over in a terminal or a notebook; nothing where output goes to a file."""

import logging
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

DEFAULT_BARS = (TQDMProgressBar, RichProgressBar)
"""What Lightning shows where nobody says otherwise; the line stands in place of these in a child's fit."""

MOST_METRICS = 3
"""How many of the values that the module logs to its progress bar stand in the line."""


BESIDE = 58
"""Characters of the line that its name, its bar, its steps and the time take."""


def output() -> Console:
    """The console of the standard output, a terminal only where that is one.

    rich takes any output for a terminal where ``FORCE_COLOR`` is set, as Jupyter sets it for all that a kernel starts:
    a line that is written over would there be hundreds of lines.
    """
    return Console(force_terminal=None if sys.stdout.isatty() else False)


class Line:
    """One line that says how far something is; nothing where a console is neither a terminal nor a notebook."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._display: Any = None
        self._written = 0.0
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []

    @property
    def is_in_notebook(self) -> bool:
        """Whether it is an output of a notebook."""
        return self._console.is_jupyter

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it."""
        return self._console.is_jupyter or self._console.is_terminal

    def show(self, name: str, done: int, total: int | None, more: str = "", *, unit: str = "step") -> None:
        """Write the line over, at most ten times a second, and at the end.

        Args:
            name: What is being done.
            done: How many steps are.
            total: Of how many; None where nobody knows.
            more: What else there is to say, parts of it two spaces apart: those that do not fit are left out.
            unit: What is counted.
        """
        if monotonic() - self._written < 0.1 and done != total:
            return
        self._written = monotonic()
        state = f"{unit} {done}/{total}" if total else f"{unit} {done}"
        if self._console.is_jupyter:
            self._show_in_notebook(" · ".join(filter(None, (name, state, more))))
        elif self._console.is_terminal:
            bar = self._bar or self._begin()
            while len(more) > self._console.width - BESIDE:  # whole values: half a number would be another
                more = more.rpartition("  ")[0]
            bar.update(bar.task_ids[0], description=name, completed=done, total=total, state=state, more=more)
            bar.refresh()

    def close(self) -> None:
        """Leave the terminal as if there had been no line; a notebook keeps its last state."""
        for handler, stream in self._streams:
            handler.setStream(stream)
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._streams = None, []

    def _begin(self) -> Progress:
        self._bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[more]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            auto_refresh=False,  # a thread beside workers that are forked
        )
        self._bar.add_task("", state="", more="")
        before = sys.stderr
        self._bar.start()
        # What is printed goes above the line: rich takes the streams' places. Loggers hold the streams themselves.
        for handler in logging.getLogger("lightning.pytorch").handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                self._streams.append((handler, before))
                handler.setStream(sys.stderr)
        return self._bar

    def _show_in_notebook(self, text: str) -> None:
        shown = {"text/plain": text}
        if self._display is None:
            self._display = import_module("IPython.display").display(shown, raw=True, display_id=True)
        else:
            self._display.update(shown, raw=True)


class FitProgress(Callback):
    """Says how far a child's fit is: in its folder, for whoever runs several, and in a line.

    Args:
        folder: The child's.
        is_shown: Whether there is a line; the file is always written.
    """

    def __init__(self, folder: Path, *, is_shown: bool) -> None:
        self.folder = folder
        self._line = Line(output()) if is_shown else None
        self._written = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Say it, at most once a second in the file."""
        if trainer.is_global_zero:
            if monotonic() - self._written > 1:
                self._tell(trainer)
            if self._line is not None and self._line.is_shown:
                # In a terminal the name of the child stands above.
                name = f"{self.folder.name} · " if self._line.is_in_notebook else ""
                steps = (trainer.global_step, _steps_of(trainer))
                self._line.show(f"{name}epoch {trainer.current_epoch + 1}", *steps, _metrics_of(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where it ended, and leave the line."""
        if trainer.is_global_zero:
            self._tell(trainer)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the line."""
        self._close()

    def _tell(self, trainer: Trainer) -> None:
        self._written = monotonic()
        tell_progress(self.folder, trainer.global_step, _steps_of(trainer))

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()


def tell_progress(folder: Path, done: int, total: int | None) -> None:
    """Leave in a child's folder how far it is, for whoever runs several."""
    with suppress(OSError):  # a disk may be full, and this is for show
        (folder / "progress").write_text(f"{done} {total or ''}")


def read_progress(folder: Path) -> tuple[int, int | None] | None:
    """How far a child is, of how many steps where it knows; None while it has told nothing yet."""
    with suppress(OSError, ValueError):  # not yet, or being written
        done, total = (folder / "progress").read_text().split(" ")
        return int(done), int(total) if total else None
    return None


def _steps_of(trainer: Trainer) -> int | None:
    """Optimizer steps of the whole fit; None where nobody knows."""
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else None


def _metrics_of(trainer: Trainer) -> str:
    """What the module logs to its progress bar, the first few values."""
    metrics = {name: value for name, value in trainer.progress_bar_metrics.items() if name != "v_num"}
    return "  ".join(f"{name} {value:.3g}" for name, value in [*metrics.items()][:MOST_METRICS])
