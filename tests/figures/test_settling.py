import math

from helpers.figures import drawn
from lightning_lottery.figures.settling import Margins, mask_distances, norms_with_draws


def test_a_rule_has_one_colour_in_every_panel_and_only_the_last_names_the_axis():
    norms = {"head-0.3": [(1, 2.0), (2, 3.0)], "neuron-0.3": [(1, 1.0)]}
    draws = {"head-0.3": {"ADF": 1, "SlopeHAC": 2}, "neuron-0.3": {"SlopeHAC": 1}}
    head, neuron = drawn(norms_with_draws(norms, draws))
    assert [line.get_label() for line in head.lines[1:]] == ["ADF: 1", "SlopeHAC: 2"]
    assert head.lines[2].get_color() == neuron.lines[1].get_color() != head.lines[1].get_color()
    assert (head.get_xlabel(), neuron.get_xlabel()) == ("", "optimizer step")


def test_below_each_norm_stand_the_smallest_margins_of_its_rules_a_panel_for_margins_and_one_for_changes():
    norms = {"head-0.3": [(1, 2.0), (30, 3.0)], "neuron-0.3": [(1, 1.0), (30, 1.0)]}
    draws = {"head-0.3": {"ADF": 10, "C": 30}, "neuron-0.3": {}}
    margins = {
        "head-0.3": {
            "M": Margins("margin", 0.01, [(10, 0.5), (20, 0.0), (30, math.inf)]),
            "C": Margins("change", 0.02, [(10, None), (20, 0.03), (30, 0.01)]),
            "D": Margins("change", 0.04, [(20, 0.03)]),
        },
        "neuron-0.3": {"M": Margins("margin", 0.01, [(10, 0.0)])},
    }
    norm, margin, change, standstill, below = drawn(norms_with_draws(norms, draws, margins))
    titles = [axes.get_title() for axes in (norm, margin, change, standstill, below)]
    assert titles == ["head-0.3", "", "", "neuron-0.3", ""]
    assert [axes.get_ylabel().split("\n")[0] for axes in (margin, change, below)] == ["margin", "change", "margin"]
    assert margin.get_xlim() == change.get_xlim() == norm.get_xlim()
    smallest, asked, drew, second, threshold = change.lines
    assert [*smallest.get_xdata()] == [20, 30] and [*second.get_ydata()] == [0.03]
    assert {*asked.get_ydata()} == {0.02} and {*threshold.get_ydata()} == {0.04}
    assert {*drew.get_xdata()} == {30} and len(margin.lines) == len(below.lines) == 2
    assert smallest.get_color() == asked.get_color() == drew.get_color() == norm.lines[2].get_color()
    assert len({smallest.get_color(), second.get_color(), margin.lines[0].get_color(), norm.lines[1].get_color()}) == 4
    assert below.get_xlabel() == "optimizer step" and norm.get_xlabel() == ""


def test_nothing_to_draw_is_an_empty_figure():
    assert drawn(norms_with_draws({}, {})) == [] == drawn(mask_distances({}))
    (axes,) = drawn(mask_distances({"head-0.3": ([], [])}))
    assert not axes.images


def test_a_single_mask_is_drawn_as_a_square():
    axes, _ = drawn(mask_distances({"head-0.3": ([5], [[0.0]])}))
    assert axes.images[0].get_extent() == [5, 6, 5, 6]
