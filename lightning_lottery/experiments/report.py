"""What every experiment reports: one protocol, and one way to write it into a folder and to show it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.table import Table

from lightning_lottery.children.records import Row, write_results
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import remove_file, write_image, write_whole

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

    def scalars(self) -> Iterable[tuple[str, float, int]]:
        """Name, value and step of every point of a curve for TensorBoard."""

    def table(self) -> Table:
        """For the terminal."""

    def sentences(self) -> list[str]:
        """What follows from it, in words."""


def write(
    report: Report,
    folder: Path,
    *,
    run: str,
    rows: Sequence[Row] | None = None,
    hparams: Mapping[str, Any] | None = None,
    outcome: Mapping[str, float] | None = None,
) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, figures as PNG and SVG, and curves for TensorBoard.

    Args:
        report: What was found.
        folder: Where the files go.
        run: Folder in ``folder`` of the curves' own TensorBoard run.
        rows: Records to write, the report's among them; default: the report's alone.
        hparams: Of the networks' training, for TensorBoard's table of runs; None for no entry there.
        outcome: What stands beside them in that table.

    Raises:
        LotteryError: A file cannot be written.
    """
    rows, figures = report.rows() if rows is None else rows, report.figures()
    write_results(folder, rows)
    write_whole(folder / "summary.json", json.dumps(report.summary(), indent=1).encode(), "summary")
    for name, figure in figures.items():
        write_image(folder, name, figure)
    with _board(folder / run) as writer:
        for name, value, step in report.scalars():
            writer.add_scalar(name, value, step)
        if hparams is not None:
            # TensorBoard's table holds numbers, truth values and strings, and raises at anything else.
            plain = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in hparams.items()}
            writer.add_hparams(plain, dict(outcome or {}), run_name=".")
        # After the curves: a figure closes itself when it was added.
        for name, figure in figures.items():
            writer.add_figure(name, figure)


def show(report: Report, folder: Path, console: Console) -> None:
    """Print the table, what follows from it, and where the files are."""
    console.print(report.table())
    for sentence in report.sentences():
        console.print(sentence, soft_wrap=True)
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
