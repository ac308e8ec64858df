"""PLATON's running sensitivity and uncertainty: (state, observation) -> state."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError


class Averages(NamedTuple):
    """What PLATON remembers of one parameter: three tensors of its shape, float32 or float64.

    ``window`` is the sum of ``|theta * grad|`` over the steps of the current window, ``sensitivity`` and
    ``uncertainty`` are the exponential moving averages over finished windows.
    """

    window: Tensor
    sensitivity: Tensor
    uncertainty: Tensor


def averages_like(param: Tensor) -> Averages:
    """Averages that have seen nothing: zeros of the parameter's shape, in at least float32.

    Example:
        >>> averages_like(torch.ones(2)).sensitivity
        tensor([0., 0.])
    """
    dtype = torch.promote_types(param.dtype, torch.float32)
    return Averages(*(torch.zeros_like(param, dtype=dtype, requires_grad=False) for _ in range(3)))


def observe_(
    averages: Averages, param: Tensor, grad: Tensor | None, *, step: int, interval: int, beta1: float, beta2: float
) -> None:
    """Add one optimizer step's ``s = |theta * grad|`` to the averages, in place.

    Where ``step`` is a multiple of ``interval`` the window that just ended is folded in first, with ``I`` its mean:
    ``sensitivity = beta1 * sensitivity + (1 - beta1) * I``, then
    ``uncertainty = beta2 * uncertainty + (1 - beta2) * |I - sensitivity|``; ``s`` opens the next window.

    Args:
        averages: State of this parameter.
        param: The weights ``theta`` after the optimizer's step.
        grad: Their gradient in that step, unscaled and clipped; same shape. None for a step without an observation:
            it counts as 0 in its window, and a window that ends there ends all the same.
        step: Optimizer steps so far, this one included: the first is 1.
        interval: Steps in a window, >= 1.
        beta1: Decay of the sensitivity, in [0, 1).
        beta2: Decay of the uncertainty, in [0, 1).

    Example:
        >>> state = averages_like(torch.ones(1))
        >>> for step in (1, 2):
        ...     observe_(state, torch.ones(1), torch.tensor([4.0]), step=step, interval=1, beta1=0.75, beta2=0.5)
        >>> state.sensitivity, state.uncertainty
        (tensor([1.]), tensor([1.5000]))

    Source: Zhang et al. 2022 (PLATON), equations 3 to 6, in the order of the authors' code, whose first window lacks
    one step (its counter begins at 1) and is averaged over ``interval`` all the same; as there, no bias correction.
    """
    observed = None if grad is None else (param.detach().to(averages.window.dtype) * grad.detach()).abs_()
    if step % interval:
        if observed is not None:
            averages.window.add_(observed)
        return
    mean = averages.window.div_(interval)
    averages.sensitivity.lerp_(mean, 1 - beta1)
    averages.uncertainty.lerp_(mean.sub_(averages.sensitivity).abs_(), 1 - beta2)
    averages.window.zero_()
    if observed is not None:
        averages.window.copy_(observed)


def score(averages: Averages) -> Tensor:
    """Sensitivity times uncertainty, entry by entry: higher is more worth keeping.

    Example:
        >>> score(Averages(torch.zeros(1), torch.tensor([2.0]), torch.tensor([3.0])))
        tensor([6.])

    Source: Zhang et al. 2022 (PLATON), equation 7.
    """
    return averages.sensitivity * averages.uncertainty


def check_decay(name: str, beta: float) -> None:
    """Refuse a decay outside [0, 1).

    Raises:
        LotteryError: It is outside.
    """
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
        raise LotteryError(f"`{name}` is the decay of a running average and must be in [0, 1), got {beta!r}.")
