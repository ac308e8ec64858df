import math

import matplotlib.style
import pytest
from matplotlib.figure import Figure

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.style import (
    MARKERS,
    explain_marks,
    in_words,
    look,
    mean,
    name_ends,
    panels,
    per_cent,
    percentage,
    spread,
    styled,
    ticks_at,
)


def test_panels_stand_side_by_side_or_one_below_the_other():
    for columns in (1, None):
        figure, (first, second) = panels(2, (4, 3), columns=columns)
        drawn(figure)
        here, there = first.get_position(), second.get_position()
        assert (here.y0 > there.y0) == (columns == 1) and (here.x0 < there.x0) != (columns == 1)


def test_panels_on_a_grid_have_one_axis_where_they_are_to_share_it():
    figure, every = panels(5, (6, 4), columns=3, sharey=True)
    every[4].set_ylim(2, 3)
    drawn(figure)
    assert len({round(axes.get_position().x0, 6) for axes in every}) == 3
    assert all(axes.get_ylim() == (2, 3) for axes in every) and every[0].get_xlim() == (0, 1)


def test_no_two_of_42_series_look_alike_also_without_colour():
    looks = [look(number) for number in range(42)]
    assert len({tuple(each.values()) for each in looks}) == 42
    assert len({each["marker"] for each in looks[: len(MARKERS)]}) == len(MARKERS)
    assert len({(each["marker"], each["linestyle"]) for each in looks[:18]}) == 18


def test_colours_differ_in_lightness_or_are_far_apart_for_who_sees_no_red():
    # A protanope's view after Vienot et al. 1999, of linear RGB: how far two colours are apart there.
    def seen(color):
        r, g, b = (
            (c / 12.92) if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(color)
        )
        x = 0.11238 * r + 0.88762 * g
        return (x, 0.00401 * r - 0.00401 * g + b)

    colors = [seen(look(number)["color"]) for number in range(6)]
    apart = [math.dist(one, two) for n, one in enumerate(colors) for two in colors[:n]]
    assert min(apart) > 0.05


def test_ticks_are_where_values_are_and_nowhere_else():
    figure, (axes,) = panels(1, (4, 3))
    axes.set(xscale="log", xlim=(0.1, 100))
    ticks_at(axes, [0.5, 20], ["a half", "twenty"])
    drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels(which="both")] == ["a half", "twenty"]


@pytest.mark.parametrize("width", [3, 6])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_twenty_levels_of_a_fifth_have_labels_that_never_touch_and_every_tick(scale, width):
    figure, (axes,) = panels(1, (width, 3))
    densities = [0.8**level for level in range(21)]
    axes.set(xscale=scale, xlim=(1.1, 0.01))
    ticks_at(axes, densities, [percentage(density) for density in densities])
    drawn(figure)
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    assert not overlapping(labels) and {"100", "1.15"} <= {label.get_text() for label in labels}
    assert sorted([*axes.get_xticks(), *axes.get_xticks(minor=True)]) == pytest.approx(sorted(densities))
    assert not any(label.get_visible() and label.get_text() for label in axes.get_xticklabels(minor=True))


def test_names_at_the_ends_of_curves_never_touch_and_keep_their_order():
    figure, (axes,) = panels(1, (5, 3))
    axes.plot([0, 1], [0, 1])
    names = {"lowest": 0.0, "low": 0.01, "lower": 0.011, "high": 0.99, "highest": 1.0}
    name_ends(axes, [(height, name, "black") for name, height in names.items()])
    drawn(figure)
    texts = {text.get_text(): text for text in axes.texts}
    assert not overlapping(texts.values())
    heights = [texts[name].get_window_extent().y0 for name in sorted(names, key=names.get)]
    assert heights == sorted(heights)
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in texts.values())


def test_heights_move_no_further_than_need_be():
    assert spread([0.1, 0.5], 0.2) == [0.1, 0.5]
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([], 0.1) == []


def test_a_style_of_the_users_does_not_reach_a_figure():
    @styled
    def draw():
        figure, (axes,) = panels(1, (3, 2))
        axes.set_xlabel("step")
        explain_marks(figure, [("mean", "mean of pairs")])
        return figure

    with matplotlib.style.context("dark_background"):
        figure = draw()
        drawn(figure)
        colors = {text.get_color() for text in texts_of(figure)}
    assert colors == {"#222222"} and figure.get_facecolor() == (1, 1, 1, 1)


def test_a_legend_explains_marks_and_says_what_is_missing_below_the_panels():
    figure, (axes,) = panels(1, (5, 3))
    explain_marks(figure, [("run", "one run"), ("band", "lowest to highest")], ["level 3 has no test accuracy"])
    drawn(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one run", "lowest to highest"]
    assert legend.get_title().get_text() == "level 3 has no test accuracy"
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0
    alone = Figure(layout="constrained")
    explain_marks(alone, [], ["nothing to draw"])
    assert [text.get_text() for text in texts_of(alone)] == ["nothing to draw"]


def test_an_axis_in_per_cent_says_so():
    _, (axes,) = panels(1, (3, 2))
    per_cent(axes.yaxis, "test error")
    assert axes.get_ylabel() == "test error, %"
    assert axes.yaxis.get_major_formatter()(0.025, 0) == "2.5"


def test_keys_become_words():
    assert in_words("head_acc") == "head accuracy" and in_words("sparsity") == "sparsity"


def test_the_mean_is_plain():
    assert mean([1, 2, 6]) == 3
