"""Units that can change places without a trace: hidden neurons and channels, also along residual streams, and heads.

The forward of a module is traced symbolically, without data, and each channel of every value is followed to the rows
and columns of the weights that make and read it; channels that are added to each other are one. What cannot be traced
is left to the names that ``anatomy`` knows.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from lightning_lottery.scope import plain_name
from lightning_lottery.units.groups import Group, Part, Survey, acts_per_channel, owners_of, survey

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SAME = frozenset(  # acts on each channel by itself
    ("relu", "relu_", "relu6", "gelu", "silu", "elu", "selu", "leaky_relu", "hardswish", "hardtanh", "hardsigmoid")
    + ("softplus", "mish", "sigmoid", "tanh", "abs", "neg", "exp", "clamp", "dropout", "dropout2d", "contiguous")
    + ("clone", "float", "double", "half", "to", "detach")
)
_POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3))
_PAIRS = frozenset(("add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv"))
_ASKS = frozenset(("size", "dim", "getattr", "numel"))  # gives no channels
_CONSTANT = -1  # in place of a unit: the same value in each of these channels


class _Signal(NamedTuple):
    """What is known of a value: which unit each channel is, dimensions behind the channels, whether those are flat."""

    units: list[int]
    behind: int
    flat: bool = False


class _Unknown(Exception):
    """An operation of which it is not known what it does to the order of channels."""


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
    tracer = _Tracer(model)
    for name, graph in _graphs(model, ""):
        tracer.follow(name, graph)
    groups = tracer.groups()
    held = {(part.parameter, part.dim) for group in groups.values() for part in (*group.producers, *group.consumers)}
    named = survey(model)
    for name, group in named.groups.items():
        if not held & {(part.parameter, part.dim) for part in (*group.producers, *group.consumers)}:
            groups[name] = group
    rank = {name: place for place, name in enumerate(owners_of(model))}
    ordered = dict(sorted(groups.items(), key=lambda item: rank[item[1].producers[0].parameter]))
    return Survey(ordered, _left(model, ordered, named.unrecognised))


def _left(model: nn.Module, groups: Mapping[str, Group], reasons: Mapping[str, str]) -> dict[str, str]:
    """Modules with weights of which neither rows nor columns are in a group."""
    held = {part.parameter for group in groups.values() for part in (*group.producers, *group.consumers)}
    owners = {name.rpartition(".")[0] or name for name, p in model.named_parameters() if p.ndim > 1}
    moved = {plain_name(name).rpartition(".")[0] for name in held}
    left = {plain_name(name): "its units are in no group" for name in sorted(owners)}
    left = {name: why for name, why in left.items() if name not in moved}
    return left | {name: why for name, why in reasons.items() if not any(m.startswith(name) for m in moved)}


def _graphs(module: nn.Module, name: str) -> Iterator[tuple[str, fx.GraphModule]]:
    """The outermost modules that can be traced."""
    if not list(module.children()):
        return
    try:
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = fx.symbolic_trace(deepcopy(module, shared))  # a copy: forward may leave something in its module
    except Exception:  # whatever a forward does that is no graph
        for leaf, child in module.named_children():
            yield from _graphs(child, f"{name}.{leaf}" if name else leaf)
    else:
        yield name, graph


class _Tracer:
    """Units as a union-find: each row and column of the weights is one, and those that are the same are joined."""

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[int, str] = {}  # of tied tensors the first
        for name, (module, leaf) in owners_of(model).items():
            self.names.setdefault(id(getattr(module, leaf)), name)
        self.ndim = {name: getattr(*place).ndim for name, place in owners_of(model).items()}
        self.parents: list[int] = []
        self.fixed: set[int] = set()
        self.frozen: set[tuple[str, int]] = set()  # dimensions of weights that something unknown reads
        self.rows: dict[tuple[str, int], tuple[int, list[int]]] = {}  # tensor and dimension: block and units
        self.signals: dict[fx.Node, _Signal] = {}

    def root(self, unit: int) -> int:
        while self.parents[unit] != unit:
            self.parents[unit] = unit = self.parents[self.parents[unit]]
        return unit

    def fix(self, units: Sequence[int]) -> None:
        self.fixed.update(unit for unit in units if unit != _CONSTANT)

    def join(self, units: Sequence[int], others: Sequence[int]) -> list[int]:
        """Two lists of units as one."""
        if len(units) != len(others):
            raise _Unknown
        for one, other in zip(units, others, strict=True):
            if _CONSTANT not in (one, other):
                self.parents[self.root(other)] = self.root(one)
        return [other if one == _CONSTANT else one for one, other in zip(units, others, strict=True)]

    def of(self, tensor: Tensor, dim: int, block: int = 1) -> list[int]:
        """The units along a dimension of a weight."""
        key = (self.names[id(tensor)], dim)
        if key not in self.rows:
            first, size = len(self.parents), tensor.shape[dim] // block
            self.parents += range(first, first + size)
            self.rows[key] = block, list(range(first, first + size))
        known, units = self.rows[key]
        if known != block:
            self.fix(units)
            raise _Unknown
        return units

    def follow(self, name: str, graph: fx.GraphModule) -> None:
        """Follow the channels through a module."""
        for node in graph.graph.nodes:
            try:
                if node.op == "call_module":
                    self.through_module(node, graph.get_submodule(node.target))
                elif node.op in ("call_function", "call_method"):
                    self.through_function(node)
                elif node.op == "get_attr":
                    self.freeze(_attribute(graph, node.target))
                elif node.op == "output":
                    raise _Unknown
            except Exception:  # of an operation called in a way that is not known, too
                for source in node.all_input_nodes:
                    if source in self.signals:
                        self.fix(self.signals[source].units)
                if node.op == "call_module":
                    self.freeze(*_own(graph.get_submodule(node.target)))

    def freeze(self, *tensors: Tensor, dims: Sequence[int] = range(8)) -> None:
        """Nothing along these dimensions of weights can move."""
        self.frozen.update((self.names[id(tensor)], dim) for tensor in tensors for dim in dims)

    def through_module(self, node: fx.Node, module: nn.Module) -> None:
        known = [self.signals[source] for source in node.all_input_nodes if source in self.signals]
        if len(known) and len(node.all_input_nodes) > 1:
            raise _Unknown
        signal = known[0] if known else None
        if isinstance(module, _CONVS) and (module.groups == 1 or module.groups == module.in_channels):
            self.through_conv(node, module, signal)
        elif isinstance(module, nn.Linear):
            if signal is None:
                self.freeze(module.weight, dims=[1])
            else:
                if signal.behind or (module.in_features % len(signal.units) if signal.flat else 0):
                    raise _Unknown
                block = module.in_features // len(signal.units) if signal.flat else 1
                self.join(signal.units, self.of(module.weight, 1, block))
            self.signals[node] = self.made(module, 0)
        elif signal is None:
            self.freeze(*_own(module))
        else:
            is_norm = isinstance(module, _BATCH_NORMS) or (
                isinstance(module, nn.LayerNorm) and not signal.behind and len(module.normalized_shape) == 1
            )
            if is_norm and not signal.flat:
                self.signals[node] = signal._replace(units=self.scaled(module, signal.units))
            elif isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
                self.signals[node] = self.flattened(signal)
            elif acts_per_channel(module) and (signal.behind or not type(module).__module__.endswith("pooling")):
                self.signals[node] = signal
            else:
                raise _Unknown

    def through_conv(self, node: fx.Node, conv: nn.Module, signal: _Signal | None) -> None:
        weight: Any = conv.weight
        if signal is not None and (signal.flat or signal.behind != weight.ndim - 2):
            raise _Unknown
        if conv.groups == 1:
            if signal is None:
                self.freeze(weight, dims=[1])
            else:
                self.join(signal.units, self.of(weight, 1))
            self.signals[node] = self.made(conv, weight.ndim - 2)
        elif signal is not None and conv.out_channels == conv.in_channels:  # each channel by itself
            self.signals[node] = signal._replace(units=self.scaled(conv, signal.units))
        else:
            raise _Unknown

    def made(self, layer: nn.Module, behind: int) -> _Signal:
        """What a layer gives: a unit for each of its rows."""
        return _Signal(self.scaled(layer, self.of(layer.weight, 0)), behind)  # type: ignore[arg-type]

    def scaled(self, module: nn.Module, units: list[int]) -> list[int]:
        """Units that also own an entry of each of a module's tensors, such as a norm's."""
        for tensor in _own(module):
            if tensor.ndim:  # not the number of batches tracked
                units = self.join(units, self.of(tensor, 0))
        return units

    def flattened(self, signal: _Signal) -> _Signal:
        return _Signal(signal.units, 0, flat=True) if signal.behind else signal

    def through_function(self, node: fx.Node) -> None:
        name = node.target if isinstance(node.target, str) else node.target.__name__
        arguments = [*node.args, *node.kwargs.values()]
        if name in _ASKS or not any(source in self.signals for source in node.all_input_nodes):
            return
        through = _THROUGH.get(name)
        if through is None and name not in _SAME | _POOLS | _PAIRS:
            raise _Unknown
        signals = [self.signals.get(source) for source in node.all_input_nodes]
        if through is not None:
            self.signals[node] = through(self, node, *arguments)
        elif name in _PAIRS and len(arguments) == 2:
            first = signals[0]
            for other in signals[1:]:
                if first is None or other is None or first[1:] != other[1:]:
                    raise _Unknown
                first = first._replace(units=self.join(first.units, other.units))
            assert first is not None
            self.signals[node] = first
        elif len(signals) == 1 and signals[0] and (name not in _POOLS or signals[0].behind):
            self.signals[node] = signals[0]
        else:
            raise _Unknown

    def flatten(self, node: fx.Node, value: fx.Node, start: int = 0, end: int = -1) -> _Signal:
        if (start, end) != (1, -1):
            raise _Unknown
        return self.flattened(self.signals[value])

    def view(self, node: fx.Node, value: fx.Node, *sizes: Any) -> _Signal:
        shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        if len(shape) != 2 or shape[1] != -1:
            raise _Unknown
        return self.flattened(self.signals[value])

    def mean(self, node: fx.Node, value: fx.Node, dim: Any, keepdim: bool = False) -> _Signal:
        signal, dims = self.signals[value], [dim] if isinstance(dim, int) else list(dim)
        places = {d + signal.behind if d < 0 else d - 2 for d in dims}
        if signal.flat or not places <= set(range(signal.behind)):
            raise _Unknown
        return signal if keepdim else signal._replace(behind=signal.behind - len(places))

    def cat(self, node: fx.Node, values: Sequence[fx.Node], dim: int = 0) -> _Signal:
        signals = [self.signals[value] for value in values]
        behind = signals[0].behind
        if dim not in (1, -1 - behind) or any(signal[1:] != (behind, False) for signal in signals):
            raise _Unknown
        return _Signal([unit for signal in signals for unit in signal.units], behind)

    def pad(self, node: fx.Node, value: fx.Node, pad: Any, mode: str = "constant", filled: Any = 0) -> _Signal:
        signal = self.signals[value]
        before, after = [*pad, *([0] * 12)][2 * signal.behind : 2 * signal.behind + 2]
        if signal.flat or mode != "constant" or len(pad) > 2 * signal.behind + 2 or min(before, after) < 0:
            raise _Unknown
        return signal._replace(units=[_CONSTANT] * before + signal.units + [_CONSTANT] * after)

    def getitem(self, node: fx.Node, value: fx.Node, index: Any) -> _Signal:
        signal, index = self.signals[value], index if isinstance(index, tuple) else (index,)
        if signal.flat or not all(isinstance(i, slice) for i in index) or len(index) > 2 + signal.behind:
            raise _Unknown
        return signal._replace(units=signal.units[index[1]]) if len(index) > 1 else signal

    def groups(self) -> dict[str, Group]:
        """Units that stand in the same dimensions of the same weights, as far as they stand there in a row."""
        places: dict[int, list[tuple[str, int, int, int]]] = {}
        for (name, dim), (block, units) in self.rows.items():
            for place, unit in enumerate(units):
                places.setdefault(self.root(unit), []).append((name, dim, block, place))
        for key in self.frozen & self.rows.keys():
            self.fix(self.rows[key][1])
        fixed = {self.root(unit) for unit in self.fixed}
        alike: dict[tuple[tuple[str, int, int], ...], list[list[int]]] = {}
        for root, own in places.items():
            if root not in fixed:
                own.sort()
                alike.setdefault(tuple(at[:3] for at in own), []).append([at[3] for at in own])
        found = (self.group(where, sorted(of)) for where, of in alike.items())
        return {group.name: group for group in found if group is not None}

    def group(self, where: Sequence[tuple[str, int, int]], units: list[list[int]]) -> Group | None:
        starts, size = units[0], len(units)
        if size < 2 or any(own != [start + u for start in starts] for u, own in enumerate(units)):
            return None
        parts = [Part(*at, start * at[2]) for at, start in zip(where, starts, strict=True)]
        rank = {name: place for place, name in enumerate(self.ndim)}
        parts.sort(key=lambda part: (rank[part.parameter], part.start))
        producers = [part for part in parts if part.dim == 0]
        consumers = [part for part in parts if part.dim == 1]
        made = [part for part in producers if self.ndim[part.parameter] > 1]
        if not made or not consumers:
            return None
        producers.sort(key=lambda part: part.parameter != made[0].parameter)
        whole = len(self.rows[made[0].parameter, 0][1]) == size
        rows = "" if whole else f"[{made[0].start}:{made[0].start + size}]"
        name = made[0].parameter.rpartition(".")[0] + rows
        kind = "channel" if self.ndim[made[0].parameter] > 2 else "neuron"
        return Group(name, kind, size, tuple(producers), tuple(consumers))  # type: ignore[arg-type]


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _attribute(graph: fx.GraphModule, path: str) -> Tensor:
    place, _, leaf = path.rpartition(".")
    tensor: Tensor = getattr(graph.get_submodule(place), leaf)
    return tensor


_THROUGH: dict[str, Callable[..., _Signal]] = {
    "flatten": _Tracer.flatten,
    "view": _Tracer.view,
    "reshape": _Tracer.view,
    "mean": _Tracer.mean,
    "amax": _Tracer.mean,
    "cat": _Tracer.cat,
    "pad": _Tracer.pad,
    "getitem": _Tracer.getitem,
}
