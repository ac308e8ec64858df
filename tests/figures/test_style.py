from helpers.figures import drawn
from lightning_lottery.figures.style import mean, panels, ticks_at


def test_panels_stand_side_by_side_or_one_below_the_other():
    for upright in (False, True):
        figure, (first, second) = panels(2, (4, 3), upright=upright)
        drawn(figure)
        here, there = first.get_position(), second.get_position()
        assert (here.y0 > there.y0) == upright and (here.x0 < there.x0) != upright


def test_ticks_are_where_values_are_and_nowhere_else():
    figure, (axes,) = panels(1, (4, 3))
    axes.set(xscale="log", xlim=(0.1, 100))
    ticks_at(axes, [0.5, 20], ["a half", "twenty"])
    drawn(figure)
    assert [label.get_text() for label in axes.get_xticklabels(which="both")] == ["a half", "twenty"]


def test_the_mean_is_plain():
    assert mean([1, 2, 6]) == 3
