import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import oracles
from helpers.golden import kept
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import count, keep_top
from lightning_lottery.functional.sensitivity import Averages, averages_like, check_decay, observe_, score

CASES = ["deltaT1", "deltaT10", "deltaT10_with_bias"]
values = st.floats(-100, 100) | st.just(0.0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.tuples(values, values), st.tuples(values, values)), min_size=1, max_size=25),
    st.integers(1, 7),
    st.floats(0, 0.999),
    st.floats(0, 0.999),
)
def test_the_averages_are_the_authors_recurrence_at_every_step(observations, interval, beta1, beta2):
    state = averages_like(torch.empty(2, dtype=torch.float64))
    expected = [
        oracles.platon([o[i][0] for o in observations], [o[i][1] for o in observations], interval, beta1, beta2)
        for i in range(2)
    ]
    for step, pair in enumerate(observations, start=1):
        theta, grad = torch.tensor(pair, dtype=torch.float64).unbind(1)
        observe_(state, theta, grad, step=step, interval=interval, beta1=beta1, beta2=beta2)
        for entry in range(2):
            sensitivity, uncertainty = expected[entry][step - 1]
            assert state.sensitivity[entry].item() == pytest.approx(sensitivity, rel=1e-9, abs=1e-9)
            assert state.uncertainty[entry].item() == pytest.approx(uncertainty, rel=1e-9, abs=1e-9)


def test_the_first_window_lacks_one_step_and_the_step_that_ends_a_window_opens_the_next():
    state = averages_like(torch.empty(1))
    windows, sensitivities = [], []
    for step in range(1, 8):
        observe_(state, torch.ones(1), torch.tensor([2.0]), step=step, interval=3, beta1=0.0, beta2=0.5)
        windows.append(state.window.item())
        sensitivities.append(state.sensitivity.item())
    assert windows == [2.0, 4.0, 2.0, 4.0, 6.0, 2.0, 4.0]
    assert sensitivities == pytest.approx([0, 0, 4 / 3, 4 / 3, 4 / 3, 2, 2])


def test_uncertainty_is_taken_around_the_sensitivity_just_updated():
    state = Averages(torch.tensor([4.0]), torch.tensor([8.0]), torch.tensor([1.0]))
    observe_(state, torch.ones(1), torch.ones(1), step=2, interval=2, beta1=0.75, beta2=0.5)
    assert state.sensitivity.item() == 0.75 * 8 + 0.25 * 2
    assert state.uncertainty.item() == 0.5 * 1 + 0.5 * abs(2 - 6.5)
    assert state.window.item() == 1.0


@pytest.mark.parametrize("sign", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_signs_of_weight_and_gradient_do_not_count(sign):
    state = averages_like(torch.empty(1))
    observe_(state, torch.tensor([sign[0] * 2.0]), torch.tensor([sign[1] * 3.0]), step=1, interval=2, beta1=0, beta2=0)
    assert state.window.item() == 6.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_averages_are_at_least_float32_whatever_the_weights_and_do_not_round_the_product(dtype):
    param = nn.Parameter(torch.full((2, 3), 1.5, dtype=dtype))
    grad = torch.full((2, 3), 1.0 + 2**-7, dtype=dtype)  # the product needs 9 bits: too many for bfloat16
    state = averages_like(param)
    for average in state:
        assert average.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert average.shape == param.shape
        assert not average.any()
        assert not average.requires_grad
    observe_(state, param, grad, step=1, interval=2, beta1=0.85, beta2=0.95)
    assert state.window.unique().tolist() == [1.5 * (1.0 + 2**-7)]
    assert score(state).dtype == state.window.dtype


def test_half_precision_products_that_overflow_half_are_observed_as_they_are():
    state = averages_like(torch.empty(1, dtype=torch.float16))
    large = torch.tensor([60000.0], dtype=torch.float16)
    observe_(state, large, large, step=1, interval=2, beta1=0.85, beta2=0.95)
    assert state.window.item() == large.item() ** 2 < math.inf


@pytest.mark.parametrize("step", [1, 2])
def test_observing_happens_in_place_and_leaves_weights_and_gradients_alone(step):
    param, grad = nn.Parameter(torch.tensor([-2.0, 0.0])), torch.tensor([3.0, 5.0], requires_grad=True)
    state = Averages(torch.ones(2), torch.ones(2), torch.ones(2))
    places = [average.data_ptr() for average in state]
    result = observe_(state, param, grad, step=step, interval=2, beta1=0.5, beta2=0.5)
    assert result is None
    assert [average.data_ptr() for average in state] == places
    assert not any(average.requires_grad for average in state)
    assert (param.tolist(), grad.tolist(), param.grad) == ([-2.0, 0.0], [3.0, 5.0], None)


def test_a_score_is_sensitivity_times_uncertainty_and_shares_no_memory_with_them():
    state = averages_like(torch.empty(3))
    assert len({average.data_ptr() for average in state}) == 3
    state = Averages(torch.tensor([7.0]), torch.tensor([2.0]), torch.tensor([3.0]))
    assert score(state).item() == 6.0
    score(state).zero_()
    assert [average.item() for average in state] == [7.0, 2.0, 3.0]


def test_a_weight_of_no_entries_is_observed():
    state = averages_like(torch.empty(0, 4))
    observe_(state, torch.empty(0, 4), torch.empty(0, 4), step=1, interval=1, beta1=0.85, beta2=0.95)
    assert score(state).shape == (0, 4)


@pytest.mark.parametrize("beta", [-0.1, 1, 1.0, math.nan, math.inf, True, "0.5", None])
def test_a_decay_outside_0_to_below_1_is_refused_by_its_name(beta):
    with pytest.raises(LotteryError, match=r"`beta2`.*\[0, 1\)"):
        check_decay("beta2", beta)


@pytest.mark.parametrize("beta", [0, 0.0, 0.85, 0.9999])
def test_a_decay_from_0_to_below_1_passes(beta):
    check_decay("beta1", beta)


@pytest.mark.parametrize("case", CASES)
def test_sixty_steps_of_the_authors_code_give_their_averages_their_scores_and_their_masks(golden, case):
    recorded = torch.load(golden / "platon_mlp.pt", weights_only=False)
    run = kept(recorded["cases"], case)
    config, records = run["config"], run["records"]
    decays = {"interval": config["deltaT"], "beta1": config["beta1"], "beta2": config["beta2"]}
    params = {name: value.clone() for name, value in recorded["init"].items()}
    states = {name: averages_like(params[name]) for name in records[0]["ipt"]}
    entries = sum(params[name].numel() for name in states)
    masked = 0
    for record, grads in zip(records, recorded["grads"], strict=True):
        for name in params:
            params[name] -= recorded["lr"] * grads[name]
            assert torch.equal(params[name], record["param_before"][name])
        for name, state in states.items():
            observe_(state, params[name], grads[name], step=record["step"], **decays)
            seen = record["step"] % config["deltaT"] + 1
            expect_equal(state.window / seen, record["ipt"][name])
            expect_equal(state.sensitivity, record["exp_avg_ipt"][name])
            expect_equal(state.uncertainty, record["exp_avg_unc"][name])
            expect_equal(score(state), record["exp_avg_ipt"][name] * record["exp_avg_unc"][name])
        assert record["mask_applied"] == (record["keep_mask"] is not None)
        if record["mask_applied"]:
            masked += 1
            expect_masks_but_for_one_too_many({n: score(s) for n, s in states.items()}, record, entries)
            for name, mask in record["keep_mask"].items():
                params[name] *= mask
        assert all(torch.equal(params[name], after) for name, after in record["param_after"].items())
    assert masked == len(
        [r for r in records if r["step"] > 50 or (r["step"] > 5 and r["step"] % config["deltaT"] == 0)]
    )


def expect_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-17)


def expect_masks_but_for_one_too_many(scores, record, entries):
    density, theirs = record["remaining_ratio"], record["keep_mask"]
    kept, total = count(theirs)
    assert (kept, total) == (entries - int(entries * (1 - density)) + 1, entries)
    same_count = keep_top(scores, 1 - kept / total)
    assert all(torch.equal(same_count[name], theirs[name]) for name in theirs)
    ours = keep_top(scores, 1 - density)
    assert count(ours) == (round(density * total), total)
    assert not any((ours[name] & ~theirs[name]).any() for name in theirs)


@pytest.mark.parametrize("missing", [3, 4, 5], ids=["inside a window", "at its end", "at its beginning"])
def test_a_step_without_an_observation_counts_as_zero_and_its_window_ends_all_the_same(missing):
    weight, settled = torch.tensor([2.0]), {"interval": 4, "beta1": 0.5, "beta2": 0.5}
    absent, zero = averages_like(weight), averages_like(weight)
    for step in range(1, 13):
        grad = torch.tensor([float(step)])
        observe_(absent, weight, None if step == missing else grad, step=step, **settled)
        observe_(zero, weight, grad * (step != missing), step=step, **settled)
    assert all(torch.equal(one, second) for one, second in zip(absent, zero, strict=True))
    assert absent.sensitivity > 0
