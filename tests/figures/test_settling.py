from helpers.figures import drawn
from lightning_lottery.figures.settling import mask_distances, norms_with_draws


def test_a_rule_has_one_colour_in_every_panel_and_only_the_last_names_the_axis():
    norms = {"head-0.3": [(1, 2.0), (2, 3.0)], "neuron-0.3": [(1, 1.0)]}
    draws = {"head-0.3": {"ADF": 1, "SlopeHAC": 2}, "neuron-0.3": {"SlopeHAC": 1}}
    head, neuron = drawn(norms_with_draws(norms, draws))
    assert [line.get_label() for line in head.lines[1:]] == ["ADF: 1", "SlopeHAC: 2"]
    assert head.lines[2].get_color() == neuron.lines[1].get_color() != head.lines[1].get_color()
    assert (head.get_xlabel(), neuron.get_xlabel()) == ("", "optimizer step")


def test_nothing_to_draw_is_an_empty_figure():
    assert drawn(norms_with_draws({}, {})) == [] == drawn(mask_distances({}))
    (axes,) = drawn(mask_distances({"head-0.3": ([], [])}))
    assert not axes.images


def test_a_single_mask_is_drawn_as_a_square():
    axes, _ = drawn(mask_distances({"head-0.3": ([5], [[0.0]])}))
    assert axes.images[0].get_extent() == [5, 6, 5, 6]
