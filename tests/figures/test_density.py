import math

import pytest

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.density import Levels, accuracy_against_density


def levels(last=20, seeds=3, controls=("shuffled", "reinitialised"), drop=0.3, matches=None):
    curves = {
        kind: {
            0.8**n: [0.94 - drop * n * worse / 100 + seed / 1000 for seed in range(seeds)] for n in range(1, last + 1)
        }
        for worse, kind in enumerate(("ticket", *controls), start=1)
    }
    return Levels([0.94 + seed / 1000 for seed in range(seeds)], curves, matches)


def words_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_twenty_levels_fall_to_the_right_and_every_label_can_be_read():
    figure = accuracy_against_density({"": levels(matches=0.8**6)}, "test accuracy")
    (axes,) = drawn(figure)
    left, right = axes.get_xlim()
    assert left > 1 > 0.8**20 > right
    assert not overlapping(texts_of(figure))
    assert {"100", "1.15"} <= {label.get_text() for label in axes.get_xticklabels()}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weights kept, %", "test accuracy, %")
    assert [text.get_text() for text in axes.texts] == ["ticket", "shuffled", "reinitialised"][::-1]


def test_tickets_begin_at_the_dense_network_and_the_last_that_matches_has_a_ring():
    figure = accuracy_against_density({"": levels(3, matches=0.8)}, "test accuracy")
    (axes,) = drawn(figure)
    ticket = axes.lines[0]
    assert list(ticket.get_xdata()) == pytest.approx([1.0, 0.8, 0.64, 0.512]) and ticket.get_ydata()[
        0
    ] == pytest.approx(0.941)
    (ring,) = (line for line in axes.lines if line.get_markersize() == 11)
    assert ring.get_xydata()[0] == pytest.approx([0.8, 0.938])
    assert "the last ticket that matches the dense network" in words_of(figure)
    (plain,) = drawn(accuracy_against_density({"": levels(3)}, "test accuracy"))
    assert not [line for line in plain.lines if line.get_markersize() == 11]


def test_several_runs_have_a_colour_each_and_their_controls_lines_of_their_own():
    runs = {"rewound to 0": levels(), "rewound to 500": levels(drop=0.1)}
    figure = accuracy_against_density(runs, "test accuracy")
    (axes,) = drawn(figure)
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 6
    assert len({line.get_color() for line in curves}) == 2
    names = {text.get_text() for text in axes.texts}
    assert names == {f"{run}{kind}" for run in runs for kind in ("", " shuffled", " reinitialised")}
    assert not overlapping(texts_of(figure))


def test_one_seed_has_no_band_and_a_loss_no_per_cent():
    figure = accuracy_against_density({"": levels(2, seeds=1)}, "test loss", are_shares=False)
    (axes,) = drawn(figure)
    assert not axes.collections and axes.get_ylabel() == "test loss"
    assert "from the lowest to the highest seed" not in words_of(figure)


def test_what_is_missing_is_said_and_the_rest_drawn():
    curves = {"ticket": {0.8: [0.9, math.nan], 0.64: [math.nan]}, "shuffled": {0.8: [math.inf]}}
    figure = accuracy_against_density({"": Levels([], curves)}, "test accuracy", notes=["level 3 is not done."])
    (axes,) = drawn(figure)
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.8]]
    title = figure.legends[0].get_title().get_text()
    assert "ticket: no number at 64 % kept." in title and "shuffled: no number at 80 % kept." in title
    assert "level 3 is not done." in title
