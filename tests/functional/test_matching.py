import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.matching import judge_matching, roc_of_threshold

ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def test_three_seeds_have_the_bounds_that_a_table_of_student_s_t_gives():
    matching = judge_matching([0.91, 0.93, 0.92], [0.92, 0.92, 0.92], margin=0.02)
    # differences -0.01, 0.01, 0: mean 0, standard deviation 0.01, standard error 0.01 / sqrt(3); t(0.95, 2) = 2.91999
    assert matching.mean == pytest.approx(0)
    assert matching.high == pytest.approx(2.91999 * 0.01 / math.sqrt(3), rel=1e-5)
    assert matching.low == pytest.approx(-matching.high)
    assert matching.verdict == "matching"
    assert judge_matching([0.91, 0.93, 0.92], [0.92, 0.92, 0.92], margin=0.01).verdict == "undecided"


def test_seeds_are_compared_with_themselves_not_with_one_another():
    dense = [0.5, 0.7, 0.9]  # seeds far apart, differences small
    assert judge_matching([0.5, 0.701, 0.899], dense, margin=0.01).verdict == "matching"
    assert judge_matching([0.9, 0.5, 0.7], dense, margin=0.01).verdict == "undecided"


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.0, "matching"), (0.5, "matching"), (-0.03, "worse"), (-0.5, "worse")]
)
def test_differences_without_noise_are_decided_by_their_side_of_the_margin(difference, verdict):
    assert judge_matching([0.5 + difference] * 3, [0.5] * 3, margin=0.02).verdict == verdict


def test_a_difference_of_exactly_the_margin_is_undecided():
    assert judge_matching([0.25, 0.25], [0.5, 0.5], margin=0.25).verdict == "undecided"


def test_one_seed_gives_an_estimate_and_no_verdict_however_good_it_is():
    matching = judge_matching([0.99], [0.5])
    assert (matching.mean, matching.low, matching.high, matching.verdict) == (
        pytest.approx(0.49),
        None,
        None,
        "undecided",
    )
    assert matching.reason == "one seed gives an estimate, no verdict"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_seed_that_diverged_decides_nothing(odd):
    matching = judge_matching([0.9, odd], [0.9, 0.9])
    assert (matching.verdict, matching.reason) == ("undecided", "a value is not finite")


@given(ACCURACIES, st.floats(1e-6, 0.5), st.floats(0.001, 0.5))
def test_what_is_better_for_every_seed_alike_is_never_called_worse_and_a_wider_margin_never_turns_a_match(
    v, up, margin
):
    assert judge_matching([value + up for value in v], v, margin).verdict == "matching"
    order = ("worse", "undecided", "matching")
    reversed_values = v[::-1]
    verdicts = [judge_matching(reversed_values, v, wide).verdict for wide in (margin, 2 * margin, 4 * margin)]
    assert verdicts == sorted(verdicts, key=order.index)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_a_true_difference_of_the_margin_is_called_a_match_in_one_of_twenty_experiments(seeds):
    random = np.random.RandomState(0)
    trials, margin = 4000, 0.01
    differences = random.normal(-margin, 0.02, size=(trials, seeds))
    verdicts = [judge_matching(list(0.9 + change), [0.9] * seeds, margin).verdict for change in differences]
    for wrong in ("matching", "worse"):  # each is one side of the truth
        rate = verdicts.count(wrong) / trials
        assert abs(rate - 0.05) < 4 * math.sqrt(0.05 * 0.95 / trials)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(LotteryError, match="seed by seed: 2 values for 3 references"):
        judge_matching([1, 1], [1, 1, 1])
    with pytest.raises(LotteryError, match="0 values for 0"):
        judge_matching([], [])
    for margin in (0, -0.1, math.nan, math.inf, True, None):
        with pytest.raises(LotteryError, match="`margin` is the loss that still counts as a match, > 0, got"):
            judge_matching([1, 1], [1, 1], margin=margin)


TICKETS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=20).filter(
    lambda some: len({match for _, match in some}) == 2
)


@given(TICKETS)
def test_the_area_counts_the_pairs_in_which_the_matching_ticket_has_the_lower_barrier(tickets):
    matching = roc_of_threshold([barrier / 100 for barrier, _ in tickets], [match for _, match in tickets])
    pairs = [(a, b) for a, match in tickets if match for b, reversed_values in tickets if not reversed_values]
    assert matching.auc == pytest.approx(np.mean([(a < b) + (a == b) / 2 for a, b in pairs]))


@given(TICKETS)
def test_the_curve_says_what_each_threshold_does_and_the_best_one_does_it_best(tickets):
    barriers, matches = np.array([barrier / 100 for barrier, _ in tickets]), np.array([match for _, match in tickets])
    matching = roc_of_threshold(barriers, matches)
    for threshold, tpr, fpr in zip(matching.thresholds, matching.tpr, matching.fpr, strict=True):
        assert (tpr, fpr) == (np.mean(barriers[matches] < threshold), np.mean(barriers[~matches] < threshold))
    assert (matching.tpr[0], matching.fpr[0], matching.tpr[-1], matching.fpr[-1]) == (0, 0, 1, 1)
    gains = [np.mean(barriers[matches] < t) - np.mean(barriers[~matches] < t) for t in (*barriers, math.inf)]
    assert (
        matching.youden
        == pytest.approx(max(gains))
        == pytest.approx(np.mean(barriers[matches] < matching.best) - np.mean(barriers[~matches] < matching.best))
    )


def test_a_threshold_lies_midway_between_the_kinds_it_parts():
    matching = roc_of_threshold([0.1, 0.3, 0.01, 0.02], [False, False, True, True])
    assert matching.best == pytest.approx(0.06) and (matching.auc, matching.youden) == (1, 1)
    equal = roc_of_threshold([0.1] * 4, [True, False, True, False])
    assert (equal.auc, equal.youden) == (0.5, 0)


@pytest.mark.parametrize(
    ("barriers", "matches", "says"),
    [
        ([0.1, 0.2], [True, True], "all of them match"),
        ([0.1, 0.2], [False, False], "none of them matches"),
        ([0.1, 0.2], [True], "2 barriers for 1 tickets"),
        ([0.1, math.nan], [True, False], "1 of 2 barriers are not finite"),
        ([], [], "of 0 none of them matches"),
    ],
)
def test_what_has_no_curve_is_an_error(barriers, matches, says):
    with pytest.raises(LotteryError, match=says):
        roc_of_threshold(barriers, matches)
