import math

import pytest

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.between import FEW, Paths, layers_between, lines_between, paths_of_stages

ALPHAS = [0, 0.5, 1]


def words_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def notes_of(figure):
    return " ".join(legend.get_title().get_text().replace("\n", " ") for legend in figure.legends)


def pairs(number, height=0.3):
    return {f"seeds {n} - {n + 1}": [0.1, 0.1 + height + n / 1000, 0.1] for n in range(number)}


def test_each_pair_is_named_at_its_end_and_the_threshold_lies_above_the_mean_of_the_ends():
    along = {
        "test error": {"1 - 2": [0.1, 0.4, 0.1], "1 - 3": [0.3, 0.6, 0.3]},
        "test loss": {"1 - 2": [1.0, 2.0, 1.0], "1 - 3": [1.0, 2.1, 1.1]},
    }
    beside = {"aligned": {"test error": {"1 - 2": [0.1, 0.2, 0.1], "1 - 3": [0.3, 0.4, 0.3]}}}
    figure = lines_between(ALPHAS, along, 0.02, beside=beside, title="unstable", shares=["test error"])
    error, loss = drawn(figure)
    assert [text.get_text() for text in error.texts] == [text.get_text() for text in loss.texts] == ["1 - 2", "1 - 3"]
    assert (error.get_ylabel(), loss.get_ylabel()) == ("test error, %", "test loss")
    heights = [line.get_ydata()[0] for line in error.lines if len(set(line.get_ydata())) == 1]
    assert heights == pytest.approx([0.2, 0.22]) and len(loss.lines) == 2
    assert [0.2, 0.3, 0.2] in [[round(y, 9) for y in line.get_ydata()] for line in error.lines]
    assert words_of(figure) == ["aligned, mean", "threshold, 2 % above the mean of the ends", "mean of the ends"]
    assert figure.get_suptitle() == "unstable" and not overlapping(texts_of(figure))


def test_45_pairs_are_a_band_with_their_mean_and_the_highest_by_its_name():
    many = pairs(45)
    figure = lines_between(ALPHAS, {"test error": many}, 0.02)
    (axes,) = drawn(figure)
    assert [text.get_text() for text in axes.texts] == ["highest: seeds 44 - 45"]
    assert words_of(figure)[:3] == ["all 45 pairs", "the middle half of them", "their mean"]
    mean, highest, *_ = axes.lines
    assert mean.get_ydata()[1] == pytest.approx(0.422) and highest.get_ydata()[1] == pytest.approx(0.444)
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(0.1), pytest.approx(0.444))


def test_a_flat_line_does_not_look_like_a_hill():
    flat = {"a - b": [0.1, 0.1001, 0.1]}
    error, loss = drawn(lines_between(ALPHAS, {"test error": flat, "test loss": flat}, 0.02))
    for axes, least in ((error, 0.06), (loss, 0.02)):
        low, high = axes.get_ylim()
        assert high - low >= least - 1e-9
    assert error.get_ylim()[0] < 0.1 < 0.12 < error.get_ylim()[1]


@pytest.mark.parametrize("number", [2, FEW + 3])
def test_what_is_not_finite_is_a_gap_and_said(number):
    curves = pairs(number) | {"a - b": [0.1, math.inf, 0.1], "c - d": [math.nan] * 3}
    figure = lines_between(ALPHAS, {"test error": curves}, 0.02)
    (axes,) = drawn(figure)
    assert all(map(math.isfinite, axes.get_ylim()))
    assert "not finite everywhere between a - b, c - d" in notes_of(figure)


def paths(rises, verdict="stable", **judged):
    return Paths(ALPHAS, rises, 0.02, verdict, **judged)


def test_analyses_stand_on_one_axis_each_with_its_verdict_and_interval():
    one = {"seed 0": {"seeds 1 - 2": [0.0, 0.11, 0.0], "seeds 1 - 3": [0.01, 0.12, -0.01]}}
    stages = {
        "07-step-0": paths(one, "unstable: 11.50 %", mean=0.115, low=-0.025, high=0.25),
        "08-ticket-reinitialised-instability-step-100": paths(
            {"seed 0": {"seeds 1 - 2": [0.0, 0.001, 0.0]}}, mean=0.001
        ),
        "09-nan": paths({"seed 0": {"seeds 1 - 2": [0.0, math.nan, 0.0]}}, "undecided: 11.23 % (-2.51 to 24.98)"),
    }
    figure = paths_of_stages(stages, error="test error", notes=["seed 1: 08 is not done"])
    every = drawn(figure)
    assert len({axes.get_ylim() for axes in every}) == 1
    assert [axes.get_title(loc="left").split("\n") for axes in every][0] == ["07-step-0", "unstable: 11.50 %"]
    low, high = every[0].get_ylim()
    assert low < -0.025 and high > 0.25
    bar = next(line for line in every[0].lines if [*line.get_ydata()] == [-0.025, 0.25])
    assert min(bar.get_xdata()) > 1
    assert {"seeds 1 - 2", "seeds 1 - 3", "threshold, 2 %", "mean barrier, as judged"} <= {*words_of(figure)}
    assert "seed 1: 08 is not done" in notes_of(figure) and "alpha, the place on the line" in notes_of(figure)
    assert not overlapping(texts_of(figure))


def test_parents_have_a_look_each_and_many_pairs_of_a_stage_are_a_band():
    by_parent = {f"seed {parent}": pairs(2, 0.1) for parent in range(3)}
    figure = paths_of_stages({"a": paths(by_parent), "b": paths({"seed 0": pairs(45)})})
    first, second = drawn(figure)
    looks = {(line.get_color(), line.get_marker()) for line in first.lines if line.get_marker() != "None"}
    assert len(looks) == 3 and {"seed 0", "seed 1", "seed 2", "all 45 pairs"} <= {*words_of(figure)}
    assert len(second.collections) == 2 and not first.collections
    assert not overlapping(texts_of(figure))


def test_bounds_far_beyond_the_lines_are_compressed_and_never_cut():
    figure = paths_of_stages({"a": paths({"seed 0": pairs(2, 0.01)}, mean=0.01, low=-3.0, high=4.0)})
    (axes,) = drawn(figure)
    low, high = axes.get_ylim()
    assert low < -3 and high > 4 and axes.get_yscale() == "symlog"
    assert "the axis is logarithmic" in notes_of(figure)


def test_each_layer_has_a_bar_at_its_mean_and_its_name_once():
    rises = {"a": [0.1, 0.3], "b": [0.0, 0.0]}
    first, second = drawn(layers_between({"single": rises, "cumulative": rises}, 0.02))
    assert [bar.get_width() for bar in first.patches] == pytest.approx([0.2, 0.0])
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert not any(label.get_text() for label in second.get_yticklabels())
