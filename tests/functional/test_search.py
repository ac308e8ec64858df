import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.barrier_process import BUMP, FLAT, NORMAL, REPETITIONS, SKEWED, SLOW, SPREADS, STEPS, at, searches
from lightning_lottery import LotteryError
from lightning_lottery.functional.k_star import find_k_star
from lightning_lottery.functional.search import Bisection, Grid

LIMIT = float(stats.binom.ppf(0.99, REPETITIONS, 0.05)) / REPETITIONS
"""The most misses, of a stated 5 %, that so many repetitions show by chance."""
TARGETS = ("mean", "verdict")
HIGH, ABOVE, BELOW, LOW = at(0.3), at(0.021, 0.01), at(0.019, 0.01), at(0.0)
"""Unstable, twice undecided, and stable."""


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


@given(
    st.integers(2, 70).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.integers(0, 4),
)
def test_where_undecided_steps_follow_the_crossing_both_it_and_the_first_stable_step_are_bracketed(
    number, precision, checks
):
    count, *edges = number
    below, stable = sorted(edges)  # the first numbers whose mean is below, and that are stable
    steps = np.unique(np.geomspace(1, 10_000, count).round().astype(int)).tolist()
    world = {k: HIGH if n < below else BELOW if n < stable else LOW for n, k in enumerate(steps)}
    search = Bisection(steps, precision, checks)
    judged, _ = run(search, world)
    assert len(judged) <= search.points and find_k_star(judged).step == search.bracket(judged)[1]
    for test in (lambda stability: stability.is_below, lambda stability: stability.verdict == "stable"):
        passed = [test(judged[k]) for k in sorted(judged)]
        if 0 < sum(passed) < len(passed):
            low, high = sorted(judged)[passed.index(True) - 1], sorted(judged)[passed.index(True)]
            assert steps.index(high) - steps.index(low) == 1 or high <= (1 + precision) * low


CURVES = st.lists(st.builds(at, st.floats(0, 0.04) | st.just(math.nan), st.floats(0, 0.02)), min_size=2, max_size=40)


@given(CURVES, st.integers(0, 5), st.sampled_from(TARGETS))
def test_whatever_the_curve_the_search_ends_within_its_points_and_goes_on_from_what_was_found(curve, checks, target):
    world = {10 * (number + 1): stability for number, stability in enumerate(curve)}
    search = Bisection(list(world), 0, checks, target)
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


@pytest.mark.parametrize("target", TARGETS)
def test_nan_is_on_the_side_of_what_does_not_pass(target):
    search = Bisection(STEPS, 0, target=target)
    never = run(search, dict.fromkeys(STEPS, at(math.nan)))[0]
    assert list(never) == [STEPS[0], STEPS[-1]] and search.bracket(never) == (STEPS[-1], None)
    low, high = search.bracket(run(search, {step: at(math.nan) if step < 500 else LOW for step in STEPS})[0])
    assert low < 500 <= high and STEPS.index(high) - STEPS.index(low) == 1


def test_of_a_slow_decline_the_verdict_s_search_ends_at_its_first_stable_step_and_the_mean_s_may_at_the_last():
    world = {step: HIGH if step < 16 else BELOW if step < 8000 else LOW for step in STEPS}
    stars = {}
    for target in TARGETS:
        search = Bisection(STEPS, 0, checks=0, target=target)
        stars[target] = find_k_star(run(search, world)[0])
    first = next(step for step in STEPS if step >= 8000)
    assert (stars["mean"].step, stars["verdict"].step) == (STEPS[-1], first)
    assert stars["mean"].estimate == stars["verdict"].estimate < 16


def test_where_the_last_step_is_not_stable_the_mean_s_crossing_is_found_all_the_same():
    world = {step: HIGH if step < 500 else BELOW for step in STEPS}
    search = Bisection(STEPS, 0, target="verdict")
    judged, _ = run(search, world)
    assert search.bracket(judged) == (STEPS[-1], None) and find_k_star(judged).step is None
    assert judged.keys() == run(Bisection(STEPS, 0, checks=0, target="mean"), world)[0].keys()  # nothing to check


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
    search = Bisection(STEPS, 0, target="mean")
    low, high = search.bracket(run(search, world)[0])
    assert low < 500 <= high and STEPS.index(high) - STEPS.index(low) == 1


def test_bisection_announces_a_quarter_of_a_grids_trainings_and_a_third_where_the_verdict_is_bracketed_too():
    assert (len(STEPS), Grid(STEPS).trainings(3, 3), Bisection(STEPS).trainings(3, 3)) == (32, 288, 99)
    assert Bisection(STEPS, target="mean").trainings(3, 3) == 72
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
        (partial(Bisection, [1, 2], target="median"), "`target` is 'mean' or 'verdict', got 'median'"),
    ],
)
def test_what_cannot_be_searched_is_an_error(build, says):
    with pytest.raises(LotteryError, match=says):
        build()


@pytest.mark.parametrize(("target", "points"), [("mean", 8), ("verdict", 11)])
@pytest.mark.parametrize(
    ("process", "share"), [(NORMAL, 0.98), (SKEWED, 0.98), (BUMP, 0.8)], ids=["", "skewed", "bump"]
)
def test_bisection_finds_k_star_with_a_third_of_a_grids_trainings_and_its_bounds_hold(process, share, target, points):
    judged = searches(process, partial(Bisection, target=target))
    assert judged.most <= points == Bisection(STEPS, target=target).points
    assert judged.distance < 0.5 and judged.within > share
    assert max(judged.missed) <= LIMIT and judged.early <= LIMIT


def test_on_a_slow_decline_the_verdict_s_search_ends_less_often_at_the_last_step_for_two_steps_more():
    mean, verdict = (searches(SLOW, partial(Bisection, target=target)) for target in TARGETS)
    assert verdict.at_end < mean.at_end - 0.05 and verdict.later <= mean.later
    assert verdict.nowhere == mean.nowhere and verdict.distance < mean.distance + 0.1
    assert mean.points + 1 < verdict.points < mean.points + 2


@pytest.mark.parametrize("target", TARGETS)
def test_the_level_of_a_bisection_is_reached_where_the_barrier_stays_on_the_threshold_up_to_the_last_step(target):
    """There every test has its 5 %, each mean even odds; and after each step that does not pass comes another."""
    search, draw, early = Bisection(STEPS, checks=0, target=target), np.random.default_rng(0), []
    for _ in range(4000):
        chance = draw.random(len(STEPS))
        world = {k: LOW if x < 0.05 else BELOW if x < 0.5 else ABOVE for k, x in zip(STEPS, chance, strict=True)}
        star = find_k_star(run(search, world | {STEPS[-1]: LOW})[0])
        early.append(star.step < STEPS[-1])
    assert np.mean(early) == pytest.approx(search.level, abs=0.02)
    assert Grid(STEPS).level == 0.05 < search.level < 0.25


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("process", [SKEWED, SLOW, FLAT], ids=["logistic", "slow", "flat"])
def test_however_far_parents_lie_apart_k_star_is_too_early_no_more_often_than_the_level_says(process, spread):
    judged, search = searches(replace(process, parents=spread), Bisection, repetitions=200), Bisection(STEPS)
    assert judged.early <= stats.binom.ppf(0.99, 200, search.level) / 200
    assert judged.missed[1] <= stats.binom.ppf(0.99, 200, 0.05) / 200 and judged.points <= search.points - 1


def test_the_level_of_a_search_of_two_steps_is_that_of_a_test():
    levels = [Bisection([0, 10], target=target).level for target in TARGETS]
    assert levels == pytest.approx([Grid([0, 10]).level] * 2)
    assert Bisection(STEPS, target="mean").level == pytest.approx(0.1)


def test_of_a_bump_that_rises_above_the_threshold_again_more_checks_see_more_and_a_grid_nearly_all():
    few, many = (searches(BUMP, partial(Bisection, checks=n), repetitions=200) for n in (0, 5))
    grid = searches(BUMP, Grid, repetitions=50)
    assert few.within < many.within - 0.2 and many.within > 0.85
    assert few.contradicted < many.contradicted < grid.contradicted and grid.contradicted > 0.9
