import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.barrier_process import DESIGNS, NORMAL, REPETITIONS, SKEWED, rates
from lightning_lottery import LotteryError
from lightning_lottery.functional.verdicts import judge

PAIRS = {(0, 1): 0.010, (0, 2): 0.013, (1, 2): 0.009}
CLOSE = {(0, 1): 0.010, (0, 2): 0.011, (1, 2): 0.009}
LIMIT = float(stats.binom.ppf(0.99, REPETITIONS, 0.05)) / REPETITIONS
"""The most misses, of a stated 5 %, that so many repetitions show by chance."""


def plus(pairs, more):
    return {pair: barrier + more for pair, barrier in pairs.items()}


@pytest.mark.parametrize("more", [0.0, 0.008, 0.1])
def test_one_parent_s_bounds_are_those_of_a_jackknife_that_leaves_out_each_child_once(more):
    pairs = plus(PAIRS, more)
    stability = judge({7: pairs})
    left = [pairs[1, 2], pairs[0, 2], pairs[0, 1]]  # without child 0, 1, 2: one pair each
    error = math.sqrt(2 / 3 * sum((value - sum(left) / 3) ** 2 for value in left))
    reach = 2.919985580 * error  # Student's t, 95 %, two degrees of freedom
    assert (stability.mean, stability.standard_error) == pytest.approx((sum(left) / 3, error))
    assert (stability.low, stability.high) == pytest.approx((stability.mean - reach, stability.mean + reach))
    assert stability.parents == 1 and stability.more_parents is None  # one parent says nothing of others


def test_three_children_far_below_the_threshold_are_stable_and_far_above_unstable():
    assert judge({0: CLOSE}).verdict == "stable"
    assert judge({0: plus(CLOSE, 0.1)}).verdict == "unstable"
    assert judge({0: {(0, 1): 0.001, (0, 2): 0.04, (1, 2): 0.02}}).verdict == "undecided"


def test_pairs_that_share_children_are_not_taken_for_independent():
    """One odd child moves n - 1 of the pairs: over many draws the bound must still hold the mean at its rate."""
    draw = np.random.default_rng(0)
    held = []
    for _ in range(400):
        children = draw.normal(0.05, 0.01, 6)
        pairs = {(i, j): (children[i] + children[j]) / 2 for i in range(6) for j in range(i + 1, 6)}
        held.append(judge({0: pairs}).low <= 0.05)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("pairs", [{(0, 1): 0.01}, {(0, 1): 0.01, (0, 2): 0.012}])
def test_where_no_child_can_be_left_out_with_a_pair_remaining_there_is_no_bound(pairs):
    stability = judge({0: pairs})
    assert (stability.verdict, stability.standard_error, stability.low) == ("undecided", None, None)
    assert stability.reason == "one pair gives an estimate, no verdict"


@given(st.lists(st.floats(0, 0.1), min_size=2, max_size=6))
def test_where_each_parent_has_one_pair_the_bounds_are_a_t_tests_over_parents(means):
    stability = judge({parent: {(0, 1): mean} for parent, mean in enumerate(means)})
    margin = stats.t.ppf(0.95, len(means) - 1) * stats.sem(means)
    assert (stability.low, stability.high) == pytest.approx(
        (stability.mean - margin, stability.mean + margin), rel=1e-9, abs=1e-12
    )
    assert stability.more_children is None  # nothing is known of what children add


def test_parents_that_agree_by_luck_are_no_surer_than_their_children():
    stability = judge({parent: PAIRS for parent in range(3)})
    assert stability.standard_error == pytest.approx(judge({0: PAIRS}).standard_error / 3**0.5)
    apart = judge({parent: plus(PAIRS, 0.02 * parent) for parent in range(3)})
    assert apart.standard_error == pytest.approx(0.02 / 3**0.5)  # where parents differ more, their own counts


def test_the_mean_is_of_parents_however_many_pairs_each_has():
    uneven = {0: {(0, 1): 0.1}, 1: PAIRS, 2: {**PAIRS, (0, 3): 0.01, (1, 3): 0.01, (2, 3): 0.01}}
    stability = judge(uneven)
    assert stability.mean == pytest.approx(np.mean([np.mean(list(pairs.values())) for pairs in uneven.values()]))
    assert astuple(judge(dict(reversed(uneven.items())))) == pytest.approx(astuple(stability))
    assert stability.more_children is None and stability.parents == 3


def test_one_pair_gives_an_estimate_and_no_verdict():
    stability = judge({0: {(1, 2): 0.3}})
    assert (stability.mean, stability.verdict, stability.low, stability.more_children) == (0.3, "undecided", None, None)
    assert not stability.is_below


def test_a_barrier_that_is_not_a_number_is_no_verdict_and_its_parent_is_named():
    stability = judge({0: PAIRS, 5: {**PAIRS, (0, 2): math.nan}, 6: PAIRS})
    assert stability.verdict == "undecided" and not stability.is_below
    assert "between 0 and 2 (parent 5)" in stability.reason
    alone = judge({0: {**PAIRS, (0, 1): math.nan}})
    assert alone.verdict == "undecided" and alone.reason == "the error is not finite everywhere between 0 and 1"


def test_stable_is_withheld_where_the_test_set_is_too_small_and_no_seed_would_help():
    parents = {parent: plus(PAIRS, -0.009) for parent in range(3)}
    assert judge(parents, error=0.04, samples=10_000).verdict == "stable"
    small = judge(parents, error=0.04, samples=100)
    assert small.verdict == "undecided" and "test set" in small.reason
    assert small.high < 0.02 and small.more_parents is None and small.more_children is None


def test_a_test_set_s_error_is_binomial_and_none_is_without_one():
    small = judge({0: CLOSE}, error=0.04, samples=100)
    assert small.verdict == "undecided" and "test set" in small.reason
    share = (0.04 * 100 + 2) / 104  # two samples of either kind added: no test set is without an error
    assert small.test_standard_error == pytest.approx((share * (1 - share) / 104) ** 0.5)
    assert judge({0: CLOSE}, error=0.04, samples=10_000).verdict == "stable"
    assert judge({0: CLOSE}, error=0.0, samples=100).test_standard_error > 0
    assert judge({0: CLOSE}, error=0.04).test_standard_error is None


@pytest.mark.parametrize(("barriers", "says"), [({}, "no parent"), ({0: PAIRS, 3: {}}, "Parent 3 has no pair")])
def test_nothing_to_judge_is_an_error(barriers, says):
    with pytest.raises(LotteryError, match=says):
        judge(barriers)


def test_so_many_more_parents_are_named_as_first_make_the_margin_smaller_than_the_distance():
    means = [0.005, 0.02, 0.017]
    stability = judge({parent: {(0, 1): mean} for parent, mean in enumerate(means)})
    margins = {n: stats.t.ppf(0.95, n - 1) * np.std(means, ddof=1) / n**0.5 for n in range(4, 100)}
    first = next(n for n, margin in margins.items() if margin < 0.02 - np.mean(means))
    assert stability.verdict == "undecided" and stability.more_parents == first - 3 > 1


def test_so_many_more_children_are_named_as_first_make_the_margin_smaller_than_the_distance():
    pairs = plus(PAIRS, 0.006)
    stability, error = judge({0: pairs}), judge({0: pairs}).standard_error
    margins = {n: stats.t.ppf(0.95, n - 1) * error * (3 / n) ** 0.5 for n in range(4, 100)}
    first = next(n for n, margin in margins.items() if margin < abs(stability.mean - 0.02))
    assert stability.verdict == "undecided" and stability.more_children == first - 3 > 0
    assert stability.more_parents is None  # one parent says nothing of others


def test_children_cannot_decide_what_parents_disagree_on_and_nothing_decides_what_lies_on_the_threshold():
    apart = judge({parent: plus(PAIRS, 0.012 * parent - 0.008) for parent in range(3)})
    assert apart.verdict == "undecided" and apart.more_children is None and apart.more_parents > 0
    level = judge({0: plus(PAIRS, 0), 1: plus(PAIRS, 0.01)}, threshold=np.mean(list(PAIRS.values())) + 0.005)
    assert level.verdict == "undecided" and level.more_parents is None


@pytest.mark.parametrize(("parents", "children"), DESIGNS)
def test_a_barrier_on_the_threshold_is_called_stable_or_unstable_no_more_often_than_stated(parents, children):
    measured = rates(NORMAL, parents, children)
    assert measured.stable <= LIMIT and measured.unstable <= LIMIT
    assert measured.coverage >= stats.binom.ppf(0.01, REPETITIONS, 0.9) / REPETITIONS
    assert measured.power > 0.8  # it does call stable what is


def test_three_parents_of_three_children_are_rarely_called_stable_wrongly_also_where_the_noise_is_skewed():
    measured = rates(SKEWED, 3, 3)
    assert measured.stable <= LIMIT and measured.unstable <= LIMIT and measured.power > 0.8
