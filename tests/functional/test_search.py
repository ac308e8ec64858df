import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.barrier_process import BUMP, NORMAL, REPETITIONS, SKEWED, STEPS, at, searches
from lightning_lottery import LotteryError
from lightning_lottery.functional.k_star import find_k_star
from lightning_lottery.functional.search import Bisection, Grid

LIMIT = float(stats.binom.ppf(0.99, REPETITIONS, 0.05)) / REPETITIONS
"""The most misses, of a stated 5 %, that so many repetitions show by chance."""


def run(search, world):
    """Everything that the search evaluates, and how many waves that takes."""
    judged, waves = {}, 0
    while todo := search.next(judged):
        assert not set(todo) & set(judged) and set(todo) <= set(search.steps)
        judged |= {step: world[step] for step in todo}
        waves += 1
    return judged, waves


@given(
    st.integers(2, 70).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.integers(0, 4),
)
def test_wherever_a_monotone_curve_crosses_bisection_brackets_it_within_its_precision_and_points(
    number, precision, checks
):
    count, first = number  # of the candidates, and of those not below
    steps = np.unique(np.geomspace(1, 10_000, count).round().astype(int)).tolist()
    search = Bisection(steps, precision, checks)
    judged, _ = run(search, {step: at(0.3 if number < first else 0.0) for number, step in enumerate(steps)})
    low, high = search.bracket(judged)
    edge = min(first, len(steps))
    assert low is None or low in steps[:edge] and len(judged) <= search.points
    assert high is None or high in steps[edge:]
    assert (low is None) == (edge == 0) and (high is None) == (edge == len(steps))
    if low is not None and high is not None:
        assert steps.index(high) - steps.index(low) == 1 or high <= (1 + precision) * low
    assert len(judged) * 6 <= search.trainings(children=3, parents=2)


@given(st.lists(st.floats(0, 0.04), min_size=2, max_size=40), st.integers(0, 5))
def test_whatever_the_curve_the_search_ends_within_its_points_and_goes_on_from_what_was_found(means, checks):
    world = {10 * (number + 1): at(mean) for number, mean in enumerate(means)}
    search = Bisection(list(world), 0, checks)
    judged, _ = run(search, world)
    assert len(judged) <= search.points <= len(world)
    for most in range(len(judged)):  # a search cut off and begun again asks for the same
        again = dict(list(judged.items())[:most])
        while todo := search.next(again):
            again |= {step: world[step] for step in todo}
        assert set(again) == set(judged)


def test_both_ends_come_first_and_a_network_that_is_never_stable_costs_no_more():
    search = Bisection(STEPS)
    assert search.next({}) == [STEPS[0], STEPS[-1]] and search.next({STEPS[0]: at(0.3)}) == [STEPS[-1]]
    judged, waves = run(search, dict.fromkeys(STEPS, at(0.3)))
    assert len(judged) == 2 and waves == 1 and search.bracket(judged) == (STEPS[-1], None)


def test_one_stable_from_the_first_is_checked_in_between():
    judged, _ = run(Bisection(STEPS, checks=3), dict.fromkeys(STEPS, at(0.0)))
    assert len(judged) == 5 and max(np.diff([STEPS.index(step) for step in sorted(judged)])) <= 16


def test_checks_lie_above_k_star():
    world = {step: at(0.3 if step <= 28 else 0.0) for step in range(1, 34)}
    plain, checked = (set(run(Bisection(list(world), 0, checks), world)[0]) for checks in (0, 3))
    assert plain < checked and min(checked - plain) > 28


def test_a_check_that_is_not_below_begins_the_search_again_above_it():
    steps = list(range(1, 18))
    world = {step: at(0.3 if step <= 2 or step == 13 else 0.0) for step in steps}
    unseen, _ = run(Bisection(steps, 0, checks=0), world)
    assert 13 not in unseen and find_k_star(unseen).step == 3 and not find_k_star(unseen).contradictions
    seen, _ = run(Bisection(steps, 0, checks=4), world)
    assert find_k_star(seen).step == 14 and set(find_k_star(seen).contradictions) >= {3, 13}


def test_a_mean_decides_where_the_verdict_does_not():
    world = {step: at(0.3 if step < 500 else 0.019, 0.01) for step in STEPS}
    search = Bisection(STEPS, 0)
    low, high = search.bracket(run(search, world)[0])
    assert low < 500 <= high and STEPS.index(high) - STEPS.index(low) == 1


def test_bisection_announces_a_quarter_of_a_grids_trainings():
    assert (len(STEPS), Grid(STEPS).trainings(3, 3), Bisection(STEPS).trainings(3, 3)) == (32, 288, 72)
    assert Grid(STEPS).next({STEPS[4]: at(0.1)}) == [step for step in STEPS if step != STEPS[4]]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (partial(Bisection, [3]), r"two or more rising steps >= 0, got \[3\]"),
        (partial(Grid, [3, 3]), "rising"),
        (partial(Grid, [-1, 3]), ">= 0"),
        (partial(Bisection, [1, 2], -0.1), "`precision` is a ratio >= 0"),
        (partial(Bisection, [1, 2], math.inf), "`precision`"),
        (partial(Bisection, [1, 2], 0, -1), "`checks`"),
    ],
)
def test_what_cannot_be_searched_is_an_error(build, says):
    with pytest.raises(LotteryError, match=says):
        build()


@pytest.mark.parametrize(
    ("process", "share"), [(NORMAL, 0.98), (SKEWED, 0.98), (BUMP, 0.8)], ids=["", "skewed", "bump"]
)
def test_bisection_finds_k_star_with_a_quarter_of_a_grids_trainings_and_its_bounds_hold(process, share):
    judged = searches(process, Bisection)
    assert judged.most <= len(STEPS) / 4
    assert judged.distance < 0.5 and judged.within > share
    assert max(judged.missed) <= LIMIT and judged.early <= LIMIT


def test_of_a_bump_that_rises_above_the_threshold_again_more_checks_see_more_and_a_grid_nearly_all():
    few, many = (searches(BUMP, partial(Bisection, checks=n), repetitions=200) for n in (0, 5))
    grid = searches(BUMP, Grid, repetitions=50)
    assert few.within < many.within - 0.2 and many.within > 0.85
    assert few.contradicted < many.contradicted < grid.contradicted and grid.contradicted > 0.9
