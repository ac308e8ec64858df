"""Which of the kept weights do anything, those on a path from the input to the output; and as many at random."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, count_each
from lightning_lottery.functional.random_numbers import random_numbers_kept
from lightning_lottery.functional.selection import count_true
from lightning_lottery.scope import named_parameters

_RECTIFIERS = {functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


def effective_masks(module: nn.Module, masks: Masks, forward: Callable[[nn.Module], Any]) -> dict[str, Tensor]:
    """Of the kept weights those that the output depends on, whatever the weights are: the others may as well go.

    Args:
        module: Not changed.
        masks: As of ``places_on_paths``.
        forward: As of ``places_on_paths``.

    Returns:
        Masks of the same names and shapes.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> masks = {"0.weight": torch.tensor([[True, True], [True, False]]), "1.weight": torch.tensor([[True, False]])}
        >>> effective_masks(net, masks, lambda net: net(torch.ones(1, 2).double()))["0.weight"]  # one unread
        tensor([[ True,  True],
                [False, False]])

    Source: Vysogorets & Kempe 2023, "Connectivity matters: neural network pruning through the lens of effective
    sparsity", section 3: their effective sparsity is 1 minus the density of these masks. They put ones for the weights.
    """
    places = places_on_paths(module, masks, forward)
    return {name: mask & places[name] for name, mask in masks.items()}


def places_on_paths(module: nn.Module, masks: Masks, forward: Callable[[nn.Module], Any]) -> dict[str, Tensor]:
    """The entries on a path from the input to the output whose every other entry is kept: kept themselves or not.

    A copy of the module gets random positive weights where the masks keep them, no biases, norms at their
    initialisation, and rectifiers that let everything through; the gradient of a random sum of the outputs by an entry
    is what flows to it from the input times what flows from it to the output, and chance alone does not make it 0.

    Args:
        module: Not changed.
        masks: Parameter name, of a tied one the first, to bool tensor, ``True`` = kept.
        forward: Runs the copy, which is in float64, and gives its output, nested as it may be. Where inputs are
            ``positive``, no path is missed because its input happens to be 0.

    Returns:
        Name to bool tensor, on the devices of the masks.
    """
    copy = deepcopy(module).double().eval().requires_grad_(False)
    params = named_parameters(copy)
    with random_numbers_kept(), torch.enable_grad(), _WithoutRectifiers():
        torch.manual_seed(0)
        _randomise_(copy)
        for name, mask in masks.items():
            params[name].mul_(mask.to(params[name].device)).requires_grad_(True)
        outputs = [tensor for tensor in tensors_in(forward(copy)) if tensor.requires_grad]
        sums = [((0.5 + torch.rand_like(output)) * output).sum() for output in outputs]
        leaves = [params[name] for name in masks]
        gradients = torch.autograd.grad(sums, leaves, allow_unused=True) if outputs else [None] * len(leaves)
    pairs = zip(masks.items(), gradients, strict=True)
    return {name: torch.zeros_like(m) if g is None else (g != 0).to(m.device) for (name, m), g in pairs}


def shuffle_on_paths(masks: Masks, seed: int, paths: Callable[[Masks], Masks]) -> dict[str, Tensor]:
    """Masks with as many entries of each tensor kept, and as many of these effective, at places drawn anew.

    Layer by layer the effective entries are drawn among all places that lie on a path. What loses its last path by
    that, in any layer, is drawn again among the places that have one, until all do: this takes paths from nobody. Where
    it does not come out, half as many are drawn at a time, so that the counts are exact throughout and a ticket that
    leaves no choice stays as it is. Then entries that do nothing are drawn among the places where they do nothing.
    Units that no path runs through stay so, others may join them.

    Where every entry is effective and none loses its path, this is ``shuffle`` within the units that the masks use.

    Args:
        masks: Name to bool tensor, ``True`` = kept.
        seed: Draws the places, tensors by their names in sorted order, whatever the device.
        paths: What ``places_on_paths`` finds for masks.

    Returns:
        Masks of the same names and shapes.

    Raises:
        LotteryError: ``paths`` says one time this and another time that of the same masks.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> masks = {"0.weight": torch.tensor([[True, False, False]] * 2), "1.weight": torch.tensor([[True, True]])}
        >>> paths = lambda masks: places_on_paths(net, masks, lambda net: net(torch.ones(1, 3).double()))
        >>> shuffle_on_paths(masks, 2, paths)["0.weight"].sum(1)  # both units are still fed
        tensor([1, 1])
    """
    generator = torch.Generator().manual_seed(seed)  # of the CPU: a device's draws other numbers from the same seed
    on_paths = paths(masks)
    drawn = {name: mask & on_paths[name] for name, mask in masks.items()}
    effective, idle = count_each(drawn), {name: masks[name] & ~mask for name, mask in drawn.items()}
    for name in sorted(drawn):
        drawn = _drawn_anew(drawn, name, generator, paths)
    # Idle ones stand where they stood: no path leads there that there was not before.
    drawn = {name: mask | idle[name] for name, mask in drawn.items()}
    for name in sorted(drawn):
        if number := count_true(idle[name]):
            others = drawn[name] & ~idle[name]
            moved = {**drawn, name: others | _some(~others & ~paths(drawn)[name], number, generator)}
            # A tensor that a path runs through twice may have a new one through two of them: then they stay.
            drawn = moved if _effective_in(moved, paths) == effective else drawn
    if _effective_in(drawn, paths) != effective:
        raise LotteryError(
            "As many effective weights cannot be drawn: which places are on paths is not always the same."
        )
    return drawn


def _effective_in(masks: Masks, paths: Callable[[Masks], Masks]) -> dict[str, int]:
    on_paths = paths(masks)
    return count_each({name: mask & on_paths[name] for name, mask in masks.items()})


def _drawn_anew(
    masks: dict[str, Tensor], name: str, generator: torch.Generator, paths: Callable[[Masks], Masks]
) -> dict[str, Tensor]:
    """The masks, all of whose entries are effective, with those of one tensor at places drawn anew."""
    old, size = masks[name], count_true(masks[name])
    for _ in range(_MOST_DRAWS):
        if not (size := min(size, count_true(old))):
            break
        leaves = _some(old, size, generator)
        stays = masks[name] & ~leaves
        places = paths(masks)[name] & ~stays
        repaired = _repaired({**masks, name: stays | _some(places, size, generator)}, generator, paths)
        if repaired is not None:
            masks, old = repaired, old & ~leaves & repaired[name]
        elif size == 1:  # it alone can be at this place: it stays
            old = old & ~leaves
        else:
            size //= 2
    return masks


_MOST_DRAWS = 64
"""Of one tensor: where halves and quarters do not fit, single entries stay where they are."""


def _repaired(
    masks: dict[str, Tensor], generator: torch.Generator, paths: Callable[[Masks], Masks]
) -> dict[str, Tensor] | None:
    """The masks with every entry on a path: the others at places drawn among those on one; None where these run out."""
    masks, before = dict(masks), sum(map(count_true, masks.values())) + 1
    while True:
        on_paths = paths(masks)
        loose = {name: mask & ~on_paths[name] for name, mask in masks.items()}
        numbers = {name: number for name, number in count_each(loose).items() if number}
        if not numbers:
            return masks
        if (left := sum(numbers.values())) >= before:
            return None
        before = left
        for name, number in numbers.items():
            free = on_paths[name] & ~masks[name]
            moved = min(number, count_true(free))
            masks[name] = masks[name] & ~_some(loose[name], moved, generator) | _some(free, moved, generator)


def _some(mask: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """So many of a mask's entries, drawn."""
    places = mask.flatten().nonzero().flatten()
    order = torch.randperm(len(places), generator=generator)[:number]
    drawn = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    drawn[places[order.to(places.device)]] = True
    return drawn.view(mask.shape)


def positive(batch: Any) -> Any:
    """A batch of the same form whose real numbers are positive, random and in float64; integers are as they are.

    Example:
        >>> x, y = positive((torch.zeros(2), torch.tensor([0, 3])))
        >>> (x > 0).all().item(), y
        (True, tensor([0, 3]))
    """
    if isinstance(batch, Tensor):
        if not batch.is_floating_point():
            return batch
        generator = torch.Generator().manual_seed(0)
        return (0.5 + torch.rand(batch.shape, generator=generator, dtype=torch.float64)).to(batch.device)
    if isinstance(batch, Mapping):
        return {key: positive(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(positive(value) for value in batch)
    return batch


def tensors_in(output: Any) -> Iterable[Tensor]:
    """The tensors of real numbers in what a module returned, nested as it may be."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


@torch.no_grad()
def _randomise_(module: nn.Module) -> None:
    for name, param in module.named_parameters():
        if param.ndim > 1:
            # Averages of what they read, so that no depth makes numbers too large or too small.
            param.uniform_(0.5, 1.5).div_(max(1, param.numel() // len(param)))
        else:
            param.fill_(0.0 if "bias" in name.rpartition(".")[2] else 1.0)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.fill_(float(name.endswith("running_var")))


class _WithoutRectifiers(TorchFunctionMode):
    """Rectifiers let everything through: whether one is on is a matter of the weights, not of the paths."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return (args[0] if args else kwargs["input"]) if func in _RECTIFIERS else func(*args, **kwargs)
