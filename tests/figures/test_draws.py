from helpers.figures import drawn, overlapping, texts_of
from lightning_lottery.figures.draws import Retrained, accuracy_over_draws, draws_over_seeds

SHARES = ("0.1", "0.3", "0.5", "0.6", "0.7", "0.8")
RULES = ("HammingFIFO", "SlopeHAC-lags=None", "MannKendall-variant=hamed_rao", "ADF", "SlopeEquivalence")


def five_seeds():
    """Of five rules at six sparsities; one rule never settles, one draws in all runs at one step."""
    draws = {
        rule: {
            f"{kind}-{share}": [100 * (n + i) for n in range(1, 6)] for kind in ("head", "neuron") for share in SHARES
        }
        for i, rule in enumerate(RULES)
    }
    draws["ADF"]["head-0.3"] = [600] * 5
    draws["ADF"]["head-0.5"] = [600, None, None, 600, 700]
    draws["SlopeEquivalence"] = {name: [None] * 5 for name in draws["ADF"]}
    return draws


def points_of(axes):
    return [(x, round(float(y), 6)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)]


def test_every_draw_of_every_run_is_seen_and_what_never_settled_is_said():
    figure = draws_over_seeds(five_seeds(), ["seed-4 ends at step 900."])
    heads, neurons = drawn(figure)
    for axes, missing in ((heads, 2), (neurons, 0)):
        points = points_of(axes)
        assert len(points) == len({*points}) == 4 * 6 * 5 - missing
        assert [text.get_text() for text in axes.texts] == ["never settled"]
    assert [label.get_text().replace("\n", "") for label in heads.get_yticklabels()] == [*RULES]
    words = " ".join(text.get_text() for text in texts_of(figure)).replace("\n", " ")
    assert "seed-4 ends at step 900." in words and "ADF, 50 % of heads: not settled in 2 of 5." in words
    assert overlapping(texts_of(figure)) == []


def test_a_sparsity_has_one_colour_and_marker_in_both_panels_and_they_are_named():
    figure = draws_over_seeds(five_seeds())
    heads, neurons = drawn(figure)
    for number, share in enumerate(SHARES):
        looks = {(axes.lines[number].get_color(), axes.lines[number].get_marker()) for axes in (heads, neurons)}
        assert len(looks) == 1, share
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{100 * float(s):g} % removed" for s in SHARES
    ]


def reached(low):
    stated = {step: [low, low + 0.02] for step in (3, 24, 48, 136, 299, 544, 680)}
    return Retrained(stated, {rule: [(50 + 10 * n, low + 0.05)] for n, rule in enumerate(RULES)})


def test_accuracy_over_the_step_of_drawing_has_means_runs_rules_and_the_dense_network():
    figure = accuracy_over_draws({"50 %": reached(0.87), "75 %": reached(0.8)}, "test accuracy", [0.9, 0.94], ["Note."])
    half, most = drawn(figure)
    mean, *runs = half.lines
    assert [*mean.get_xdata()] == [3, 24, 48, 136, 299, 544, 680] and abs(mean.get_ydata()[0] - 0.88) < 1e-9
    assert any({*line.get_ydata()} == {0.92} for line in runs)  # the dense network's mean
    assert len(runs) == 7 + len(RULES) + 1 + len(RULES)  # and what the legend shows
    assert (
        half.get_ylabel() == "test accuracy, %"
        and half.get_xscale() == "log"
        and most.get_title("left") == "75 % removed"
    )
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {*RULES}
    assert overlapping(texts_of(figure)) == []


def test_without_rules_dense_networks_or_anything_there_is_a_figure():
    (axes,) = drawn(accuracy_over_draws({"50 %": Retrained({10: [0.5], 20: [0.6]}, {})}, "accuracy"))
    assert axes.get_xscale() == "linear" and len(axes.lines) == 3
    assert drawn(accuracy_over_draws({}, "accuracy")) == [] == drawn(draws_over_seeds({}))
