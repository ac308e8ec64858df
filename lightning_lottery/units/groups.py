"""What a model is made of: groups of coupled units (heads, neurons, channels), found in models that know nothing of us.

Nothing is run. A block is recognised where tensors of the names in ``PATTERNS`` stand together and their shapes agree,
a chain of linear layers where a ``forward`` says so. A ``forward`` that can be traced has the last word on names, too.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_lottery.errors import LotteryError
from lightning_lottery.units.forwards import Forwards
from lightning_lottery.units.heads import heads
from lightning_lottery.units.layers import Layers, NotRecognised, belongs_to
from lightning_lottery.units.parts import (
    BATCH_NORMS,
    CONVOLUTIONS,
    Group,
    Part,
    acts_per_channel,
    is_chain,
    is_pretrained,
    qualified,
    shared_weights,
    tensor_at,
)
from lightning_lottery.units.patterns import merged_patterns

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
    reasons = _listed(unrecognised)
    if not groups:
        reason = (
            f"not recognised: {reasons}" if reasons else "no attention, feed-forward network or chain of known names"
        )
        raise LotteryError(
            f"{type(model).__name__} has no block that could be recognised ({reason}).\n"
            "Name its layers, `groups_of(model, patterns={'neuron': [{'up': 'fc1', 'down': 'fc2'}]})`, likewise heads: "
            "see README, which also says what is known."
        )
    if unrecognised:
        warnings.warn(f"Left alone: {reasons}. Where only names are unknown, give `patterns` for them.", stacklevel=2)
    return groups


def _listed(unrecognised: Mapping[str, str]) -> str:
    """What is left alone, by reason."""
    names: dict[str, list[str]] = {}
    for name, reason in unrecognised.items():
        names.setdefault(reason, []).append(f"'{name}'")
    more = {reason: f" and {len(alike) - 2} more" if len(alike) > 2 else "" for reason, alike in names.items()}
    listed = [f"{', '.join(alike[:2])}{more[reason]} ({reason})" for reason, alike in names.items()]
    return "; ".join(listed[:4]) + (f" and {len(listed) - 4} more reasons" if len(listed) > 4 else "")


def survey(model: nn.Module, patterns: Mapping[str, Sequence[Any]] | None = None) -> Survey:
    """As ``groups_of``, without its warning and its refusal of a model that has no group.

    Raises:
        LotteryError: ``patterns`` is not of the form of ``PATTERNS``.
    """
    return _Search(model, merged_patterns(patterns)).run()


class _Search:
    """One search through the modules and tensors of a model.

    The methods that look at one block (``heads``, ``neurons``, ``named_channels``) get its module's name and, by role,
    the paths of the layers that a row of the patterns names: ``{"up": "layers.0.fc1", "down": "layers.0.fc2"}``.
    """

    def __init__(self, model: nn.Module, patterns: dict[str, list[Any]]) -> None:
        self.model, self.patterns = model, patterns
        self.layers = Layers(model)
        self.forwards = Forwards(model)
        self.groups: dict[str, Group] = {}
        self.refused: dict[str, str] = {}  # name of a block to the reason

    def run(self) -> Survey:
        modules = self.layers.modules
        search_by_kind = {"head": self.heads, "neuron": self.neurons, "channel": self.named_channels}
        for name, module in modules.items():
            for kind, search in search_by_kind.items():
                for row in self.patterns[kind]:
                    self.try_row(search, name, row)
            # A chain inside of a chain was unrolled with the outer one: alone it would end where it only goes on.
            if is_chain(module) and not is_chain(modules.get(name.rpartition(".")[0]) if name else None):
                for group in self.chained_channels(name):
                    self.add(group)
        for name in self.plain_layers():
            self.attempt(self.hidden_neurons, name)
        return Survey({name: self.groups[name] for name in modules if name in self.groups}, self.unrecognised())

    def try_row(self, search: Callable[[str, dict[str, str]], Group | None], name: str, row: Mapping[str, str]) -> None:
        """Look for the layers of one row of the patterns below one module."""
        paths = {role: qualified(name, path) for role, path in row.items() if role != "type"}
        required = [path for role, path in paths.items() if role not in ("gate", "without")]
        if not all(self.layers.weight_name(path) or self.layers.made_of_others([path]) for path in required):
            return
        types = {type(self.layers.modules.get(path)).__name__ for path in required}
        if row.get("type") in (None, *types):
            self.attempt(search, name, paths)

    def attempt(self, search: Callable[..., Group | None], *arguments: Any) -> None:
        """Keep what a search gives, or why it gives nothing."""
        try:
            self.add(search(*arguments))
        except NotRecognised as refusal:
            self.refused.setdefault(*refusal.args)

    def add(self, group: Group | None) -> None:
        """Keep a group unless there is one of its name, or one that reads the same tensor."""
        # Several rows can fit one block. The first counts: a user's rows are looked at before ours.
        taken = {part.parameter for known in self.groups.values() for part in known.consumers}
        if group is not None and not taken & {part.parameter for part in group.consumers}:
            self.groups.setdefault(group.name, group)

    def heads(self, name: str, paths: dict[str, str]) -> Group:
        return heads(self.layers, self.patterns, name, paths)

    # Feed-forward networks.

    def neurons(self, name: str, paths: dict[str, str]) -> Group:
        """The neurons between two linear layers, ``up`` and ``down``.

        Raises:
            NotRecognised: They could not be cut one by one.
        """
        layers, path = self.layers, paths["up"]
        if reason := layers.made_of_others(paths.values()):
            raise NotRecognised(path, reason)
        up, down = layers.linear_shape(path), layers.linear_shape(paths["down"])
        makers = [paths[role] for role in ("up", "gate") if role in paths and layers.weight_name(paths[role])]
        gate = layers.linear_shape(makers[-1])
        if up is None or down is None or gate is None:
            raise NotRecognised(path, "not plain linear layers")
        size = down[1]
        # Twice as wide: gate and up-projection in one matrix, as for SwiGLU, [gate 0 .. n-1 | up 0 .. n-1].
        if up[0] not in ((size,) if len(makers) > 1 else (size, 2 * size)) or gate[0] != up[0]:
            raise NotRecognised(path, f"it gives {up[0]} neurons and '{paths['down']}' takes {size}")
        if self.is_between("without", paths):
            raise NotRecognised(path, f"'{paths['without']}' stands between it and '{paths['down']}'")
        norms = self.norms_between(makers, paths["down"], up[0], size)
        producers = [part for maker in makers for part in layers.rows_of(maker, 1, range(0, up[0], size))]
        counts = layers.counts((path.rpartition(".")[0],), {"neuron_counts": (size,)}, self.patterns)
        return Group(path, "neuron", size, (*producers, *norms), layers.columns_of(paths["down"], 1), counts)

    def norms_between(self, makers: Sequence[str], down: str, width: int, size: int) -> list[Part]:
        """What batch norms between the layers hold of each neuron.

        Raises:
            NotRecognised: Something else reads the neurons, or they depend on each other.
        """
        flow = self.forwards.flow(makers, down)
        if flow is None:  # nobody has seen how they are used: what was built between them counts
            order = list(self.layers.modules)
            between = order[order.index(makers[0]) + 1 : order.index(down)] if {makers[0], down} <= {*order} else []
            holders = {tensor.rpartition(".")[0] for tensor in self.layers.owners}
            if inside := [name for name in between if name in holders and name not in makers]:
                raise NotRecognised(makers[0], f"'{inside[0]}' stands between it and '{down}'")
            return []
        if leak := flow.leak or next((f"'{reader}'" for reader in flow.readers if reader != down), ""):
            raise NotRecognised(makers[0], f"its neurons also reach {leak}")
        if down not in flow.readers or (flow.norms and width != size):
            raise NotRecognised(makers[0], f"its neurons do not reach '{down}' alone")
        return [part for norm in flow.norms for part in self.parts_of_norm(norm, size)]

    def plain_layers(self) -> Iterator[str]:
        """Linear layers that may lie in a plain chain; not those of transformers, whose configurations know none."""
        pretrained = [name for name, module in self.layers.modules.items() if is_pretrained(module)]
        for name, module in self.layers.modules.items():
            if _is_plain(module) and not any(belongs_to(name, network) or not network for network in pretrained):
                yield name

    def hidden_neurons(self, name: str) -> Group | None:
        """The neurons that a linear layer makes and that only one other reads, by a forward that runs both.

        Raises:
            NotRecognised: A tensor of theirs is computed of others.
        """
        layers, taken = self.layers, {part[:2] for group in self.groups.values() for part in group.parts}
        if (f"{name}.weight", 0) in taken:
            return None
        flow = self.forwards.flow([name])
        if flow is None or flow.leak or len(flow.readers) != 1 or not self.forwards.is_recorded(name):
            return None
        (down,) = flow.readers
        if reason := layers.made_of_others((name, *flow.norms, down)):
            raise NotRecognised(name, reason)
        up, read = layers.linear_shape(name), layers.linear_shape(down)
        if up is None or read is None or up[0] != read[1] or not _is_plain(layers.modules[down]):
            return None
        norms = [part for norm in flow.norms for part in self.parts_of_norm(norm, read[1])]
        group = Group(name, "neuron", read[1], (*layers.rows_of(name, 1), *norms), layers.columns_of(down, 1))
        shared = shared_weights(self.model)
        if tied := {part.parameter for part in group.parts} & {*shared, *shared.values()}:
            raise NotRecognised(name, f"'{min(tied)}' is tied to another module's")
        return group

    def parts_of_norm(self, norm: str, size: int) -> list[Part]:
        """Scale, shift and running statistics of a batch norm: they are cut with their unit.

        Raises:
            NotRecognised: It is of another size.
        """
        module: Any = self.layers.modules[norm]
        if module.num_features != size:
            raise NotRecognised(norm, f"it has {module.num_features} features where {size} units go through")
        names = [f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
        return [Part(name, 0) for name in names if name in self.layers.owners]

    def is_between(self, role: str, paths: dict[str, str]) -> bool:
        """Whether the module of a role is there and does something."""
        module = self.layers.modules.get(paths[role]) if role in paths else None
        return module is not None and not isinstance(module, nn.Identity)

    # Convolutions.

    def named_channels(self, name: str, paths: dict[str, str]) -> Group | None:
        """The channels between two convolutions of a block that a row of the patterns names."""
        if self.is_between("without", paths):
            return None
        return self.channels(paths["conv"], paths["norm"], paths["next"], is_flattened=False)

    def chained_channels(self, name: str) -> Iterator[Group]:
        """Channels in an ``nn.Sequential``: convolution, batch norm, what acts per channel, and the next layer."""
        chain = list(_unrolled(name, self.layers.modules[name]))
        for i, (conv, module) in enumerate(chain[:-2]):
            (norm, scale), is_flattened = chain[i + 1], False
            if not isinstance(module, CONVOLUTIONS) or not isinstance(scale, BATCH_NORMS):
                continue
            for reader, following in chain[i + 2 :]:
                is_flattened |= isinstance(following, nn.Flatten)
                if not acts_per_channel(following):
                    if group := self.channels(conv, norm, reader, is_flattened):
                        yield group
                    break

    def channels(self, conv: str, norm: str, reader: str, is_flattened: bool) -> Group | None:
        """The channels that a convolution makes, a batch norm scales, and a layer reads."""
        first, scale, last = (self.layers.modules.get(name) for name in (conv, norm, reader))
        if not isinstance(first, CONVOLUTIONS) or not isinstance(scale, BATCH_NORMS) or first.groups != 1:
            return None
        size, block = first.out_channels, 0
        if isinstance(last, CONVOLUTIONS) and last.groups == 1:
            block = 1 if last.in_channels == size else 0
        elif isinstance(last, nn.Linear) and is_flattened and last.in_features % size == 0:
            block = last.in_features // size  # (C, H, W) flattened: each channel is H * W columns in a row
        if not block or scale.num_features != size:
            return None
        reason = self.layers.made_of_others((conv, norm, reader))
        flow = self.forwards.flow([conv], reader)
        if not reason and flow and (flow.leak or flow.readers != (reader,) or flow.norms != (norm,)):
            reason = f"its channels also reach {flow.leak or 'another layer'}"
        if reason:
            self.refused.setdefault(conv, reason)
            return None
        producers = (*self.layers.rows_of(conv, 1), *self.parts_of_norm(norm, size))
        return Group(conv, "channel", size, producers, (Part(f"{reader}.weight", 1, block),))

    # What is left.

    def unrecognised(self) -> dict[str, str]:
        """What was refused, what is called like a block and holds matrices outside of any, and experts."""
        refused = {name: reason for name, reason in self.refused.items() if name not in self.groups}
        in_groups = {part.parameter for group in self.groups.values() for part in group.parts}
        candidates = [
            name
            for name, module in self.layers.modules.items()
            if name and any(word in type(module).__name__.lower() for word in _CALLED_LIKE_A_BLOCK)
        ]
        for name in candidates:
            tensors = [tensor for tensor in self.layers.owners if tensor.startswith(f"{name}.")]
            # The innermost is named: a `BertAttention` that holds a `BertSelfAttention` would be the same block twice.
            is_outer = any(inner.startswith(f"{name}.") for inner in (*candidates, *refused))
            is_refused = any(belongs_to(name, block) or belongs_to(block, name) for block in refused)
            matrices = sum(tensor_at(self.layers.owners, tensor).dim() == 2 for tensor in tensors)
            if matrices > 1 and not in_groups & set(tensors) and not is_outer and not is_refused:
                refused[name] = type(self.layers.modules[name]).__name__
        return refused | self.experts()

    def experts(self) -> dict[str, str]:
        """Modules that hold the weights of several experts in one parameter, with the share of the model in all."""
        sizes: dict[str, int] = {}
        for name, (module, leaf) in self.layers.owners.items():
            tensor, is_torchs = getattr(module, leaf), type(module).__module__.startswith("torch.")
            if isinstance(tensor, nn.Parameter) and not is_torchs and not is_lazy(tensor) and _holds_experts(tensor):
                holder = name.rpartition(".")[0]
                sizes[holder] = sizes.get(holder, 0) + tensor.numel()
        whole = sum(tensor.numel() for tensor in self.model.parameters() if not is_lazy(tensor))
        share = sum(sizes.values()) / whole if whole else 0
        reason = f"several matrices in one 3-dimensional parameter, as of experts: {share:.0%} of the model"
        return dict.fromkeys(sizes, reason) if share >= 0.01 else {}


def _unrolled(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that run one after another; a chain inside of the chain is replaced by its modules."""
    # Not `named_children`, which leaves out what runs again.
    for leaf, child in module._modules.items():
        path = qualified(name, leaf)
        if child is None:
            continue
        if is_chain(child):
            yield from _unrolled(path, child)
        else:
            yield path, child


def _is_plain(module: nn.Module) -> bool:
    """Whether it is a linear layer that computes nothing else; one under a parametrization is a subclass."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _holds_experts(parameter: nn.Parameter) -> bool:
    """Whether it is three-dimensional and holds several matrices: (experts, out, in)."""
    return parameter.dim() == 3 and all(length > 1 for length in parameter.shape)
