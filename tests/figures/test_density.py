from helpers.figures import drawn
from lightning_lottery.figures.density import accuracy_against_density


def test_density_falls_to_the_right_and_is_labelled_where_there_are_networks():
    curves = {"rewound": {0.8: [0.9, 0.92], 0.64: [0.91]}, "random": {0.64: [0.7]}}
    (axes,) = drawn(accuracy_against_density(curves, [0.93, 0.95], "accuracy"))
    left, right = axes.get_xlim()
    assert left > right
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.64", "0.8"]
    assert axes.lines[0].get_ydata()[0] == 0.94
