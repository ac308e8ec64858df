"""Which units to remove together, and what the rest then counts: swaps and factors after a search."""

import torch
from torch import Tensor


def rearrange(gradients: Tensor, mask: Tensor) -> Tensor:
    """A mask that keeps as many units, where removing the others together costs less: greedy swaps.

    Begins with the units of least Fisher information, sum of the squared gradients. Then each other one, in the order
    of its information, joins the removed, and the one without which the sum over batches of (sum of the gradients of
    all removed)^2 is least is kept in its stead; of equals, the first that came.

    Args:
        gradients: Of each batch's loss by the units' masks: (batches, units).
        mask: Bool tensor of shape (units,), ``True`` = kept; how many it keeps counts.

    Returns:
        Bool tensor of shape (units,).

    Example:
        >>> gradients = torch.tensor([[1.0, 1.1, -1.2, 9.0]])  # the second and third cancel
        >>> rearrange(gradients, torch.tensor([False, False, True, True]))
        tensor([ True, False, False,  True])

    Source: Kwon et al. 2022, "A fast post-training pruning framework for transformers", section 4.2: the Fisher
    information within a layer in full.
    """
    precise = gradients.detach().to(torch.float64).cpu()
    order = precise.square().sum(0).argsort(stable=True).tolist()
    number = int((~mask).sum())
    removed, total = order[:number], precise[:, order[:number]].sum(1)
    for unit in order[number:] if number else ():
        removed.append(unit)
        total = total + precise[:, unit]
        costs = (total[:, None] - precise[:, removed]).square().sum(0)
        total = total - precise[:, removed.pop(int(costs.argmin()))]
    kept = torch.ones(mask.shape, dtype=torch.bool)
    kept[removed] = False
    return kept.to(mask.device)


def rescaled(gram: Tensor, moments: Tensor) -> Tensor:
    """Factors of units with which their sum comes closest to a target: 1 where the data say nothing.

    The solution of min |A r - (b - A 1)|^2 + |r|^2, plus 1, where A = X'X and b = X'y are of the units' outputs X and
    the target y. The damping is on these normal equations, so it matters little where there are many rows.

    Args:
        gram: X'X, of shape (units, units).
        moments: X'y, of shape (units,).

    Returns:
        Of shape (units,), in float64.

    Example:
        >>> rescaled(torch.diag(torch.tensor([1e3, 0.0])), torch.tensor([2e3, 0.0])).round(decimals=4)
        tensor([2., 1.], dtype=torch.float64)

    Source: Kwon et al. 2022, section 4.3, and its code for the damping; solved exactly in place of by iterations.
    """
    gram, moments = gram.to(torch.float64), moments.to(torch.float64)
    # Both rows at once, not the normal equations of the normal equations: their condition would be its fourth power.
    damped = torch.cat([gram, torch.eye(len(gram), dtype=gram.dtype, device=gram.device)])
    target = torch.cat([moments - gram.sum(1), torch.zeros_like(moments)])
    solution: Tensor = torch.linalg.lstsq(damped, target[:, None]).solution
    return 1 + solution[:, 0]
