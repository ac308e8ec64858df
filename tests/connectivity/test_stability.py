import math
from dataclasses import replace

import pytest

from helpers.children import in_blocks, lines_report
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.connectivity.stability import barrier_in_words, on_more, sentences_on, stability_of
from lightning_lottery.functional.verdicts import judge


def test_blocks_of_an_accuracy_are_judged_as_errors():
    accuracy = in_blocks(lines_report(0.01, 0.011, 0.012))
    stability = stability_of({0: accuracy})
    assert stability.mean == pytest.approx(0.011) and stability.test_standard_error > 0
    assert stability.low < stability.mean < stability.high and stability.noise_floor > 0
    assert stability_of({0: replace(accuracy, blocks=None)}).test_standard_error is None


def test_parents_of_which_one_has_no_blocks_are_judged_by_networks_alone():
    reports = {0: in_blocks(lines_report(0.01, 0.011, 0.012)), 1: lines_report(0.012, 0.011, 0.014)}
    assert stability_of(reports).test_standard_error is None
    both = {0: reports[0], 1: in_blocks(reports[1], seed=1)}
    assert stability_of(both).test_standard_error > 0 and stability_of(both).typical is not None


def test_a_ratio_of_a_loss_is_judged_in_units_of_the_ends():
    report = lines_report(0.02, 0.022, 0.021, error=2.0, monitor="test_loss")
    report = replace(report, judging=replace(report.judging, threshold_ratio=0.05))
    stability = stability_of({0: report})
    assert stability.mean == pytest.approx(0.021 / 2) and stability.threshold == 0.05 and stability.verdict == "stable"
    assert "of the ends' mean error" in sentences_on(stability, report.judging, 100, "")[0]
    stricter = replace(report, judging=replace(report.judging, threshold_ratio=0.005))
    assert stability_of({0: stricter}).verdict == "unstable"


@pytest.mark.parametrize("error", [0.0, -0.5])
def test_a_ratio_of_an_error_that_has_none_is_undecided_and_says_why(error):
    """Not refused: a loss may become negative, and an accuracy 1, once all children are trained."""
    report = lines_report(0.02, 0.022, 0.021, error=error, monitor="test_loss")
    stability = stability_of({0: replace(report, judging=replace(report.judging, threshold_ratio=0.05))})
    assert stability.verdict == "undecided" and "give a `threshold` in its units" in stability.reason


def test_one_place_without_an_error_leaves_a_ratio_its_verdict():
    ratio = replace(Judging(), alphas=(0.0, 0.5, 1.0), threshold_ratio=0.05)
    curves = {"raw": {(0, 1): {"test_acc": [1.0, 0.98, 0.9]}}}
    report = replace(lines_report(0.01), judging=ratio, curves=curves)
    assert stability_of({0: report}).mean == pytest.approx(0.05 / 0.05)


def test_different_test_sets_are_refused():
    one, two = in_blocks(lines_report(0.01)), in_blocks(lines_report(0.01, samples=50))
    for other in (two, in_blocks(lines_report(0.01), blocks=9)):
        with pytest.raises(LotteryError, match="parents 0 and 5 were evaluated on"):
            stability_of({0: one, 5: other})


@pytest.mark.parametrize("barrier", [math.nan, math.inf])
def test_a_child_that_diverged_or_a_place_that_did_leaves_its_step_undecided(barrier):
    stability = stability_of({0: lines_report(barrier, 0.01, 0.01), 1: lines_report(0.01, 0.012, 0.011)})
    assert stability.verdict == "undecided" and "not finite everywhere between 0 and 1 (parent 0)" in stability.reason


def test_what_is_undecided_says_how_many_more_would_decide_or_that_none_would():
    pairs = {(0, 1): 0.016, (0, 2): 0.019, (1, 2): 0.015}
    (sentence,) = on_more(judge({0: pairs}))
    more = judge({0: pairs}).more_children
    assert sentence == (
        f"{more.even} more children of each parent would decide with even odds, {more.likely} with 80 %, estimates "
        "staying as they are."
    )
    one = replace(judge({0: pairs}), more_children=replace(more, even=1))
    assert next(on_more(one)).startswith("1 more child of each parent would decide")
    level = judge({0: {pair: barrier + 0.0033333333 for pair, barrier in pairs.items()}})
    assert list(on_more(level)) == ["No number of children or parents would decide it on this test set."]
    assert not list(on_more(judge({0: {pair: barrier / 10 for pair, barrier in pairs.items()}})))


def test_sentences_say_what_the_verdict_is_about_and_what_samples_alone_would_show():
    three, two = in_blocks(lines_report(0.1, 0.11, 0.12)), in_blocks(lines_report(0.1))
    said = [" ".join(sentences_on(stability_of({0: r}), r.judging, 359, "")) for r in (three, two)]
    assert all("Equal errors all along the line would show a barrier of" in words for words in said)
    other = [" ".join(sentences_on(stability_of({0: r}), r.judging, 359, "", are_children=False)) for r in (three, two)]
    assert "about networks made as these were" in other[0] and "checkpoint" not in " ".join(other)
    assert "Of other networks it says nothing: a third network would." in other[1]
    assert "about children of this checkpoint" in said[0] and "Of other children" not in said[0]
    assert "about these two networks" in said[1] and "a third child would" in said[1]
    alone = lines_report(0.1, 0.11, 0.12)
    words = " ".join(sentences_on(stability_of({0: alone}), alone.judging, 359, "the metric is no mean over batches"))
    assert "Networks alone are judged, on these samples and no others: the metric is no mean over batches." in words


def test_a_barrier_in_words_has_its_bounds_where_there_are_any():
    known = stability_of({0: lines_report(0.25, 0.26, 0.27)})
    bounds = f"{100 * known.low:.2f} to {100 * known.high:.2f}"
    assert barrier_in_words(known, are_shares=True) == f"26.00 % ({bounds})"
    assert barrier_in_words(stability_of({0: lines_report(0.25)}), are_shares=False) == "0.25"
    assert barrier_in_words(replace(known, mean=math.nan, low=None, high=None), are_shares=True) == "nan %"
