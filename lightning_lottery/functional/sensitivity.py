"""PLATON's running sensitivity and uncertainty: (state, observation) -> state."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_lottery.checks import check_fraction
from lightning_lottery.functional.masks import zero_removed_


class Averages(NamedTuple):
    """What PLATON remembers of one parameter: three tensors of its shape, of one dtype.

    ``window`` is the sum of ``|theta * grad|`` over the steps of the current window, ``sensitivity`` and
    ``uncertainty`` are the exponential moving averages over finished windows.
    """

    window: Tensor
    sensitivity: Tensor
    uncertainty: Tensor


def averages_like(param: Tensor, dtype: torch.dtype | None = None) -> Averages:
    """Averages that have seen nothing: zeros of the parameter's shape.

    Args:
        param: Whose.
        dtype: Default: the parameter's, but at least float32.

    Example:
        >>> averages_like(torch.ones(2)).sensitivity
        tensor([0., 0.])
    """
    dtype = dtype or torch.promote_types(param.dtype, torch.float32)
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
    if step % interval:
        add_(averages.window, param, grad)
    else:
        fold_(averages, interval=interval, beta1=beta1, beta2=beta2)
        add_(averages.window, param, grad, opens=True)


# One parameter at a time, in place: what is made in between is as large as one tensor and stays in the processor's
# cache, where operations on lists of all tensors would go through memory once for each operation.


def add_(
    window: Tensor, param: Tensor, grad: Tensor | None, *, opens: bool = False, counts: Tensor | None = None
) -> None:
    """Add ``|theta * grad|`` to a window, or open the next one with it.

    Args:
        window: Their sum, in place; whatever stands in it does not matter where it ``opens``.
        param: As in ``observe_``.
        grad: As in ``observe_``.
        opens: Whether this is the first step of a window.
        counts: An int32 tensor on the gradient's device, 1 or 0: whether there is an observation; default: yes.
    """
    if grad is None:
        window.zero_() if opens else None
        return
    wide = param.detach() if param.element_size() >= 4 else param.detach().float()
    observed = torch.mul(wide, grad.detach(), out=window if opens else None).abs_()
    if counts is not None:
        zero_removed_(observed, counts)
    if not opens:
        window.add_(observed)


def fold_(averages: Averages, *, interval: int, beta1: float, beta2: float) -> None:
    """End a window: renew both averages. The window's memory is free until the next one opens."""
    # The window becomes the mean and then |mean - sensitivity|: three tensors a parameter are enough, and the order is
    # the authors': uncertainty is measured from the sensitivity that was just renewed.
    mean = averages.window if interval == 1 else averages.window.div_(interval)
    averages.sensitivity.lerp_(mean, 1 - beta1)
    averages.uncertainty.lerp_(mean.sub_(averages.sensitivity).abs_(), 1 - beta2)


def score(averages: Averages, out: Tensor | None = None) -> Tensor:
    """Sensitivity times uncertainty, entry by entry: higher is more worth keeping.

    Args:
        averages: Of one parameter.
        out: Where to, instead of new memory.

    Example:
        >>> score(Averages(torch.zeros(1), torch.tensor([2.0]), torch.tensor([3.0])))
        tensor([6.])

    Source: Zhang et al. 2022 (PLATON), equation 7.
    """
    return torch.mul(averages.sensitivity, averages.uncertainty, out=out)


def check_decay(name: str, beta: float) -> None:
    """Refuse a decay outside [0, 1).

    Raises:
        LotteryError: It is outside.
    """
    check_fraction(name, beta, "the decay of a running average")
