from helpers.figures import drawn
from lightning_lottery.figures.density import accuracy_against_density


def test_density_falls_to_the_right_and_is_labelled_where_there_are_networks():
    curves = {"rewound": {0.8: [0.9, 0.92], 0.64: [0.91]}, "random": {0.64: [0.7]}}
    (axes,) = drawn(accuracy_against_density(curves, [0.93, 0.95], "accuracy"))
    left, right = axes.get_xlim()
    assert left > right
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.64", "0.8"]
    assert axes.lines[0].get_ydata()[0] == 0.94


def test_the_density_down_to_which_tickets_match_is_marked():
    curves = {"ticket": {0.8: [0.9], 0.64: [0.7]}}
    marked, plain = (drawn(accuracy_against_density(curves, [0.9], "accuracy", density))[0] for density in (0.8, None))
    assert len(marked.lines) == len(plain.lines) + 1
    assert 0.8 in [line.get_xdata()[0] for line in marked.lines if line.get_label() == "matches down to 0.8"]
