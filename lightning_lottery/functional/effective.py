"""Which of the kept weights do anything: those on a path from the input to the output."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_lottery.functional.masks import Masks
from lightning_lottery.functional.random_numbers import random_numbers_kept
from lightning_lottery.scope import named_parameters

_RECTIFIERS = {functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


def effective_masks(module: nn.Module, masks: Masks, forward: Callable[[nn.Module], Any]) -> dict[str, Tensor]:
    """Of the kept weights those that the output depends on, whatever the weights are: the others may as well go.

    A copy of the module gets random positive weights where the masks keep them, no biases, norms at their
    initialisation, and rectifiers that let everything through; a weight is effective where the gradient of a random sum
    of the outputs by it is not 0, which chance alone does not make it.

    Args:
        module: Not changed.
        masks: Parameter name, of a tied one the first, to bool tensor, ``True`` = kept.
        forward: Runs the copy, which is in float64, and gives its output, nested as it may be. Where inputs are
            ``positive``, no path is missed because its input happens to be 0.

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
    return {name: torch.zeros_like(m) if g is None else m & (g != 0).to(m.device) for (name, m), g in pairs}


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
