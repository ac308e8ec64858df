import math
from dataclasses import FrozenInstanceError

import jsonargparse
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import oracles
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule, in_steps, scheduled

KINDS = [Constant, Cubic, Exponential]
RAMPS = {Cubic: oracles.cubic, Exponential: oracles.exponential}

kinds = st.sampled_from(KINDS)
ramps = st.sampled_from(list(RAMPS))
finals = st.just(0) | st.floats(1e-6, 0.999)
steps = st.integers(0, 300)
fractions = st.floats(0, 1)
quick = settings(deadline=None)


def built(kind, final, begin, end):
    """A schedule between two times in either order; a constant one begins and ends at the first."""
    begin, end = min(begin, end), max(begin, end)
    return kind(final, begin) if kind is Constant else kind(final, begin, end)


@quick
@given(kinds, finals, steps, steps)
def test_sparsity_never_falls_and_is_exact_at_both_ends(kind, final, begin, end):
    schedule = built(kind, final, begin, end)
    values = [schedule(step) for step in range(schedule.end + 2)]
    assert values == sorted(values)
    assert values[schedule.end :] == [final, final]
    assert values[: schedule.begin] == [0.0] * schedule.begin
    if schedule.begin < schedule.end:
        assert values[schedule.begin] == 0.0
    assert schedule(10**12) == final


@quick
@given(ramps, st.floats(0.01, 0.999), st.integers(0, 50), st.integers(2, 300))
def test_a_ramp_removes_something_at_its_first_step_and_is_not_done_at_its_last_but_one(kind, final, begin, length):
    schedule = kind(final, begin, begin + length)
    assert 0 < schedule(begin + 1) <= schedule(begin + length - 1) < final


@quick
@given(ramps, finals, steps, steps, st.integers(0, 320))
def test_a_ramp_is_the_paper_s_formula(kind, final, begin, end, step):
    begin, end = min(begin, end), max(begin, end)
    assert kind(final, begin, end)(step) == pytest.approx(RAMPS[kind](step, final, begin, end), abs=1e-11)


@quick
@given(ramps, finals, steps, steps, steps)
def test_a_ramp_has_only_its_length_not_its_place(kind, final, begin, end, later):
    begin, end = min(begin, end), max(begin, end)
    here, there = kind(final, begin, end), kind(final, begin + later, end + later)
    assert [here(step) for step in range(end + 1)] == [there(step + later) for step in range(end + 1)]


def test_cubic_is_the_density_of_the_authors_code_at_every_step(golden):
    for case in torch.load(golden / "platon_mlp.pt", weights_only=False)["cases"].values():
        config = case["config"]
        begin = config["initial_warmup"] * config["warmup_steps"]
        end = config["total_step"] - config["final_warmup"] * config["warmup_steps"]
        schedule = Cubic(1 - config["final_threshold"], begin, end)
        assert len(case["records"]) == config["total_step"]
        for record in case["records"]:
            assert 1 - schedule(record["step"]) == pytest.approx(record["remaining_ratio"], abs=1e-15)


@quick
@given(kinds, finals, fractions, fractions, st.integers(0, 10**6))
def test_fractions_become_rounded_steps_of_the_fit(kind, final, begin, end, total):
    schedule = built(kind, final, begin, end)
    resolved = schedule.resolve(total)
    assert type(resolved) is kind
    assert (resolved.begin, resolved.end) == tuple(
        round(oracles.exact(time) * total) for time in (schedule.begin, schedule.end)
    )
    assert type(resolved.begin) is type(resolved.end) is int
    assert resolved.final == final
    assert resolved.resolve(total) == resolved.resolve(None) == resolved
    assert resolved(total) == final


@quick
@given(kinds, finals, steps, steps)
def test_steps_stay_what_they_are_in_a_fit_of_known_or_unknown_length(kind, final, begin, end):
    schedule = built(kind, final, begin, end)
    assert schedule.resolve(None) == schedule.resolve(schedule.end) == schedule.resolve(10**9) == schedule


def test_the_int_1_is_the_first_step_and_the_float_1_the_last():
    assert Cubic(0.5, begin=0, end=1).resolve(10).end == 1
    assert Cubic(0.5, begin=0, end=1.0).resolve(10).end == 10
    assert Constant(0.5, begin=1).resolve(10)(1) == 0.5
    assert Constant(0.5, begin=1.0).resolve(10)(9) == 0.0
    assert Constant(0.5, begin=1.0).resolve(10)(10) == 0.5


def test_steps_and_fractions_mix():
    schedule = Cubic(0.5, begin=5, end=0.5)
    assert schedule.resolve(100) == Cubic(0.5, begin=5, end=50)
    with pytest.raises(LotteryError, match="begins after its end"):
        schedule.resolve(8)
    with pytest.raises(LotteryError, match="begins after its end"):
        Exponential(0.5, begin=0.9, end=80).resolve(100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [1, 1.0, -0.1, math.nan, True, "0.5", None])
def test_a_final_sparsity_outside_0_to_below_1_is_refused(kind, final):
    with pytest.raises(LotteryError, match="sparsity"):
        kind(final)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [-1, -0.1, 1.5, 2.0, math.nan, math.inf, True, "5", None])
def test_a_time_that_is_neither_a_step_nor_a_fraction_is_refused_by_its_argument(kind, time):
    with pytest.raises(LotteryError, match="`begin`"):
        kind(0.5, begin=time)
    if kind is not Constant:
        with pytest.raises(LotteryError, match="`end`"):
            kind(0.5, end=time)


@pytest.mark.parametrize("kind", list(RAMPS))
@pytest.mark.parametrize(("begin", "end"), [(2, 1), (0.2, 0.1)])
def test_an_end_before_the_begin_is_refused(kind, begin, end):
    with pytest.raises(LotteryError, match="begins after its end"):
        kind(0.5, begin, end)
    assert kind(0.5, end, begin)
    assert kind(0.5, begin, begin)


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_after_the_fit_s_is_refused_with_both_numbers_and_one_at_its_last_step_is_not(kind):
    schedule = built(kind, 0.8, 9000, 9000)
    with pytest.raises(LotteryError, match="reaches sparsity 0.8 at step 9000, but this fit ends at step 1200"):
        schedule.resolve(1200)
    with pytest.raises(LotteryError, match="at step 9000"):
        schedule.resolve(8999)
    assert schedule.resolve(9000)(9000) == 0.8


@pytest.mark.parametrize(
    "schedule", [Constant(0.5, begin=0.5), Cubic(0.5), Cubic(0.5, begin=1), Exponential(0.5, begin=0.0, end=9)]
)
def test_fractions_of_an_unknown_length_are_refused_and_so_is_a_call_with_them(schedule):
    with pytest.raises(LotteryError, match="max_steps"):
        schedule.resolve(None)
    with pytest.raises(LotteryError, match="resolve"):
        schedule(3)


@pytest.mark.parametrize("schedule", [Constant(0.5), Constant(0, 0.5), Cubic(0.8, 1, 5), Exponential(0.25, 0.1, 7)])
def test_a_schedule_is_a_value_that_prints_compares_hashes_and_cannot_be_changed(schedule):
    assert eval(repr(schedule)) == schedule
    assert len({schedule, eval(repr(schedule))}) == 1
    with pytest.raises(FrozenInstanceError):
        schedule.final = 0.1


def test_the_same_numbers_in_another_kind_are_another_schedule():
    assert Cubic(0.5, 0, 4) != Exponential(0.5, 0, 4)
    assert Cubic(0.5, 0, 4) != Cubic(0.5, 0, 5)


def test_a_number_means_a_cubic_schedule_between_the_times_given():
    assert scheduled(0.8, 3, 0.5, defaults=(0.05, 0.7)) == Cubic(0.8, begin=3, end=0.5)
    assert scheduled(0, 0.05, 0.7, defaults=(0.05, 0.7)) == Cubic(0, begin=0.05, end=0.7)
    with pytest.raises(LotteryError, match="sparsity"):
        scheduled(1, 3, 5, defaults=(0.05, 0.7))


@pytest.mark.parametrize("times", [(3, 0.7), (0.05, 5), (3, 5)])
def test_a_schedule_means_itself_and_is_refused_beside_times_of_its_own(times):
    schedule = Exponential(0.5, 1, 9)
    assert scheduled(schedule, 0.05, 0.7, defaults=(0.05, 0.7)) is schedule
    with pytest.raises(LotteryError, match="has its own begin and end"):
        scheduled(schedule, *times, defaults=(0.05, 0.7))


def test_a_schedule_can_be_named_in_a_configuration():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--schedule", type=Schedule)
    named = {"class_path": "lightning_lottery.functional.Cubic", "init_args": {"final": 0.5, "begin": 3, "end": 0.5}}
    config = parser.parse_object({"schedule": named})
    assert parser.instantiate(config).schedule == Cubic(0.5, begin=3, end=0.5)
    assert parser.instantiate(parser.parse_string(parser.dump(config))).schedule == Cubic(0.5, 3, 0.5)


@pytest.mark.parametrize(
    ("time", "total", "step"), [(3, None, 3), (3, 2, 3), (0.0, 7, 0), (1.0, 7, 7), (0.29, 100, 29)]
)
def test_a_moment_of_the_fit_is_a_step_whether_it_is_given_as_one_or_as_a_fraction(time, total, step):
    assert in_steps(time, total) == step


def test_a_fraction_of_a_fit_of_unknown_length_is_no_step():
    with pytest.raises(LotteryError, match="0.5 of the fit is no step"):
        in_steps(0.5, None)
