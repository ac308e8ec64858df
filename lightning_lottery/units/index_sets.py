"""Which entries of a model's weights can only change places together: sets of indices, joined one pair at a time."""

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_lottery.units.parts import Group, Part, owners_of

CONSTANT = -1
"""Stands for a channel that no weight makes, such as zero padding: the same value wherever it stands."""


class Unknown(Exception):
    """An operation of which it is not known what it does to the order of channels."""


class IndexSets:
    """Sets of indices along the dimensions of a model's tensors that belong to the same unit, as a union-find.

    An element is one index along one dimension of one tensor, such as row 2 of ``fc1.weight``. What row 2 of
    ``fc1.weight`` makes, column 2 of ``fc2.weight`` reads: if one moves, both do, so that they are joined. In the end
    each set is a unit, and sets that lie in the same dimensions are a group::

        fc1.weight, dim 0:   0   1   2   3
        fc1.bias,   dim 0:   0   1   2   3
        fc2.weight, dim 1:   0   1   2   3
                             |   |   |   |
                           four units, one group

    Args:
        model: Holds the tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names: dict[int, str] = {}  # `id` of a tensor to its name, the first of those that tied tensors have
        self._ndim: dict[str, int] = {}
        for name, (module, leaf) in owners_of(model).items():
            self._names.setdefault(id(getattr(module, leaf)), name)
            self._ndim[name] = getattr(module, leaf).ndim
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._frozen: set[tuple[str, int]] = set()  # name and dimension
        self._elements: dict[tuple[str, int], tuple[int, list[int]]] = {}  # name and dimension: block and elements

    def along(self, tensor: Tensor, dim: int, block: int = 1) -> list[int]:
        """The elements along a dimension of a tensor, each of ``block`` consecutive entries.

        Raises:
            Unknown: The same dimension was divided in another way before: its entries stay where they are.
        """
        key = (self._names[id(tensor)], dim)
        if key not in self._elements:
            first, size = len(self._parents), tensor.shape[dim] // block
            self._parents += range(first, first + size)
            self._elements[key] = block, list(range(first, first + size))
        known_block, elements = self._elements[key]
        if known_block != block:
            self.fix(elements)
            raise Unknown
        return elements

    def join(self, one: Sequence[int], another: Sequence[int]) -> list[int]:
        """Make two lists of elements belong to the same units, the first to the first, and so on.

        Raises:
            Unknown: They have different lengths.
        """
        if len(one) != len(another):
            raise Unknown
        for a, b in zip(one, another, strict=True):
            # A constant joins nothing: it is the same for every unit, so that it binds none to its place.
            if CONSTANT not in (a, b):
                self._parents[self._root(b)] = self._root(a)
        return [b if a == CONSTANT else a for a, b in zip(one, another, strict=True)]

    def fix(self, elements: Iterable[int]) -> None:
        """Let the units of these elements stay where they are."""
        self._fixed.update(element for element in elements if element != CONSTANT)

    def freeze(self, *tensors: Tensor, dims: Iterable[int] | None = None) -> None:
        """Let nothing move along these dimensions of tensors (default: all), also where nobody has asked for them yet.

        Something unknown reads them; what is found about them later in the graph does not make them free.
        """
        for tensor in tensors:
            self._frozen.update(
                (self._names[id(tensor)], dim) for dim in (range(tensor.ndim) if dims is None else dims)
            )

    def groups(self) -> dict[str, Group]:
        """The groups of units that can change places, as far as they stand in a row, by name."""
        for key in self._frozen & self._elements.keys():
            self.fix(self._elements[key][1])
        fixed = {self._root(element) for element in self._fixed}
        members: dict[int, list[tuple[str, int, int, int]]] = {}  # of a set: name, dimension, block, index along it
        for (name, dim), (block, elements) in self._elements.items():
            for index, element in enumerate(elements):
                if (root := self._root(element)) not in fixed:
                    members.setdefault(root, []).append((name, dim, block, index))
        indices_by_dimensions: dict[tuple[tuple[str, int, int], ...], list[list[int]]] = {}
        for unit in members.values():
            unit.sort()
            dimensions = tuple(member[:3] for member in unit)
            indices_by_dimensions.setdefault(dimensions, []).append([member[3] for member in unit])
        groups = (self._group(dimensions, sorted(units)) for dimensions, units in indices_by_dimensions.items())
        return {group.name: group for group in groups if group is not None}

    def _root(self, element: int) -> int:
        """The element that stands for the whole set."""
        while self._parents[element] != element:
            # Each step also shortens the way for those who come later (path halving).
            self._parents[element] = element = self._parents[self._parents[element]]
        return element

    def _group(self, dimensions: Sequence[tuple[str, int, int]], units: list[list[int]]) -> Group | None:
        """Units of the same dimensions as a group; None if they do not stand in a row, or nothing makes or reads them.

        Args:
            dimensions: Name, dimension and block, D of them.
            units: For each unit its D indices along them, ascending.
        """
        starts, size = units[0], len(units)
        # A `Part` says where the first unit begins and how many there are. Its rows must be neighbours in every
        # dimension, in the same order: unit u at start + u.
        if size < 2 or any(unit != [start + u for start in starts] for u, unit in enumerate(units)):
            return None
        order = {name: position for position, name in enumerate(self._ndim)}
        parts = [Part(*dimension, start * dimension[2]) for dimension, start in zip(dimensions, starts, strict=True)]
        parts.sort(key=lambda part: (order[part.parameter], part.start))
        producers, consumers = ([part for part in parts if part.dim == dim] for dim in (0, 1))
        makers = [part for part in producers if self._ndim[part.parameter] > 1]  # not biases and norms
        if not makers or not consumers:
            return None
        maker = makers[0]
        producers.sort(key=lambda part: part.parameter != maker.parameter)
        is_whole = len(self._elements[maker.parameter, 0][1]) == size
        rows = "" if is_whole else f"[{maker.start}:{maker.start + size}]"
        kind: Literal["channel", "neuron"] = "channel" if self._ndim[maker.parameter] > 2 else "neuron"
        return Group(maker.parameter.rpartition(".")[0] + rows, kind, size, tuple(producers), tuple(consumers))
