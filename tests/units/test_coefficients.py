"""Slimming coefficients of one layer: attached, folded, and folded in a state dict."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_lottery.units.coefficients import attach_, coefficients_of, fold_, folded, has_coefficients

LAYERS = [lambda: nn.Linear(6, 6), lambda: nn.Linear(6, 2), lambda: Conv1D(6, 6), lambda: Conv1D(2, 6)]


def layer_with(values, make):
    layer = make()
    attach_(layer, len(values))
    coefficients_of(layer).data.copy_(torch.tensor(values))
    return layer


@pytest.mark.parametrize("make", LAYERS)
def test_coefficients_of_one_change_nothing_and_each_scales_its_own_entries(make):
    layer, x = make(), torch.randn(3, 6)
    plain, expected = deepcopy(layer), layer(x)
    attach_(layer, 3)
    assert torch.equal(layer(x), expected)
    coefficients_of(layer).data.copy_(torch.tensor([2.0, 0.0, -1.0]))
    torch.testing.assert_close(layer(x), plain(x * torch.tensor([2.0, 2.0, 0.0, 0.0, -1.0, -1.0])))


@pytest.mark.parametrize("make", LAYERS)
def test_what_is_folded_computes_the_same_and_is_a_plain_layer(make):
    layer, x = layer_with([2.0, 0.0, -1.0], make), torch.randn(3, 6)
    expected, state = layer(x), {name: value.clone() for name, value in layer.state_dict().items()}
    assert has_coefficients(layer)
    fold_(layer)
    assert not has_coefficients(layer)
    plain = make()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(plain(x), expected)
    of_state = folded({f"fc.{name}": value for name, value in state.items()})
    assert of_state.keys() == {"fc.weight", "fc.bias"} and torch.equal(of_state["fc.weight"], layer.weight)


def test_a_state_without_coefficients_is_folded_to_itself():
    state = nn.Linear(6, 2).state_dict()
    assert folded(state) == dict(state)
