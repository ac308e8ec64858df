"""What TensorBoard shows beside curves is written once in a run, in columns and charts that are alike in all runs."""

from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.utils.tensorboard import SummaryWriter

from helpers.boards import Board, board_in
from helpers.loggers import Online
from helpers.projects import fit, trainer
from lightning_lottery.hooks.boards import BARRIER, Settings, add_settings, lay_out, write_text


class Charting(Callback):
    def __init__(self, **charts):
        self.lottery_charts = charts


def test_one_layout_holds_the_charts_of_all_callbacks_whoever_asks(tmp_path):
    charting = [Charting(one={"a": ("b$",)}), Charting(two={"c": ("d", "e")})]
    logger = board_in(tmp_path)
    about = trainer(tmp_path, Callback(), *charting, logger=[CSVLogger(tmp_path), Online(), logger])
    for callback in charting:
        lay_out(about, callback, is_new=True)
    for name in ("b", "bb", "d", "ee"):
        logger.experiment.add_scalar(name, 1.0, 0)
    logger.experiment.flush()
    assert Board(tmp_path).layout == {"one": {"a": ["b"]}, "two": {"c": ["d", "ee"]}}


@pytest.mark.parametrize(
    ("is_new", "purge_step", "is_written"),
    [(True, None, True), (False, None, False), (True, 0, True), (False, 0, True), (True, 5, False), (False, 5, False)],
)
def test_what_stands_once_in_a_run_is_not_written_again_where_the_log_goes_on(is_new, purge_step, is_written, tmp_path):
    logger = board_in(tmp_path, **({} if purge_step is None else {"purge_step": purge_step}))
    charting = Charting(one={"a": ("b$",)})
    about = SimpleNamespace(loggers=[logger], callbacks=[charting])
    lay_out(about, charting, is_new=is_new)
    write_text(about, "words", "**all** of them", is_new=is_new)
    logger.experiment.flush()
    read = Board(tmp_path)
    assert read.texts("words") == ["**all** of them"] * is_written
    assert len(read.events("custom_scalars__config__")) == is_written


def test_a_fast_dev_run_and_a_fit_without_loggers_have_nobody_to_tell(tmp_path):
    class Tells(Callback):
        def on_train_start(self, trainer, pl_module):
            write_text(trainer, "words", "none", is_new=True)

    for more in ({"fast_dev_run": True, "logger": board_in(tmp_path)}, {"logger": False}):
        fit(tmp_path, Tells(), **more)
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_the_table_of_runs_has_columns_for_all_settings_the_metrics_and_a_barrier(tmp_path):
    settings = Settings("MaskFreezing", 0.8, 100, "02-platon/ticket.safetensors", "0")
    with SummaryWriter(str(tmp_path)) as board:
        board.add_scalar("test_acc", 0.5, 12)
        add_settings(board, settings, ["test_acc", BARRIER])
    read = Board(tmp_path)
    assert read.settings == settings._asdict()
    assert read.columns == (list(Settings._fields), ["test_acc", BARRIER])
    assert read.curves == {"test_acc": [(12, 0.5)]}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # no run beside
