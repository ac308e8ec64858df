"""The ranking of `masks.keep_top` over ranks that each hold a part of every tensor: by counting; no score is sent."""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.checks import check_word
from lightning_lottery.functional.counters import mix64_each
from lightning_lottery.functional.masks import (
    Masks,
    Scores,
    check_sparsity,
    check_within,
    not_ranked,
    ranking_dtype,
    too_few,
)
from lightning_lottery.functional.shares import share

Sum = Callable[[Tensor], Tensor]
"""From a rank's counts, an int64 tensor on the CPU, to their sums over all ranks; every rank calls it as often."""

_BLOCK = 1 << 18  # entries looked at together: what is made in between, 21 bytes of each, is small beside all
_BLOCK_ON_DEVICE = 1 << 21  # elsewhere the host waits for every block
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Ranked(NamedTuple):
    """What ``keep_top_of_shards`` gives.

    Attributes:
        masks: Name to bool tensor, shapes and devices as of the scores: this rank's part.
        stayed: How many entries they keep of those that were kept in their memory before.
    """

    masks: dict[str, Tensor]
    stayed: int


def keep_top_of_shards(
    scores: Scores,
    sparsity: float,
    *,
    sum_over_ranks: Sum,
    rank: int,
    ranks: int,
    within: Masks | None = None,
    per: Literal["all", "tensor"] = "all",
    into: Masks | None = None,
) -> Ranked:
    """This rank's part of the masks that ``keep_top`` makes of the whole scores, bit for bit, ties included.

    Floating-point numbers sort as their bits do, read as integers. The threshold is found digit by digit of those, each
    from a histogram over all ranks; the scores that equal it are counted and kept from the first one on.

    At most 5 messages for ``per="all"``, none above 512 KiB or 8 bytes a tensor or rank; 7 for ``per="tensor"``, each
    of 2 KiB a tensor, the last of 8 bytes a tensor and rank. With scores in float64 two more, or four.

    Args:
        scores: Name to this rank's part of the tensor: consecutive entries, after those of lower ranks and before those
            of higher ones; it may have none. The same names in the same order on every rank.
        sparsity: As in ``keep_top``, of the whole tensors.
        sum_over_ranks: Adds up counts over ranks.
        rank: Of this process, from 0.
        ranks: How many there are.
        within: As in ``keep_top``, this rank's parts.
        per: As in ``keep_top``.
        into: Masks in whose memory the new ones are written, once nothing can be refused any more; they may be those of
            ``within``. Default: new memory.

    Raises:
        LotteryError: As of ``keep_top``, on every rank alike where it is about values.

    Example:
        >>> alone = {"sum_over_ranks": lambda counts: counts, "rank": 0, "ranks": 1}
        >>> keep_top_of_shards({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, 0.5, **alone).masks
        {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    check_sparsity(sparsity)
    check_word("per", per, ("all", "tensor"))
    check_within(scores, within)
    dtype = ranking_dtype(scores)
    parts = [_Part(scores, name, None if within is None else within[name], dtype) for name in scores]
    sizes = torch.tensor([part.size() for part in parts], dtype=torch.int64).reshape(-1, 3)
    totals, available, nan = sum_over_ranks(sizes).T
    for name, total, bad in zip(scores, totals.tolist(), nan.tolist(), strict=True):
        if bad:
            raise not_ranked(name, bad, total)
    # A group is what competes: all tensors, or each one. ``groups[i]`` is that of tensor i.
    groups = torch.arange(len(parts)) if per == "tensor" else torch.zeros(len(parts), dtype=torch.int64)
    missing = []
    for total, left in zip(_by_group(totals, groups), _by_group(available, groups), strict=True):
        kept = round(share(1 - sparsity, total))
        if kept > left:
            raise too_few(sparsity, kept, total, left)
        missing.append(kept)
    thresholds, missing = _thresholds(parts, groups.tolist(), missing, sum_over_ranks, width=16 if per == "all" else 8)
    last = [thresholds[group] for group in groups.tolist()]
    ties = [part.ties(threshold) for part, threshold in zip(parts, last, strict=True)]
    quotas = _quotas(ties, groups.tolist(), missing, sum_over_ranks, rank, ranks)
    masks = {part.name: part.nothing_kept() if into is None else into[part.name] for part in parts}
    stayed = sum(
        part.keep_(mask, threshold, quota)
        for part, mask, threshold, quota in zip(parts, masks.values(), last, quotas, strict=True)
    )
    return Ranked(masks, stayed)


def mask_hash(name: str, mask: Tensor, first_row: int = 0) -> int:
    """A hash of rows of a mask, whose sum over all rows, modulo 2^64, is that of the whole: however it is sharded.

    ``sum of a[i] * b[j]`` over the kept entries, i the row in the whole mask and j the place in the row; ``a`` and
    ``b`` are odd numbers of 64 bits, drawn for the name. One flipped entry changes it for certain, others change it
    but for one chance in some 2^60. A sum, because bytes in their order (as ``hash_of_tensors`` takes them) would have
    to pass through one rank; of products, because so each entry costs one addition.

    Args:
        name: Of the parameter: equal masks of others have other hashes.
        mask: Bool tensor, rows along the first dimension.
        first_row: The number of its first row in the whole.

    Returns:
        An int64.

    Example:
        >>> mask = torch.tensor([[True, False], [True, True], [False, True]])
        >>> mask_hash("a", mask) == (mask_hash("a", mask[:1]) + mask_hash("a", mask[1:], 1) + 2**63) % 2**64 - 2**63
        True
    """
    rows = mask.reshape(len(mask), mask[:1].numel())
    seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
    a = _odd(seed, range(first_row, first_row + len(rows)), mask.device)
    b = _odd(seed + 1, range(rows.shape[1]), mask.device)
    size = max(1, (_BLOCK if mask.device.type == "cpu" else _BLOCK_ON_DEVICE) // max(1, len(b)))
    sums = (
        (rows[start : start + size] * b).sum(1).mul_(a[start : start + size]).sum()
        for start in range(0, len(rows), size)
    )
    return int(sum(sums, torch.zeros((), dtype=torch.int64, device=mask.device)))


def _odd(seed: int, numbers: range, device: torch.device) -> Tensor:
    return torch.from_numpy((mix64_each(seed, numbers) | np.uint64(1)).view(np.int64)).to(device)


class _Part:
    """A rank's part of one tensor: scores as integers of the same order, asked for anew in each pass over them."""

    def __init__(self, scores: Scores, name: str, allowed: Tensor | None, dtype: torch.dtype) -> None:
        self.name, self.dtype, self._scores = name, dtype, scores
        self._allowed = None if allowed is None else allowed.reshape(-1)

    @property
    def _score(self) -> Tensor:
        return self._scores[self.name].detach().reshape(-1)

    def size(self) -> list[int]:
        """How many entries there are, may be kept, and are NaN."""
        score = self._score
        nan, entries = int(sum(score[part].isnan().sum() for part in _slices(score))), len(score)
        return [entries, entries if self._allowed is None else int(self._allowed.sum()), nan]

    def nothing_kept(self) -> Tensor:
        """A mask, so far of zeros."""
        score = self._scores[self.name]
        return torch.zeros(score.shape, dtype=torch.bool, device=score.device)

    def histogram(self, prefix: int | None, shift: int, width: int) -> Tensor:
        """How many entries that may be kept have each value of a digit, of those whose higher digits are ``prefix``."""
        counts = torch.zeros(1 << width, dtype=torch.int64)
        for _, keys, allowed in self._blocks():
            if prefix is not None:
                inside = keys >> (shift + width) == prefix
                keys = keys[inside if allowed is None else inside & allowed]
            elif allowed is not None:
                keys = keys[allowed]
            # The highest digit has the sign in it: it begins at the most negative.
            digits = (keys >> shift) + (1 << (width - 1)) if prefix is None else (keys >> shift) & ((1 << width) - 1)
            counts += torch.bincount(digits, minlength=1 << width).cpu()
        return counts

    def ties(self, threshold: int) -> int:
        """How many entries that may be kept equal the threshold."""
        return sum(int(_allowed(keys == threshold, allowed).sum()) for _, keys, allowed in self._blocks())

    def keep_(self, mask: Tensor, threshold: int, count: int) -> int:
        """Keep what lies above, and so many of the entries that equal the threshold, from the first on.

        Returns:
            How many entries were kept before as well.
        """
        stayed = 0
        for part, keys, allowed in self._blocks():
            kept, ties = _allowed(keys > threshold, allowed), _allowed(keys == threshold, allowed)
            here = int(ties.sum())
            if here > count:
                ties &= ties.cumsum(0) <= count
            count -= min(here, count)
            kept |= ties
            stayed += int((kept & mask.view(-1)[part]).sum())
            mask.view(-1)[part] = kept  # last: it may be what is allowed
        return stayed

    def _blocks(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        score = self._score
        for part in _slices(score):
            yield part, _ordered(score[part].to(self.dtype)), None if self._allowed is None else self._allowed[part]


def _slices(entries: Tensor) -> list[slice]:
    size = _BLOCK if entries.device.type == "cpu" else _BLOCK_ON_DEVICE
    return [slice(start, start + size) for start in range(0, len(entries), size)]


def _ordered(values: Tensor) -> Tensor:
    """Integers that compare as the numbers do: -0.0 equals 0.0, infinities are at the ends."""
    # Bits of numbers above zero rise with them; below zero they fall, all but the sign flipped they rise.
    bits = (values + 0.0).view(_INTEGERS[values.dtype])
    return bits ^ ((bits >> (8 * bits.element_size() - 1)) & torch.iinfo(bits.dtype).max)


def _allowed(entries: Tensor, allowed: Tensor | None) -> Tensor:
    return entries if allowed is None else entries & allowed


def _by_group(counts: Tensor, groups: Tensor) -> list[int]:
    sums = torch.zeros(int(groups.max()) + 1 if len(groups) else 0, dtype=torch.int64)
    return sums.index_add_(0, groups, counts).tolist()


def _thresholds(
    parts: list[_Part], groups: list[int], kept: list[int], sum_over_ranks: Sum, width: int
) -> tuple[list[int], list[int]]:
    """The score of the last entry that each group keeps, as an integer, and how many that equal it are kept."""
    bits = torch.finfo(parts[0].dtype).bits if parts else 32
    prefixes: list[int | None] = [None] * len(kept)
    missing = torch.tensor(kept, dtype=torch.int64)
    for shift in range(bits - width, -1, -width):
        counts = torch.zeros(len(kept), 1 << width, dtype=torch.int64)
        for part, group in zip(parts, groups, strict=True):
            counts[group] += part.histogram(prefixes[group], shift, width)
        # From the highest value of the digit down: how many reach it.
        reached = sum_over_ranks(counts).flip(1).cumsum(1)
        index = (reached >= missing[:, None]).int().argmax(1)  # the first that has enough
        above = reached.gather(1, (index - 1).clamp(min=0)[:, None]).flatten()
        missing -= torch.where(index > 0, above, 0)
        for group, digit in enumerate(((1 << width) - 1 - index).tolist()):
            higher = prefixes[group]
            prefixes[group] = digit - (1 << (width - 1)) if higher is None else (higher << width) + digit
    return [prefix or 0 for prefix in prefixes], missing.tolist()


def _quotas(
    ties: list[int], groups: list[int], missing: list[int], sum_over_ranks: Sum, rank: int, ranks: int
) -> list[int]:
    """How many ties this rank keeps of each tensor: in the order of tensors, then of ranks."""
    everywhere = sum_over_ranks(torch.tensor(ties, dtype=torch.int64)).tolist()
    left, quotas = list(missing), []
    for total, group in zip(everywhere, groups, strict=True):
        quotas.append(min(total, left[group]))
        left[group] -= quotas[-1]
    # Where ranks share a tensor's ties, one tensor of a group at most, each has to know those of lower ranks.
    shared = [i for i, quota in enumerate(quotas) if 0 < quota < everywhere[i]]
    if shared:
        table = torch.zeros(len(shared), ranks, dtype=torch.int64)
        table[:, rank] = torch.tensor([ties[i] for i in shared])
        before = sum_over_ranks(table)[:, :rank].sum(1).tolist()
        for i, lower in zip(shared, before, strict=True):
            quotas[i] = max(0, quotas[i] - lower)
    return [min(quota, here) for quota, here in zip(quotas, ties, strict=True)]
