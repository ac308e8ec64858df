"""What every experiment reports: one protocol, and one way to write it into a folder and to show it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rich.console import Console
from rich.table import Table

from lightning_lottery.children.records import Row, write_results
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import remove_file, write_image, write_whole
from lightning_lottery.hooks.boards import Settings, add_settings
from lightning_lottery.hooks.loggers import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


class Report(Protocol):
    """What an experiment found."""

    def rows(self) -> list[Row]:
        """Records."""

    def summary(self) -> dict[str, Any]:
        """Plain values, for ``summary.json``."""

    def figure(self) -> "Figure":
        """The main one of its figures."""

    def figures(self) -> Mapping[str, "Figure"]:
        """Name of a file, without its ending, to what it shows."""

    def table(self) -> Table:
        """For the terminal."""

    def sentences(self) -> list[str]:
        """What follows from it, in words."""


class BoardRow(NamedTuple):
    """A row of TensorBoard's table of runs.

    Args:
        settings: What tells it from others.
        metrics: What stands in the rows of the trainings that it is about, so that all have the same columns.
        outcome: What it measured, by the name of its column.
    """

    settings: Settings
    metrics: Sequence[str]
    outcome: Mapping[str, float]


def write(
    report: Report,
    folder: Path,
    *,
    run: str,
    rows: Sequence[Row] | None = None,
    row: BoardRow | None = None,
) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, figures as PNG and SVG, and a run for TensorBoard.

    That run has the figures, what follows in words, and no curves: TensorBoard smooths along what is not time, and
    leaves outliers out, which moves the very maximum that is asked for.

    Args:
        report: What was found.
        folder: Where the files go.
        run: Folder in ``folder`` of TensorBoard's run.
        rows: Records to write, the report's among them; default: the report's alone.
        row: Its row in TensorBoard's table of runs; None for none.

    Raises:
        LotteryError: A file cannot be written.
    """
    rows, figures = report.rows() if rows is None else rows, report.figures()
    write_results(folder, rows)
    write_whole(folder / "summary.json", json.dumps(report.summary(), indent=1).encode(), "summary")
    for name, figure in figures.items():
        write_image(folder, name, figure)
    with _board(folder / run) as writer:
        writer.add_text("verdict", "\n\n".join(report.sentences()), 0)
        if row is not None:
            for name, value in row.outcome.items():
                writer.add_scalar(name, value, row.settings.start_step)
            add_settings(writer, row.settings, [*row.metrics, *row.outcome])
        for name, figure in figures.items():
            writer.add_image(name, pixels(figure), 0, dataformats="HWC")


def show(report: Report, folder: Path, console: Console) -> None:
    """Print the table, what follows from it, and where the files are."""
    console.print(report.table())
    is_file = not (console.is_terminal or console.is_jupyter)  # where a sentence is a line
    for sentence in report.sentences():
        console.print(sentence, soft_wrap=is_file)
    console.print(f"Records: {folder / 'results.jsonl'}. Curves: tensorboard --logdir {folder}", soft_wrap=True)


@contextmanager
def _board(folder: Path) -> Iterator["SummaryWriter"]:
    """A writer of TensorBoard's for one run of curves, in a folder of its own."""
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard reads all event files of a folder as one run: what an earlier run wrote would show twice.
    for stale in folder.glob("events.out.*"):
        remove_file(stale)
    try:
        with SummaryWriter(str(folder)) as writer:
            yield writer
    except OSError as error:
        raise LotteryError(f"The curves in '{folder}' could not be written: {error.strerror or error}.") from error
