import json

import pytest

from helpers.children import lines_report
from helpers.figures import drawn
from helpers.sweeps import sweep
from lightning_lottery.experiments.pictures.draw import draw_runs
from lightning_lottery.experiments.sweep_report import SweepReport


@pytest.fixture
def ended(tmp_path):
    reports = {step: {0: lines_report(0.25, 0.26, 0.27), 1: lines_report(0.2, 0.21, 0.22)} for step in (0, 10)}
    (tmp_path / "ended" / "parent-0" / "parent").mkdir(parents=True)
    summary = SweepReport(0.02, {"dense": reports}).summary()
    (tmp_path / "ended" / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "ended"


def test_several_sweeps_stand_in_one_picture_each_with_its_k_star_and_its_children_s_error(ended, tmp_path):
    sweep(tmp_path / "going", parents=(0, 1))
    result = draw_runs([str(ended), f"IMP={tmp_path / 'going'}"])
    above, rows, below = drawn(result.figures["barrier"])
    assert {text.get_text() for text in above.texts} == {"ended dense", "IMP dense", "IMP synflow", "threshold 2 %"}
    assert [label.get_text() for label in rows.get_yticklabels()] == ["ended dense", "IMP dense", "IMP synflow"]
    assert (above.get_ylabel(), below.get_ylabel()) == ("barrier of the test error, %", "test error, %")
    assert result.notes == ["IMP: the sweep has not ended: drawn is what is judged so far."]


def test_a_sweep_of_which_no_line_is_judged_leaves_a_note_and_no_picture(tmp_path):
    (tmp_path / "parent-0" / "dense-step-0").mkdir(parents=True)
    result = draw_runs([str(tmp_path)])
    assert not result.figures and "has not ended" in result.notes[0]


def test_a_damaged_report_of_a_sweep_is_left_out(tmp_path):
    sweep(tmp_path, parents=(0,))
    (tmp_path / "parent-0" / "dense-step-10" / "lines" / "report.json").write_text("[")
    result = draw_runs([str(tmp_path)])
    above, *_ = drawn(result.figures["barrier"])
    assert [*above.lines[0].get_xdata()] == [0, 20]  # of the dense network
    assert any("dense-step-10" in note for note in result.notes)
    (tmp_path / "summary.json").write_text("[")
    assert any("summary of a sweep" in note for note in draw_runs([str(tmp_path)]).notes)
