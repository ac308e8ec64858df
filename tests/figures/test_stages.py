import pytest

from helpers.figures import drawn
from lightning_lottery.figures.stages import stages_over_seeds


def test_a_stage_has_one_row_in_every_panel_and_a_bar_at_its_mean():
    values = {"accuracy": {"dense": [0.8, 1.0], "pruned": [0.5]}, "size": {"pruned": [3.0]}}
    accuracy, size = drawn(stages_over_seeds(values, "Two seeds"))
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["dense", "pruned"]
    assert [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "|"] == pytest.approx([0.9, 0.5])
    assert size.lines[0].get_ydata() == [1]
