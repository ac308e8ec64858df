import math

import numpy as np

from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.settling import (
    Judgement,
    Margins,
    mask_distances,
    outline,
    scores_over_steps,
    settling_over_steps,
)

SHARES = ("0.1", "0.3", "0.5", "0.6", "0.7", "0.8")
RULES = ("HammingFIFO", "SlopeHAC-lags=None", "MannKendall-variant=hamed_rao", "ADF", "SlopeEquivalence")
STEPS = range(100, 13_000, 100)


def paper_size():
    """Of a 12-layer ViT watched at six sparsities by five rules for 13,000 steps; two rules draw at one step."""
    series = [f"{kind}-{share}" for kind in ("head", "neuron") for share in SHARES]
    moves = {name: [(step, 1 / step) for step in STEPS] for name in series}
    norms = {name: [(step, 80 * (1 - float(name.partition("-")[2]))) for step in range(1, 13_001)] for name in series}
    judgements = {rule: Judgement("p-value", 0.2, rule != "ADF", moves) for rule in RULES}
    draws = {name: dict.fromkeys(RULES[:4], 500) for name in series}
    margins = {name: {RULES[-1]: Margins("change", 0.02, [(s, 10 / s) for s in STEPS])} for name in series}
    return moves, norms, judgements, draws, margins


def column(figure, number, columns=2):
    """The panels of one kind of unit, from above."""
    return figure.axes[number::columns]


def test_each_kind_has_a_column_on_one_axis_of_steps_and_each_sparsity_a_colour_in_all_panels():
    figure = settling_over_steps(*paper_size())
    drawn(figure)
    heads, neurons = column(figure, 0), column(figure, 1)
    assert len(heads) == len(neurons) == 2 + len(RULES) + 1 + 1
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    for moves, norms in ((heads[0], heads[1]), (neurons[0], neurons[1])):
        colours = [line.get_color() for line in norms.lines]
        assert len({*colours}) == 6 and [line.get_color() for line in moves.lines] == colours
    assert [text.get_text() for text in heads[1].texts] == ["80 %", "70 %", "60 %", "50 %", "30 %", "10 %"]
    assert {axes.get_xlabel() for axes in figure.axes[:-2]} == {""} and heads[-1].get_xlabel() == "optimizer step"


def test_at_paper_size_no_two_texts_touch_and_all_lie_on_the_paper():
    figure = settling_over_steps(*paper_size())
    drawn(figure)
    texts = texts_of(figure)
    assert len(texts) > 100 and overlapping(texts) == []
    boxes = [text.get_window_extent() for text in texts]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_draws_at_the_same_step_hide_neither_each_other_nor_those_of_another_rule():
    figure = settling_over_steps(*paper_size())
    *_, lanes = column(figure, 0)
    points = [(x, y) for line in lanes.lines for x, y in zip(*line.get_data(), strict=True)]
    assert len(points) == 24 and {x for x, _ in points} == {500}
    heights = sorted(y for _, y in points)
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) > 0.1
    assert [text.get_text() for text in lanes.texts] == ["never settled"]
    assert [label.get_text().replace("\n", "") for label in lanes.get_yticklabels()] == [*RULES]


def test_a_threshold_is_drawn_and_named_with_its_side_and_the_probe_that_drew_is_marked():
    curves = {"head-0.5": [(10, 0.1), (20, 0.4)]}
    judgements = {
        "SlopeHAC": Judgement("p-value", 0.2, True, curves),
        "Mine": Judgement("statistic", None, False, {"head-0.5": [(10, math.nan)]}),
    }
    norms = {"head-0.5": [(1, 2.0), (20, 3.0)]}
    figure = settling_over_steps({}, norms, judgements, {"head-0.5": {"SlopeHAC": 20}})
    _, _, slope, mine, _ = drawn(figure)
    assert slope.get_title(loc="left") == "SlopeHAC: p-value; holds above 0.2"
    curve, threshold, drew = slope.lines
    assert [*curve.get_ydata()] == [0.1, 0.4] and {*threshold.get_ydata()} == {0.2}
    assert [*zip(*drew.get_data(), strict=True)] == [(20, 0.4)]
    assert mine.get_title(loc="left") == "Mine: statistic" and len(mine.lines) == 1


def test_margins_are_drawn_where_they_are_known_and_positive_by_the_word_they_were_asked_in():
    norms = {"head-0.5": [(1, 2.0), (30, 3.0)]}
    margins = {
        "head-0.5": {
            "M": Margins("margin", 0.01, [(10, 0.5), (20, 0.0), (30, math.inf)]),
            "C": Margins("change", 0.02, [(10, None), (20, 0.03), (30, 0.01)]),
        }
    }
    _, _, margin, change, _ = drawn(settling_over_steps({}, norms, {}, {}, margins))
    assert [axes.get_ylabel().split(",")[0] for axes in (margin, change)] == ["margin", "change"]
    least, asked = change.lines
    assert [*least.get_xdata()] == [20, 30] and {*asked.get_ydata()} == {0.02}
    assert [*margin.lines[0].get_xdata()] == [10]


def test_of_nothing_and_of_a_fit_that_has_just_begun_there_is_a_figure():
    assert drawn(settling_over_steps({}, {}, {}, {})) == []
    moves, *_ = drawn(settling_over_steps({"head-0.5": []}, {"head-0.5": [(1, 2.0)]}, {}, {}))
    assert [text.get_text() for text in moves.texts] == ["nothing yet"]
    assert drawn(mask_distances({})) == [] == drawn(scores_over_steps([], {}, "w"))


def test_a_long_curve_is_thinned_to_its_outline_and_keeps_every_peak():
    curve = [(step, 1.0 if step == 7777 else -1.0 if step == 5432 else math.sin(step)) for step in range(13_000)]
    curve[100] = (100, 9.0)
    thin = outline(curve)
    assert len(thin) <= 2000 and (100, 9.0) in thin and thin == sorted(thin)
    assert outline(curve[:1999]) == curve[:1999]


def test_distances_have_one_scale_one_bar_and_names_of_axes_at_the_edges():
    matrices = {
        f"{kind}-{share}": ([1, 2], [[0.0, high], [high, 0.0]])
        for kind, high in (("head", 0.5), ("neuron", 0.1))
        for share in SHARES
    }
    figure = mask_distances(matrices)
    *panels, bar = drawn(figure)
    assert {axes.images[0].get_clim() for axes in panels} == {(0, 0.5)}
    assert bar.get_ylabel() == "Hamming distance of the masks, %"
    assert [axes.get_ylabel() for axes in panels] == ["optimizer step", "", "", "", "", ""] * 2
    assert [axes.get_xlabel() for axes in panels] == [""] * 6 + ["optimizer step"] * 6
    assert panels[1].get_title(loc="left") == "30 % of heads removed"
    assert overlapping(texts_of(figure)) == []


def test_a_single_mask_is_drawn_as_a_square_and_a_series_without_masks_is_named():
    square, none, _ = drawn(mask_distances({"head-0.3": ([5], [[0.0]]), "head-0.5": ([], [])}))
    assert square.images[0].get_extent() == [5, 6, 5, 6]
    assert [text.get_text() for text in none.texts] == ["no masks"] and not none.images


def test_few_units_are_a_line_each_and_many_are_counted_whatever_is_not_finite():
    chance, steps = np.random.default_rng(0), list(range(0, 1000, 5))
    few = {f"layer {n}": chance.normal(size=(200, 4)) for n in range(12)}
    many = {"layer 0": chance.normal(size=(200, 400)), "layer 1": chance.normal(size=(200, 400))}
    many["layer 0"][3:5, 7], few["layer 3"][9] = np.nan, np.inf
    heads, neurons, *bars = drawn(scores_over_steps(steps, {"head": few, "neuron": many}, "slimming coefficient"))
    assert len(heads.lines) == 48 and heads.get_title(loc="left") == "48 heads of 12 layers"
    (image,) = neurons.collections
    counted = np.nansum(image.get_array().filled(np.nan), axis=0)
    assert [*np.flatnonzero(counted != 800)] == [3, 4] and counted[3] == 799
    assert {bar.get_ylabel() for bar in bars} == {"layer, from the input on", "units (line: the median unit)"}


def test_scores_of_one_step_or_of_equal_units_are_drawn():
    equal = {"neuron": {"layer": np.ones((3, 400))}}
    assert drawn(scores_over_steps([1, 2, 3], equal, "w"))
    assert drawn(
        scores_over_steps([1], {"neuron": {"layer": np.ones((1, 400))}, "head": {"layer": np.ones((1, 2))}}, "w")
    )
