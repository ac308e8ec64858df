import math

import pytest

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.stages import Panel, Reached, stages_over_seeds


def test_a_stage_has_one_row_in_every_panel_its_runs_their_mean_and_its_interval():
    accuracies = {"01-dense": Reached([0.8, 1.0], 0.7, 1.1), "10-last": Reached([0.5]), "2-b": Reached([0.4])}
    barriers = {"10-last": Reached([0.3, math.nan], -0.1, 0.6)}
    panels = [
        Panel("test accuracy", accuracies, "bounds of the mean"),
        Panel("error barrier", barriers, "bounds of the barrier", threshold=0.02),
    ]
    figure = stages_over_seeds(panels, "Two seeds", ["seed 1: 2-b is not done"])
    accuracy, barrier = drawn(figure)
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["01-dense", "2-b", "10-last"]
    means = [line.get_xydata()[0].tolist() for line in accuracy.lines if line.get_marker() == "D"]
    assert means == [pytest.approx([0.9, 0]), [0.5, 2], [0.4, 1]]
    assert [0.7, 1.1] in [list(line.get_xdata()) for line in accuracy.lines]
    assert (accuracy.get_xlabel(), barrier.get_xlabel()) == ("test accuracy, %", "error barrier, %")
    assert [0.02, 0.02] in [list(line.get_xdata()) for line in barrier.lines]
    left, right = barrier.get_xlim()
    assert left < -0.1 and right > 0.6
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["one run", "mean", "bounds of the mean", "bounds of the barrier", "threshold, 2 %"]
    title = legend.get_title().get_text()
    assert "2-b is not done" in title and "10-last: error barrier is not finite in 1 of 2 runs." in title
    assert not overlapping(texts_of(figure))


def test_a_metric_that_is_no_share_has_no_per_cent():
    (axes,) = drawn(stages_over_seeds([Panel("test loss", {"a": Reached([1.5])}, are_shares=False)], "a"))
    assert axes.get_xlabel() == "test loss"
