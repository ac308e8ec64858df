import math

import pytest

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.prediction import barrier_and_deficit

POINTS = [(parent, step, parent / 50 + 1 / (step + 1), parent / 100) for parent in range(4) for step in (0, 10, 90)]


@pytest.mark.parametrize("floor", [None, 0.008])
def test_barriers_stand_against_deficits_and_ranks_beside_them(floor):
    figure = barrier_and_deficit(POINTS, "synflow", "rho 0.50, p 0.01", 0.01, floor)
    axes, ranks, steps = drawn(figure)
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[:5] == ["parent 0", "parent 1", "parent 2", "parent 3", "margin: a ticket matches up to 1 %"]
    assert ("barriers that samples alone would show" in words) == (floor is not None)
    assert [label.get_text() for label in steps.get_yticklabels()] == ["0", "10", "90"]
    assert ranks.get_title(loc="left") == "rho 0.50, p 0.01"
    assert len([line for line in axes.lines if len(line.get_xdata()) == 3]) == 4  # one for each parent
    marked = sorted(tuple(map(round, line.get_xydata()[0])) for line in ranks.lines)
    assert marked == sorted((rank, rank) for rank in range(1, 5) for _ in range(3))


def test_of_thirteen_steps_and_five_parents_no_rank_hides_another():
    points = [(parent, step, parent / 50, parent / 100) for parent in range(5) for step in range(13)]
    figure = barrier_and_deficit(points, "synflow", "rho 1", 0.01, 0.008)
    _, ranks, _ = drawn(figure)
    places = {tuple(line.get_xydata()[0]) for line in ranks.lines}
    assert len(places) == len(ranks.lines) == 65
    assert len({line.get_marker() for line in ranks.lines}) == 5
    assert not overlapping(texts_of(figure))


def test_of_fourteen_parents_none_has_the_marker_of_another_and_barriers_can_be_read_off():
    points = [(parent, 0, 0.004 + parent / 400, parent / 100) for parent in range(14)]
    figure = barrier_and_deficit(points, "synflow", "rho 1", 0.01, 0.006)
    axes, ranks, *_ = drawn(figure)
    assert len({line.get_marker() for line in ranks.lines}) == 14
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [0, 0.01, 0.02]


def test_tickets_without_a_number_are_left_out_and_counted():
    figure = barrier_and_deficit([*POINTS, (4, 0, math.nan, 0.1)], "imp", "rho", 0.01, None, are_shares=False)
    axes, *_ = drawn(figure)
    assert "1 of 13 tickets" in figure.legends[0].get_title().get_text() and "%" not in axes.get_xlabel()
