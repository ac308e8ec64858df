"""Sparse from the start: how many weights each layer keeps, at random; then the lowest are dropped and others grow."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_lottery.checks import check_fraction, check_word
from lightning_lottery.functional.masks import Masks, Scores, check_sparsity, count, keep_top, shuffle
from lightning_lottery.functional.shares import share

Layers = Literal["erk", "uniform"]
"""How a sparsity is parted among layers."""

Shapes = Mapping[str, Sequence[int]]
"""Qualified parameter name to the shape of its tensor."""


def layer_densities(layers: Layers, shapes: Shapes, sparsity: float) -> dict[str, float]:
    """The fraction that each tensor keeps, so that together they keep what a sparsity leaves.

    ``"uniform"``: every tensor the same. ``"erk"`` (Erdős-Rényi-kernel): in proportion to the sum of a tensor's sides
    over their product, which spares small layers; those that would keep more than all are dense, the largest first.

    Args:
        layers: ``"erk"`` or ``"uniform"``.
        shapes: Name to shape.
        sparsity: Fraction of all entries that is removed, in [0, 1).

    Returns:
        Name to fraction kept, in [0, 1].

    Raises:
        LotteryError: Another word, or ``sparsity`` outside [0, 1).

    Example:
        >>> layer_densities("erk", {"wide": (32, 32), "narrow": (2, 2)}, sparsity=0.75)
        {'wide': 0.2470703125, 'narrow': 1.0}

    Source: Evci et al. 2020 (RigL), section 3.1; Mocanu et al. 2018 (SET), equation 1. As in the authors' code every
    tensor's uniform share is rounded up, and that many are parted: less than one entry per tensor more than asked.
    """
    check_word("layers", layers, ("erk", "uniform"))
    check_sparsity(sparsity)
    if layers == "uniform":
        return dict.fromkeys(shapes, 1 - sparsity)
    sizes = [math.prod(shape) for shape in shapes.values()]
    return _erk(shapes, sum(size - math.floor(share(sparsity, size)) for size in sizes))


def layer_counts(layers: Layers, shapes: Shapes, sparsity: float) -> dict[str, int]:
    """How many entries each tensor keeps: exactly ``round((1 - sparsity) * n)`` of all ``n``.

    Each is the share that its density gives, rounded down, or up where the most would be lost (the first of equals).

    Args:
        layers: As for ``layer_densities``, whose share of so many entries is rounded.
        shapes: Name to shape.
        sparsity: Fraction of all entries that is removed, in [0, 1).

    Raises:
        LotteryError: As of ``layer_densities``.

    Example:
        >>> layer_counts("uniform", {"a": (5,), "b": (5,), "c": (5,)}, sparsity=0.5)
        {'a': 3, 'b': 3, 'c': 2}
    """
    check_word("layers", layers, ("erk", "uniform"))
    check_sparsity(sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    kept = round(share(1 - sparsity, total))
    densities = _erk(shapes, kept) if layers == "erk" else dict.fromkeys(shapes, kept / max(1, total))
    shares = {name: share(density, sizes[name]) for name, density in densities.items()}
    counts = {name: math.floor(part) for name, part in shares.items()}
    by_loss = sorted(shapes, key=lambda name: counts[name] - shares[name])
    for name in by_loss[: kept - sum(counts.values())]:
        counts[name] += 1
    return counts


def random_masks(layers: Layers, shapes: Shapes, sparsity: float, seed: int) -> dict[str, Tensor]:
    """Masks that keep ``layer_counts`` entries of each tensor, at places that a seed draws.

    Args:
        layers: As for ``layer_densities``.
        shapes: Name to shape.
        sparsity: Fraction of all entries that is removed, in [0, 1).
        seed: Draws the places, by the names in sorted order, as ``shuffle`` does.

    Returns:
        Name to bool tensor on the CPU, ``True`` = kept.

    Raises:
        LotteryError: As of ``layer_densities``.

    Example:
        >>> random_masks("uniform", {"w": (2, 4)}, sparsity=0.75, seed=0)["w"].sum()
        tensor(2)

    Source: Liu et al. 2022, "The unreasonable effectiveness of random pruning", section 3.
    """
    kept = layer_counts(layers, shapes, sparsity)
    firsts = {name: (torch.arange(math.prod(shapes[name])) < kept[name]).reshape(shapes[name]) for name in shapes}
    return shuffle(firsts, seed)


def drop_fraction(step: int, end: int, first: float) -> float:
    """The fraction of the kept weights that is dropped at a step: ``first`` at 0, falling as a cosine to 0 at ``end``.

    Args:
        step: Optimizer step, >= 0.
        end: The step from which on nothing is dropped, >= 1.
        first: In [0, 1].

    Example:
        >>> [round(drop_fraction(step, 8, 0.3), 4) for step in (0, 4, 8, 12)]
        [0.3, 0.15, 0.0, 0.0]

    Source: Evci et al. 2020, section 3.1 (update schedule).
    """
    return first / 2 * (1 + math.cos(math.pi * min(step, end) / end))


def drop_and_grow(magnitudes: Scores, growth: Scores, masks: Masks, fraction: float) -> dict[str, Tensor]:
    """Masks that keep as many entries of each tensor: the lowest of the kept are dropped, and as many others grow.

    ``floor(fraction * kept)`` are dropped. What grows is the highest among all that are not kept then: also an entry
    that was dropped just now, which then stays. Of equal scores the first are kept, and grow.

    Args:
        magnitudes: Name to floating-point tensor of any shape: what is kept of the kept.
        growth: Of the same shapes: what grows of the others. A tensor that is missing here keeps its mask.
        masks: Name to bool tensor, ``True`` = kept.
        fraction: Of the kept entries of each tensor that is dropped, in [0, 1].

    Returns:
        Name to bool tensor.

    Raises:
        LotteryError: ``fraction`` outside [0, 1], a NaN score, or scores that are not floating-point.

    Example:
        >>> w, gradient = torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 0.0])
        >>> drop_and_grow({"w": w}, {"w": gradient}, {"w": w != 0}, fraction=0.5)
        {'w': tensor([ True, False,  True, False])}

    Source: Evci et al. 2020, algorithm 1, whose code ranks so. Unlike there a kept weight that is zero ranks above
    those that are not kept.
    """
    check_fraction("fraction", fraction, "the fraction of the kept weights that is dropped", one=True)
    after = {}
    for name, mask in masks.items():
        kept = count({name: mask})[0]
        dropped = math.floor(share(fraction, kept))
        if name in growth and dropped:
            stays = _highest(name, magnitudes[name], kept - dropped, mask)
            after[name] = stays | _highest(name, growth[name], dropped, ~stays)
        else:
            after[name] = mask
    return after


def _erk(shapes: Shapes, kept: int) -> dict[str, float]:
    """Densities of so many kept entries: in proportion to sides / entries, at most 1."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: (sum(shape) or 1) / max(1, sizes[name]) for name, shape in shapes.items()}
    dense: set[str] = set()
    while sparse := [name for name in shapes if name not in dense]:
        left = kept - sum(sizes[name] for name in dense)
        whole = sum(raw[name] * sizes[name] for name in sparse)
        scale, most = left / (whole or 1), max(raw[name] for name in sparse)
        if scale * most <= 1:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        # Only the largest: what the others lose by it may bring them below 1.
        dense.update(name for name in sparse if raw[name] == most)
    return dict.fromkeys(shapes, 1.0)


def _highest(name: str, score: Tensor, kept: int, within: Tensor) -> Tensor:
    """Which so many entries are the highest within a mask."""
    if not kept:
        return torch.zeros_like(within)
    return keep_top({name: score}, 1 - kept / score.numel(), within={name: within})[name]
