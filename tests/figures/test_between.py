import pytest

from helpers.figures import drawn
from lightning_lottery.figures.between import layers_between, lines_between


def test_the_threshold_of_the_error_lies_above_the_mean_of_the_ends_of_the_mean_pair():
    along = {"loss": [[1.0, 2.0, 1.0]], "error": [[0.1, 0.4, 0.1], [0.3, 0.6, 0.3]]}
    loss, error = drawn(lines_between([0, 0.5, 1], along, 0.02, {"aligned": along}))
    assert [line.get_label() for line in loss.lines].count("threshold") == 0
    lines = {line.get_label(): line.get_ydata() for line in error.lines}
    assert lines["mean of 2 pairs"] == pytest.approx([0.2, 0.5, 0.2])
    assert lines["threshold"][0] == pytest.approx(0.22)
    assert "aligned" in lines


def test_each_layer_has_a_bar_at_its_mean_and_its_name_once():
    rises = {"a": [0.1, 0.3], "b": [0.0, 0.0]}
    first, second = drawn(layers_between({"single": rises, "cumulative": rises}, 0.02))
    assert [bar.get_width() for bar in first.patches] == pytest.approx([0.2, 0.0])
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert not any(label.get_text() for label in second.get_yticklabels())
