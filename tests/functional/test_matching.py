import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.matching import judge_matching

ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def test_three_seeds_have_the_bounds_that_a_table_of_student_s_t_gives():
    found = judge_matching([0.91, 0.93, 0.92], [0.92, 0.92, 0.92], margin=0.02)
    # differences -0.01, 0.01, 0: mean 0, standard deviation 0.01, standard error 0.01 / sqrt(3); t(0.95, 2) = 2.91999
    assert found.mean == pytest.approx(0)
    assert found.high == pytest.approx(2.91999 * 0.01 / math.sqrt(3), rel=1e-5)
    assert found.low == pytest.approx(-found.high)
    assert found.verdict == "matching"
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
    found = judge_matching([0.99], [0.5])
    assert (found.mean, found.low, found.high, found.verdict) == (pytest.approx(0.49), None, None, "undecided")
    assert found.reason == "one seed gives an estimate, no verdict"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_seed_that_diverged_decides_nothing(odd):
    found = judge_matching([0.9, odd], [0.9, 0.9])
    assert (found.verdict, found.reason) == ("undecided", "a value is not finite")


@given(ACCURACIES, st.floats(1e-6, 0.5), st.floats(0.001, 0.5))
def test_what_is_better_for_every_seed_alike_is_never_called_worse_and_a_wider_margin_never_turns_a_match(
    v, up, margin
):
    assert judge_matching([value + up for value in v], v, margin).verdict == "matching"
    order = ("worse", "undecided", "matching")
    other = v[::-1]
    verdicts = [judge_matching(other, v, wide).verdict for wide in (margin, 2 * margin, 4 * margin)]
    assert verdicts == sorted(verdicts, key=order.index)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_a_true_difference_of_the_margin_is_called_a_match_in_one_of_twenty_experiments(seeds):
    random = np.random.RandomState(0)
    trials, margin = 4000, 0.01
    differences = random.normal(-margin, 0.02, size=(trials, seeds))
    verdicts = [judge_matching(list(0.9 + of), [0.9] * seeds, margin).verdict for of in differences]
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
