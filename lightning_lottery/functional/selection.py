"""The one selection behind `masks.keep_top`: exact, in linear time, block by block; only samples are sorted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Part = tuple[Tensor, Tensor | None, torch.dtype]
"""One tensor's flat scores, which of them may be kept (None: all), and the dtype in which all tensors are ranked."""

_Block = Any  # a NumPy array or a tensor: see `_fast`

_BLOCK = 1 << 16  # entries looked at together: a block and its comparisons stay in the processor's cache
_BLOCK_ON_DEVICE = 1 << 26  # elsewhere the host waits for every block
_SAMPLE = 1 << 14  # entries sampled to bracket the threshold


def threshold_of(parts: list[Part], rank: int, size: int) -> tuple[float, int]:
    """The ``rank``-th highest of ``size`` scores, and how many of those that equal it the ``rank`` highest lack.

    A strided sample brackets the threshold; one pass over cache-sized blocks counts what lies above the bracket and
    collects what lies inside; the few collected are ranked. Where the sample misled, the search goes on in the part
    that holds the threshold, which has lost an end of the bracket for good, so it ends. Masses of equal scores (dead
    units, removed weights) sit on an end of the open bracket: counted, never collected.
    """
    low, high = None, None
    while True:
        sample = _sample(parts, low, high, stride=max(1, size // _SAMPLE))
        if len(sample) == size:
            return _select(sample, rank)
        a, b = _bracket(sample, rank / size)
        from_b, inside = 0, []
        for block, counts in _blocks(parts, low, high):
            reaches_b = _both(block >= b, counts)
            from_b += count_true(reaches_b)
            inside.append(torch.as_tensor(block[_both(block > a, counts) & ~reaches_b]))
        collected = torch.cat([block.to(inside[0].device) for block in inside])
        if rank <= from_b:
            at_b = sum(count_true(_both(block == b, counts)) for block, counts in _blocks(parts, low, high))
            if rank > from_b - at_b:
                return b, from_b - rank
            low, size = b, from_b - at_b
        elif (rank := rank - from_b) <= len(collected):
            return _select(collected, rank)
        else:
            at_a = 0
            if a < b:
                at_a = sum(count_true(_both(block == a, counts)) for block, counts in _blocks(parts, low, high))
            if (rank := rank - len(collected)) <= at_a:
                return a, at_a - rank
            rank -= at_a
            high, size = a, size - from_b - len(collected) - at_a


def _select(entries: Tensor, rank: int) -> tuple[float, int]:
    ordered = np.sort(entries.cpu().numpy())  # so few that sorting them is cheaper than torch's `kthvalue`
    place = len(ordered) - rank
    return float(ordered[place]), place - int(np.searchsorted(ordered, ordered[place]))


def _bracket(sample: Tensor, fraction: float) -> tuple[float, float]:
    """Two sampled values around the one with ``fraction`` of the sample above it, four standard deviations apart."""
    ordered = np.sort(sample.cpu().numpy())[::-1]
    centre, margin = fraction * len(ordered), 2 * len(ordered) ** 0.5
    return float(ordered[min(len(ordered) - 1, int(centre + margin))]), float(ordered[max(0, int(centre - margin))])


def _sample(parts: list[Part], low: float | None, high: float | None, stride: int) -> Tensor:
    """Every ``stride``-th entry between ``low`` and ``high``; all of them where that finds none."""
    device = parts[0][0].device
    strided = [(flat[::stride], None if may is None else may[::stride], dtype) for flat, may, dtype in parts]
    found = [block if counts is None else block[counts] for block, counts in _blocks(strided, low, high)]
    sample = torch.cat([torch.as_tensor(block).to(device) for block in found])
    return sample if len(sample) or stride == 1 else _sample(parts, low, high, stride=1)


def _blocks(
    parts: list[Part], low: float | None = None, high: float | None = None
) -> Iterator[tuple[_Block, _Block | None]]:
    """A cache-sized block of each tensor at a time, and which of its entries count (None: all).

    Those that may be kept, above ``low`` and below ``high``; gathering them would take longer than everything else.
    """
    for flat, allowed, dtype in parts:
        for here in _slices(flat):
            block = _fast(flat[here].to(dtype))
            counts = None if allowed is None else _fast(allowed[here])
            if low is not None:
                counts = _both(block > low, counts)
            if high is not None:
                counts = _both(block < high, counts)
            yield block, counts


def _both(condition: _Block, counts: _Block | None) -> _Block:
    return condition if counts is None else condition & counts


def mask_of(part: Part, threshold: float, surplus: int) -> tuple[Tensor, int]:
    """The entries from the threshold on, without the last ``surplus`` that equal it; how many are still too many."""
    flat, allowed, dtype = part
    mask = torch.empty_like(flat, dtype=torch.bool)
    for here in reversed(_slices(flat)):
        block = _fast(flat[here].to(dtype))
        counts = None if allowed is None else _fast(allowed[here])
        _fast(mask[here])[...] = _both(block >= threshold, counts)
        if surplus:
            ties = torch.as_tensor(_both(block == threshold, counts))
            if count_true(ties) > surplus:
                ties[ties.nonzero().flatten()[:-surplus]] = False  # the first ones stay
            mask[here] &= ~ties
            surplus -= count_true(ties)
    return mask, surplus


def _slices(flat: Tensor) -> list[slice]:
    size = _BLOCK if flat.device.type == "cpu" else _BLOCK_ON_DEVICE
    return [slice(start, start + size) for start in range(0, len(flat), size)]


def _fast(tensor: Tensor) -> _Block:
    """The same memory as a NumPy array where it can be: comparing and counting is ten times as fast there."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def count_true(mask: _Block) -> int:
    """How many are true."""
    mask = _fast(mask) if isinstance(mask, Tensor) else mask
    return int(mask.sum()) if isinstance(mask, Tensor) else int(np.count_nonzero(mask))
