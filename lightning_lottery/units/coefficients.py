"""Slimming coefficients: a factor for each unit on the input of the layer that reads it, and how it is folded away."""

import sys
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_lottery.units.parts import is_transposed

NAME = "slimming"
"""What the module of coefficients is called inside of the layer whose input it scales."""

TRANSPOSED = "slimming_transposed"
"""The same in a layer whose weight is (in, out): a state dict must say by itself which dimension they scale."""

_ENDINGS = tuple(f".{name}.weight" for name in (NAME, TRANSPOSED))


class Coefficients(nn.Module):
    """One factor for each unit, 1 at first; multiplies the units that lie in a row in the last dimension."""

    def __init__(self, size: int, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=like.dtype, device=like.device))

    def forward(self, units: Tensor) -> Tensor:
        """The units, scaled."""
        factors = self.weight.to(units.dtype)
        # A unit is `width` entries in a row, a head's context `head_dim` of them, a neuron one:
        # (..., size * width) -> (..., size, width) * (size, 1) -> (..., size * width)
        return (units.view(*units.shape[:-1], len(factors), -1) * factors.unsqueeze(-1)).reshape(units.shape)


def attach_(layer: nn.Module, size: int) -> RemovableHandle:
    """Let coefficients of 1 scale a layer's input from now on; the handle takes the hook off again."""
    layer.add_module(_name_in(layer), Coefficients(size, layer.get_parameter("weight")))
    return layer.register_forward_pre_hook(_scaled)


def coefficients_of(layer: nn.Module) -> nn.Parameter:
    """Those that ``attach_`` gave the layer, of shape (size,)."""
    return layer.get_submodule(_name_in(layer)).get_parameter("weight")


def has_coefficients(layer: nn.Module) -> bool:
    """Whether ``attach_`` gave the layer some that are not folded yet."""
    return hasattr(layer, _name_in(layer))


@torch.no_grad()
def fold_(layer: nn.Module) -> None:
    """Multiply a layer's coefficients into its weight, and take them out."""
    weight, coefficients = layer.get_parameter("weight"), coefficients_of(layer)
    weight.copy_(_scaled_entries(weight, coefficients, _name_in(layer)))
    coefficients.fill_(1)  # compiled code may still read them
    delattr(layer, _name_in(layer))


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without slimming coefficients: those in it are multiplied into the weights that they scale.

    Example:
        >>> state = {"fc2.weight": torch.ones(1, 2), "fc2.slimming.weight": torch.tensor([1.0, 0.5])}
        >>> folded(state)
        {'fc2.weight': tensor([[1.0000, 0.5000]])}
    """
    plain = {key: value for key, value in state.items() if not is_coefficient(key)}
    for key in state.keys() - plain.keys():
        layer, name, _ = key.rsplit(".", 2)
        weight = f"{layer}.weight"
        if weight in plain:
            plain[weight] = _scaled_entries(plain[weight], state[key], name)
    return plain


def is_coefficient(name: str) -> bool:
    """Whether a parameter's name is that of coefficients.

    Example:
        >>> is_coefficient("fc2.slimming.weight"), is_coefficient("fc2.weight")
        (True, False)
    """
    return name.endswith(_ENDINGS)


def coefficients_in(names: Container[str], weight: str) -> str | None:
    """The name, among those of a model, of the coefficients that scale what a weight reads; None without any."""
    layer = weight.removesuffix(".weight")
    return next((f"{layer}{ending}" for ending in _ENDINGS if f"{layer}{ending}" in names), None)


def forget_compiled() -> None:
    """Let everything compile anew: compiled code does not notice hooks that come or go, not even on another module."""
    # Where nobody has imported Dynamo nothing is compiled, and importing it takes two seconds (torch 2.14).
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _name_in(layer: nn.Module) -> str:
    return TRANSPOSED if is_transposed(layer) else NAME


def _scaled_entries(weight: Tensor, coefficients: Tensor, name: str) -> Tensor:
    """A weight (out, in), or (in, out), whose inputs are multiplied by the coefficient of the unit that they are."""
    columns = weight.t() if name == TRANSPOSED else weight
    scaled = columns * coefficients.to(weight).repeat_interleave(columns.shape[1] // len(coefficients))
    return scaled.t().contiguous() if name == TRANSPOSED else scaled


def _scaled(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A layer's inputs, the first multiplied by its coefficients."""
    return (layer.get_submodule(_name_in(layer))(args[0]), *args[1:])
