"""What TensorBoard shows beside curves: charts of several of them, texts, and the table of runs by their settings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer

from lightning_lottery.hooks.private import purged_from

BARRIER = "path/error_barrier"
"""What curves call the error barrier of an analysis."""

Charts = Mapping[str, Mapping[str, Sequence[str]]]
"""Category to title of a chart to the tags of its curves: regular expressions that match from the tag's beginning on.

TensorBoard (2.21) shows a chart once, with the curves of all runs, where equal categories have equal charts in each:
they are constants of a class, and a callback's ``name`` is any beginning of a tag.
"""


class Settings(NamedTuple):
    """What tells the runs of a table apart, beside their names: as many columns as TensorBoard (2.21) shows unasked.

    Args:
        method: That pruned; ``"dense"`` for none.
        sparsity: Fraction of the scope that is removed at the end.
        start_step: Optimizer step that training began at.
        ticket: Whose masks were trained, or ``"none"``.
        seed: Of the training, a word: as a number it would stand there with four decimals.
    """

    method: str
    sparsity: float
    start_step: int
    ticket: str
    seed: str


def lay_out(trainer: Trainer, callback: Callback, *, is_new: bool) -> None:
    """Write the layout of the charts of all callbacks, once for all: the first that has ``lottery_charts`` does it.

    Args:
        trainer: Whose loggers get it.
        callback: Which asks, when the fit begins.
        is_new: Whether the fit does not go on from a checkpoint that the callback was in.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    charting: list[Any] = [each for each in callbacks if getattr(each, "lottery_charts", None)]
    if charting and charting[0] is callback:
        # TensorBoard has one layout a run: a second one would hide the first.
        charts = {category: charts for each in charting for category, charts in each.lottery_charts.items()}
        layout = {
            category: {title: ["Multiline", list(tags)] for title, tags in titles.items()}
            for category, titles in charts.items()
        }
        for board in _boards_that_begin(trainer, is_new=is_new):
            board.add_custom_scalars(layout)


def write_text(trainer: Trainer, tag: str, text: str, *, is_new: bool) -> None:
    """Write a text in Markdown for the Text tab, once in a run; arguments as of ``lay_out``."""
    for board in _boards_that_begin(trainer, is_new=is_new):
        board.add_text(tag, text, 0)


def add_settings(board: Any, settings: Settings, metrics: Iterable[str]) -> None:
    """Give a run a row in the table of runs.

    Args:
        board: The run's ``SummaryWriter``.
        settings: What stands in the row.
        metrics: Tags of curves whose last value stands there as well.
    """
    from torch.utils.tensorboard import summary

    # TensorBoard takes the columns of whichever run it reads first for those of all.
    columns = dict.fromkeys([*metrics, BARRIER], 0.0)
    # Not `board.add_hparams`, which logs the metrics once more, into a file of its own.
    make: Any = summary.hparams
    for part in make(settings._asdict(), columns):
        board.file_writer.add_summary(part)


def _boards_that_begin(trainer: Trainer, *, is_new: bool) -> Iterator[Any]:
    """The writers of a Trainer's TensorBoard loggers whose log does not go on: where it does, this is in it."""
    for logger in trainer.loggers:
        board: Any = getattr(logger, "experiment", None)
        if not hasattr(board, "add_custom_scalars"):
            continue
        # Who purges a log from a step on has kept what lies before, which from 0 on is nothing.
        first = purged_from(logger)
        if is_new if first is None else first == 0:
            yield board
