import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.golden import kept
from helpers.lines import golden_net
from lightning_lottery import LotteryError
from lightning_lottery.functional.connectivity import (
    check_alphas,
    distances,
    error_barrier,
    excess,
    has_batch_norm,
    interpolate_,
    layers_of,
    recalibrate_batch_norm_,
)


@torch.no_grad()
def loss_and_accuracy(net, data):
    out = net(data["test_x"])
    right = (out.argmax(1) == data["test_y"]).double().mean()
    return float(F.cross_entropy(out, data["test_y"])), float(right)


@pytest.fixture(scope="module")
def data(golden):
    return torch.load(golden / "interpolation.pt", weights_only=False)


@pytest.mark.parametrize("recalibrated", [False, True], ids=["raw", "recalibrated"])
def test_the_line_equals_the_golden_one(data, recalibrated):
    pair, net, curve = data["different_init"], golden_net(), []
    batches = kept(data, "train_x").split(64) if recalibrated else ()
    for alpha in pair["alphas"]:
        interpolate_(net.state_dict(), pair["sd1"], pair["sd2"], float(alpha))
        if recalibrated:
            recalibrate_batch_norm_(net, net, batches)
        curve.append(loss_and_accuracy(net, data))
    losses, accuracies = np.transpose(curve)
    suffix, short = ("_bn_recalibrated", "_recal") if recalibrated else ("", "")
    np.testing.assert_allclose(losses, pair["loss" + suffix], rtol=1e-12)
    np.testing.assert_array_equal(accuracies, pair["acc" + suffix])
    assert error_barrier(1 - accuracies) == pytest.approx(pair["barrier_error" + short], abs=1e-12)
    assert error_barrier(losses) == pytest.approx(pair["barrier_loss" + short], rel=1e-12)


def test_the_authors_twenty_places_give_the_authors_instability(data):
    pair, net = data["different_init"], golden_net()
    errors = []
    for alpha in pair["ref_alphas20"]:
        interpolate_(net.state_dict(), pair["sd1"], pair["sd2"], float(alpha))
        errors.append(1 - loss_and_accuracy(net, data)[1])
    np.testing.assert_allclose(errors, pair["ref_error20"], atol=1e-12)
    assert error_barrier(errors) == pytest.approx(pair["ref_instability"], abs=1e-12)


@pytest.mark.parametrize("host", ["m1", "m2"])
@pytest.mark.parametrize("unit", ["conv1", "conv2", "fc"])
def test_layers_interpolated_alone_equal_the_golden_curves(unit, host, data):
    pair, net = data["different_init"], golden_net()
    host_state, guest = (pair["sd1"], pair["sd2"]) if host == "m1" else (pair["sd2"], pair["sd1"])
    names = [name for name in host_state if name.startswith(tuple(pair["layerwise_units"][unit]))]
    curve = []
    for alpha in pair["alphas"]:
        net.load_state_dict(host_state)
        state = net.state_dict()
        interpolate_({name: state[name] for name in names}, guest, host_state, float(alpha))
        curve.append(loss_and_accuracy(net, data))
    np.testing.assert_allclose(curve, pair["layerwise"][f"{unit}_into_{host}"], rtol=1e-12)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_equal_networks_stay_exactly_what_they_are_all_along_the_line(values, alpha, dtype):
    state = {"w": torch.tensor(values).to(dtype)}
    target = {"w": torch.empty_like(state["w"])}
    interpolate_(target, state, {"w": state["w"].clone()}, alpha)
    assert torch.equal(target["w"], state["w"])


def test_the_ends_are_exact_and_whole_numbers_come_from_the_first():
    a = {"w": torch.randn(50), "n": torch.tensor(7)}
    b = {"w": torch.randn(50) * 1e8, "n": torch.tensor(9)}
    target = {name: torch.empty_like(value) for name, value in a.items()}
    for alpha, end in ((1.0, a), (0.0, b)):
        interpolate_(target, a, b, alpha)
        assert torch.equal(target["w"], end["w"]) and target["n"] == 7


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_a_barrier_is_never_negative_and_no_smaller_than_half_the_ends_difference(values):
    assert error_barrier(values) >= abs(values[0] - values[-1]) / 2 - 1e-12


def test_a_convex_function_has_no_excess_but_may_have_a_barrier():
    alphas = np.linspace(0, 1, 21)
    values = (3 * alphas - 1) ** 2
    assert excess(list(values), list(alphas)) == 0
    assert error_barrier(list(values)) > 0


def test_distances_are_those_of_the_flat_vectors():
    a, b = ({"u": torch.randn(3, 2), "v": torch.randn(4), "n": torch.tensor(3)} for _ in range(2))
    one, guest = (torch.cat([s["u"].flatten(), s["v"]]).double() for s in (a, b))
    distance = distances(a, b)
    assert distance["l2"] == pytest.approx(float((one - guest).norm()), rel=1e-12)
    assert distance["cosine"] == pytest.approx(1 - float(torch.cosine_similarity(one, guest, dim=0)), rel=1e-9)
    assert distances(a, a)["l2"] == 0


def test_recalibration_leaves_modes_and_momenta_as_they_were_also_when_it_fails():
    net = nn.Sequential(nn.BatchNorm1d(2, momentum=0.3), nn.Dropout(), nn.BatchNorm1d(2, track_running_stats=False))
    net[1].eval()
    before = [child.training for child in net.modules()]

    def fails(batch):
        assert [child.training for child in net] == [True, False, False]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        recalibrate_batch_norm_(net, fails, [torch.ones(3, 2)])
    assert [child.training for child in net.modules()] == before
    assert net[0].momentum == 0.3


def test_recalibrated_statistics_are_the_plain_mean_over_batches():
    net, batches = nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(8, 2) for _ in range(5)]
    recalibrate_batch_norm_(net, net, batches)
    torch.testing.assert_close(net[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(net[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert has_batch_norm(net) and not has_batch_norm(nn.LayerNorm(2))


def test_layers_cover_every_parameter_once_with_the_buffers_beside_them():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    net[1][1].weight = net[0].weight
    layers = layers_of(net)
    names = [name for names_of_layer in layers.values() for name in names_of_layer]
    assert sorted(names) == sorted({n for n, _ in (*net.named_parameters(), *net.named_buffers())})
    assert len(names) == len(set(names))
    assert layers["1.1"] == ("1.1.bias",)


def test_a_line_with_nan_has_no_barrier_and_no_excess():
    assert np.isnan(error_barrier([0.1, np.nan, 0.1])) and np.isnan(excess([0.1, np.nan, 0.1], [0, 0.5, 1]))


def test_infinities_that_both_networks_share_stay():
    mask = torch.tensor([0.0, -torch.inf])
    target = {"mask": torch.zeros(2)}
    interpolate_(target, {"mask": mask}, {"mask": mask}, 0.5)
    assert torch.equal(target["mask"], mask)


@pytest.mark.parametrize("alphas", [[0.5], [0, 0.5], [0, 1, 1.2], [-0.1, 0, 1], [0, 0.5, 0.5, 1], [0, float("nan"), 1]])
def test_places_outside_the_line_or_without_both_ends_are_refused(alphas):
    with pytest.raises(LotteryError, match="both ends 0 and 1"):
        check_alphas(alphas)


def test_a_complex_number_is_two_real_ones_to_lines_and_distances():
    numbers = torch.tensor([3 + 4j]), torch.tensor([0j])
    mixed = {"w": torch.empty(1, dtype=torch.complex64)}
    interpolate_(mixed, {"w": numbers[0]}, {"w": numbers[1]}, alpha=0.5)
    assert mixed["w"] == 1.5 + 2j
    assert distances({"w": numbers[0]}, {"w": numbers[1]})["l2"] == 5
