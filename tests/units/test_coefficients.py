"""Slimming coefficients of one layer: attached, folded, and folded in a state dict."""

import torch
from torch import nn

from lightning_lottery.units.coefficients import attach_, coefficients_of, fold_, folded


def layer_with(values):
    layer = nn.Linear(6, 2)
    attach_(layer, len(values))
    coefficients_of(layer).data.copy_(torch.tensor(values))
    return layer


def test_coefficients_of_one_change_nothing_and_each_scales_its_own_entries():
    plain, x = nn.Linear(6, 2), torch.randn(3, 6)
    expected = plain(x)
    attach_(plain, 3)
    assert torch.equal(plain(x), expected)
    coefficients_of(plain).data.copy_(torch.tensor([2.0, 0.0, -1.0]))
    scaled = x * torch.tensor([2.0, 2.0, 0.0, 0.0, -1.0, -1.0])
    torch.testing.assert_close(plain(x), nn.functional.linear(scaled, plain.weight, plain.bias))


def test_what_is_folded_computes_the_same_and_is_a_plain_layer():
    layer, x = layer_with([2.0, 0.0, -1.0]), torch.randn(3, 6)
    expected, state = layer(x), {name: value.clone() for name, value in layer.state_dict().items()}
    fold_(layer)
    assert layer.state_dict().keys() == nn.Linear(6, 2).state_dict().keys()
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), expected)
    of_state = folded({f"fc.{name}": value for name, value in state.items()})
    assert of_state.keys() == {"fc.weight", "fc.bias"} and torch.equal(of_state["fc.weight"], layer.weight)


def test_a_state_without_coefficients_is_folded_to_itself():
    state = nn.Linear(6, 2).state_dict()
    assert folded(state) == dict(state)
