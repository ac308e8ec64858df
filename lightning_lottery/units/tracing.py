"""Units that can change places without a trace: hidden neurons and channels, also along residual streams, and heads.

The forward of a module is traced symbolically, without data, and each channel of every value is followed to the rows
and columns of the weights that make and read it; channels that are added to each other are one. What cannot be traced
is left to the names that ``groups_of`` knows.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from lightning_lottery.scope import plain_name
from lightning_lottery.units.forwards import ELEMENTWISE, PER_CHANNEL
from lightning_lottery.units.groups import Survey, survey
from lightning_lottery.units.index_sets import CONSTANT, IndexSets, Unknown
from lightning_lottery.units.parts import BATCH_NORMS, CONVOLUTIONS, Group, acts_per_channel, owners_of

# Functions and methods by name, as the graph calls them.
_POOLING = frozenset(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3))
_GIVES_NO_CHANNELS = frozenset(("size", "dim", "getattr", "numel"))  # "getattr" is `x.shape`


class _Value(NamedTuple):
    """The channels of a value in the graph, each as an element of its set, and where in the shape they stand.

    A value of shape (B, C, H, W) has C channels and 2 dimensions behind them; (B, T, C) has C channels and none. Once
    (C, H, W) is flattened, each channel is H * W features in a row, how many is not known before a layer reads them.
    """

    channels: list[int]
    dims_behind: int
    is_flattened: bool = False


def permutable(model: nn.Module) -> Survey:
    """Groups whose units can change places, in the order of the modules, and which weights no group holds, and why.

    Names and the trace say so; that the function stays what it is should be checked on the module itself.

    Args:
        model: Any module; it is not changed.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> {name: (group.kind, group.size) for name, group in permutable(net).groups.items()}
        {'0': ('neuron', 8), '2': ('neuron', 8)}
    """
    sets = IndexSets(model)
    for graph in _traced_parts(model):
        _Trace(sets).follow(graph)
    groups = sets.groups()
    # The trace comes first: it sees residual streams, which names do not. Heads, which it cannot follow through the
    # reshapes of attention, come by their names.
    traced = {(part.parameter, part.dim) for group in groups.values() for part in group.parts}
    by_name = survey(model)
    for name, group in by_name.groups.items():
        if not traced & {(part.parameter, part.dim) for part in group.parts}:
            groups[name] = group
    order = {name: position for position, name in enumerate(owners_of(model))}
    ordered = dict(sorted(groups.items(), key=lambda item: order[item[1].producers[0].parameter]))
    return Survey(ordered, _left_out(model, ordered, by_name.unrecognised))


def _left_out(model: nn.Module, groups: Mapping[str, Group], reasons: Mapping[str, str]) -> dict[str, str]:
    """Modules with weights of which neither rows nor columns are in a group, and why."""
    moved = {part.parameter.rpartition(".")[0] for group in groups.values() for part in group.parts}
    holders = {name.rpartition(".")[0] or name for name, p in model.named_parameters() if p.ndim > 1}
    left = {plain_name(name): "its units are in no group" for name in sorted(holders)}
    left = {name: reason for name, reason in left.items() if name not in moved}
    return left | {n: reason for n, reason in reasons.items() if not any(m.startswith(n) for m in moved)}


def _traced_parts(module: nn.Module) -> Iterator[fx.GraphModule]:
    """The graphs of the outermost modules that can be traced."""
    if not list(module.children()):
        return
    # A copy, as a forward may store something in its module; around the same tensors, as their `id` tells the names.
    tensors: dict[int, Any] = {id(tensor): tensor for tensor in _tensors_of(module)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = fx.symbolic_trace(deepcopy(module, tensors))
    except Exception:  # somebody's forward runs on proxies here: a branch on data can raise anything
        for child in module.children():
            yield from _traced_parts(child)
    else:
        yield graph


class _Trace:
    """Follows the channels of every value through one graph, and joins the indices that make and read them."""

    def __init__(self, sets: IndexSets) -> None:
        self.sets = sets
        self.values: dict[fx.Node, _Value] = {}  # a node that is not in here: a number, a shape, the network's input

    def follow(self, graph: fx.GraphModule) -> None:
        """Go through the nodes in the order in which they run.

        An operation that is not known may do anything to the order of channels: what goes in stays where it is, and
        what comes out is like an input of the network. So an unknown operation costs groups, never a wrong one.
        """
        for node in graph.graph.nodes:
            try:
                if node.op == "call_module":
                    self.through_module(node, graph.get_submodule(node.target))
                elif node.op in ("call_function", "call_method"):
                    self.through_function(node)
                elif node.op == "get_attr":  # a weight that is read as data
                    module, _, leaf = node.target.rpartition(".")
                    self.sets.freeze(getattr(graph.get_submodule(module), leaf))
                elif node.op == "output":
                    raise Unknown
            except Exception:  # an operation that is known, called in a way that is not, is as good as unknown
                for source in node.all_input_nodes:
                    if source in self.values:
                        self.sets.fix(self.values[source].channels)
                if node.op == "call_module":
                    self.sets.freeze(*_tensors_of(graph.get_submodule(node.target)))

    # Modules.

    def through_module(self, node: fx.Node, module: nn.Module) -> None:
        known = [self.values[source] for source in node.all_input_nodes if source in self.values]
        if known and len(node.all_input_nodes) > 1:
            raise Unknown
        value = known[0] if known else None
        if isinstance(module, CONVOLUTIONS) and module.groups in (1, module.in_channels):
            self.values[node] = self.through_convolution(module, value)
        elif isinstance(module, nn.Linear):
            self.values[node] = self.through_linear(module, value)
        elif value is None:
            self.sets.freeze(*_tensors_of(module))
        else:
            self.values[node] = self.through_layer(module, value)

    def through_linear(self, linear: nn.Linear, value: _Value | None) -> _Value:
        if value is None:  # the features of an input have their meaning by their place
            self.sets.freeze(linear.weight, dims=[1])
        else:
            block = linear.in_features // len(value.channels) if value.is_flattened else 1
            if value.dims_behind or (value.is_flattened and linear.in_features % len(value.channels)):
                raise Unknown  # its last dimension is not that of the channels
            self.sets.join(value.channels, self.sets.along(linear.weight, 1, block))
        return self.made_by(linear, dims_behind=0)

    def through_convolution(self, conv: nn.Module, value: _Value | None) -> _Value:
        weight: Any = conv.weight
        dims_behind = weight.ndim - 2
        if value is not None and (value.is_flattened or value.dims_behind != dims_behind):
            raise Unknown
        if conv.groups == 1:
            if value is None:
                self.sets.freeze(weight, dims=[1])
            else:
                self.sets.join(value.channels, self.sets.along(weight, 1))
            return self.made_by(conv, dims_behind)
        if value is None or conv.out_channels != conv.in_channels:
            raise Unknown
        return value._replace(channels=self.scaled(conv, value.channels))  # depthwise: each channel by itself

    def through_layer(self, module: nn.Module, value: _Value) -> _Value:
        """Through a module that has no matrix."""
        # A mean over all features does not see their order: layer norm is for us like batch norm, over one dimension.
        is_layer_norm = isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and not value.dims_behind
        if (isinstance(module, BATCH_NORMS) or is_layer_norm) and not value.is_flattened:
            return value._replace(channels=self.scaled(module, value.channels))
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            return _flattened(value)
        # Without a dimension behind the channels, pooling would go over the channels.
        is_pooling = type(module).__module__.endswith("pooling")
        if acts_per_channel(module) and (value.dims_behind or not is_pooling):
            return value
        raise Unknown

    def made_by(self, layer: nn.Module, dims_behind: int) -> _Value:
        """What a layer gives: a channel for each row of its weight."""
        weight: Any = layer.weight
        return _Value(self.scaled(layer, self.sets.along(weight, 0)), dims_behind)

    def scaled(self, module: nn.Module, channels: list[int]) -> list[int]:
        """Channels that also own an entry of each of a module's tensors, such as a norm's scale or a layer's bias."""
        for tensor in _tensors_of(module):
            if tensor.ndim:  # the number of batches that a batch norm has seen has none
                channels = self.sets.join(channels, self.sets.along(tensor, 0))
        return channels

    # Functions and methods; those of `_FUNCTIONS` get the arguments of the call.

    def through_function(self, node: fx.Node) -> None:
        name = node.target if isinstance(node.target, str) else node.target.__name__
        arguments = [*node.args, *node.kwargs.values()]
        values = [self.values.get(source) for source in node.all_input_nodes]
        if name in _GIVES_NO_CHANNELS or all(value is None for value in values):
            return
        first = values[0]
        if name in _FUNCTIONS:
            self.values[node] = _FUNCTIONS[name](self, *arguments)
        elif name in ELEMENTWISE and len(arguments) == 2:
            self.values[node] = self.joined(values)
        elif first is not None and len(values) == 1 and _keeps_channels(name, first):
            self.values[node] = first
        else:
            raise Unknown

    def joined(self, values: Sequence[_Value | None]) -> _Value:
        """The sum or product of values of the same layout (or of one, and a number): their channels are the same."""
        first = values[0]
        for value in values[1:]:
            if first is None or value is None or first[1:] != value[1:]:
                raise Unknown
            first = first._replace(channels=self.sets.join(first.channels, value.channels))
        assert first is not None
        return first

    def flatten(self, source: fx.Node, start: int = 0, end: int = -1) -> _Value:
        if (start, end) != (1, -1):
            raise Unknown
        return _flattened(self.values[source])

    def view(self, source: fx.Node, *sizes: Any) -> _Value:
        shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        if len(shape) != 2 or shape[1] != -1:  # only as `flatten(1)`: `x.view(x.size(0), -1)`
            raise Unknown
        return _flattened(self.values[source])

    def mean(self, source: fx.Node, dim: Any, keepdim: bool = False) -> _Value:
        value, dims = self.values[source], [dim] if isinstance(dim, int) else list(dim)
        # Counted from the first dimension behind the channels: (B, C, H, W) has H at 0 (as dim 2 or -2) and W at 1.
        averaged = {d + value.dims_behind if d < 0 else d - 2 for d in dims}
        if value.is_flattened or not averaged <= set(range(value.dims_behind)):
            raise Unknown
        return value if keepdim else value._replace(dims_behind=value.dims_behind - len(averaged))

    def cat(self, sources: Sequence[fx.Node], dim: int = 0) -> _Value:
        values = [self.values[source] for source in sources]
        behind = values[0].dims_behind
        if dim not in (1, -1 - behind) or any(value[1:] != (behind, False) for value in values):
            raise Unknown
        return _Value([channel for value in values for channel in value.channels], behind)

    def pad(self, source: fx.Node, pad: Any, mode: str = "constant", filling: Any = 0) -> _Value:
        value = self.values[source]
        # `pad` has two numbers for each dimension, the last first: those of the channels come after those behind them.
        before, after = [*pad, *([0] * 12)][2 * value.dims_behind : 2 * value.dims_behind + 2]
        if value.is_flattened or mode != "constant" or len(pad) > 2 * value.dims_behind + 2 or min(before, after) < 0:
            raise Unknown
        return value._replace(channels=[CONSTANT] * before + value.channels + [CONSTANT] * after)

    def getitem(self, source: fx.Node, index: Any) -> _Value:
        value, index = self.values[source], index if isinstance(index, tuple) else (index,)
        is_slicing = all(isinstance(i, slice) for i in index) and len(index) <= 2 + value.dims_behind
        if value.is_flattened or not is_slicing:
            raise Unknown
        return value._replace(channels=value.channels[index[1]]) if len(index) > 1 else value


_FUNCTIONS: dict[str, Callable[..., _Value]] = {
    "flatten": _Trace.flatten,
    "view": _Trace.view,
    "reshape": _Trace.view,
    "mean": _Trace.mean,
    "amax": _Trace.mean,
    "cat": _Trace.cat,
    "pad": _Trace.pad,
    "getitem": _Trace.getitem,
}


def _keeps_channels(name: str, value: _Value) -> bool:
    """Whether a function of one value acts on each of its channels by itself."""
    return name in PER_CHANNEL | ELEMENTWISE or (name in _POOLING and value.dims_behind > 0)


def _flattened(value: _Value) -> _Value:
    return _Value(value.channels, 0, is_flattened=True) if value.dims_behind else value


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
