"""Tensors that lose the entries of removed units: in the module, and wherever something of their shape is kept."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_lottery.units.coefficients import coefficients_in
from lightning_lottery.units.parts import CONVOLUTIONS, Groups, Part, is_transposed

Shapes = Mapping[str, torch.Size]
"""Shapes of parameters and buffers by qualified name."""

Owners = Mapping[str, tuple[nn.Module, str]]
"""What ``owners_of`` gives."""


class Cut(NamedTuple):
    """A tensor of a module that lost entries: as it was, as it is, and which indices of a dimension stayed."""

    before: Tensor
    after: Tensor
    kept: Mapping[int, Tensor]

    def entries_of(self, tensor: Tensor) -> Tensor:
        """What stays of a tensor that has the old shape; a new one, on its device."""
        for dim, indices in self.kept.items():
            tensor = tensor.index_select(dim, indices.to(tensor.device))
        return tensor


def cut_(owners: Owners, groups: Groups, units: Mapping[str, Tensor]) -> list[Cut]:
    """Take the entries of removed units out of the tensors that make and read them, slimming coefficients included."""
    kept: dict[str, dict[int, Tensor]] = {}
    for (name, dim), keep in kept_entries(shapes_in(owners), groups, units, producers=True).items():
        kept.setdefault(name, {})[dim] = keep.nonzero().flatten()
    for name, mask in units.items():
        if coefficients := coefficients_in(owners, groups[name].consumers[0].parameter):
            kept[coefficients] = {0: mask.cpu().nonzero().flatten()}
    return [_replaced_(*owners[name], by_dim) for name, by_dim in kept.items()]


def shapes_in(owners: Owners) -> dict[str, torch.Size]:
    """The shape of each parameter and buffer that has one."""
    tensors = {name: getattr(module, leaf) for name, (module, leaf) in owners.items()}
    return {name: tensor.shape for name, tensor in tensors.items() if not is_lazy(tensor)}


def kept_entries(
    shapes: Shapes, groups: Groups, units: Mapping[str, Tensor], *, producers: bool
) -> dict[tuple[str, int], Tensor]:
    """For each tensor and dimension that a group reads, or also those that make it, which of its entries stay."""
    kept: dict[tuple[str, int], Tensor] = {}
    for name, mask in units.items():
        group = groups[name]
        for part in group.parts if producers else group.consumers:
            entries = kept.setdefault((part.parameter, part.dim), _everything(shapes, part))
            # Parts of several groups, or of a fused projection, can lie along one dimension: each takes its own out.
            entries[part.start : part.start + group.size * part.block] &= mask.cpu().repeat_interleave(part.block)
    return kept


def _everything(shapes: Shapes, part: Part) -> Tensor:
    return torch.ones(shapes[part.parameter][part.dim], dtype=torch.bool, device="cpu")


def _replaced_(module: nn.Module, leaf: str, kept: Mapping[int, Tensor]) -> Cut:
    """Put a smaller tensor in a module's tensor's place, and let the module know its new shape."""
    tensor: Tensor = getattr(module, leaf)
    smaller: Tensor = Cut(tensor, tensor, kept).entries_of(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        parameter = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        vars(parameter).update(vars(tensor))  # what a project has noted on it, such as that it is not to decay
        setattr(module, leaf, parameter)
    else:
        module.register_buffer(leaf, smaller, persistent=leaf not in module._non_persistent_buffers_set)
    if leaf == "weight" and isinstance(module, nn.Linear):
        module.out_features, module.in_features = smaller.shape
    elif leaf == "weight" and is_transposed(module):
        vars(module).update(nx=smaller.shape[0], nf=smaller.shape[1])
    elif leaf == "weight" and isinstance(module, CONVOLUTIONS):
        depthwise = module.groups == module.in_channels == module.out_channels
        module.groups = smaller.shape[0] if depthwise else module.groups
        module.out_channels, module.in_channels = smaller.shape[0], smaller.shape[1] * module.groups
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = smaller.shape[0]
    after: Any = getattr(module, leaf)
    return Cut(tensor, after, kept)
