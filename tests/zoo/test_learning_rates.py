import math

import pytest

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import ConstantRate, CosineRate, LearningRate, MilestoneRate


@pytest.mark.parametrize("warmup", [-1, -0.1, 1.0, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("rate", [ConstantRate, CosineRate, MilestoneRate])
def test_a_warmup_out_of_range_is_refused_when_built(rate, warmup):
    with pytest.raises(LotteryError, match="warmup"):
        rate(warmup=warmup)


@pytest.mark.parametrize("warmup", [True, "0.1", None])
def test_a_warmup_that_is_no_number_is_a_type_error(warmup):
    with pytest.raises(TypeError, match="warmup"):
        ConstantRate(warmup=warmup)


@pytest.mark.parametrize("at", [(0.5, 0.5), (0.75, 0.5), (20, 10), (10, 0.5), (-1, 5), (0.5, 1.0), (math.nan,)])
def test_milestones_that_mix_repeat_or_leave_their_range_are_refused(at):
    with pytest.raises(LotteryError):
        MilestoneRate(at=at)


@pytest.mark.parametrize("factor", [0.0, 1.0, -0.1, math.nan])
def test_a_milestone_factor_outside_0_and_1_is_refused(factor):
    with pytest.raises(LotteryError, match="factor"):
        MilestoneRate(factor=factor)


@pytest.mark.parametrize("final", [-0.1, 1.1, math.nan])
def test_a_final_factor_outside_0_and_1_is_refused(final):
    with pytest.raises(LotteryError, match="final"):
        CosineRate(final=final)


@pytest.mark.parametrize("rate", [ConstantRate(0.1), CosineRate(), CosineRate(3), MilestoneRate()])
def test_a_schedule_that_needs_the_length_of_the_fit_says_so_when_it_is_unknown(rate):
    with pytest.raises(LotteryError, match="max_steps"):
        rate.factor_at(0, total_steps=0)


def test_schedules_in_steps_do_not_need_the_length_of_the_fit():
    assert ConstantRate(warmup=1).factor_at(0, total_steps=0) == 0.5
    assert MilestoneRate(at=(2, 4), factor=0.5).factor_at(4, total_steps=0) == 0.25


@pytest.mark.parametrize("warmup", [10, 11])
def test_a_cosine_that_would_never_fall_is_refused(warmup):
    with pytest.raises(LotteryError, match="ends at step 10"):
        CosineRate(warmup=warmup).factor_at(0, total_steps=10)


@pytest.mark.parametrize("rate", [ConstantRate, CosineRate, MilestoneRate])
def test_a_warmup_is_the_same_in_steps_and_as_a_fraction(rate):
    for step in range(21):
        assert rate(warmup=4).factor_at(step, 20) == rate(warmup=0.2).factor_at(step, 20)


@pytest.mark.parametrize("rate", [ConstantRate(4), MilestoneRate(warmup=4), CosineRate(4, final=1.0)])
def test_a_warmup_of_four_steps_reaches_the_base_rate_at_step_four_in_equal_steps(rate):
    assert [rate.factor_at(step, 20) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_cosine_starts_at_one_passes_its_middle_halfway_and_stays_at_final():
    rate = CosineRate(final=0.2)
    assert [rate.factor_at(step, 10) for step in (0, 5, 10, 11)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    falling = [rate.factor_at(step, 10) for step in range(11)]
    assert falling == sorted(falling, reverse=True)


def test_the_rate_drops_at_the_very_step_of_a_milestone():
    rate = MilestoneRate(at=(3, 5), factor=0.1)
    assert [rate.factor_at(step, 8) for step in range(8)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_learning_rates_are_values():
    assert CosineRate(0.1) == CosineRate(warmup=0.1, final=0.0)
    assert repr(ConstantRate(3)) == "ConstantRate(warmup=3)"
    with pytest.raises(TypeError):
        LearningRate()
