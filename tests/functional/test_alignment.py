from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.alignment import Coupling, average, check_orders, match_weights, permute


def mlp(sizes, seed):
    """Weights and biases of an MLP, and its hidden layers' couplings."""
    generator = torch.Generator().manual_seed(seed)
    state, couplings = {}, {}
    for layer, (one, two) in enumerate(zip(sizes, sizes[1:], strict=False)):
        state[f"{layer}.weight"] = torch.randn(two, one, generator=generator)
        state[f"{layer}.bias"] = torch.randn(two, generator=generator)
        if layer < len(sizes) - 2:
            parts = [(f"{layer}.weight", 0, 1, 0), (f"{layer}.bias", 0, 1, 0), (f"{layer + 1}.weight", 1, 1, 0)]
            couplings[str(layer)] = Coupling(two, parts)
    return state, couplings


def orders_of(couplings, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randperm(coupling.size, generator=generator) for name, coupling in couplings.items()}


def inner(a, b):
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a)


@pytest.mark.parametrize("seed", range(5))
def test_one_layer_is_put_into_the_best_of_all_orders(seed):
    (a, couplings), (b, _) = mlp([3, 5, 2], seed), mlp([3, 5, 2], 100 + seed)
    best = max(inner(a, permute(b, couplings, {"0": torch.tensor(order)})) for order in permutations(range(5)))
    orders = match_weights(a, b, couplings)
    assert inner(a, permute(b, couplings, orders)) == pytest.approx(best, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=7), st.integers(0, 2**16))
def test_a_network_finds_its_own_permutation_however_deep_it_is(sizes, seed):
    state, couplings = mlp(sizes, seed)
    moved = permute(state, couplings, orders_of(couplings, seed))
    assert same(permute(moved, couplings, match_weights(state, moved, couplings)), state)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=6), st.integers(0, 2**16))
def test_the_inner_product_never_falls(sizes, seed):
    (a, couplings), (b, _) = mlp(sizes, seed), mlp(sizes, seed + 1)
    orders = match_weights(a, b, couplings)
    assert all(sorted(order.tolist()) == list(range(couplings[name].size)) for name, order in orders.items())
    assert inner(a, permute(b, couplings, orders)) >= inner(a, b) - 1e-9


def test_no_single_layer_can_be_put_into_a_better_order_at_the_end():
    (a, couplings), (b, _) = mlp([4, 5, 4, 5, 3], 0), mlp([4, 5, 4, 5, 3], 1)
    b = permute(b, couplings, match_weights(a, b, couplings))
    for name, coupling in couplings.items():
        for order in permutations(range(coupling.size)):
            assert inner(a, permute(b, couplings, {name: torch.tensor(order)})) <= inner(a, b) + 1e-9


def test_the_order_that_there_is_stays_where_no_other_is_better():
    state, couplings = mlp([3, 6, 6, 2], 0)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for a, b in ((state, state), (zeros, zeros), (state, zeros), (zeros, state)):
        orders = match_weights(a, b, couplings)
        assert all(torch.equal(order, torch.arange(6)) for order in orders.values())


def test_the_same_seed_gives_the_same_orders_and_nothing_given_is_changed():
    (a, couplings), (b, _) = mlp([4, 9, 9, 9, 3], 0), mlp([4, 9, 9, 9, 3], 1)
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in (a, b)]
    torch.manual_seed(0)
    random = torch.get_rng_state()
    assert same(match_weights(a, b, couplings), match_weights(a, b, couplings))
    assert same(a, before[0]) and same(b, before[1]) and torch.equal(torch.get_rng_state(), random)


def test_tensors_of_which_both_dimensions_move_together_are_matched_too():
    """A recurrent weight: rows and columns are the same units."""
    state, _ = mlp([7, 7], 0)
    coupling = {"h": Coupling(7, [("0.weight", 0, 1, 0), ("0.weight", 1, 1, 0), ("0.bias", 0, 1, 0)])}
    order = {"h": torch.tensor([3, 1, 0, 2, 6, 4, 5])}
    moved = permute(state, coupling, order)
    assert torch.equal(moved["0.weight"], state["0.weight"][order["h"]][:, order["h"]])
    assert same(permute(moved, coupling, match_weights(state, moved, coupling)), state)
    for seed in range(8):
        second, _ = mlp([7, 7], seed + 1)
        permuted = permute(second, coupling, match_weights(state, second, coupling))
        assert inner(state, permuted) >= inner(state, second) - 1e-9


def test_units_of_several_entries_that_begin_anywhere_move_as_wholes():
    tensor = torch.arange(14).view(2, 7)
    coupling = {"heads": Coupling(3, [("w", 1, 2, 1)])}
    moved = permute({"w": tensor, "other": tensor}, coupling, {"heads": torch.tensor([2, 0, 1])})
    assert moved["w"][0].tolist() == [0, 5, 6, 1, 2, 3, 4]
    assert moved["other"] is tensor


def test_three_parts_of_one_tensor_share_one_order():
    """Query, key and value of two heads of three entries, one above the other, and the projection that reads them."""
    generator = torch.Generator().manual_seed(0)
    state = {"qkv": torch.randn(18, 4, generator=generator), "out": torch.randn(4, 6, generator=generator)}
    places = [("qkv", 0, 3, start) for start in (0, 6, 12)] + [("out", 1, 3, 0)]
    coupling = {"attention": Coupling(2, places)}
    moved = permute(state, coupling, {"attention": torch.tensor([1, 0])})
    assert torch.equal(moved["qkv"][:3], state["qkv"][3:6]) and torch.equal(moved["qkv"][15:], state["qkv"][12:15])
    assert match_weights(state, moved, coupling)["attention"].tolist() == [1, 0]


def test_what_is_not_a_weight_has_no_say_and_moves_along():
    a, couplings = mlp([3, 4, 2], 0)
    couplings = {"0": Coupling(4, [*couplings["0"].parts, ("0.running_mean", 0, 1, 0)])}
    order = torch.tensor([1, 2, 3, 0])
    b = permute(a, couplings, {"0": order}) | {"0.running_mean": torch.tensor([4.0, 3.0, 2.0, 1.0]) * 1e6}
    orders = match_weights(a, b, couplings)
    assert same({"0": order[orders["0"]]}, {"0": torch.arange(4)})
    assert permute(b, couplings, orders)["0.running_mean"].tolist() == [1e6, 4e6, 3e6, 2e6]


def test_half_precision_is_matched_in_double():
    state, couplings = mlp([3, 6, 5, 2], 0)
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    moved = permute(state, couplings, orders_of(couplings))
    back = permute(moved, couplings, match_weights(state, moved, couplings))
    assert same(back, state) and back["0.weight"].dtype == torch.bfloat16


def test_a_mean_is_that_of_all_states_in_their_own_type_and_counts_are_the_first_s():
    states = [
        {"w": torch.tensor([value, -torch.inf]), "h": torch.tensor(value).bfloat16(), "n": torch.tensor(number)}
        for number, value in enumerate((1.0, 2.0, 6.0), start=4)
    ]
    orders = average(states)
    assert orders["w"].tolist() == [3.0, -torch.inf] and orders["h"].dtype == torch.bfloat16 and orders["h"] == 3
    assert orders["n"] == 4 and orders["n"].data_ptr() != states[0]["n"].data_ptr()
    tenth = {"w": torch.full((5,), 0.1)}
    assert torch.equal(average([tenth] * 3)["w"], tenth["w"])


def test_a_mean_of_complex_numbers_is_complex():
    (mean,) = average([{"w": torch.tensor([2 + 4j])}, {"w": torch.tensor([0j])}]).values()
    assert mean == 1 + 2j and mean.dtype == torch.complex64


@pytest.mark.parametrize(
    ("orders", "shapes", "says"),
    [
        ({"9": [0]}, {"0.weight": (3, 2)}, "an order of '9', and no such coupling: 0."),
        ({"0": [0, 1]}, {"0.weight": (3, 2)}, "must hold each of its 3 units, 0 to 2, once"),
        ({"0": [0, 1, 1]}, {"0.weight": (3, 2)}, "must hold each of its 3 units"),
        ({"0": [0, 1, 3]}, {"0.weight": (3, 2)}, "must hold each of its 3 units"),
        ({"0": [2, 0, 1]}, {"0.weight": (2, 2)}, r"'0.weight' of shape \(2, 2\) has no 3 units of '0' in dimension 0"),
        ({"0": [2, 0, 1]}, {"1.weight": (3,)}, "has no 3 units of '0' in dimension 1"),
        ({"0": [2, 0, 1]}, {"model.0.weight": (3, 2)}, "move none of model.0.weight: they name '0.bias'"),
    ],
)
def test_orders_that_cannot_be_or_would_move_nothing_are_refused(orders, shapes, says):
    _, couplings = mlp([2, 3, 1], 0)
    check_orders(couplings, {"0": torch.tensor([2, 0, 1])}, {"0.weight": (3, 2), "x": (1,)})
    with pytest.raises(LotteryError, match=says):
        check_orders(couplings, {name: torch.tensor(order) for name, order in orders.items()}, shapes)
