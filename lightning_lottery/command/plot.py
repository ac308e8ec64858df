"""``lightning-lottery plot``: pictures of runs, several of a kind in one."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_lottery.command.options import words_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.pictures.draw import draw_runs
from lightning_lottery.files import write_image


def plot(arguments: Sequence[str]) -> None:
    """Draw the runs, and say where the pictures are and what they lack."""
    options = words_of("plot", arguments)
    drawn, out, console = draw_runs(options.runs), Path(options.out), Console()
    if not drawn.figures:
        raise LotteryError(f"There is nothing to draw yet: {' '.join(drawn.notes) or 'no child is done.'}")
    for note in drawn.notes:
        console.print(f"Missing: {note}", soft_wrap=True, markup=False)
    for name, figure in drawn.figures.items():
        write_image(out, name, figure)
        console.print(f"{out / name}.png and .svg", soft_wrap=True, markup=False)
