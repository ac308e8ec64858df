import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.barrier_process import DESIGNS, NORMAL, REPETITIONS, SKEWED, rates
from helpers.line_process import Lines
from helpers.line_process import rates as rates_of_lines
from lightning_lottery import LotteryError
from lightning_lottery.functional.crossed import Blocks
from lightning_lottery.functional.verdicts import More, judge

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


def test_children_without_whom_no_pair_is_left_are_refused():
    for barriers in ({0: {(0, 1): 0.01, (0, 2): 0.012}}, {0: PAIRS, 4: {(0, 1): 0.01, (0, 2): 0.012}}):
        with pytest.raises(LotteryError, match="Without child 0 of parent . no pair is left"):
            judge(barriers)


@pytest.mark.parametrize("barriers", [{0: dict.fromkeys(PAIRS, 0.0194)}, {p: {(0, 1): 0.0208} for p in range(3)}])
def test_no_spread_is_no_certainty(barriers):
    stability = judge(barriers)
    assert (stability.verdict, stability.low, stability.standard_error) == ("undecided", None, 0.0)
    assert stability.reason == "no spread between networks is no certainty"


@given(st.lists(st.floats(0, 0.1), min_size=2, max_size=6).filter(lambda means: np.std(means) > 1e-5))
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
    backwards = judge(dict(reversed(uneven.items())))
    assert backwards.by_parent == stability.by_parent[::-1] and backwards.more_parents == stability.more_parents
    assert (backwards.low, backwards.high) == pytest.approx((stability.low, stability.high))
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


@pytest.mark.parametrize(("barriers", "says"), [({}, "no parent"), ({0: PAIRS, 3: {}}, "Parent 3 has no pair")])
def test_nothing_to_judge_is_an_error(barriers, says):
    with pytest.raises(LotteryError, match=says):
        judge(barriers)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.7, float("nan")])
def test_a_level_that_no_one_sided_test_has_is_refused(level):
    with pytest.raises(LotteryError, match="one-sided test"):
        judge({0: PAIRS}, level=level)


def test_so_many_more_parents_are_named_as_first_make_the_margin_smaller_than_the_distance():
    means = [0.005, 0.02, 0.017]
    stability = judge({parent: {(0, 1): mean} for parent, mean in enumerate(means)})
    gap = 0.02 - np.mean(means)
    errors = {n: np.std(means, ddof=1) / n**0.5 for n in range(4, 100)}
    even = next(n for n, error in errors.items() if stats.t.ppf(0.95, n - 1) * error < gap)
    likely = next(n for n, error in errors.items() if (stats.t.ppf(0.95, n - 1) + stats.norm.ppf(0.8)) * error < gap)
    assert stability.verdict == "undecided" and stability.more_parents == More(even - 3, likely - 3)
    assert 1 < even - 3 < likely - 3


def test_a_number_of_more_parents_decides_at_the_odds_that_it_is_named_with():
    """Simulated: parents drawn around means and spread that the first three had."""
    draw = np.random.default_rng(0)
    means = np.array([0.005, 0.02, 0.017])
    more = judge({parent: {(0, 1): mean} for parent, mean in enumerate(means)}).more_parents
    for number, odds in ((more.even, 0.5), (more.likely, 0.8)):
        drawn = draw.normal(means.mean(), means.std(ddof=1), (1000, 3 + number))
        verdicts = [judge({p: {(0, 1): mean} for p, mean in enumerate(world)}).verdict for world in drawn]
        assert np.mean([verdict == "stable" for verdict in verdicts]) == pytest.approx(odds, abs=0.06)


def test_so_many_more_children_are_named_as_first_make_the_margin_smaller_than_the_distance():
    pairs = plus(PAIRS, 0.006)
    stability, error = judge({0: pairs}), judge({0: pairs}).standard_error
    margins = {n: stats.t.ppf(0.95, n - 1) * error * (3 / n) ** 0.5 for n in range(4, 100)}
    first = next(n for n, margin in margins.items() if margin < abs(stability.mean - 0.02))
    assert stability.verdict == "undecided" and stability.more_children.even == first - 3 > 0
    assert stability.more_children.likely > stability.more_children.even
    assert stability.more_parents is None  # one parent says nothing of others


def test_children_cannot_decide_what_parents_disagree_on_and_nothing_decides_what_lies_on_the_threshold():
    apart = judge({parent: plus(PAIRS, 0.012 * parent - 0.008) for parent in range(3)})
    assert apart.verdict == "undecided" and apart.more_children is None and apart.more_parents.even > 0
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


# Networks and samples


def flat(pairs, blocks=12, seed=0, scale=0.01):
    """Lines of three places whose errors vary from block to block, those of a barrier in the middle."""
    draw, weights = np.random.default_rng(seed), np.full(blocks, 30.0)
    lines = {}
    for pair, barrier in pairs.items():
        line = 0.1 + scale * draw.normal(size=(3, blocks))
        line -= line.mean(1, keepdims=True) - np.array([[0.1], [0.1 + barrier], [0.1]])
        lines[pair] = line
    return Blocks(weights, {0: lines})


def test_one_pair_is_judged_by_samples_and_the_verdict_is_about_its_two_networks():
    pair = {(0, 1): 0.012}
    blocks = flat(pair)
    line = blocks.lines[0][0, 1]
    rises = line[1] - (line[0] + line[2]) / 2
    stability = judge({0: pair}, blocks=blocks)
    assert stability.about == "these two networks" and stability.more_children is None
    assert stability.standard_error == pytest.approx(stats.sem(rises)) == stability.test_standard_error
    assert stability.high == pytest.approx(0.012 + stats.t.ppf(0.95, 11) * stats.sem(rises))
    assert stability.noise_floor == pytest.approx(0.68 * stats.sem(line[0] - line[2]))


def test_a_line_s_highest_place_counts_for_stable_and_the_cross_fitted_one_for_unstable():
    """A line that is flat but for noise: its maximum lies above its ends by luck, and that luck does not repeat."""
    draw = np.random.default_rng(0)
    raised, fitted = [], []
    for _ in range(200):
        blocks = Blocks(np.ones(10), {0: {(0, 1): draw.normal(size=(21, 10))}})
        raised.append(blocks.highest().mean())
        fitted.append(blocks.cross_fitted().mean())
    assert np.mean(raised) > 0.5 and abs(np.mean(fitted)) < 0.1


def test_where_not_one_block_differs_the_bounds_are_a_sample_away():
    blocks = Blocks(np.full(10, 10.0), {0: {(0, 1): np.full((3, 10), 0.25)}})
    stability = judge({0: {(0, 1): 0.0}}, blocks=blocks, samples=100)
    assert stability.high == pytest.approx(stats.t.ppf(0.95, 9) / 100) and stability.verdict == "stable"
    assert judge({0: {(0, 1): 0.0}}, threshold=0.01, blocks=blocks, samples=100).verdict == "undecided"
    assert judge({0: {(0, 1): 0.0}}, blocks=blocks).verdict == "undecided"  # of a metric that is no share


def test_blocks_in_another_order_of_parents_are_refused():
    three, line = {(0, 1): 0.0, (0, 2): 0.0, (1, 2): 0.0}, np.zeros((3, 10))
    lines = {1: {(0, 1): line}, 0: dict.fromkeys(three, line)}
    with pytest.raises(LotteryError, match="in another order"):
        judge({0: three, 1: {(0, 1): 0.0}}, blocks=Blocks(np.ones(10), lines))


def test_blocks_of_other_pairs_are_refused():
    with pytest.raises(LotteryError, match="blocks are of other parents or pairs"):
        judge({0: PAIRS}, blocks=flat({(0, 1): 0.01}))


def test_the_typical_parent_is_judged_by_logarithms():
    means, samples = [0.006, 0.012, 0.009, 0.007], 1000
    typical = judge({p: {(0, 1): mean} for p, mean in enumerate(means)}, samples=samples).typical
    logs = np.log(np.array(means) + 1 / 2000)
    reach = stats.t.ppf(0.95, 3) * stats.sem(logs)
    assert typical.median == pytest.approx(np.exp(logs.mean()) - 1 / 2000)
    assert (typical.low, typical.high) == pytest.approx(
        tuple(np.exp(logs.mean() + d) - 1 / 2000 for d in (-reach, reach))
    )
    assert typical.verdict == "stable"
    assert judge({0: PAIRS}, samples=samples).typical is None


def test_the_largest_parent_is_held_against_the_smallest():
    stability = judge({0: {(0, 1): 0.01}, 1: {(0, 1): 0.03}, 2: {(0, 1): 0.02}})
    assert stability.spread_of_parents == pytest.approx(3.0) and judge({0: PAIRS}).spread_of_parents is None
    assert judge({0: {(0, 1): 0.0}, 1: {(0, 1): 0.03}}).spread_of_parents is None


REPEATED = 300
FALSE = float(stats.binom.ppf(0.99, REPEATED, 0.05)) / REPEATED


@pytest.mark.parametrize(
    ("parents", "children", "least"), [(1, 3, 0.80), (3, 3, 0.95)], ids=["one parent of three", "three of three"]
)
def test_flat_lines_are_called_stable_on_360_samples(parents, children, least):
    assert rates_of_lines(Lines(), parents, children, repetitions=REPEATED)["stable"] >= least


@pytest.mark.parametrize(("parents", "children"), [(1, 2), (1, 3), (3, 2), (3, 3), (5, 2), (5, 3)])
def test_a_barrier_on_the_threshold_is_seldom_called_stable_or_unstable_with_samples_either(parents, children):
    spread = 0.2 if parents > 1 else 0.0  # one parent is judged by itself
    shares = rates_of_lines(Lines(barrier=0.02, parents=spread), parents, children, repetitions=REPEATED)
    assert max(shares["stable"], shares["unstable"]) <= FALSE


def test_a_barrier_four_times_the_threshold_is_called_unstable():
    assert rates_of_lines(Lines(barrier=0.08), 1, 3, repetitions=REPEATED)["unstable"] >= 0.6
