"""The one selection behind `masks.keep_top`: exact, in linear time, block by block; little of it is sorted."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_Flat = Any  # a NumPy array or a tensor: see `_fast`

_BLOCK = 1 << 17  # entries looked at together: a block and its comparisons stay in the processor's cache
_BLOCK_ON_DEVICE = 1 << 26  # elsewhere the host waits for every block
_ROOM = 1 << 16  # entries that may be collected at least, however few there are in all


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

    def equal_to(self, value: float) -> _Flat:
        """Which entries have this score and may be kept."""
        return _both(self.values() == value, self.allowed)


class _Found(NamedTuple):
    """What one pass over all blocks found, whose masks it made: what reaches ``b`` and may be kept."""

    reached: int
    """How many entries that is."""
    inside: int
    """How many may be kept and lie above ``a`` and below ``b``."""
    places: list[_Flat]
    """Of each block, where those are; of none where there are too many."""
    scores: np.ndarray
    """The scores of those, one block after the other."""
    has_nan: bool


def blocks_of(scores: Tensor, allowed: Tensor | None, mask: Tensor, dtype: torch.dtype) -> list[Block]:
    """One tensor in blocks that share its memory."""
    size = _BLOCK if scores.device.type == "cpu" else _BLOCK_ON_DEVICE
    own = scores.detach() if scores.dtype != dtype else _fast(scores.detach())
    own, may, out = own.reshape(-1), None if allowed is None else _fast(allowed).reshape(-1), _fast(mask).reshape(-1)
    places = [slice(start, start + size) for start in range(0, len(out), size)]
    return [Block(own[here], None if may is None else may[here], out[here], dtype) for here in places]


def keep_highest_(blocks: list[Block], rank: int, available: int) -> bool:
    """Write masks that keep the ``rank`` highest of the scores that may be kept; of equal ones the first.

    A strided sample brackets the threshold; one pass over all entries marks and counts what lies above the bracket and
    collects the little that lies inside, which is ranked. Where the sample misled, a four times denser one is taken of
    the part that holds the threshold: a few passes more. Masses of equal scores (dead units, removed weights) sit on an
    end of the open bracket: counted, never collected.

    Args:
        blocks: All entries in reading order.
        rank: How many are kept, >= 1.
        available: How many may be kept, >= ``rank``.

    Returns:
        Whether that could be done: not where a score is NaN.
    """
    low, high = None, None  # the threshold lies between them
    above_low, from_high = available, 0  # of the entries that may be kept
    total = sum(len(block.mask) for block in blocks)
    stride = total // _sample_size(total) | 1  # odd: layers' widths are even
    while True:
        sample = np.sort(_sample(blocks, low, high, stride))
        a, b = _bracket(sample, (rank - from_high) / (above_low - from_high))
        found = _pass_over(blocks, a, b, room=max(total // 8, _ROOM))
        missing = rank - found.reached
        if found.has_nan:
            return False
        if missing == 0:
            return True
        if missing < 0:
            at_b = _count_equal(blocks, b)
            if at_b > -missing:
                _drop_last_(blocks, b, -missing)
                return True
            low, above_low = b, found.reached - at_b
        elif missing <= found.inside:
            if len(found.scores):
                _mark_(blocks, found, _highest(found.scores, missing))
                return True
            low, above_low, high, from_high = a, found.reached + found.inside, b, found.reached
        else:
            missing -= found.inside
            at_a = _count_equal(blocks, a) if a < b else 0
            if missing <= at_a:
                _mark_above_(blocks, a)
                _add_first_(blocks, a, missing)
                return True
            high, from_high = a, found.reached + found.inside + at_a
        stride = max(1, stride // 4)


def _sample_size(total: int) -> int:
    """Of how many entries a sample is to be: one larger takes longer than what a closer bracket spares."""
    return round(2 * math.pow(total, 2 / 3))


def _bracket(ordered: np.ndarray, share: float) -> tuple[float, float]:
    """Two sampled values around the one that this share of the sample reaches: six standard deviations apart."""
    place, last = (1 - share) * len(ordered), len(ordered) - 1
    margin = 3 * (place * share) ** 0.5 + 3
    a, b = (float(ordered[min(last, max(0, int(around)))]) for around in (place - margin, place + margin))
    return a, b


def _pass_over(blocks: list[Block], a: float, b: float, room: int) -> _Found:
    """Mark and count what reaches ``b`` and may be kept, find what of it lies between ``a`` and ``b``.

    Where that is more than there is ``room`` for, the sample misled, and it is only counted.
    """
    reached, inside, places, scores, has_nan = 0, 0, [], [], False
    for block in blocks:
        values = block.values()
        highest = values.max()
        has_nan |= bool(highest != highest)
        library: Any = np if isinstance(values, np.ndarray) else torch
        library.greater_equal(values, b, out=block.mask)
        within = _both((values > a) > block.mask, block.allowed)  # the one and not the other
        if block.allowed is not None:
            block.mask[...] &= block.allowed
        reached += count_true(block.mask)
        inside += count_true(within)
        if inside <= room:
            places.append(_places(within))
            scores.append(values[places[-1]])
    if inside > room:
        places, scores = [], []
    return _Found(reached, inside, places, _joined(scores), has_nan)


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Which scores are the highest so many; of equal ones the first."""
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    highest: np.ndarray = scores > threshold
    highest[np.flatnonzero(scores == threshold)[: count - count_true(highest)]] = True
    return highest


def _mark_(blocks: list[Block], found: _Found, which: np.ndarray) -> None:
    """Keep those of the entries that were found inside the bracket."""
    start = 0
    for block, places in zip(blocks, found.places, strict=True):
        own = which[start : start + len(places)]
        block.mask[places[own if isinstance(places, np.ndarray) else torch.from_numpy(own).to(places.device)]] = True
        start += len(places)


def _mark_above_(blocks: list[Block], value: float) -> None:
    """Keep what lies above and may be kept."""
    for block in blocks:
        block.mask[...] = _both(block.values() > value, block.allowed)


def _count_equal(blocks: list[Block], value: float) -> int:
    return sum(count_true(block.equal_to(value)) for block in blocks)


def _drop_last_(blocks: list[Block], value: float, count: int) -> None:
    """Keep so many entries of this score less, from the end."""
    for block in reversed(blocks):
        if not count:
            return
        ties = block.equal_to(value)
        if (here := count_true(ties)) > count:
            ties[_places(ties)[:-count]] = False
            here = count
        block.mask[...] = block.mask > ties  # the one and not the other
        count -= here


def _add_first_(blocks: list[Block], value: float, count: int) -> None:
    """Keep so many entries of this score more, from the beginning."""
    for block in blocks:
        if not count:
            return
        ties = block.equal_to(value)
        if (here := count_true(ties)) > count:
            ties[_places(ties)[count:]] = False
            here = count
        block.mask[...] |= ties
        count -= here


def _sample(blocks: list[Block], low: float | None, high: float | None, stride: int) -> np.ndarray:
    """Every ``stride``-th score that may be kept, between ``low`` and ``high``; all of them where that finds none."""
    found = []
    for block in blocks:
        values = block._replace(scores=block.scores[::stride]).values()
        counts = None if block.allowed is None else block.allowed[::stride]
        if low is not None:
            counts = _both(values > low, counts)
        if high is not None:
            counts = _both(values < high, counts)
        found.append(values if counts is None else values[counts])
    sample = _joined(found)
    return sample if len(sample) or stride == 1 else _sample(blocks, low, high, stride=1)


def _joined(found: list[_Flat]) -> np.ndarray:
    """All of them on the host, to which a device hands them at once."""
    if all(isinstance(one, np.ndarray) for one in found):
        return np.concatenate(found or [np.empty(0)])
    tensors = [torch.as_tensor(one) for one in found]
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors]).cpu().numpy()


def _places(condition: _Flat) -> _Flat:
    """Where it is true."""
    return condition.nonzero().flatten() if isinstance(condition, Tensor) else condition.nonzero()[0]


def _both(condition: _Flat, counts: _Flat | None) -> _Flat:
    return condition if counts is None else condition & counts


def _fast(tensor: Tensor) -> _Flat:
    """The same memory as a NumPy array where it can be: comparing and counting is ten times as fast there."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def count_true(mask: _Flat) -> int:
    """How many are true."""
    mask = _fast(mask) if isinstance(mask, Tensor) else mask
    return int(mask.sum()) if isinstance(mask, Tensor) else int(np.count_nonzero(mask))
