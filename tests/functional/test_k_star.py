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
