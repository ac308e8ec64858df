import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.barrier_process import DESIGNS, NORMAL, REPETITIONS, SKEWED, rates
from lightning_lottery import LotteryError
from lightning_lottery.functional.connectivity import judge
from lightning_lottery.functional.stability import judge_step, roc_of_threshold

PAIRS = {(0, 1): 0.010, (0, 2): 0.013, (1, 2): 0.009}
LIMIT = float(stats.binom.ppf(0.99, REPETITIONS, 0.05)) / REPETITIONS
"""The most misses, of a stated 5 %, that so many repetitions show by chance."""


def plus(pairs, more):
    return {pair: barrier + more for pair, barrier in pairs.items()}


@pytest.mark.parametrize("more", [0.0, 0.008, 0.1])
def test_one_parent_is_judged_as_its_children_are(more):
    pairs = plus(PAIRS, more)
    of, step = judge(pairs, error=0.1, samples=10_000), judge_step({7: pairs}, error=0.1, samples=10_000)
    same = [step.mean, step.standard_error, step.low, step.high, step.test_standard_error]
    assert same == pytest.approx([of.mean, of.standard_error, of.low, of.high, of.test_standard_error], rel=1e-12)
    assert (step.verdict, step.reason, step.parents) == (of.verdict, of.reason, 1)


@given(st.lists(st.floats(0, 0.1), min_size=2, max_size=6))
def test_where_each_parent_has_one_pair_the_bounds_are_a_t_tests_over_parents(means):
    found = judge_step({parent: {(0, 1): mean} for parent, mean in enumerate(means)})
    margin = stats.t.ppf(0.95, len(means) - 1) * stats.sem(means)
    assert (found.low, found.high) == pytest.approx((found.mean - margin, found.mean + margin), rel=1e-9, abs=1e-12)
    assert found.more_children is None  # nothing is known of what children add


def test_parents_that_agree_by_luck_are_no_surer_than_their_children():
    found = judge_step({parent: PAIRS for parent in range(3)})
    assert found.standard_error == pytest.approx(judge(PAIRS).standard_error / 3**0.5)
    apart = judge_step({parent: plus(PAIRS, 0.02 * parent) for parent in range(3)})
    assert apart.standard_error == pytest.approx(0.02 / 3**0.5)  # where parents differ more, their own counts


def test_the_mean_is_of_parents_however_many_pairs_each_has():
    uneven = {0: {(0, 1): 0.1}, 1: PAIRS, 2: {**PAIRS, (0, 3): 0.01, (1, 3): 0.01, (2, 3): 0.01}}
    found = judge_step(uneven)
    assert found.mean == pytest.approx(np.mean([np.mean(list(pairs.values())) for pairs in uneven.values()]))
    assert astuple(judge_step(dict(reversed(uneven.items())))) == pytest.approx(astuple(found))
    assert found.more_children is None and found.parents == 3


def test_one_pair_gives_an_estimate_and_no_verdict():
    found = judge_step({0: {(1, 2): 0.3}})
    assert (found.mean, found.verdict, found.low, found.more_children) == (0.3, "undecided", None, None)
    assert not found.is_below


def test_a_barrier_that_is_not_a_number_is_no_verdict_and_its_parent_is_named():
    found = judge_step({0: PAIRS, 5: {**PAIRS, (0, 2): math.nan}, 6: PAIRS})
    assert found.verdict == "undecided" and not found.is_below
    assert "between 0 and 2 (parent 5)" in found.reason


def test_stable_is_withheld_where_the_test_set_is_too_small_and_no_seed_would_help():
    parents = {parent: plus(PAIRS, -0.009) for parent in range(3)}
    assert judge_step(parents, error=0.04, samples=10_000).verdict == "stable"
    small = judge_step(parents, error=0.04, samples=100)
    assert small.verdict == "undecided" and "test set" in small.reason
    assert small.high < 0.02 and small.more_parents is None and small.more_children is None


@pytest.mark.parametrize(("barriers", "says"), [({}, "no parent"), ({0: PAIRS, 3: {}}, "Parent 3 has no pair")])
def test_nothing_to_judge_is_an_error(barriers, says):
    with pytest.raises(LotteryError, match=says):
        judge_step(barriers)


def test_so_many_more_parents_are_named_as_first_make_the_margin_smaller_than_the_distance():
    means = [0.005, 0.02, 0.017]
    found = judge_step({parent: {(0, 1): mean} for parent, mean in enumerate(means)})
    margins = {n: stats.t.ppf(0.95, n - 1) * np.std(means, ddof=1) / n**0.5 for n in range(4, 100)}
    first = next(n for n, margin in margins.items() if margin < 0.02 - np.mean(means))
    assert found.verdict == "undecided" and found.more_parents == first - 3 > 1


def test_so_many_more_children_are_named_as_first_make_the_margin_smaller_than_the_distance():
    pairs = plus(PAIRS, 0.006)
    found, error = judge_step({0: pairs}), judge(pairs).standard_error
    margins = {n: stats.t.ppf(0.95, n - 1) * error * (3 / n) ** 0.5 for n in range(4, 100)}
    first = next(n for n, margin in margins.items() if margin < abs(found.mean - 0.02))
    assert found.verdict == "undecided" and found.more_children == first - 3 > 0
    assert found.more_parents is None  # one parent says nothing of others


def test_children_cannot_decide_what_parents_disagree_on_and_nothing_decides_what_lies_on_the_threshold():
    apart = judge_step({parent: plus(PAIRS, 0.012 * parent - 0.008) for parent in range(3)})
    assert apart.verdict == "undecided" and apart.more_children is None and apart.more_parents > 0
    level = judge_step({0: plus(PAIRS, 0), 1: plus(PAIRS, 0.01)}, threshold=np.mean(list(PAIRS.values())) + 0.005)
    assert level.verdict == "undecided" and level.more_parents is None


@pytest.mark.parametrize(("parents", "children"), DESIGNS)
def test_a_barrier_on_the_threshold_is_called_stable_or_unstable_no_more_often_than_stated(parents, children):
    found = rates(NORMAL, parents, children, replicates=0)
    assert found.stable <= LIMIT and found.unstable <= LIMIT
    assert found.coverage >= stats.binom.ppf(0.01, REPETITIONS, 0.9) / REPETITIONS
    assert found.power > 0.8  # it does call stable what is


def test_three_parents_of_three_children_are_rarely_called_stable_wrongly_also_where_the_noise_is_skewed():
    found = rates(SKEWED, 3, 3, replicates=0)
    assert found.stable <= LIMIT and found.unstable <= LIMIT and found.power > 0.8


def test_the_nested_bootstrap_of_three_parents_covers_too_seldom_and_one_of_pairs_even_less():
    found = rates(NORMAL, 3, 3, replicates=200)
    assert 1 - sum(found.naive) < 0.65 < 1 - sum(found.bootstrap) < 0.85  # 90 % are stated


TICKETS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=20).filter(
    lambda some: len({match for _, match in some}) == 2
)


@given(TICKETS)
def test_the_area_counts_the_pairs_in_which_the_matching_ticket_has_the_lower_barrier(tickets):
    found = roc_of_threshold([barrier / 100 for barrier, _ in tickets], [match for _, match in tickets])
    pairs = [(a, b) for a, match in tickets if match for b, other in tickets if not other]
    assert found.auc == pytest.approx(np.mean([(a < b) + (a == b) / 2 for a, b in pairs]))


@given(TICKETS)
def test_the_curve_says_what_each_threshold_does_and_the_best_one_does_it_best(tickets):
    barriers, matches = np.array([barrier / 100 for barrier, _ in tickets]), np.array([match for _, match in tickets])
    found = roc_of_threshold(barriers, matches)
    for threshold, tpr, fpr in zip(found.thresholds, found.tpr, found.fpr, strict=True):
        assert (tpr, fpr) == (np.mean(barriers[matches] < threshold), np.mean(barriers[~matches] < threshold))
    assert (found.tpr[0], found.fpr[0], found.tpr[-1], found.fpr[-1]) == (0, 0, 1, 1)
    gains = [np.mean(barriers[matches] < t) - np.mean(barriers[~matches] < t) for t in (*barriers, math.inf)]
    assert (
        found.youden
        == pytest.approx(max(gains))
        == pytest.approx(np.mean(barriers[matches] < found.best) - np.mean(barriers[~matches] < found.best))
    )


def test_a_threshold_lies_midway_between_the_kinds_it_parts():
    found = roc_of_threshold([0.1, 0.3, 0.01, 0.02], [False, False, True, True])
    assert found.best == pytest.approx(0.06) and (found.auc, found.youden) == (1, 1)
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
