import pytest

from helpers.figures import drawn
from lightning_lottery.figures.sweep import barrier_over_steps, lines_over_steps


def point(mean, low=None, high=None, by_parent=()):
    return {"mean": mean, "low": low, "high": high, "by_parent": dict(enumerate(by_parent))}


@pytest.mark.parametrize(
    "points",
    [
        {0: point(0.0)},
        {0: point(0.0), 10: point(0.0, 0.0, 0.0, [0.0, 0.0])},
        {0: point(None, by_parent=[None, 0.1]), 10: point(0.3, -0.1, 0.7, [0.2, 0.4])},
        {0: point(None), 10: point(None)},
    ],
)
def test_barriers_are_drawn_whatever_is_missing(points):
    (axes,) = drawn(barrier_over_steps({"dense": points, "synflow": {0: point(0.5)}}, 0.02))
    assert axes.get_ylim()[1] == pytest.approx(0.8)  # a wide interval or a missing mean does not set the scale
    line = next(line for line in axes.lines if line.get_label() == "dense")
    assert list(line.get_xdata()) == [step for step, at_step in points.items() if at_step["mean"] is not None]


def test_heat_maps_reach_the_threshold_and_leave_out_what_is_not_finite():
    heat = {"dense": {0: [0.0, float("nan"), 0.0], 5: [0.0, 0.01, 0.0]}, "synflow": {0: [0.0, float("inf"), 0.0]}}
    axes = drawn(lines_over_steps([0, 0.5, 1], heat, 0.02))
    assert axes[0].images[0].get_clim() == (0, 0.02)
    many = {"dense": {step: [0.0, step / 100, 0.0] for step in range(40)}}
    (first, *_) = drawn(lines_over_steps([0, 0.5, 1], many, 0.02))
    assert len(first.get_xticks()) <= 12 and first.images[0].get_clim() == (0, 0.39)
