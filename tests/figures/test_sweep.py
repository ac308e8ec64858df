import math

import pytest

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.sweep import barrier_over_steps, lines_over_steps
from lightning_lottery.functional.k_star import crossing

STEPS = (0, 50, 100, 200, 400, 800, 1200, 2000, 3000, 5000, 8000, 12000, 20000)


def point(mean, low=None, high=None, by_parent=(), error=None):
    return {"mean": mean, "low": low, "high": high, "by_parent": dict(enumerate(by_parent)), "error": error}


def network(points, step=None, estimate=None, low=0.0, high=None):
    return {"steps": points, "step": step, "estimate": estimate, "low": low, "high": high, "level": 0.05}


def falling(half, error=0.05):
    means = {step: 0.8 / (1 + (step / half) ** 2) for step in STEPS}
    return {
        k: point(m, m - 0.2 * m, m + 0.2 * m, [m * (0.9 + p / 20) for p in range(5)], error) for k, m in means.items()
    }


def notes_of(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def test_four_networks_at_thirteen_steps_of_five_parents_can_be_told_apart_and_read():
    networks = {
        "dense": network(falling(600), 5000, 3900.0, 3000.0, 5000.0),
        "imp": network(falling(1500, 0.06), 12000, 9000.0, 8000.0, 12000.0),
        "random": network(falling(6000, 0.1), None, None, 20000.0),
        "reinitialised": network(falling(15000, 0.12), None, None, 20000.0),
    }
    figure = barrier_over_steps(networks, [0.02])
    above, rows, below = drawn(figure)
    assert not overlapping(texts_of(figure))
    looks = [(line.get_color(), line.get_marker()) for line in above.lines if len(line.get_xdata()) == len(STEPS)]
    assert len({*looks}) == 4 and looks == [
        (line.get_color(), line.get_marker()) for line in below.lines if len(line.get_xdata()) == len(STEPS)
    ]
    assert {text.get_text() for text in above.texts} == {*networks, "threshold 2 %"}
    assert [text.get_text() for text in rows.texts] == ["k* = 5000", "k* = 12000", "none by 20000", "none by 20000"]
    assert [label.get_text() for label in rows.get_yticklabels()] == [*networks]
    assert (above.get_ylabel(), below.get_ylabel()) == ("error barrier, %", "test error, %")
    assert below.get_xlabel() == "optimizer step k at which the children part"


def test_k_star_its_crossing_and_its_bounds_are_where_they_are():
    (star,) = {"dense": network(falling(600), 5000, 3900.0, 3000.0, None)}.items()
    above, rows, _ = drawn(barrier_over_steps(dict([star]), [0.02]))
    stars = [line for axes in (above, rows) for line in axes.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [5000, 5000]
    assert stars[0].get_ydata()[0] == falling(600)[5000]["mean"]
    bar = next(line for line in rows.lines if len(line.get_xdata()) == 2)
    assert [*bar.get_xdata()] == [3000, rows.get_xlim()[1]]  # an open end goes to the edge
    assert [line.get_xdata()[0] for line in rows.lines if line.get_marker() == "d"] == [3900]
    assert [line.get_marker() for line in rows.lines].count(">") == 1


@pytest.mark.parametrize("steps", [(0, 50, 200), (0, 1, 200), (0, 5, 50), (1, 2, 4), (10, 300, 20000)])
@pytest.mark.parametrize("falls_below", [1, 2])
def test_the_crossing_is_marked_where_the_drawn_curve_crosses(steps, falls_below):
    means = [0.06 if number < falls_below else 0.01 for number in range(3)]
    marked = network({step: point(mean) for step, mean in zip(steps, means, strict=True)})
    marked["estimate"] = crossing(steps, means, 0.02)
    above, rows = drawn(barrier_over_steps({"dense": marked}, [0.02]))
    (curve,) = (line for line in above.lines if len(line.get_xdata()) == 3)
    (left, high), (right, low) = above.transData.transform(curve.get_xydata())[falls_below - 1 : falls_below + 1]
    share = (high - above.transData.transform((1, 0.02))[1]) / (high - low)
    (estimate,) = (line for line in rows.lines if line.get_marker() == "d")
    place = rows.transData.transform(estimate.get_xydata())[0, 0]
    assert place == pytest.approx(left + share * (right - left), abs=0.5)  # of a pixel


def test_an_axis_that_is_logarithmic_far_off_names_every_tick_as_a_number():
    wide = network({0: point(0.064, -0.4, 1.7), 50: point(0.009, 0.004, 0.015)})
    above, _ = drawn(barrier_over_steps({"dense": wide}, [0.02], barrier="barrier of the test loss", are_shares=False))
    assert above.get_yscale() == "symlog"
    labels = [label.get_text() for label in above.get_yticklabels()]
    assert len(labels) > 4 and [float(label.replace("\N{MINUS SIGN}", "-")) for label in labels] == pytest.approx(
        [*above.get_yticks()]
    )


@pytest.mark.parametrize("steps", [(0, 300, 1000, 3000), (0, 1, 2, 4, 8), (0, 5), STEPS])
def test_step_0_and_the_next_are_no_further_apart_than_steps_are_elsewhere(steps):
    above, *_ = drawn(barrier_over_steps({"dense": network({step: point(0.1) for step in steps})}, [0.02]))
    places = above.transData.transform([(step, 0.1) for step in steps])[:, 0]
    gaps = [after - before for before, after in zip(places, places[1:], strict=False)]
    left, right = above.transAxes.transform([(0, 0), (1, 0)])[:, 0]
    assert gaps[0] == pytest.approx((places[-1] - places[0]) / len(gaps), rel=0.01)
    assert left < places[0] and places[-1] < right


@pytest.mark.parametrize("wide", [0.1, 10.0])
def test_bounds_are_never_cut_off_and_thin_ones_stay_readable(wide):
    points = {0: point(0.11, 0.11 - wide, 0.11 + wide), 10: point(0.01, 0.005, 0.015)}
    figure = barrier_over_steps({"dense": network(points)}, [0.02])
    above, _ = drawn(figure)
    low, high = above.get_ylim()
    assert low < 0.11 - wide and high > 0.11 + wide
    bottom, top, means = (above.transData.transform((0, y))[1] for y in (low, high, 0.11))
    zero = above.transData.transform((0, 0))[1]
    assert (means - zero) / (top - bottom) > 0.2
    assert ("the axis of barriers is logarithmic" in notes_of(figure)) == (wide > 1)
    assert not overlapping(texts_of(figure))


@pytest.mark.parametrize(
    "points",
    [
        {0: point(0.0)},
        {0: point(0.0), 10: point(0.0, 0.0, 0.0, [0.0, 0.0])},
        {0: point(None, by_parent=[None, 0.1]), 10: point(0.3, -0.1, 0.7, [0.2, 0.4])},
        {0: point(None), 10: point(None)},
        {7: {"mean": 0.1, "by_parent": {}}},
    ],
)
def test_barriers_are_drawn_whatever_is_missing_and_it_is_said(points):
    figure = barrier_over_steps({"dense": network(points), "synflow": network({0: point(0.5)})}, [0.02], notes=["half"])
    above, *_ = drawn(figure)
    drawn_at = [step for step, at_step in points.items() if at_step["mean"] is not None]
    assert list(above.lines[0].get_xdata()) == drawn_at
    missing = [str(step) for step in points if step not in drawn_at]
    assert (f"dense: no finite barrier at step {', '.join(missing)}." in notes_of(figure)) == bool(missing)
    assert notes_of(figure).endswith("half")


def test_barriers_of_a_loss_are_in_its_units():
    above, *_ = drawn(
        barrier_over_steps(
            {"dense": network({0: point(1.5), 1: point(0.2)})}, [0.1, 0.2], barrier="b", are_shares=False
        )
    )
    assert above.get_ylabel() == "b" and {text.get_text() for text in above.texts} == {
        "dense",
        "threshold 0.1",
        "threshold 0.2",
    }


def test_heat_maps_reach_the_threshold_and_leave_out_what_is_not_finite():
    heat = {"dense": {0: [0.0, float("nan"), 0.0], 5: [0.0, 0.01, 0.0]}, "synflow": {0: [0.0, math.inf, 0.0]}}
    axes = drawn(lines_over_steps([0, 0.5, 1], heat, 0.02))
    assert axes[0].images[0].get_clim() == (0, 2)  # per cent
    many = {"dense": {step: [0.0, step / 100, 0.0] for step in range(40)}}
    figure = lines_over_steps([0, 0.5, 1], many, 0.02, are_shares=False)
    first, *_ = drawn(figure)
    assert first.images[0].get_clim() == (0, 0.39) and not overlapping(texts_of(figure))
