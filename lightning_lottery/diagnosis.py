"""What a ticket leaves of each layer: weights, those that do anything, dead units, multiply-adds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from lightning_lottery.functional.effective import effective_masks, positive
from lightning_lottery.functional.masks import Masks, count, count_each, jaccard, jaccard_by_chance
from lightning_lottery.functional.multiply_adds import multiply_adds
from lightning_lottery.scope import named_parameters, plain_name

Forward = Callable[[nn.Module, Any], Any]
"""Runs a module on a batch."""


class Layer(NamedTuple):
    """One row of a ticket's table: ``kept`` of ``total`` entries.

    What follows is None where no module was given: ``effective``, the kept ones that the output depends on; ``dead`` of
    ``units``, the rows of outputs that hold no effective weight; ``multiply_adds`` of a forward pass of the dense
    network in which the weight takes part. ``overlap`` with another ticket, and ``chance``, what it would be of two
    that have nothing to do with each other, are None where there is no other.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int
    effective: int | None = None
    units: int | None = None
    dead: int | None = None
    multiply_adds: int | None = None
    overlap: float | None = None
    chance: float | None = None

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]."""
        return 1 - self.kept / self.total if self.total else 0.0

    @property
    def multiply_adds_kept(self) -> int | None:
        """Multiply-adds without those by a removed weight, as every weight takes part in equally many."""
        return self.multiply_adds * self.kept // self.total if self.multiply_adds and self.total else self.multiply_adds


class LayerTable(list[Layer]):
    """The rows of a ticket, and what they say of the whole network; None where no module was given.

    Attributes:
        multiply_adds: Of a forward pass of the dense network, layers without masks and attention included.
    """

    multiply_adds: int | None = None

    @property
    def multiply_adds_kept(self) -> int | None:
        """Multiply-adds of the masked network, where those by removed weights are left out."""
        if self.multiply_adds is None:
            return None
        return self.multiply_adds - sum((row.multiply_adds or 0) - (row.multiply_adds_kept or 0) for row in self)

    @property
    def speed_up(self) -> float | None:
        """Theoretical: multiply-adds of the dense network over those of the masked one. Dense hardware shows none.

        Source: Blalock et al. 2020, "What is the state of neural network pruning?", section 4 (ShrinkBench).
        """
        return self.multiply_adds / kept if self.multiply_adds and (kept := self.multiply_adds_kept) else None

    @property
    def effective_sparsity(self) -> float | None:
        """Fraction of the masked entries that is removed, or kept and does nothing."""
        total = sum(row.total for row in self)
        if self.multiply_adds is None:
            return None
        return 1 - sum(row.effective or 0 for row in self) / total if total else 0.0


def table_of(masks: Masks, beside: Masks | None = None) -> LayerTable:
    """One row for each mask, with its overlap with ``beside`` where that has one of the same name and shape."""
    rows = LayerTable(Layer(name, tuple(mask.shape), *count({name: mask})) for name, mask in masks.items())
    for number, row in enumerate(rows if beside is not None else ()):
        mask, another = masks[row.name], (beside or {}).get(row.name)
        if another is not None and another.shape == mask.shape and row.total:
            chance = jaccard_by_chance(row.kept / row.total, count({"": another})[0] / row.total)
            rows[number] = row._replace(overlap=jaccard({"": mask}, {"": another}), chance=chance)
    return rows


def diagnosis_of(
    module: nn.Module, masks: Masks, batch: Any, forward: Forward | None, beside: Masks | None = None
) -> LayerTable:
    """As ``table_of``, with what only a module tells.

    Args:
        module: In evaluation mode while it runs; not changed.
        masks: By the first names of the module's parameters.
        batch: On the module's device.
        forward: Runs the module (default: ``run``).
        beside: As of ``table_of``.
    """
    forward, rows = forward or run, table_of(masks, beside)
    effective = effective_masks(module, masks, lambda copy: forward(copy, positive(batch)))
    params = {name: param for name, param in named_parameters(module).items() if name in masks}
    products = multiply_adds(module, params, lambda: forward(module, batch))
    kept, owners = count_each(effective), {plain_name(name): child for name, child in module.named_modules()}
    for number, row in enumerate(rows):
        dim = _dim_of_units(owners[row.name.rpartition(".")[0]], row)
        by_unit = effective[row.name].reshape(row.shape or (1,)).movedim(dim, 0)[..., None].flatten(1)
        dead = int((~by_unit.any(1)).sum())
        rows[number] = row._replace(
            effective=kept[row.name], units=len(by_unit), dead=dead, multiply_adds=products.by_weight[row.name]
        )
    rows.multiply_adds = products.total
    return rows


def run(module: nn.Module, batch: Any) -> Any:
    """A module's output for a batch as loaders give it: inputs, (inputs, targets), or a mapping of arguments."""
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _dim_of_units(owner: nn.Module, row: Layer) -> int:
    """The dimension of a weight that its outputs lie along: the second of GPT-2's ``Conv1D`` and transposed ones."""
    is_second = any(cls.__name__ in ("Conv1D", "_ConvTransposeNd") for cls in type(owner).__mro__)
    return int(is_second and len(row.shape) > 1)
