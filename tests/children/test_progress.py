"""How far a child is: in its folder, and in one line where anybody looks."""

import io
import itertools
import logging
import sys
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from helpers.factories import Data, Net
from lightning_lottery.children import progress
from lightning_lottery.children.progress import FitProgress, Line, output, read_progress, tell_progress


@pytest.fixture(autouse=True)
def _time_passes(monkeypatch):
    monkeypatch.setattr(progress, "monotonic", itertools.count(1).__next__)


def console(kind, width=80):
    made = Console(file=io.StringIO(), force_terminal=kind == "terminal", width=width, legacy_windows=False)
    made.is_jupyter = kind == "notebook"
    return made


def test_what_a_child_tells_is_read_and_nothing_while_it_has_told_none(tmp_path):
    assert read_progress(tmp_path) is None
    for told in ((3, 12), (3, None)):
        tell_progress(tmp_path, *told)
        assert read_progress(tmp_path) == told
    (tmp_path / "progress").write_text("3 1x")
    assert read_progress(tmp_path) is None
    tell_progress(tmp_path / "gone", 1, 2)  # a full disk stops no training


def test_a_file_or_a_pipe_gets_nothing():
    line = Line(console("file"))
    line.show("epoch 1", 3, 12)
    line.close()
    assert line._console.file.getvalue() == "" and not line.is_shown


@pytest.mark.parametrize("more", ["", "train_loss 0.512  " + "long" * 30])
def test_a_terminal_gets_one_line_that_fits_and_is_gone_in_the_end(more):
    line = Line(console("terminal"))
    for step in (3, 4):
        line.show("epoch 1", step, 12, more)
    text = line._console.file.getvalue()
    line.close()
    assert "step 3/12" in text and "step 4/12" in text and "\n" not in text and "long" not in text
    assert ("train_loss 0.512" in text) == bool(more)
    assert line._console.file.getvalue().endswith("\x1b[2K")  # the line erased


def test_what_is_logged_meanwhile_goes_above_the_line_and_afterwards_where_it_went(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("lightning.pytorch")
    monkeypatch.setattr(logger, "handlers", [handler])
    line = Line(console("terminal"))
    line.show("epoch 1", 3, 12)
    rank_zero_info("drawn at step 3")
    assert out.getvalue() == "" and "drawn at step 3\n" in line._console.file.getvalue()
    line.close()
    rank_zero_info("later")
    assert out.getvalue() == "later\n" and handler.stream is sys.stderr is out


def test_a_notebook_gets_one_output_that_is_written_over(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return handle

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    line = Line(console("notebook"))
    line.show("seed-1", 3, 12, "loss 0.5")
    line.show("done", 2, None, unit="child")
    line.close()
    assert shown == ["seed-1 · step 3/12 · loss 0.5", "done · child 2"]


def test_a_line_is_not_written_over_more_often_than_anybody_sees_but_at_the_end(monkeypatch):
    monkeypatch.setattr(progress, "monotonic", itertools.count(1, 0.04).__next__)
    line, shown = Line(console("notebook")), []
    monkeypatch.setattr(line, "_show_in_notebook", shown.append)
    for step in range(10):
        line.show("a", step, 9)
    assert shown[0] == "a · step 0/9" and shown[-1] == "a · step 9/9" and 3 <= len(shown) <= 5


def test_only_a_terminal_is_one_whatever_force_color_says(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Console().is_terminal and not output().is_terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert output().is_terminal


class Shown:
    """A line that keeps what it is told."""

    is_shown = True
    is_in_notebook = True

    def __init__(self, _):
        self.told = []
        Shown.last = self

    def show(self, *words, **_):
        self.told.append(words)

    def close(self):
        self.told.append("closed")


@pytest.mark.parametrize("fails", [False, True])
def test_a_fit_says_how_far_it_is_and_leaves_the_line_also_by_an_exception(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(progress, "Line", Shown)

    class Failing(Net):
        def on_train_end(self):
            if fails:
                raise RuntimeError

    settings = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "max_epochs": 1}
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": tmp_path}
    trainer = Trainer(**settings, **quiet, callbacks=[FitProgress(tmp_path, is_shown=True)])
    try:
        trainer.fit(Failing(), datamodule=Data(fixed=True))
    except RuntimeError:
        assert fails
    first, *_, last = Shown.last.told
    assert first[:3] == (f"{tmp_path.name} · epoch 1", 1, trainer.estimated_stepping_batches) and last == "closed"
    assert read_progress(tmp_path) == (trainer.global_step, trainer.estimated_stepping_batches)


def test_the_line_stands_in_place_of_lightning_s_own_default_bars_alone():
    class Mine(TQDMProgressBar):
        pass

    assert type(Mine()) not in progress.DEFAULT_BARS
    assert {RichProgressBar, TQDMProgressBar} == {*progress.DEFAULT_BARS}
