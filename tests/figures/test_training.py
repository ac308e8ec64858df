import pytest

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.training import accuracy_through_training

CURVE = [(100, 0.2), (200, 0.5), (300, 0.4), (400, 0.8)]


def test_each_run_has_a_curve_and_a_mark_where_its_network_was_pruned():
    curves = {"full": [CURVE], "SynFlow": [CURVE], "AdSynFlow at epoch 10": [CURVE], "PLATON": [CURVE, CURVE]}
    pruned = {"SynFlow": (0, 0), "AdSynFlow at epoch 10": (250, 250), "PLATON": (150, 350)}
    figure = accuracy_through_training(curves, "validation accuracy", pruned)
    (axes,) = drawn(figure)
    marks = [
        tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in axes.lines if line.get_marker() == "v"
    ]
    assert marks == [(0.0, 0.2), (250.0, pytest.approx(0.45)), *[(150.0, 0.35)] * 2]
    broad = [[*line.get_xdata()] for line in axes.lines if line.get_linewidth() == 6]
    assert broad == [[0], [250], *[[150, 200, 300, 350]] * 2]
    assert axes.get_ylabel() == "validation accuracy, %" and axes.get_title("left").startswith("▼ pruned")
    assert [text.get_text() for text in axes.texts] and {t.get_text() for t in axes.texts} == {*curves}
    assert overlapping(texts_of(figure)) == []


def test_runs_without_measurements_or_pruning_are_drawn_as_far_as_they_go_and_notes_are_below():
    figure = accuracy_through_training({"a": [], "b": [[]], "c": [[(1, 3.0)]]}, "loss", is_share=False, notes=["No a."])
    (axes,) = drawn(figure)
    assert [text.get_text() for text in axes.texts] == ["c"] and axes.get_title("left") == ""
    assert axes.get_ylabel() == "loss" and "No a." in {text.get_text() for text in texts_of(figure)}
