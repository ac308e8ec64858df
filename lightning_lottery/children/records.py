"""What every runner leaves in its folder: records, a summary, figures as images, and curves for TensorBoard."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_lottery.children.child import write_records
from lightning_lottery.files import write_image, write_table, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

Figures = Mapping[str, "Figure"]
"""Name of a file, without its ending, to what it shows."""


def write_results(
    folder: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], figures: Figures
) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, and a PNG for each figure.

    Raises:
        LotteryError: A file cannot be written.
    """
    write_records(folder, rows)
    write_table(folder / "results.csv", rows, "records")
    write_whole(folder / "summary.json", json.dumps(summary, indent=1).encode(), "summary")
    for name, figure in figures.items():
        write_image(folder / f"{name}.png", figure)


@contextmanager
def curves_in(folder: Path, figures: Figures) -> Iterator["SummaryWriter"]:
    """A writer of TensorBoard's for one run of curves, in a folder of its own, beside figures.

    What an earlier run wrote there goes: its curves would show twice.
    """
    from torch.utils.tensorboard import SummaryWriter

    for stale in folder.glob("events.out.*"):
        stale.unlink()
    with SummaryWriter(str(folder)) as writer:
        yield writer
        for name, figure in figures.items():
            writer.add_figure(name, figure)
