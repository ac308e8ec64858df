"""Iterative pruning level by level: a fraction of what remains goes at each."""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_lottery.checks import check_fraction, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, Scores, count, keep_top
from lightning_lottery.functional.shares import share


def prune_further(
    scores: Scores, within: Masks, prune_fraction: float, *, per: Literal["all", "tensor"] = "all"
) -> dict[str, Tensor]:
    """Masks of the next level: of the ``kept`` entries that remain, the ``round(prune_fraction * kept)`` lowest go.

    Args:
        scores: Name to floating-point tensor of any shape; what was removed before does not count.
        within: Name to bool tensor: what remains.
        prune_fraction: Fraction of what remains that is removed, in (0, 1).
        per: Rank all tensors together (``"all"``), or remove the fraction of each by itself (``"tensor"``).

    Returns:
        Name to bool tensor; nothing removed before comes back.

    Raises:
        LotteryError: ``prune_fraction`` outside (0, 1), a fraction so small that nothing would be removed, or so large
            that nothing would be left, ``per="tensor"``: of one tensor; what ``keep_top`` refuses.

    Example:
        >>> scores, dense = {"w": torch.tensor([4.0, 1.0, 3.0, 2.0])}, {"w": torch.ones(4, dtype=torch.bool)}
        >>> prune_further(scores, dense, 0.25)
        {'w': tensor([ True, False,  True,  True])}

    Source: Frankle & Carbin 2019, strategy 2 (resetting). Their code removes ``ceil(prune_fraction * kept)`` and, by a
    strict comparison, one more.
    """
    check_prune_fraction(prune_fraction)
    if per == "tensor":
        masks = {name: _prune_together(scores, within, prune_fraction, (name,))[name] for name in scores}
    else:
        masks = _prune_together(scores, within, prune_fraction, tuple(scores))
    if (left := count(masks)[0]) == count(within)[0]:
        raise LotteryError(
            f"`prune_fraction` {prune_fraction} removes none of the {left} entries that remain: end at an earlier "
            "level, or remove a larger fraction."
        )
    return masks


def levels_to(sparsity: float, prune_fraction: float) -> int:
    """How many levels it takes until at least ``sparsity`` is removed, when each removes a fraction of what remains.

    Args:
        sparsity: Target, the fraction removed, in (0, 1).
        prune_fraction: Fraction of what remains that each level removes, in (0, 1).

    Raises:
        LotteryError: One is outside its range.

    Example:
        >>> levels_to(0.9, prune_fraction=0.2), levels_to(0.36, prune_fraction=0.2)
        (11, 2)
    """
    check_prune_fraction(prune_fraction)
    if not is_number(sparsity) or not 0 < sparsity < 1:
        raise LotteryError(f"`sparsity` to prune to by levels is in (0, 1), got {sparsity!r}: 1 is never reached.")
    exact = math.log1p(-sparsity) / math.log1p(-prune_fraction)
    return max(1, math.ceil(exact - 1e-9))  # 0.36 by 0.2 is two levels, whatever the last bit of a logarithm says


def check_prune_fraction(prune_fraction: float) -> None:
    """Refuse anything but a number in (0, 1).

    Raises:
        LotteryError: It is none.
    """
    check_fraction("prune_fraction", prune_fraction, "the fraction of what remains that a level removes", zero=False)


def _prune_together(scores: Scores, within: Masks, prune_fraction: float, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The masks of some tensors, ranked together."""
    remaining = {name: within[name] for name in names}
    kept, total = count(remaining)
    left = kept - round(share(prune_fraction, kept))
    if kept and not left:
        raise LotteryError(
            f"`prune_fraction` {prune_fraction} leaves none of the {kept} entries that remain in {', '.join(names)}: "
            "remove a smaller fraction, exclude it from the scope, or rank all together (per='all')."
        )
    if not kept:
        return {name: torch.zeros_like(mask) for name, mask in remaining.items()}
    return keep_top({name: scores[name] for name in names}, 1 - left / total, within=remaining)
