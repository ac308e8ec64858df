"""What a model is made of: groups of coupled units (heads, neurons, channels), found in models that know nothing of us.

Names and shapes decide, never a forward pass: a block is recognised where tensors of the names in ``PATTERNS`` stand
together and their shapes agree.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.scope import plain_name
from lightning_lottery.units.open_attention import OpenAttention
from lightning_lottery.units.parts import (
    BATCH_NORMS,
    CONVOLUTIONS,
    Group,
    Part,
    acts_per_channel,
    computed_tensors,
    owners_of,
    qualified,
    tensor_at,
)
from lightning_lottery.units.patterns import PATTERNS, REQUIRED_ROLES, merged_patterns

_CALLED_LIKE_A_BLOCK = ("attention", "attn", "mlp", "ffn", "feedforward")


class Survey(NamedTuple):
    """The groups of a model, and what looks like a block but is not recognised: its name and why."""

    groups: dict[str, Group]
    unrecognised: dict[str, str]


def groups_of(model: nn.Module, patterns: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Group]:
    """The groups of a model by name, in the order of its modules: heads, neurons, channels.

    What looks like attention or a feed-forward network and is not recognised is named in a warning.

    Args:
        model: Any module; the names are its own, without what ``torch.compile`` adds.
        patterns: Names to look for before those of ``PATTERNS``, under the same keys.

    Raises:
        LotteryError: There is no recognisable block, or ``patterns`` is not of the form of ``PATTERNS``.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
        >>> {name: (group.kind, group.size) for name, group in groups_of(layer).items()}
        {'self_attn': ('head', 2), 'linear1': ('neuron', 16)}
    """
    groups, unrecognised = survey(model, patterns)
    reasons = "; ".join(f"'{name}' ({reason})" for name, reason in list(unrecognised.items())[:8])
    reasons += f" and {len(unrecognised) - 8} more" if len(unrecognised) > 8 else ""
    if not groups:
        rows = [row for kind in REQUIRED_ROLES for row in PATTERNS[kind]]
        searched = ", ".join(" + ".join(path for role, path in row.items() if role != "without") for row in rows)
        raise LotteryError(
            f"{type(model).__name__} has no block that could be recognised. "
            f"{f'Not recognised: {reasons}. ' if reasons else ''}Searched: {searched}, and "
            "convolution + batch norm + layer in an nn.Sequential. Give `patterns` with the names that yours has."
        )
    if unrecognised:
        warnings.warn(f"Left alone, because not recognised: {reasons}. Give `patterns` for their names.", stacklevel=2)
    return groups


def survey(model: nn.Module, patterns: Mapping[str, Sequence[Any]] | None = None) -> Survey:
    """As ``groups_of``, without its warning and its refusal of a model that has no group.

    Raises:
        LotteryError: ``patterns`` is not of the form of ``PATTERNS``.
    """
    return _Search(model, merged_patterns(patterns)).run()


class _NotRecognised(Exception):
    """What looks like a block but could not be cut: its name, and why."""


class _Search:
    """One search through the modules and tensors of a model.

    The methods that look at one block (``heads``, ``neurons``, ``named_channels``) get its module's name and, by role,
    the paths of the layers that a row of the patterns names: ``{"up": "layers.0.fc1", "down": "layers.0.fc2"}``.
    """

    def __init__(self, model: nn.Module, patterns: dict[str, list[Any]]) -> None:
        self.patterns = patterns
        self.modules = {plain_name(name): module for name, module in model.named_modules()}
        self.owners = owners_of(model)
        self.computed = computed_tensors(model)
        self.groups: dict[str, Group] = {}
        self.refused: dict[str, str] = {}  # name of a block to the reason

    def run(self) -> Survey:
        search_by_kind = {"head": self.heads, "neuron": self.neurons, "channel": self.named_channels}
        for name, module in self.modules.items():
            for kind, search in search_by_kind.items():
                for row in self.patterns[kind]:
                    self.try_row(search, name, row)
            # A chain inside of a chain was unrolled with the outer one: alone it would end where it only goes on.
            if _is_chain(module) and not _is_chain(self.modules.get(name.rpartition(".")[0]) if name else None):
                for group in self.chained_channels(name):
                    self.add(group)
        return Survey({name: self.groups[name] for name in self.modules if name in self.groups}, self.unrecognised())

    def try_row(self, search: Callable[[str, dict[str, str]], Group | None], name: str, row: Mapping[str, str]) -> None:
        """Look for the layers of one row of the patterns below one module."""
        layers = {role: qualified(name, path) for role, path in row.items()}
        required = [layer for role, layer in layers.items() if role not in ("gate", "without")]
        if not all(self.weight_name(layer) or self.made_of_others([layer]) for layer in required):
            return
        try:
            self.add(search(name, layers))
        except _NotRecognised as refusal:
            self.refused.setdefault(*refusal.args)

    def add(self, group: Group | None) -> None:
        """Keep a group unless there is one of its name, or one that reads the same tensor."""
        # Several rows can fit one block. The first counts: a user's rows are looked at before ours.
        taken = {part.parameter for known in self.groups.values() for part in known.consumers}
        if group is not None and not taken & {part.parameter for part in group.consumers}:
            self.groups.setdefault(group.name, group)

    # Layers and their tensors.

    def weight_name(self, layer: str) -> str | None:
        """The name of a layer's weight, also where the layer is no module of its own, as in ``in_proj_weight``."""
        return next((name for name in (f"{layer}.weight", f"{layer}_weight") if name in self.owners), None)

    def made_of_others(self, layers: Iterable[str]) -> str:
        """Which tensor of the layers cannot be cut, as it is computed from others; or ""."""
        names = (f"{layer}{leaf}" for layer in layers for leaf in (".weight", "_weight", ".bias", "_bias"))
        computed = next((name for name in names if name in self.computed), "")
        return computed and f"'{computed}' is computed by a parametrization or a hook: remove that first"

    def linear_shape(self, layer: str) -> torch.Size | None:
        """(out, in) of a linear layer; None for anything else, such as a quantised or transposed one."""
        name = self.weight_name(layer)
        if name is None:
            return None
        owner, shape = self.owners[name][0], tensor_at(self.owners, name).shape
        is_linear = isinstance(owner, nn.Linear) and (owner.out_features, owner.in_features) == tuple(shape)
        # `nn.MultiheadAttention` holds its projections' weights itself: they are no layers.
        is_plain = is_linear or isinstance(owner, nn.MultiheadAttention)
        return shape if is_plain and len(shape) == 2 else None

    def rows_of(self, layer: str, block: int, starts: Sequence[int] = (0,)) -> list[Part]:
        """Weight and bias of a layer along dimension 0."""
        bias = next((name for name in (f"{layer}.bias", f"{layer}_bias") if name in self.owners), None)
        names = [name for name in (self.weight_name(layer), bias) if name is not None]
        return [Part(name, 0, block, start) for name in names for start in starts]

    def columns_of(self, layer: str, block: int) -> tuple[Part, ...]:
        """The weight of a layer along dimension 1."""
        return (Part(str(self.weight_name(layer)), 1, block),)

    def counts(self, modules: Sequence[str], values: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Attributes of modules whose name is in the patterns and that have one of the values expected under its key.

        The value decides too, as a name alone can mean something else: ``dim`` is the width of the heads in one
        model and the width of the embedding in another.
        """
        return tuple(
            qualified(module, attribute)
            for module in dict.fromkeys(modules)
            for key, expected in values.items()
            for attribute in self.patterns[key]
            if type(value := vars(self.modules[module]).get(attribute)) is int and value in expected
        )

    # Attention.

    def heads(self, name: str, layers: dict[str, str]) -> Group:
        """The heads of an attention module, whose projections are ``layers``.

        Raises:
            _NotRecognised: They could not be cut one by one.
        """
        module = layers.get("query", layers.get("qkv", "")).rpartition(".")[0]
        if reason := self.made_of_others(layers.values()):
            raise _NotRecognised(module, reason)
        shapes = {role: self.linear_shape(path) for role, path in layers.items() if self.weight_name(path)}
        linear = {role: shape for role, shape in shapes.items() if shape is not None}
        if len(linear) < len(shapes):
            raise _NotRecognised(module, "its projections are not plain linear layers")
        outputs, width = {role: shape[0] for role, shape in linear.items()}, linear["output"][1]
        head_dim = self.head_dim((name, module), width)
        if not head_dim or width % head_dim:
            raise _NotRecognised(module, f"no attribute says its {' or '.join(self.patterns['head_dim'])}")
        # With grouped queries several query heads share one key and value, and can only be cut together: a unit is
        # one head of the keys, `block` rows of the queries belong to it, and as many columns of the output.
        size = outputs.get("key", width) // head_dim
        block = width // size if size else 0
        kv_width = size * head_dim
        widths = {"query": width, "key": kv_width, "value": kv_width, "qkv": 3 * width, "gate": width}
        if not size or width % kv_width or any(widths.get(role, n) != n for role, n in outputs.items()):
            described = ", ".join(f"{role} {n}" for role, n in outputs.items())
            raise _NotRecognised(module, f"its projections are {described} wide for heads of {head_dim}")
        if reason := self.obstacle(module, layers, head_dim):
            raise _NotRecognised(module, reason)
        blocks = {"query": block, "key": head_dim, "value": head_dim, "qkv": head_dim, "gate": block}
        producers = []
        for role in blocks.keys() & shapes.keys():
            producers += self.rows_of(layers[role], blocks[role], (0, width, 2 * width) if role == "qkv" else (0,))
        values = {"head_counts": (width // head_dim, size), "head_widths": (width, kv_width)}
        counts = self.counts((name, module), values)
        return Group(module, "head", size, tuple(sorted(producers)), self.columns_of(layers["output"], block), counts)

    def head_dim(self, modules: Sequence[str], width: int) -> int:
        """Entries of one head, by an attribute or by the number of heads; 0 where neither is there."""
        attributes = [vars(self.modules[module]) for module in modules]
        for name in self.patterns["head_dim"]:
            for values in attributes:
                if type(values.get(name)) is int:
                    return int(values[name])
        for name in self.patterns["head_counts"]:
            for values in attributes:
                if type(values.get(name)) is int and values[name] and width % values[name] == 0:
                    return width // int(values[name])
        return 0

    def obstacle(self, module: str, layers: dict[str, str], head_dim: int) -> str:
        """What an attention module holds beside its projections, if that depends on the heads or may do so; or ""."""
        attention = self.modules[module]
        if isinstance(attention, nn.MultiheadAttention):
            if type(attention) not in (nn.MultiheadAttention, OpenAttention):
                return "a subclass of nn.MultiheadAttention"
            if attention.add_zero_attn or attention.in_proj_weight is None:
                return "an nn.MultiheadAttention with add_zero_attn, kdim or vdim"
        for name in self.owners:
            is_inside = name.startswith(f"{module}." if module else "")
            if not is_inside or any(_belongs_to(name, path) for path in layers.values()):
                continue
            # A norm within each head has one weight for all heads: removing one leaves it as it is.
            shape = tensor_at(self.owners, name).shape
            is_norm_of_each_head = name.split(".")[-2:-1] in (["q_norm"], ["k_norm"]) and shape == (head_dim,)
            if not is_norm_of_each_head:
                return f"it also holds '{name}'"
        return ""

    # Feed-forward networks.

    def neurons(self, name: str, layers: dict[str, str]) -> Group:
        """The neurons between two linear layers, ``up`` and ``down``.

        Raises:
            _NotRecognised: They could not be cut one by one.
        """
        if reason := self.made_of_others(layers.values()):
            raise _NotRecognised(layers["up"], reason)
        up, down = self.linear_shape(layers["up"]), self.linear_shape(layers["down"])
        is_gated = "gate" in layers and self.weight_name(layers["gate"]) is not None
        gate = self.linear_shape(layers["gate"]) if is_gated else up
        if up is None or down is None or gate is None:
            raise _NotRecognised(layers["up"], "not plain linear layers")
        size = down[1]
        # Twice as wide: gate and up-projection in one matrix, as for SwiGLU, [gate 0 .. n-1 | up 0 .. n-1].
        if up[0] not in ((size,) if is_gated else (size, 2 * size)) or gate[0] != up[0]:
            raise _NotRecognised(layers["up"], f"it gives {up[0]} neurons and '{layers['down']}' takes {size}")
        if self.is_between("without", layers):
            raise _NotRecognised(layers["up"], f"'{layers['without']}' stands between it and '{layers['down']}'")
        producers = self.rows_of(layers["up"], 1, range(0, up[0], size))
        producers += self.rows_of(layers["gate"], 1) if is_gated else []
        counts = self.counts((layers["up"].rpartition(".")[0],), {"neuron_counts": (size,)})
        return Group(layers["up"], "neuron", size, tuple(producers), self.columns_of(layers["down"], 1), counts)

    def is_between(self, role: str, layers: dict[str, str]) -> bool:
        """Whether the module of a role is there and does something."""
        module = self.modules.get(layers[role]) if role in layers else None
        return module is not None and not isinstance(module, nn.Identity)

    # Convolutions.

    def named_channels(self, name: str, layers: dict[str, str]) -> Group | None:
        """The channels between two convolutions of a block that a row of the patterns names."""
        if self.is_between("without", layers):
            return None
        return self.channels(layers["conv"], layers["norm"], layers["next"], is_flattened=False)

    def chained_channels(self, name: str) -> Iterator[Group]:
        """Channels in an ``nn.Sequential``: convolution, batch norm, what acts per channel, and the next layer."""
        chain = list(_unrolled(name, self.modules[name]))
        for i, (conv, module) in enumerate(chain[:-2]):
            norm, is_flattened = chain[i + 1][0], False
            if not isinstance(module, CONVOLUTIONS) or not isinstance(self.modules[norm], BATCH_NORMS):
                continue
            for reader, following in chain[i + 2 :]:
                is_flattened |= isinstance(following, nn.Flatten)
                if not acts_per_channel(following):
                    if group := self.channels(conv, norm, reader, is_flattened):
                        yield group
                    break

    def channels(self, conv: str, norm: str, reader: str, is_flattened: bool) -> Group | None:
        """The channels that a convolution makes, a batch norm scales, and a layer reads."""
        first, scale, last = self.modules.get(conv), self.modules.get(norm), self.modules.get(reader)
        if not isinstance(first, CONVOLUTIONS) or not isinstance(scale, BATCH_NORMS) or first.groups != 1:
            return None
        size, block = first.out_channels, 0
        if isinstance(last, CONVOLUTIONS) and last.groups == 1:
            block = 1 if last.in_channels == size else 0
        elif isinstance(last, nn.Linear) and is_flattened and last.in_features % size == 0:
            block = last.in_features // size  # (C, H, W) flattened: each channel is H * W columns in a row
        if not block or scale.num_features != size:
            return None
        if reason := self.made_of_others((conv, norm, reader)):
            self.refused.setdefault(conv, reason)
            return None
        # Running statistics too: they are cut with their channel.
        of_norm = [f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
        producers = [*self.rows_of(conv, 1), *(Part(name, 0) for name in of_norm if name in self.owners)]
        return Group(conv, "channel", size, tuple(producers), (Part(f"{reader}.weight", 1, block),))

    def unrecognised(self) -> dict[str, str]:
        """What was refused, and modules whose class is called like a block and that hold a matrix outside of any."""
        refused = {name: reason for name, reason in self.refused.items() if name not in self.groups}
        in_groups = {part.parameter for group in self.groups.values() for part in group.parts}
        candidates = [
            name
            for name, module in self.modules.items()
            if name and any(word in type(module).__name__.lower() for word in _CALLED_LIKE_A_BLOCK)
        ]
        for name in candidates:
            tensors = [tensor for tensor in self.owners if tensor.startswith(f"{name}.")]
            # The innermost is named: a `BertAttention` that holds a `BertSelfAttention` would be the same block twice.
            is_outer = any(inner.startswith(f"{name}.") for inner in (*candidates, *refused))
            is_refused = any(_belongs_to(name, block) or _belongs_to(block, name) for block in refused)
            has_matrix = any(tensor_at(self.owners, tensor).dim() == 2 for tensor in tensors)
            if has_matrix and not in_groups & set(tensors) and not is_outer and not is_refused:
                refused[name] = type(self.modules[name]).__name__
        return refused


def _is_chain(module: nn.Module | None) -> bool:
    """Whether its children run one after another and nothing else happens: a subclass may have its own ``forward``."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _unrolled(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that run one after another; a chain inside of the chain is replaced by its modules."""
    for leaf, child in module.named_children():
        path = qualified(name, leaf)
        if _is_chain(child):
            yield from _unrolled(path, child)
        else:
            yield path, child


def _belongs_to(name: str, path: str) -> bool:
    """Whether a module or tensor is the one at ``path``, or inside of it."""
    return name == path or name.startswith((f"{path}.", f"{path}_weight", f"{path}_bias"))
