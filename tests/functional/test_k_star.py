import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.barrier_process import at
from lightning_lottery import LotteryError
from lightning_lottery.functional.k_star import contradictions, crossing, find_k_star, stable_from
from lightning_lottery.functional.verdicts import judge

VERDICTS = st.lists(st.sampled_from(["stable", "unstable", "undecided"]), min_size=1, max_size=8).map(
    lambda verdicts: dict(enumerate(verdicts))
)


@given(VERDICTS)
def test_k_star_is_the_first_step_from_which_on_all_are_stable(verdicts):
    all_after = [step for step in verdicts if all(v == "stable" for k, v in verdicts.items() if k >= step)]
    assert stable_from(verdicts) == min(all_after, default=None)
    assert stable_from(dict(reversed(verdicts.items()))) == stable_from(verdicts)


@given(VERDICTS)
def test_what_contradicts_monotonicity_is_exactly_what_is_not_stable_for_good(verdicts):
    sentences = contradictions(verdicts)
    for step, verdict in verdicts.items():
        goes_back = verdict == "stable" and any(v != "stable" for k, v in verdicts.items() if k > step)
        returns = verdict == "unstable" and any(v == "stable" for k, v in verdicts.items() if k < step)
        assert (step in sentences) == (goes_back or returns)


def test_a_contradiction_names_the_worst_that_comes_after():
    assert contradictions({1: "stable", 2: "undecided", 3: "unstable"}) == {
        1: "stable, but step 3 after it is unstable",
        3: "unstable, but step 1 before it is stable",
    }
    assert contradictions({1: "stable", 2: "stable", 3: "unstable"})[3] == "unstable, but step 2 before it is stable"
    assert contradictions({1: "unstable", 2: "undecided", 3: "stable"}) == {}


def test_the_crossing_is_the_last_one_and_linear_in_the_logarithm():
    steps = np.array([0, 1, 10, 100, 1000])
    line = 1 - np.log1p(steps) / np.log1p(1000)
    assert crossing(steps, line, line[3] + 0.01) < 100 < crossing(steps, line, line[3] - 0.01)
    for step in (3, 47, 700):
        assert crossing(steps, line, 1 - np.log1p(step) / np.log1p(1000)) == pytest.approx(step)
    assert crossing(steps, [0.5, 0.0, 0.5, 0.3, 0.0], 0.2) == crossing(steps, [0.5, 0.5, 0.0, 0.3, 0.0], 0.2) > 100


def test_curves_that_do_not_cross_and_numbers_that_are_none():
    curves = [[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [0.1, 0.0, np.nan], [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]]
    assert [crossing([0, 10, 20], curve, 0.02) for curve in curves] == pytest.approx([math.inf, 0, math.inf, 10, 10])
    assert crossing([5], [0.1], 0.02) == math.inf and crossing([5], [0.0], 0.02) == 5
    assert crossing([0, 10], [0.02, 0.0], 0.02) == 0  # on the threshold is not below


@given(st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 0.02)), min_size=1, max_size=8))
def test_the_estimate_lies_between_its_bounds_and_the_upper_one_is_k_star_as_judged(points):
    judged = {10 * 2**power: at(mean, spread) for power, (mean, spread) in enumerate(points)}
    star = find_k_star(judged)
    assert star.low <= star.estimate * (1 + 1e-9) and star.estimate <= star.high * (1 + 1e-9)
    assert star.high == (math.inf if star.step is None else star.step)


def test_k_star_names_the_evaluated_steps_above_it_and_the_largest_gap_from_it_on():
    means = {0: 0.0, 3: 0.3, 400: 0.0, 800: 0.0, 3200: 0.0}
    star = find_k_star({step: at(mean) for step, mean in means.items()}, level=0.1)
    assert (star.step, star.evaluated_above, star.largest_gap, star.level) == (400, (800, 3200), 4, 0.1)
    assert find_k_star({0: at(0.0), 10: at(0.0), 20: at(0.0)}).largest_gap == 10  # 0 counts as 1


@pytest.mark.parametrize("mean", [0.0, 0.3, math.nan])
def test_of_a_single_evaluated_step_nothing_is_said_of_others(mean):
    star = find_k_star({7: at(mean)})
    assert (star.step, star.evaluated_above, star.largest_gap) == (7 if mean == 0 else None, (), None)
    assert (star.estimate, star.low, star.high) == {
        0.0: (7, 0, 7),
        0.3: (math.inf, 7, math.inf),
    }.get(mean, (math.inf, 0, math.inf))


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, math.nan, math.inf]), st.sampled_from([0.0, 0.001, math.nan])), min_size=1
    )
)
def test_nan_never_passes(points):
    judged = {step: at(mean, spread) for step, (mean, spread) in enumerate(points)}
    star = find_k_star(judged)
    unsure = [step for step, (mean, spread) in enumerate(points) if math.isnan(mean + spread)]
    assert star.step is None or all(step < star.step for step in unsure)
    assert star.high > max(unsure, default=-1) and not any(step <= star.low for step in unsure if star.low > 0)


def test_the_bounds_are_the_ends_of_the_runs_that_are_significant():
    means = {1: 0.3, 2: 0.2, 3: 0.021, 4: 0.1, 5: 0.019, 6: 0.001, 7: 0.021, 8: 0.001, 9: 0.0}
    star = find_k_star({step: at(mean, 0.005) for step, mean in means.items()})
    assert (star.low, star.high, star.step) == (2, 8, 8) and 7 < star.estimate < 8


def test_steps_without_bounds_bound_nothing_but_are_estimated():
    judged = {k: judge({0: {(1, 2): 1 / k}}) for k in (10, 40, 60, 1000)}
    star = find_k_star(judged)
    assert (star.step, star.low, star.high, star.contradictions) == (None, 0, math.inf, {})
    assert 40 < star.estimate < 60
    with pytest.raises(LotteryError, match="one threshold"):
        find_k_star({1: at(0.1), 2: at(0.1, threshold=0.05)})
    with pytest.raises(LotteryError, match="one step or more"):
        find_k_star({})
