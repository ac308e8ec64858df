"""What a model is made of: groups of coupled units (heads, neurons, channels), found in models that know nothing of us.

Names and shapes decide, never a forward pass: a block is recognised where tensors of the names in ``PATTERNS`` stand
together and their shapes agree.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.scope import plain_name
from lightning_lottery.units.attention import OpenAttention

PATTERNS: dict[str, list[Any]] = {
    "head": [  # names of projections, from the block's module down
        {"query": "self.query", "key": "self.key", "value": "self.value", "output": "output.dense"},
        {"query": "attention.query", "key": "attention.key", "value": "attention.value", "output": "output.dense"},
        {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"},
        {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"},
        {"query": "q_lin", "key": "k_lin", "value": "v_lin", "output": "out_lin"},
        {"qkv": "qkv", "gate": "gate", "output": "proj"},
        {"qkv": "in_proj", "output": "out_proj"},
    ],
    "neuron": [  # a gate or an up-projection twice as wide is taken where there is one; `without` must not be there
        {"up": "intermediate.dense", "down": "output.dense"},
        {"up": "fc1", "down": "fc2", "without": "norm"},
        {"up": "fc1_x", "gate": "fc1_g", "down": "fc2", "without": "norm"},
        {"up": "up_proj", "gate": "gate_proj", "down": "down_proj"},
        {"up": "lin1", "down": "lin2"},
        {"up": "linear1", "down": "linear2"},
        {"up": "mlp.0", "down": "mlp.3"},
    ],
    "channel": [  # beside what stands in a row in an `nn.Sequential`
        {"conv": "conv1", "norm": "bn1", "next": "conv2", "without": "aa"},
        {"conv": "conv2", "norm": "bn2", "next": "conv3", "without": "aa"},
    ],
    "head_dim": ["head_dim", "attention_head_size"],  # attributes of an attention module, and of what holds it
    "head_counts": [
        "num_heads",
        "num_attention_heads",
        "n_heads",
        "n_head",
        "nhead",
        "num_key_value_heads",
        "num_kv_heads",
    ],
    "head_widths": ["all_head_size", "attn_dim", "inner_dim", "dim"],  # heads times head_dim
    "neuron_counts": ["intermediate_size", "hidden_features"],
}
"""The names that ``groups_of`` knows; its argument of the same shape is looked at first. Plain lists, as in YAML."""

_REQUIRED = {"head": ("output",), "neuron": ("up", "down"), "channel": ("conv", "norm", "next")}
_OPTIONAL = {"head": ("query", "key", "value", "qkv", "gate"), "neuron": ("gate", "without"), "channel": ("without",)}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MIXING = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU, nn.MultiheadAttention)
_LOOKS_LIKE = ("attention", "attn", "mlp", "ffn", "feedforward")


class Part(NamedTuple):
    """Where the units of a group lie in one tensor: unit ``u`` owns ``block`` entries of ``dim``, in a row.

    They begin at ``start + u * block``, so the three parts of a fused query-key-value projection are three ``Part``s.
    """

    parameter: str
    dim: int
    block: int = 1
    start: int = 0


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
            convolution, along dimension 1. Zero there is a unit that does nothing.
        counts: Qualified names of attributes of modules that are proportional to ``size``, such as ``num_heads``.
    """

    name: str
    kind: Literal["head", "neuron", "channel"]
    size: int
    producers: tuple[Part, ...]
    consumers: tuple[Part, ...]
    counts: tuple[str, ...] = ()


Groups = Mapping[str, Group]
"""Groups by name."""


class Survey(NamedTuple):
    """What was found, and what looks like a block but is not recognised: its name and why."""

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
    why = "; ".join(f"'{name}' ({reason})" for name, reason in list(unrecognised.items())[:8])
    more = f" and {len(unrecognised) - 8} more" if len(unrecognised) > 8 else ""
    if not groups:
        rows = [" + ".join(v for r, v in row.items() if r != "without") for k in _REQUIRED for row in PATTERNS[k]]
        found = f"Not recognised: {why}{more}. " if why else ""
        raise LotteryError(
            f"{type(model).__name__} has no block that could be recognised. {found}Searched: {', '.join(rows)}, and "
            "convolution + batch norm + layer in an nn.Sequential. Give `patterns` with the names that yours has."
        )
    if unrecognised:
        warnings.warn(
            f"Left alone, because not recognised: {why}{more}. Give `patterns` for their names.", stacklevel=2
        )
    return groups


def survey(model: nn.Module, patterns: Mapping[str, Sequence[Any]] | None = None) -> Survey:
    """Groups, and what looks like one, without a word.

    Raises:
        LotteryError: ``patterns`` is not of the form of ``PATTERNS``.
    """
    return _Surveyor(model, _merged(patterns)).survey()


def coupled_channels(model: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> dict[str, Group]:
    """Channels that convolutions share, also through residual connections, by the graph of ``torch-pruning``.

    Groups that reach an output of the model, or whose units do not lie in a row, are left out.

    Args:
        model: A convolutional network that runs on ``inputs``.
        inputs: Example inputs; their values do not matter.

    Raises:
        LotteryError: ``torch-pruning`` is not installed, or there is no such group.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise LotteryError(
            "Channels through residual connections need torch-pruning: pip install 'lightning_lottery[shrink]'."
        ) from error
    twin = deepcopy(model).eval()
    names = {id(module): plain_name(name) for name, module in twin.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(twin, example_inputs=inputs)
    groups = {}
    for found in graph.get_all_groups(root_module_types=list(_CONVS)):
        name = names[id(found[0].dep.target.module)]
        group = _from_graph(name, found, names, graph)
        if group is not None:
            groups[name] = group
    if not groups:
        raise LotteryError(f"{type(model).__name__} has no convolution whose channels could be removed.")
    return groups


def owners_of(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Each parameter and buffer by its name: the module that holds it and what it is called there."""
    return {
        plain_name(f"{name}.{leaf}" if name else leaf): (module, leaf)
        for name, module in model.named_modules()
        for held in (module._parameters, module._buffers)
        for leaf, tensor in held.items()
        if tensor is not None
    }


def tensor_at(owners: Mapping[str, tuple[nn.Module, str]], name: str) -> Tensor:
    """One of the tensors of ``owners_of``."""
    module, leaf = owners[name]
    tensor: Tensor = getattr(module, leaf)
    return tensor


class _NotRecognised(Exception):
    """The name of what looks like a block, and why it is none that could be cut."""


class _Surveyor:
    """The modules and tensors of one model, and what has been found in them so far."""

    def __init__(self, model: nn.Module, patterns: dict[str, list[Any]]) -> None:
        self.patterns = patterns
        self.modules = {plain_name(name): module for name, module in model.named_modules()}
        self.owners = owners_of(model)
        self.groups: dict[str, Group] = {}
        self.refused: dict[str, str] = {}

    def survey(self) -> Survey:
        builders = {"head": self.heads, "neuron": self.neurons, "channel": self.named_channel}
        for name, module in self.modules.items():
            for kind, build in builders.items():
                for row in self.patterns[kind]:
                    roles = {role: _join(name, path) for role, path in row.items()}
                    if all(self.weight(roles[role]) for role in roles if role not in ("gate", "without")):
                        try:
                            self.add(build(name, roles))
                        except _NotRecognised as refusal:
                            self.refused.setdefault(*refusal.args)
            if _is_chain(module) and not _is_chain(self.modules.get(name.rpartition(".")[0]) if name else None):
                for group in self.chain(name):
                    self.add(group)
        in_order = {name: self.groups[name] for name in self.modules if name in self.groups}
        return Survey(in_order, self.unrecognised())

    def add(self, group: Group | None) -> None:
        """Keep a group unless one of its name is there or another reads the same tensor: the first pattern counts."""
        taken = {part.parameter for other in self.groups.values() for part in other.consumers}
        if group is not None and not taken & {part.parameter for part in group.consumers}:
            self.groups.setdefault(group.name, group)

    def weight(self, base: str) -> str | None:
        """The name of the weight of a layer, also where it has no module of its own, as in ``in_proj_weight``."""
        return next((name for name in (f"{base}.weight", f"{base}_weight") if name in self.owners), None)

    def shape(self, name: str) -> torch.Size:
        module, leaf = self.owners[name]
        shape: torch.Size = getattr(module, leaf).shape
        return shape

    def linear(self, base: str) -> torch.Size | None:
        """(out, in) of a linear layer, None for anything else, such as a quantised or transposed one."""
        name = self.weight(base)
        if name is None:
            return None
        owner = self.owners[name][0]
        attention = isinstance(owner, nn.MultiheadAttention)
        shape = self.shape(name)
        plain = attention or (isinstance(owner, nn.Linear) and (owner.out_features, owner.in_features) == tuple(shape))
        return shape if plain and len(shape) == 2 else None

    def parts(self, base: str, block: int, starts: Sequence[int] = (0,)) -> list[Part]:
        """Weight and bias of a layer, along dimension 0."""
        bias = next((name for name in (f"{base}.bias", f"{base}_bias") if name in self.owners), None)
        names = [name for name in (self.weight(base), bias) if name is not None]
        return [Part(name, 0, block, start) for name in names for start in starts]

    def counts(self, places: Sequence[str], wanted: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Attributes of the modules at ``places`` that have a name of the table and one of the values wanted for it."""
        return tuple(
            _join(place, attribute)
            for place in dict.fromkeys(places)
            for key, values in wanted.items()
            for attribute in self.patterns[key]
            if type(held := vars(self.modules[place]).get(attribute)) is int and held in values
        )

    def heads(self, name: str, roles: dict[str, str]) -> Group | None:
        first = roles.get("query", roles.get("qkv", ""))
        place = first.rpartition(".")[0]
        shapes = {role: self.linear(path) for role, path in roles.items() if self.weight(path)}
        if any(shape is None for shape in shapes.values()):
            raise _NotRecognised(place, "its projections are not plain linear layers")
        out, made = {role: shape[0] for role, shape in shapes.items() if shape}, shapes["output"]
        width = made[1] if made else 0
        head_dim = self.head_dim((name, place), width)
        if not head_dim or width % head_dim:
            raise _NotRecognised(place, f"no attribute says its {' or '.join(self.patterns['head_dim'])}")
        size = out.get("key", width) // head_dim
        block = width // size if size else 0
        wanted = {"query": width, "key": size * head_dim, "value": size * head_dim, "qkv": 3 * width, "gate": width}
        if not size or width % (size * head_dim) or any(wanted.get(r, n) != n for r, n in out.items()):
            raise _NotRecognised(place, f"its projections are {_shown(out)} wide for heads of {head_dim}")
        if reason := self.strange(place, roles, head_dim):
            raise _NotRecognised(place, reason)
        blocks = {"query": block, "key": head_dim, "value": head_dim, "qkv": head_dim, "gate": block}
        producers = []
        for role in blocks.keys() & shapes.keys():
            producers += self.parts(roles[role], blocks[role], (0, width, 2 * width) if role == "qkv" else (0,))
        consumer = Part(str(self.weight(roles["output"])), 1, block)
        heads, widths = (width // head_dim, size), (width, size * head_dim)
        counts = self.counts((name, place), {"head_counts": heads, "head_widths": widths})
        return Group(place, "head", size, tuple(sorted(producers)), (consumer,), counts)

    def head_dim(self, places: Sequence[str], width: int) -> int:
        """Entries of one head, by an attribute or by the number of heads; 0 where neither is there."""
        attributes = [vars(self.modules[place]) for place in places]
        for name in self.patterns["head_dim"]:
            for held in attributes:
                if type(held.get(name)) is int:
                    return int(held[name])
        for name in self.patterns["head_counts"]:
            for held in attributes:
                if type(held.get(name)) is int and held[name] and width % held[name] == 0:
                    return width // int(held[name])
        return 0

    def strange(self, place: str, roles: dict[str, str], head_dim: int) -> str:
        """What an attention module holds beside its projections, if that depends on the heads or may do so."""
        module = self.modules[place]
        if isinstance(module, nn.MultiheadAttention):
            if type(module) not in (nn.MultiheadAttention, OpenAttention):
                return "a subclass of nn.MultiheadAttention"
            if module.add_zero_attn or module.in_proj_weight is None:
                return "an nn.MultiheadAttention with add_zero_attn, kdim or vdim"
        for name in self.owners:
            if not name.startswith(f"{place}." if place else "") or any(_is_of(name, path) for path in roles.values()):
                continue
            per_head = name.split(".")[-2:-1] in (["q_norm"], ["k_norm"]) and self.shape(name) == (head_dim,)
            if not per_head:
                return f"it also holds '{name}'"
        return ""

    def neurons(self, name: str, roles: dict[str, str]) -> Group | None:
        up, down = self.linear(roles["up"]), self.linear(roles["down"])
        gated = "gate" in roles and self.weight(roles["gate"]) is not None
        gate = self.linear(roles["gate"]) if gated else up
        if up is None or down is None or gate is None:
            raise _NotRecognised(roles["up"], "not plain linear layers")
        size = down[1]
        if up[0] not in ((size,) if gated else (size, 2 * size)) or gate[0] != up[0]:
            raise _NotRecognised(roles["up"], f"it gives {up[0]} neurons and '{roles['down']}' takes {size}")
        if self.stands("without", roles):
            raise _NotRecognised(roles["up"], f"'{roles['without']}' stands between it and '{roles['down']}'")
        producers = self.parts(roles["up"], 1, range(0, up[0], size))
        producers += self.parts(roles["gate"], 1) if gated else []
        place = roles["up"].rpartition(".")[0]
        counts = self.counts((place,), {"neuron_counts": (size,)})
        return Group(roles["up"], "neuron", size, tuple(producers), (Part(str(self.weight(roles["down"])), 1),), counts)

    def stands(self, role: str, roles: dict[str, str]) -> bool:
        module = self.modules.get(roles.get(role, "no such module"))
        return module is not None and not isinstance(module, nn.Identity)

    def named_channel(self, name: str, roles: dict[str, str]) -> Group | None:
        if self.stands("without", roles):
            return None
        return self.channel(roles["conv"], roles["norm"], roles["next"], flat=False)

    def chain(self, name: str) -> Iterator[Group]:
        """Convolution, batch norm, what acts on each channel by itself, and the layer that reads them, in a row."""
        row = list(_unrolled(name, self.modules[name]))
        for i, (conv, module) in enumerate(row[:-2]):
            norm, flat = row[i + 1][0], False
            if not isinstance(module, _CONVS) or not isinstance(self.modules[norm], _BATCH_NORMS):
                continue
            for then, after in row[i + 2 :]:
                flat |= isinstance(after, nn.Flatten)
                if not acts_per_channel(after):
                    if group := self.channel(conv, norm, then, flat):
                        yield group
                    break

    def channel(self, conv: str, norm: str, then: str, flat: bool) -> Group | None:
        first, scale, after = self.modules.get(conv), self.modules.get(norm), self.modules.get(then)
        if not isinstance(first, _CONVS) or not isinstance(scale, _BATCH_NORMS) or first.groups != 1:
            return None
        size, block = first.out_channels, 0
        if isinstance(after, _CONVS) and after.groups == 1:
            block = 1 if after.in_channels == size else 0
        elif isinstance(after, nn.Linear) and (flat and after.in_features % size == 0):
            block = after.in_features // size
        if not block or scale.num_features != size:
            return None
        norms = [f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
        producers = [*self.parts(conv, 1), *(Part(name, 0) for name in norms if name in self.owners)]
        return Group(conv, "channel", size, tuple(producers), (Part(f"{then}.weight", 1, block),))

    def unrecognised(self) -> dict[str, str]:
        """What was refused, and modules whose class is called like a block and that hold a matrix outside of any."""
        parts = (part for group in self.groups.values() for part in (*group.producers, *group.consumers))
        claimed = {part.parameter for part in parts}
        refused = {n: why for n, why in self.refused.items() if n not in self.groups}
        looks = [n for n, m in self.modules.items() if n and any(k in type(m).__name__.lower() for k in _LOOKS_LIKE)]
        for name in looks:
            held = [tensor for tensor in self.owners if tensor.startswith(f"{name}.")]
            inner = any(other.startswith(f"{name}.") for other in (*looks, *refused))
            known = any(_is_of(name, other) or _is_of(other, name) for other in refused)
            matrices = any(len(self.shape(tensor)) == 2 for tensor in held)
            if matrices and not claimed & set(held) and not inner and not known:
                refused[name] = type(self.modules[name]).__name__
        return refused


def _merged(patterns: Mapping[str, Sequence[Any]] | None) -> dict[str, list[Any]]:
    for key, rows in (patterns or {}).items():
        if key not in PATTERNS or isinstance(rows, str) or not isinstance(rows, Sequence):
            raise LotteryError(f"`patterns` has lists under {', '.join(PATTERNS)}; got '{key}': {rows!r}.")
        for row in rows:
            _check_row(key, row)
    return {key: [*(patterns or {}).get(key, ()), *rows] for key, rows in PATTERNS.items()}


def _check_row(key: str, row: Any) -> None:
    if key not in _REQUIRED:
        if not isinstance(row, str):
            raise LotteryError(f"`patterns['{key}']` is a list of names of attributes, got {row!r} in it.")
        return
    roles = (*_REQUIRED[key], *_OPTIONAL[key])
    known = isinstance(row, Mapping) and all(r in roles and isinstance(path, str) for r, path in row.items())
    whole = known and all(role in row for role in _REQUIRED[key])
    if key == "head":
        whole = whole and ("qkv" in row) != all(role in row for role in ("query", "key", "value"))
    if not whole:
        raise LotteryError(f"A row of `patterns['{key}']` names {', '.join(roles)} of a block, got {row!r}.")


def _from_graph(name: str, found: Any, names: dict[int, str], graph: Any) -> Group | None:
    producers, consumers, size = [], [], len(found[0].idxs)
    for (dep, idxs), roots in zip(found, (item.root_idxs for item in found), strict=True):
        module = dep.target.module
        place = names.get(id(module))
        if place is None:  # an operation without parameters
            continue
        block, start = len(idxs) // size, min(idxs)
        if list(idxs) != list(range(start, start + size * block)) or list(roots) != [
            u for u in range(size) for _ in range(block)
        ]:
            return None
        if isinstance(module, _BATCH_NORMS):
            leaves = [leaf for leaf, _ in (*module.named_parameters(), *module.named_buffers()) if "num_b" not in leaf]
            producers += [Part(f"{place}.{leaf}", 0, block, start) for leaf in leaves]
        elif graph.is_out_channel_pruning_fn(dep.handler):
            producers += [Part(f"{place}.{leaf}", 0, block, start) for leaf, _ in module.named_parameters()]
        else:
            consumers.append(Part(f"{place}.weight", 1, block, start))
    producers, consumers = list(dict.fromkeys(producers)), list(dict.fromkeys(consumers))
    return Group(name, "channel", size, tuple(producers), tuple(consumers)) if consumers else None


def _is_chain(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _unrolled(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that run one after another, those of a sequence inside a sequence in its place."""
    for leaf, child in module.named_children():
        path = _join(name, leaf)
        if _is_chain(child):
            yield from _unrolled(path, child)
        else:
            yield path, child


def acts_per_channel(module: nn.Module) -> bool:
    """No parameters, and each channel of the result comes from that channel alone."""
    home = type(module).__module__.removeprefix("torch.nn.modules.")
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1
    known = home in ("activation", "dropout", "pooling") or isinstance(module, nn.Identity)
    return known and not isinstance(module, _MIXING) and not list(module.parameters())


def _join(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf


def _is_of(name: str, path: str) -> bool:
    return name == path or name.startswith((f"{path}.", f"{path}_weight", f"{path}_bias"))


def _shown(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{role} {width}" for role, width in widths.items())
