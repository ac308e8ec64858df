import math

import numpy as np
import pytest

from lightning_lottery import LotteryError
from lightning_lottery.functional.bootstrap import _replicates, bootstrap_k_star, nested_bootstrap

PAIRS = {(1, 2): 0.1, (1, 3): 0.2, (2, 3): 0.6}


def test_children_are_drawn_not_pairs_and_none_makes_a_pair_with_itself():
    """Three children, at least two of them different: one pair alone (3/4), or each of the three pairs once (1/4)."""
    drawn = _replicates({0: {0: PAIRS}}, 20_000, seed=0)[0]
    values, counts = np.unique(drawn.round(12), return_counts=True)
    np.testing.assert_allclose(values, [0.1, 0.2, 0.3, 0.6])
    np.testing.assert_allclose(counts / 20_000, 0.25, atol=0.015)


def test_parents_of_one_pair_each_are_drawn_as_they_are():
    drawn = _replicates({0: {0: {(1, 2): 0.0}, 1: {(1, 2): 1.0}}}, 20_000, seed=0)[0]
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, [0, 0.5, 1])
    np.testing.assert_allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.015)


def test_a_parent_drawn_twice_has_its_children_drawn_twice():
    one, two = (_replicates({0: dict.fromkeys(range(n), PAIRS)}, 20_000, seed=0)[0].std() for n in (1, 4))
    assert two == pytest.approx(one / 2, rel=0.03)


def test_the_same_seed_gives_the_same_interval_and_it_lies_within_what_was_seen():
    parents = {0: PAIRS, 1: {pair: 2 * barrier for pair, barrier in PAIRS.items()}}
    assert nested_bootstrap(parents, seed=3) == nested_bootstrap(parents, seed=3)
    low, high = nested_bootstrap(parents)
    assert 0.1 <= low < np.mean([0.3, 0.6]) < high <= 1.2
    assert nested_bootstrap({0: {(1, 2): 0.25}}) == (0.25, 0.25)


def test_a_curve_is_drawn_whole():
    """A parent that is high at one step is high at all: k* is one of the parents' or what lies between their means."""
    curve = {k: {0: {(1, 2): 0.2 / k}, 1: {(1, 2): 2 / k}} for k in range(1, 400)}
    low, high = bootstrap_k_star(curve)
    assert (low, high) == (pytest.approx(10, abs=1), pytest.approx(100, abs=1))


def test_beyond_the_last_step_is_infinity_and_from_the_first_on_the_first():
    assert bootstrap_k_star({10: {0: PAIRS}, 20: {0: PAIRS}}) == (math.inf, math.inf)
    assert bootstrap_k_star({10: {0: PAIRS}, 20: {0: PAIRS}}, threshold=0.7) == (10, 10)
    mixed = {10: {0: {(1, 2): 0.01}, 1: {(1, 2): 0.9}}}
    assert bootstrap_k_star(mixed) == (10, math.inf)


def test_what_is_missing_at_a_step_is_left_out_and_what_diverged_is_not_below():
    whole = {10: {0: PAIRS, 1: PAIRS}, 20: {0: {(1, 2): 0.0}, 1: {(1, 2): 0.0, (1, 3): 0.0}}}
    assert bootstrap_k_star(whole)[1] < math.inf
    assert bootstrap_k_star({10: {0: PAIRS}, 20: {1: {(1, 2): 0.0}}, 30: {0: PAIRS}})[1] == math.inf
    assert nested_bootstrap({0: {**PAIRS, (1, 2): math.nan}})[1] == math.inf


def test_where_a_parent_is_missing_the_mean_is_of_those_that_are_there():
    drawn = _replicates({10: {0: {(1, 2): 0.4}}, 20: {0: {(1, 2): 0.1}, 1: {(1, 2): 0.3}}}, 1000, seed=0)
    np.testing.assert_allclose(drawn[0], 0.4)  # also where only the other parent was drawn
    np.testing.assert_allclose(np.unique(drawn[1].round(12)), [0.1, 0.2, 0.3])


def test_a_step_without_a_parent_is_left_to_nobody():
    with pytest.raises(LotteryError, match="no parent"):
        bootstrap_k_star({10: {0: PAIRS}, 20: {}})
    with pytest.raises(LotteryError, match="got none"):
        bootstrap_k_star({})
