"""What a module's own ``forward`` does with its layers: recorded, not run, and one module deep.

Names say that two layers belong together, and not whether something else reads what lies between them. A ``forward``
says it: it is traced symbolically, where every module inside is one opaque step, except those that only run their
children one after another. Where the forward around such a chain cannot be traced, it may run the chain as a whole, or
pieces of it: ``is_recorded`` then asks its source.
"""

import warnings
from collections import deque
from collections.abc import Collection, Sequence
from copy import copy
from typing import Any, NamedTuple

from torch import fx, nn

from lightning_lottery.functional.random_numbers import random_numbers_kept
from lightning_lottery.functional.train_mode import modes_kept
from lightning_lottery.scope import made_by_hooks, plain_name
from lightning_lottery.units.parts import (
    BATCH_NORMS,
    CONVOLUTIONS,
    acts_per_channel,
    is_chain,
    is_transposed,
)
from lightning_lottery.units.sources import only_calls

# Functions and methods by name, as the graph calls them ("iadd" is `+=`).
PER_CHANNEL = frozenset(
    ("relu", "relu_", "relu6", "gelu", "silu", "elu", "selu", "leaky_relu", "hardswish", "hardtanh", "hardsigmoid")
    + ("softplus", "mish", "sigmoid", "tanh", "abs", "neg", "exp", "clamp", "dropout", "dropout2d", "contiguous")
    + ("clone", "float", "double", "half", "to", "detach")
)
ELEMENTWISE = frozenset(("add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv"))
_MIXING = frozenset(
    ("softmax", "log_softmax", "softmin", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize", "norm")
    + ("linalg_vector_norm", "sum", "mean", "var", "std", "prod", "median", "logsumexp", "logcumsumexp", "amax", "amin")
    + ("max", "min", "argmax", "argmin", "cumsum", "cumsum_", "cumprod", "cumprod_", "sort", "argsort", "topk", "flip")
    + ("roll", "gather", "getattr", "matmul", "bmm", "einsum", "avg_pool1d", "max_pool1d", "unfold")
)
_NUMBERS = frozenset(("size", "dim", "numel", "stride"))
_NUMBER_ATTRIBUTES = frozenset(("shape", "device", "dtype", "ndim", "is_cuda", "requires_grad"))


class Flow(NamedTuple):
    """What becomes of the units that some layers make: names of layers, each in the order in which they run.

    Args:
        readers: Linear layers and convolutions that read them.
        norms: Batch norms that they go through before.
        leak: What else gets them, or what else a reader or norm gets; "" where nothing does.
    """

    readers: tuple[str, ...]
    norms: tuple[str, ...]
    leak: str


class Forwards:
    """The forwards of a model's modules, each traced when a layer that it runs is asked for.

    Args:
        model: Any module; it is not changed, and no random number is drawn.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 2))
        >>> Forwards(net).flow(["0"])
        Flow(readers=('2',), norms=(), leak='')
        >>> Forwards(net).flow(["2"])
        Flow(readers=(), norms=(), leak="'3' in Sequential")
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {plain_name(name): module for name, module in model.named_modules()}
        self._names = {id(module): name for name, module in self._modules.items()}
        # Under all names of a module: where two others run it, the forward of one is not all that happens to it.
        everywhere = dict(model.named_modules(remove_duplicate=False))
        self._runners: dict[int, list[list[nn.Module]]] = {}
        self._around: dict[int, list[nn.Module]] = {}  # what a module lies in, the runners aside
        for path, module in everywhere.items():
            runners, around = _runners(path, everywhere)
            self._runners.setdefault(id(module), []).append(runners)
            self._around.setdefault(id(module), []).extend(around)
        self._traces: dict[int, list[_Trace]] = {}

    def flow(self, makers: Sequence[str], reader: str | None = None) -> Flow | None:
        """What the layers make, followed to what reads it.

        Args:
            makers: Names of layers whose units belong together, unit by unit.
            reader: The layer that reads them, where names say that already: operations that are not known are then
                taken to act on each unit by itself, unless they have parameters. Otherwise they count as a leak.

        Returns:
            None where no forward is known that runs all of these layers.
        """
        layers = [*makers, *([] if reader is None else [reader])]
        if not self._modules.keys() >= set(layers):
            return None
        ids = {id(self._modules[name]) for name in makers}
        first, *others = [runners for name in layers for runners in self._runners[id(self._modules[name])]]
        for runner in first:
            if any(runner not in runners for runners in others):
                continue
            # In training and in evaluation mode a forward may do different things: what one of them does counts.
            traces = [trace for trace in self._traced(runner) if ids & trace.called]
            if flows := [trace.follow(ids, self._names, reader is not None) for trace in traces]:
                flow = next((flow for flow in flows if flow.leak or flow != flows[0]), flows[0])
                return self._alone(flow, makers, runner, looks_around=reader is None)
        return None

    def is_recorded(self, name: str) -> bool:
        """Whether the forward that runs a layer is known, and not only that of a chain in which it lies."""
        outermost = [runners[0] for runners in self._runners[id(self._modules[name])] if runners]
        return all(self._traced(runner) or self._runs_chain_of(name, runner) for runner in outermost)

    def _runs_chain_of(self, name: str, runner: nn.Module) -> bool:
        """Whether a module whose forward cannot be traced is seen to run the chain of a layer as a whole."""
        path = self._names[id(runner)]
        attribute, _, inside = name.removeprefix(f"{path}." if path else "").partition(".")
        return bool(inside) and only_calls(runner, attribute)

    def _alone(self, flow: Flow, makers: Sequence[str], runner: nn.Module, *, looks_around: bool) -> Flow:
        """The same flow, or its leak where something besides the runner takes one of its layers, too."""
        for name in (*flow.readers, *flow.norms):
            if any(runner not in runners for runners in self._runners[id(self._modules[name])]):
                return Flow((), (), f"'{name}', as does something else")
        for name in (*makers, *flow.readers, *flow.norms) if looks_around else ():
            layer = id(self._modules[name])
            traces = [trace for outer in self._around[layer] for trace in self._traced(outer)]
            if taker := next((trace.title for trace in traces if layer in trace.called | trace.read_directly), ""):
                return Flow((), (), f"{taker}, which takes '{name}' out of {type(runner).__name__}")
        return flow

    def _traced(self, runner: nn.Module) -> "list[_Trace]":
        if id(runner) not in self._traces:
            self._traces[id(runner)] = _traces_of(runner)
        return self._traces[id(runner)]


class _Trace:
    """One recorded forward."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.nodes = list(graph.nodes)
        self.title = type(root).__name__
        self.modules = {node: root.get_submodule(node.target) for node in self.nodes if node.op == "call_module"}
        self.called = {id(module) for module in self.modules.values()}
        # Those whose weights the forward reads by itself, as in `linear(x, self.fc.weight.t())`, by `id`.
        read = [node for node in self.nodes if node.op == "get_attr" and not all(_is_number(u, ()) for u in node.users)]
        self.read_directly = {id(root.get_submodule(node.target.rpartition(".")[0])) for node in read}

    def follow(self, makers: Collection[int], names: dict[int, str], is_known_block: bool) -> Flow:
        """Go through the nodes in the order in which they run, from the makers to what reads them."""
        units, numbers = set[fx.Node](), set[fx.Node]()
        readers, norms = dict[int, None](), dict[int, None]()
        makes_channels = any(isinstance(m, CONVOLUTIONS) for m in self.modules.values() if id(m) in makers)
        for node in self.nodes:
            inputs, module = node.all_input_nodes, self.modules.get(node)
            gets_units = any(source in units for source in inputs)
            if _is_number(node, numbers):
                numbers.add(node)
            elif (gets_units or id(module) in makers) and not is_known_block and _is_altered(module):
                return Flow((), (), f"a hook of {self.described(node)}")
            elif id(module) in makers and not gets_units:
                units.add(node)
            elif not gets_units:
                continue
            elif isinstance(module, (nn.Linear, *CONVOLUTIONS)) or is_transposed(module):
                readers[id(module)] = None
                if id(module) in makers or len(inputs) > 1:
                    return Flow((), (), self.described(node))
            elif isinstance(module, BATCH_NORMS) and len(inputs) == 1:
                norms[id(module)] = None
                units.add(node)
            elif self.acts_per_unit(node, units, numbers, is_known_block, makes_channels):
                units.add(node)
            else:
                return Flow((), (), self.described(node))
        for node, module in self.modules.items():
            is_here = id(module) in readers or id(module) in norms
            if is_here and (id(module) in self.read_directly or not units.intersection(node.all_input_nodes)):
                return Flow((), (), f"'{names[id(module)]}', as does something else")
        if directly := [names[key] for key in makers if key in self.read_directly]:
            return Flow((), (), f"what is computed with the weight of '{directly[0]}'")
        return Flow(tuple(names[key] for key in readers), tuple(names[key] for key in norms), "")

    def acts_per_unit(
        self,
        node: fx.Node,
        units: Collection[fx.Node],
        numbers: Collection[fx.Node],
        is_known_block: bool,
        makes_channels: bool,
    ) -> bool:
        """Whether each unit of what an operation gives comes from that unit alone."""
        if any(source not in units and source not in numbers for source in node.all_input_nodes):
            return False
        if (module := self.modules.get(node)) is not None:
            if is_known_block and not type(module).__module__.startswith("torch.nn."):
                return not [*module.parameters(), *module.buffers()]
            # Where units lie in the last dimension, pooling goes over them, and flattening puts others between them.
            moves = isinstance(module, nn.Flatten) or type(module).__module__.endswith("pooling")
            has_one_slope = isinstance(module, nn.PReLU) and module.num_parameters == 1
            return has_one_slope or (acts_per_channel(module) and (makes_channels or not moves))
        if node.op not in ("call_function", "call_method"):
            return False
        name = _name(node)
        if name in ELEMENTWISE:  # by a size: that may be the number of units, which changes when some are removed
            return all(source in units for source in node.all_input_nodes)
        return name not in _MIXING and not _takes_every_nth(node) if is_known_block else name in PER_CHANNEL

    def described(self, node: fx.Node) -> str:
        if node.op == "output":
            return f"the output of {self.title}"
        return f"'{node.target}' in {self.title}" if node.op == "call_module" else f"`{_name(node)}` in {self.title}"


class _OneDeep(fx.Tracer):
    """Records what one module's forward does; of the modules inside, it looks into chains alone."""

    proxy_buffer_attributes = True  # buffers that a forward writes are written in the record, not in the model

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not is_chain(m)


def _traces_of(runner: nn.Module) -> list[_Trace]:
    """The forward in training and in evaluation mode; none where it cannot be traced."""
    try:
        with warnings.catch_warnings(), random_numbers_kept(), modes_kept(runner):
            warnings.simplefilter("ignore")
            traces = []
            for mode in (True, False):
                twin = _stand_in(runner)
                twin.training = mode
                traces.append(_Trace(twin, _OneDeep().trace(twin)))
    except Exception:  # somebody's forward runs on proxies here: a branch on data can raise anything
        return []
    return traces


def _stand_in(module: nn.Module) -> nn.Module:
    """A module around the same children and tensors: what a forward stores in its module is stored there."""
    twin = copy(module)
    for key, value in vars(twin).items():
        if isinstance(value, (dict, list, set, deque)):
            vars(twin)[key] = copy(value)
    return twin


def _runners(path: str, modules: dict[str, nn.Module]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Whose forward calls the module at ``path``: what it lies in, with the chains below that, the outermost first.

    Returns:
        These, and what all of it lies in.
    """
    runners, around = list[nn.Module](), list[nn.Module]()
    while path:
        path = path.rpartition(".")[0]
        module: Any = modules[path]
        if type(module).forward is nn.Module.forward:  # a list or dictionary of modules
            continue
        (around if runners and not is_chain(runners[0]) else runners).insert(0, module)
    return runners, around


def _is_altered(module: nn.Module | None) -> bool:
    """Whether a module may do more than its class says: by hooks of somebody's, or by a forward of its own."""
    if module is None or made_by_hooks(module):  # hooks that make its weight are told of by that name
        return False
    hooks = [hook for kind in ("_forward_hooks", "_forward_pre_hooks") for hook in vars(module)[kind].values()]
    # Ours scale each unit by itself, or look on.
    foreign = [hook for hook in hooks if not str(getattr(hook, "__module__", "")).startswith("lightning_lottery.")]
    return bool(foreign or "forward" in vars(module))


def _takes_every_nth(node: fx.Node) -> bool:
    """Whether an operation is ``x[..., ::2]``, which parts units that lie next to each other."""
    index = node.args[1] if _name(node) == "getitem" else ()
    slices = index if isinstance(index, tuple) else (index,)
    return any(isinstance(i, slice) and i.step not in (None, 1) for i in slices)


def _is_number(node: fx.Node, numbers: Collection[fx.Node]) -> bool:
    """Whether an operation gives a size, a dtype or the like, or what is computed of such ``numbers`` alone."""
    if node.op not in ("call_function", "call_method"):
        return False
    if _name(node) == "getattr":
        return node.args[1] in _NUMBER_ATTRIBUTES
    inputs, computes = node.all_input_nodes, getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
    return _name(node) in _NUMBERS or bool(computes and inputs and all(source in numbers for source in inputs))


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
