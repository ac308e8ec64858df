"""Where units lie: the tensors of a model, and the entries of them that belong to each unit."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_lottery.scope import made_by_hooks, plain_name, ties

KINDS = ("head", "neuron", "channel")
"""Of units, in the order in which they are listed and scored."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Module = TypeVar("Module", bound=nn.Module)
_MIXES_CHANNELS = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU, nn.MultiheadAttention)


class Part(NamedTuple):
    """Where the units of a group lie in one tensor: unit ``u`` owns ``block`` consecutive entries of ``dim``.

    They begin at ``start + u * block``. A fused query-key-value projection is three ``Part``s, one for each of::

        weight, dim 0:  | q0 q1 q2 | k0 k1 k2 | v0 v1 v2 |     start = 0, width, 2 * width; block = head_dim
    """

    parameter: str
    dim: int
    block: int = 1
    start: int = 0

    def entries_by_unit(self, tensor: Tensor, size: int) -> Tensor:
        """The entries of a tensor of the parameter's shape that belong to the units: (size, entries of each)."""
        return tensor.narrow(self.dim, self.start, size * self.block).movedim(self.dim, 0).reshape(size, -1)


@dataclass(frozen=True)
class Group:
    """Units that can be removed one by one without a trace in the rest: heads, neurons, or channels.

    Args:
        name: Qualified name of the module that produces them: the attention module, the first linear layer, the
            convolution.
        kind: What a unit is. A head that shares its key and value with others is one unit together with them.
        size: Number of units.
        producers: Where they are made: weights and biases, also those of the batch norm behind a convolution, and its
            running statistics, which are buffers.
        consumers: Where they are read: the weight of the output projection, the second linear layer, the next
            convolution, along the dimension of what they read. Zero there is a unit that does nothing.
        counts: Qualified names of attributes of modules that are proportional to ``size``, such as ``num_heads``.
    """

    name: str
    kind: Literal["head", "neuron", "channel"]
    size: int
    producers: tuple[Part, ...]
    consumers: tuple[Part, ...]
    counts: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """Producers, then consumers."""
        return (*self.producers, *self.consumers)


Groups = Mapping[str, Group]
"""Groups by name."""


def owners_of(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Each parameter and buffer by its qualified name: the module that holds it, and the name that it has there."""
    return {
        plain_name(qualified(name, leaf)): (module, leaf)
        for name, module in model.named_modules()
        for tensors in (module._parameters, module._buffers)
        for leaf, tensor in tensors.items()
        if tensor is not None
    }


def tensor_at(owners: Mapping[str, tuple[nn.Module, str]], name: str) -> Tensor:
    """The tensor of this name, looked up in what ``owners_of`` gives."""
    module, leaf = owners[name]
    tensor: Tensor = getattr(module, leaf)
    return tensor


def computed_tensors(model: nn.Module) -> set[str]:
    """Names of tensors that are made of others: by a parametrization, or by a hook as of ``torch.nn.utils.prune``.

    Example:
        >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
        >>> computed_tensors(net)
        {'0.weight'}
    """
    names = set[str]()
    for name, module in model.named_modules():
        leaves = made_by_hooks(module) + (list(module.parametrizations) if is_parametrized(module) else [])
        names.update(plain_name(qualified(name, leaf)) for leaf in leaves)
    return names


def copy_of(model: Module) -> Module:
    """A deep copy, also where a module holds a tensor with a graph, as hooks leave there; the copy's has none."""
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}
    return deepcopy(model, memo)


def is_transposed(module: nn.Module | None) -> bool:
    """Whether it is the linear layer of GPT-2, ``Conv1D`` of transformers, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D" and {"nf", "nx"} <= vars(module).keys()


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module is a model of Hugging Face's transformers, without importing them."""
    return any(cls.__name__ == "PreTrainedModel" for cls in type(module).__mro__)


def is_chain(module: nn.Module | None) -> bool:
    """Whether its children run one after another and nothing else happens: a subclass may have its own ``forward``."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def shared_weights(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that several modules hold, each to the first: cut or scaled for one, all would be."""
    owners = owners_of(model)  # a module under two names stands there once: it is no other module
    return {
        alias: first
        for alias, first in ties(model).items()
        if alias in owners and owners[alias][0] is not owners.get(first, (None,))[0]
    }


def acts_per_channel(module: nn.Module) -> bool:
    """Whether it has no parameters, and each channel of its result comes from that channel alone."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    family = type(module).__module__.removeprefix("torch.nn.modules.")
    is_known = family in ("activation", "dropout", "pooling") or isinstance(module, nn.Identity)
    return is_known and not isinstance(module, _MIXES_CHANNELS) and not list(module.parameters())


def qualified(name: str, leaf: str) -> str:
    """The name of something inside of a module; that of the model itself is empty."""
    return f"{name}.{leaf}" if name else leaf
