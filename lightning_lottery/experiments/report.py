"""What every experiment reports: one protocol, and one way to write it into a folder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.table import Table

from lightning_lottery.children.records import curves_in, write_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report(Protocol):
    """What an experiment found."""

    def rows(self) -> list[dict[str, Any]]:
        """Records."""

    def summary(self) -> dict[str, Any]:
        """Plain values, for ``summary.json``."""

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
    rows: Sequence[Mapping[str, Any]],
    *,
    run: str,
    hparams: Mapping[str, Any] | None = None,
    outcome: Mapping[str, float] | None = None,
) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, figures, and curves for TensorBoard.

    Args:
        report: What was found.
        folder: Where the files go.
        rows: Records to write, the report's among them.
        run: Folder in ``folder`` of the curves' own TensorBoard run.
        hparams: Of the networks' training, for TensorBoard's table of runs; None for no entry there.
        outcome: What stands beside them in that table.

    Raises:
        LotteryError: A file cannot be written.
    """
    figures = report.figures()
    write_results(folder, rows, report.summary(), figures)
    with curves_in(folder / run, figures) as writer:
        for name, value, step in report.scalars():
            writer.add_scalar(name, value, step)
        if hparams is not None:
            plain = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in hparams.items()}
            writer.add_hparams(plain, dict(outcome or {}), run_name=".")
