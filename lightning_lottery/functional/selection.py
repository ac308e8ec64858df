"""The one selection behind `masks.keep_top`: exact, in linear time, block by block; little of it is sorted."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_Flat = Any  # a NumPy array or a tensor: see `_fast`

_BLOCK = 1 << 16  # entries looked at together: a block and its comparisons stay in the processor's cache
_BLOCK_ON_DEVICE = 1 << 26  # elsewhere the host waits for every block
_SAMPLE = 1 << 13  # entries sampled to bracket the threshold


class Block(NamedTuple):
    """Neighbouring entries of one tensor: scores, which of them may be kept (None: all), and where their mask goes."""

    scores: _Flat
    allowed: _Flat | None
    mask: _Flat
    dtype: torch.dtype
    """In which scores are compared: the same for all tensors."""

    def values(self) -> _Flat:
        """The scores to compare."""
        return _fast(self.scores.to(self.dtype)) if isinstance(self.scores, Tensor) else self.scores


def blocks_of(scores: Tensor, allowed: Tensor | None, mask: Tensor, dtype: torch.dtype) -> list[Block]:
    """One tensor in blocks that share its memory."""
    size = _BLOCK if scores.device.type == "cpu" else _BLOCK_ON_DEVICE
    flat = scores.detach().flatten()
    own = flat if flat.dtype != dtype else _fast(flat)
    may, out = None if allowed is None else _fast(allowed.flatten()), _fast(mask.view(-1))
    places = [slice(start, start + size) for start in range(0, flat.numel(), size)]
    return [Block(own[here], None if may is None else may[here], out[here], dtype) for here in places]


def keep_highest_(blocks: list[Block], rank: int, size: int) -> None:
    """Write masks that keep the ``rank`` highest of the ``size`` scores that may be kept; of equal ones the first."""
    threshold, surplus = _threshold(blocks, rank, size)
    for block in reversed(blocks):
        values = block.values()
        (np.greater_equal if isinstance(values, np.ndarray) else torch.ge)(values, threshold, out=block.mask)
        if block.allowed is not None:
            block.mask[...] &= block.allowed  # in place, as `out` above: memory made anew would take longer
        if surplus:
            ties = torch.as_tensor(_both(values == threshold, block.allowed))
            if count_true(ties) > surplus:
                ties[ties.nonzero().flatten()[:-surplus]] = False  # the first ones stay
            block.mask[...] &= _fast(~ties)
            surplus -= count_true(ties)


def _threshold(blocks: list[Block], rank: int, size: int) -> tuple[float, int]:
    """The ``rank``-th highest of ``size`` scores, and how many of those that equal it the ``rank`` highest lack.

    A strided sample names a pivot, counting tells where it truly stands, and from there the sample brackets the
    threshold; one pass counts what lies above the bracket and collects the little that lies inside, which is ranked:
    counting is cheap, collecting is not. Where the sample misled, the search goes on in the part that holds the
    threshold, which has lost an end of the bracket for good, so it ends. Masses of equal scores (dead units, removed
    weights) sit on an end of the open bracket: counted, never collected.
    """
    low, high = None, None
    while True:
        ordered = np.sort(_sample(blocks, low, high, stride=max(1, size // _SAMPLE)))
        if len(ordered) == size:
            return _select(ordered, rank)
        pivot = float(ordered[int((1 - rank / size) * (len(ordered) - 1))])
        reached = sum(count_true(_both(values >= pivot, counts)) for values, counts in _between(blocks, low, high))
        a, b = _bracket(ordered, pivot, (rank - reached) * len(ordered) / size)
        from_b, inside = 0, []
        for values, counts in _between(blocks, low, high):
            reaches_b = _both(values >= b, counts)
            from_b += count_true(reaches_b)
            inside.append(values[_both(values > a, counts) & ~reaches_b])
        collected = _joined(inside)
        if rank <= from_b:
            at_b = sum(count_true(_both(values == b, counts)) for values, counts in _between(blocks, low, high))
            if rank > from_b - at_b:
                return b, from_b - rank
            low, size = b, from_b - at_b
        elif (rank := rank - from_b) <= len(collected):
            return _select(np.sort(collected), rank)
        else:
            at_a = 0
            if a < b:
                at_a = sum(count_true(_both(values == a, counts)) for values, counts in _between(blocks, low, high))
            if (rank := rank - len(collected)) <= at_a:
                return a, at_a - rank
            rank -= at_a
            high, size = a, size - from_b - len(collected) - at_a


def _select(ordered: np.ndarray, rank: int) -> tuple[float, int]:
    place = len(ordered) - rank
    return float(ordered[place]), place - int(np.searchsorted(ordered, ordered[place]))


def _bracket(ordered: np.ndarray, pivot: float, below: float) -> tuple[float, float]:
    """Two sampled values around the one that lies so many sampled values ``below`` the last that reaches the pivot.

    Six standard deviations apart: between pivot and threshold a sample holds ``below``, more or less its root.
    """
    place, margin, last = np.searchsorted(ordered, pivot) - below, 3 * abs(below) ** 0.5 + 3, len(ordered) - 1
    a, b = (float(ordered[min(last, max(0, int(around)))]) for around in (place - margin, place + margin))
    return a, b


def _sample(blocks: list[Block], low: float | None, high: float | None, stride: int) -> np.ndarray:
    """Every ``stride``-th entry between ``low`` and ``high``; all of them where that finds none."""
    strided = [
        Block(of.scores[::stride], None if of.allowed is None else of.allowed[::stride], of.mask, of.dtype)
        for of in blocks
    ]
    sample = _joined([values if counts is None else values[counts] for values, counts in _between(strided, low, high)])
    return sample if len(sample) or stride == 1 else _sample(blocks, low, high, stride=1)


def _between(blocks: list[Block], low: float | None, high: float | None) -> Iterator[tuple[_Flat, _Flat | None]]:
    """The scores of one block after the other, and which of them count (None: all).

    Those that may be kept, above ``low`` and below ``high``; gathering them would take longer than everything else.
    """
    for block in blocks:
        values, counts = block.values(), block.allowed
        if low is not None:
            counts = _both(values > low, counts)
        if high is not None:
            counts = _both(values < high, counts)
        yield values, counts


def _joined(found: list[_Flat]) -> np.ndarray:
    """All of them on the host, to which a device hands them at once."""
    tensors = [torch.as_tensor(one) for one in found]
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors]).cpu().numpy()


def _both(condition: _Flat, counts: _Flat | None) -> _Flat:
    return condition if counts is None else condition & counts


def _fast(tensor: Tensor) -> _Flat:
    """The same memory as a NumPy array where it can be: comparing and counting is ten times as fast there."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def count_true(mask: _Flat) -> int:
    """How many are true."""
    mask = _fast(mask) if isinstance(mask, Tensor) else mask
    return int(mask.sum()) if isinstance(mask, Tensor) else int(np.count_nonzero(mask))
