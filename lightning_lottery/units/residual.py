"""Channels that convolutions share through residual connections, by the graph of ``torch-pruning``."""

from typing import Any

from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.scope import plain_name
from lightning_lottery.units.parts import BATCH_NORMS, CONVOLUTIONS, Group, Part, computed_tensors, copy_of


def coupled_channels(model: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> dict[str, Group]:
    """Channels that convolutions share, also through residual connections, by the graph of ``torch-pruning``.

    Groups that reach an output of the model, whose units do not lie in a row, or that hold a layer under a
    parametrization or hook such as weight norm are left out.

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
    twin = copy_of(model).eval()  # the graph is made by a forward pass, which moves batch norm's statistics
    names = {id(module): plain_name(name) for name, module in twin.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(twin, example_inputs=inputs)
    computed = {name.rpartition(".")[0] for name in computed_tensors(model)}
    groups = {}
    for dependencies in graph.get_all_groups(root_module_types=list(CONVOLUTIONS)):
        name = names[id(dependencies[0].dep.target.module)]
        group = _group_from(name, dependencies, names, graph)
        if group is not None and not computed & {names.get(id(d.dep.target.module)) for d in dependencies}:
            groups[name] = group
    if not groups:
        raise LotteryError(f"{type(model).__name__} has no convolution whose channels could be removed.")
    return groups


def _group_from(name: str, dependencies: Any, names: dict[int, str], graph: Any) -> Group | None:
    """One of the graph's groups as ours; None where its units do not lie in a row, or nothing reads them."""
    producers, consumers, size = [], [], len(dependencies[0].idxs)
    for dependency in dependencies:
        module, indices = dependency.dep.target.module, list(dependency.idxs)
        path = names.get(id(module))
        if path is None:  # an operation without parameters
            continue
        # `root_idxs` says to which channel of the first convolution each index belongs. We can say it in a `Part` only
        # where the indices are one stretch, and each channel owns the same number of them: 0 0 0 1 1 1 2 2 2.
        block, start = len(indices) // size, min(indices)
        in_order = [unit for unit in range(size) for _ in range(block)]
        if indices != list(range(start, start + size * block)) or list(dependency.root_idxs) != in_order:
            return None
        if isinstance(module, BATCH_NORMS):
            leaves = [leaf for leaf, _ in (*module.named_parameters(), *module.named_buffers())]
            producers += [Part(f"{path}.{leaf}", 0, block, start) for leaf in leaves if leaf != "num_batches_tracked"]
        elif graph.is_out_channel_pruning_fn(dependency.dep.handler):
            producers += [Part(f"{path}.{leaf}", 0, block, start) for leaf, _ in module.named_parameters()]
        else:
            consumers.append(Part(f"{path}.weight", 1, block, start))
    producers, consumers = list(dict.fromkeys(producers)), list(dict.fromkeys(consumers))  # a layer may be met twice
    return Group(name, "channel", size, tuple(producers), tuple(consumers)) if consumers else None
