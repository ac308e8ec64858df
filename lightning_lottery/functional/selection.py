"""The one selection behind `masks.keep_top`: exact, in linear time, block by block; little of it is sorted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_Flat = Any  # a NumPy array or a tensor: see `_fast`

_BLOCK = 1 << 17  # entries looked at together: a block and its comparisons stay in the processor's cache
_BLOCK_ON_DEVICE = 1 << 26  # elsewhere the host waits for every block
_ROOM = 1 << 16  # entries that may be collected at least, however few there are in all
_SMALL = 1 << 13  # entries of a tensor that is copied into a pack: to look at it alone takes longer


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


class _Pass(NamedTuple):
    """What one pass over all blocks counted and collected; entries that may not be kept are in none of it."""

    reached: int
    """How many entries reach ``b``: those whose mask is now true."""
    inside: int
    """How many lie inside the bracket: above ``a`` and below ``b``."""
    positions: list[_Flat]
    """Where those are in each block; empty where they are too many to be collected."""
    scores: np.ndarray
    """Their scores, one block after the other."""
    has_nan: bool


def packs_of(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Neighbours that are ranked as one tensor: each of many small ones would take as long as a block does."""
    packs: list[list[str]] = []
    room, device = 0, None
    for name, tensor in tensors.items():
        is_small = tensor.numel() <= _SMALL
        if is_small and tensor.numel() <= room and tensor.device == device:
            packs[-1].append(name)
        else:
            packs.append([name])
            room, device = _BLOCK * is_small, tensor.device
        room -= tensor.numel()
    return packs


def blocks_of(
    scores: Sequence[Tensor], allowed: Sequence[Tensor] | None, mask: Tensor, dtype: torch.dtype
) -> list[Block]:
    """The tensors of a pack in blocks: a single one shares its memory with them, several are copied."""
    if len(scores) > 1:
        scores = [torch.cat([score.detach().flatten().to(dtype) for score in scores])]
        allowed = allowed and [torch.cat([part.flatten() for part in allowed])]
    return _cut(scores[0], allowed[0] if allowed else None, mask, dtype)


def _cut(scores: Tensor, allowed: Tensor | None, mask: Tensor, dtype: torch.dtype) -> list[Block]:
    size = _BLOCK if scores.device.type == "cpu" else _BLOCK_ON_DEVICE
    # NumPy has no bfloat16: scores that are still to be cast stay tensors and are cast block by block.
    values = scores.detach() if scores.dtype != dtype else _fast(scores.detach())
    values, out = values.reshape(-1), _fast(mask).reshape(-1)
    may = None if allowed is None else _fast(allowed).reshape(-1)
    parts = [slice(start, start + size) for start in range(0, len(out), size)]
    return [Block(values[part], None if may is None else may[part], out[part], dtype) for part in parts]


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
    # All scores from the lowest to the highest. The threshold, the score of rank ``rank``, lies in (low, high); (a, b)
    # is the bracket that the sample proposes. One pass treats its three parts so:
    #
    #       low            a                 b            high
    #        (-------------|-----------------|-------------)
    #            skipped        collected         marked
    #                        (or counted, where
    #                         they are too many)
    #
    # Where the entry of rank ``rank`` turns out to be, tells what is next: among the marked (missing < 0), among the
    # collected (0 < missing <= inside), or at ``a`` and below.
    low, high = None, None
    above_low, from_high = available, 0  # how many lie above ``low``, how many reach ``high``
    total = sum(len(block.mask) for block in blocks)
    # An odd stride, for layers' widths are even: an even one would see some of the columns only.
    stride = total // _sample_size(total) | 1
    while True:
        sample = np.sort(_sample(blocks, low, high, stride))
        a, b = _bracket(sample, (rank - from_high) / (above_low - from_high))
        seen = _pass_over(blocks, a, b, room=max(total // 8, _ROOM))
        missing = rank - seen.reached
        if seen.has_nan:  # before anything is concluded: no comparison with NaN holds, so the counts miss it
            return False
        if missing == 0:
            return True
        if missing < 0:
            at_b = _count_equal(blocks, b)
            if at_b > -missing:
                _drop_last_(blocks, b, -missing)
                return True
            low, above_low = b, seen.reached - at_b
        elif missing <= seen.inside:
            if len(seen.scores):
                _mark_(blocks, seen, _highest(seen.scores, missing))
                return True
            low, above_low, high, from_high = a, seen.reached + seen.inside, b, seen.reached
        else:
            missing -= seen.inside
            at_a = _count_equal(blocks, a) if a < b else 0  # where a is b, those were marked already
            if missing <= at_a:
                _mark_above_(blocks, a)
                _add_first_(blocks, a, missing)
                return True
            high, from_high = a, seen.reached + seen.inside + at_a
        # Each round shuts out the part that cannot hold the threshold, and at stride 1 the sample is everything that is
        # left: then a bracket's end is a score that there is, and the search ends.
        stride = max(1, stride // 4)


def _sample_size(total: int) -> int:
    """How many entries to sample: a larger sample takes longer than what a closer bracket spares."""
    # Sorting s entries costs about s, collecting a bracket about n / sqrt(s), for so many entries lie in it: both are
    # equal at s = n^(2/3).
    return round(2 * math.pow(total, 2 / 3))


def _bracket(ordered: np.ndarray, share: float) -> tuple[float, float]:
    """Two sampled values around the one that this share of the sample reaches: six standard deviations apart."""
    middle, last = (1 - share) * len(ordered), len(ordered) - 1
    # How many sampled values lie below the threshold is binomial: s (1 - share) share is its variance. Three more for
    # the ends, where the variance is nearly 0.
    margin = 3 * (middle * share) ** 0.5 + 3
    a, b = (float(ordered[min(last, max(0, int(index)))]) for index in (middle - margin, middle + margin))
    return a, b


def _pass_over(blocks: list[Block], a: float, b: float, room: int) -> _Pass:
    """Mark and count the entries that reach ``b``, collect those between ``a`` and ``b``, if they may be kept.

    Where those between are more than there is ``room`` for, the sample misled, and they are only counted.
    """
    reached, inside, positions, scores, has_nan = 0, 0, [], [], False
    for block in blocks:
        values = block.values()
        highest = values.max()
        has_nan |= bool(highest != highest)  # a maximum is NaN where any entry is, in NumPy as in torch
        library: Any = np if isinstance(values, np.ndarray) else torch
        library.greater_equal(values, b, out=block.mask)
        within = _both((values > a) > block.mask, block.allowed)  # the one and not the other
        if block.allowed is not None:
            block.mask[...] &= block.allowed
        reached += count_true(block.mask)
        inside += count_true(within)
        if inside <= room:
            positions.append(_positions(within))
            scores.append(values[positions[-1]])
    if inside > room:
        positions, scores = [], []
    return _Pass(reached, inside, positions, _joined(scores), has_nan)


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Which scores are the highest so many; of equal ones the first."""
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    highest: np.ndarray = scores > threshold
    highest[np.flatnonzero(scores == threshold)[: count - count_true(highest)]] = True
    return highest


def _mark_(blocks: list[Block], seen: _Pass, is_kept: np.ndarray) -> None:
    """Keep some of the entries that were collected inside the bracket."""
    start = 0
    for block, positions in zip(blocks, seen.positions, strict=True):
        here = is_kept[start : start + len(positions)]
        chosen = here if isinstance(positions, np.ndarray) else torch.from_numpy(here).to(positions.device)
        block.mask[positions[chosen]] = True
        start += len(positions)


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
            ties[_positions(ties)[:-count]] = False
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
            ties[_positions(ties)[count:]] = False
            here = count
        block.mask[...] |= ties
        count -= here


def _sample(blocks: list[Block], low: float | None, high: float | None, stride: int) -> np.ndarray:
    """Every ``stride``-th score that may be kept, between ``low`` and ``high``; all of them where that finds none."""
    parts = []
    for block in blocks:
        values = block._replace(scores=block.scores[::stride]).values()
        counts = None if block.allowed is None else block.allowed[::stride]
        if low is not None:
            counts = _both(values > low, counts)
        if high is not None:
            counts = _both(values < high, counts)
        parts.append(values if counts is None else values[counts])
    sample = _joined(parts)
    return sample if len(sample) or stride == 1 else _sample(blocks, low, high, stride=1)


def _joined(parts: list[_Flat]) -> np.ndarray:
    """All parts as one array on the host; a device hands them over at once."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts or [np.empty(0)])
    tensors = [torch.as_tensor(part) for part in parts]
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors]).cpu().numpy()


def _positions(condition: _Flat) -> _Flat:
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
