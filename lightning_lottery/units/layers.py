"""The layers of a model by name: their weights, which way round these stand, and the parts of them that units own."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_lottery.scope import plain_name
from lightning_lottery.units.parts import Part, computed_tensors, is_transposed, owners_of, qualified, tensor_at


class NotRecognised(Exception):
    """What looks like a block but could not be cut: its name, and why."""


class Layers:
    """The modules and tensors of a model by name.

    A layer has a path and need not be a module of its own: ``nn.MultiheadAttention`` holds ``in_proj_weight``.

    Args:
        model: Any module; the names are its own, without what ``torch.compile`` adds.

    Example:
        >>> layers = Layers(nn.Sequential(nn.Linear(2, 3)))
        >>> layers.linear_shape("0"), layers.rows_of("0", block=1)
        (torch.Size([3, 2]), [Part(parameter='0.weight', dim=0, block=1, start=0), ...])
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = {plain_name(name): module for name, module in model.named_modules()}
        self.owners = owners_of(model)
        self.computed = computed_tensors(model)

    def weight_name(self, layer: str) -> str | None:
        """The name of a layer's weight, also where the layer is no module of its own, as in ``in_proj_weight``."""
        return next((name for name in (f"{layer}.weight", f"{layer}_weight") if name in self.owners), None)

    def made_of_others(self, layers: Iterable[str]) -> str:
        """Which tensor of the layers cannot be cut, as it is computed from others; or ""."""
        names = (f"{layer}{leaf}" for layer in layers for leaf in (".weight", "_weight", ".bias", "_bias"))
        computed = next((name for name in names if name in self.computed), "")
        return computed and f"'{computed}' is computed by a parametrization or a hook: remove that first"

    def linear_shape(self, layer: str) -> torch.Size | None:
        """(out, in) of a linear layer, whichever way round its weight stands; None for anything else."""
        name = self.weight_name(layer)
        if name is None or is_lazy(tensor_at(self.owners, name)):
            return None
        owner, shape = self.owners[name][0], tensor_at(self.owners, name).shape
        if is_transposed(owner):
            return shape[::-1]
        is_linear = isinstance(owner, nn.Linear) and (owner.out_features, owner.in_features) == tuple(shape)
        # `nn.MultiheadAttention` holds its projections' weights itself: they are no layers.
        is_plain = is_linear or isinstance(owner, nn.MultiheadAttention)
        return shape if is_plain and len(shape) == 2 else None

    def rows_of(self, layer: str, block: int, starts: Sequence[int] = (0,)) -> list[Part]:
        """Weight and bias of a layer along the dimension of what it makes: rows, or the columns of a transposed one."""
        bias = next((name for name in (f"{layer}.bias", f"{layer}_bias") if name in self.owners), None)
        parts = [(self.weight_name(layer), self._dim(layer, 0)), (bias, 0)]
        return [Part(name, dim, block, start) for name, dim in parts if name is not None for start in starts]

    def columns_of(self, layer: str, block: int) -> tuple[Part, ...]:
        """The weight of a layer along the dimension of what it reads."""
        return (Part(str(self.weight_name(layer)), self._dim(layer, 1), block),)

    def counts(
        self, modules: Sequence[str], values: Mapping[str, tuple[int, ...]], patterns: Mapping[str, Sequence[str]]
    ) -> tuple[str, ...]:
        """Attributes of modules whose name is in the patterns and that have one of the values expected under its key.

        The value decides too, as a name alone can mean something else: ``dim`` is the width of the heads in one
        model and the width of the embedding in another.
        """
        return tuple(
            qualified(module, attribute)
            for module in dict.fromkeys(modules)
            for key, expected in values.items()
            for attribute in patterns[key]
            if type(value := vars(self.modules[module]).get(attribute)) is int and value in expected
        )

    def _dim(self, layer: str, dim: int) -> int:
        return 1 - dim if is_transposed(self.modules.get(layer)) else dim


def belongs_to(name: str, path: str) -> bool:
    """Whether a module or tensor is the one at ``path``, or inside of it."""
    return name == path or name.startswith((f"{path}.", f"{path}_weight", f"{path}_bias"))
