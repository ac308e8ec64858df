"""From scores to masks: the only ranking in the package, and measures of masks."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError

Scores = Mapping[str, Tensor]
"""Qualified parameter name to score tensor: higher is more worth keeping."""

Masks = Mapping[str, Tensor]
"""Qualified parameter name to bool tensor: ``True`` is kept."""

_BLOCK = 1 << 18  # entries looked at together: a block and its comparisons stay in the processor's cache
_SAMPLE = 1 << 14  # entries sampled to bracket the threshold


def keep_top(
    scores: Scores,
    sparsity: float,
    *,
    within: Masks | None = None,
    per: Literal["all", "tensor"] = "all",
) -> dict[str, Tensor]:
    """Masks that keep the highest scores: exactly ``round((1 - sparsity) * n)`` of ``n`` entries, ties or not.

    Equal scores are kept in reading order: tensor by tensor as they stand in ``scores``, then entry by entry.
    Takes time linear in ``n`` and a small fraction of the scores' memory; nothing is sorted but a sample.

    Args:
        scores: Name to floating-point tensor of any shape; infinities rank, NaN is refused.
        sparsity: Fraction of all entries that is removed, in [0, 1); entries outside ``within`` count as removed.
        within: Name to bool tensor of the entries that may be kept (default: all).
        per: Rank all tensors together (``"all"``), or each by itself (``"tensor"``).

    Returns:
        Name to bool tensor, shapes and devices as in ``scores``.

    Raises:
        LotteryError: ``sparsity`` outside [0, 1), another ``per``, a NaN score, a tensor that is not floating-point,
            a mask in ``within`` that is missing or does not fit, or fewer entries in it than are to be kept.

    Example:
        >>> keep_top({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, sparsity=0.5)
        {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    check_sparsity(sparsity)
    if per not in ("all", "tensor"):
        raise LotteryError(f"`per` is 'all' or 'tensor', got {per!r}.")
    _check_within(scores, within)
    if per == "tensor":
        parts_of = {name: None if within is None else {name: within[name]} for name in scores}
        return {name: keep_top({name: scores[name]}, sparsity, within=parts_of[name])[name] for name in scores}
    parts = _rankable_parts(scores, within)
    total = sum(score.numel() for score in scores.values())
    available = total if within is None else sum(int(within[name].sum()) for name in scores)
    kept = round((1 - sparsity) * total)
    if kept > available:
        raise LotteryError(
            f"Sparsity {sparsity} keeps {kept} of {total} entries, but only {available} are left within the given "
            "masks: ask for a higher sparsity, removed entries do not come back."
        )
    if kept == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    threshold, ties, ties_kept = _threshold(parts, kept, available)
    masks = {}
    for (name, score), (flat, allowed) in zip(scores.items(), parts, strict=True):
        if ties == ties_kept:
            mask = flat >= threshold
        else:
            mask, ties_kept = _with_first_ties((flat, allowed), threshold, ties_kept)
        masks[name] = (mask if allowed is None else mask & allowed).view_as(score)
    return masks


def count(masks: Masks) -> tuple[int, int]:
    """How many entries are kept, and how many there are.

    Example:
        >>> count({"w": torch.tensor([True, False, False])})
        (1, 3)
    """
    return sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())


def density(masks: Masks) -> float:
    """Fraction of all entries that is kept, in [0, 1]; 1 where there is no entry.

    Example:
        >>> density({"w": torch.tensor([True, False])})
        0.5
    """
    kept, total = count(masks)
    return kept / total if total else 1.0


def hamming(a: Masks, b: Masks) -> float:
    """Fraction of all entries in which two sets of masks differ, in [0, 1].

    Raises:
        LotteryError: The names or shapes differ.

    Example:
        >>> hamming({"w": torch.tensor([True, False])}, {"w": torch.tensor([True, True])})
        0.5

    Source: You et al. 2020, section 3.2 (mask distance, normalised).
    """
    check_same_entries(a, b)
    total = sum(mask.numel() for mask in a.values())
    return sum(int((a[name] ^ b[name]).sum()) for name in a) / total if total else 0.0


def shuffle(masks: Masks, seed: int) -> dict[str, Tensor]:
    """Masks with the same number kept in each tensor, at places drawn anew: the layer-wise control of a ticket.

    The draw depends on ``seed`` and on the names in sorted order, not on the order of ``masks`` or on the device.

    Example:
        >>> shuffle({"w": torch.tensor([True, False, False, False])}, seed=0)["w"].sum()
        tensor(1)

    Source: Frankle et al. 2021, section 4 ("randomly shuffling", per layer).
    """
    generator = torch.Generator().manual_seed(seed)
    places = {name: torch.randperm(masks[name].numel(), generator=generator) for name in sorted(masks)}
    return {name: mask.flatten()[places[name].to(mask.device)].view_as(mask) for name, mask in masks.items()}


def check_sparsity(sparsity: float) -> None:
    """Refuse anything but a number in [0, 1).

    Raises:
        LotteryError: It is none.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise LotteryError(f"`sparsity` is the fraction removed and must be in [0, 1), got {sparsity!r}.")


def check_same_entries(a: Masks, b: Masks) -> None:
    """Refuse two sets of masks whose names or shapes differ.

    Raises:
        LotteryError: They differ; the names are listed.
    """
    if odd := sorted(a.keys() ^ b.keys()):
        raise LotteryError(f"The two sets of masks do not cover the same parameters: {', '.join(odd)} in one only.")
    for name in a:
        if a[name].shape != b[name].shape:
            raise LotteryError(
                f"The masks of '{name}' differ in shape: {tuple(a[name].shape)}, {tuple(b[name].shape)}."
            )


def _check_within(scores: Scores, within: Masks | None) -> None:
    for name, score in scores.items() if within is not None else ():
        mask = within.get(name) if within is not None else None
        if mask is None or mask.dtype != torch.bool or mask.shape != score.shape:
            found = "nothing" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise LotteryError(f"`within` needs a bool mask of shape {tuple(score.shape)} for '{name}', got {found}.")


_Part = tuple[Tensor, Tensor | None]  # the flat scores of one tensor, and which of them may be kept


def _rankable_parts(scores: Scores, within: Masks | None) -> list[_Part]:
    """Flat scores, at least float32 and all in the widest dtype among them: one threshold means the same everywhere."""
    for name, score in scores.items():
        if not score.is_floating_point():
            raise LotteryError(f"Cannot rank '{name}': its scores are {score.dtype}, not floating-point.")
        # `max` propagates NaN and needs no temporary; only a tensor that has one is looked at again.
        if score.numel() and score.max().isnan():
            bad = int(score.isnan().sum())
            raise LotteryError(f"Cannot rank '{name}': {bad} of {score.numel()} scores are NaN.")
    widest = torch.float32
    for score in scores.values():
        widest = torch.promote_types(widest, score.dtype)
    return [
        (s.detach().flatten().to(widest), None if within is None else within[n].flatten()) for n, s in scores.items()
    ]


def _threshold(parts: list[_Part], rank: int, size: int) -> tuple[float, int, int]:
    """The ``rank``-th highest of ``size`` scores, how many equal it, and how many of those the ``rank`` highest hold.

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
        over, at_b, inside, at_a = 0, 0, [], 0
        for block in _blocks(parts, low, high):
            over += int((block > b).sum())
            at_b += int((block == b).sum())
            at_a += int((block == a).sum()) if a < b else 0
            inside.append(block[(block > a) & (block < b)])
        collected = torch.cat([block.to(inside[0].device) for block in inside])
        if rank <= over:
            low, size = b, over
        elif (rank := rank - over) <= at_b:
            return b, at_b, rank
        elif (rank := rank - at_b) <= len(collected):
            return _select(collected, rank)
        elif (rank := rank - len(collected)) <= at_a:
            return a, at_a, rank
        else:
            rank -= at_a
            high, size = a, size - over - at_b - len(collected) - at_a


def _select(entries: Tensor, rank: int) -> tuple[float, int, int]:
    value = entries.kthvalue(len(entries) - rank + 1).values
    return float(value), int((entries == value).sum()), rank - int((entries > value).sum())


def _bracket(sample: Tensor, fraction: float) -> tuple[float, float]:
    """Two sampled values around the one with ``fraction`` of the sample above it, four standard deviations apart."""
    ordered = sample.sort(descending=True).values
    centre, margin = fraction * len(ordered), 2 * len(ordered) ** 0.5
    return float(ordered[min(len(ordered) - 1, int(centre + margin))]), float(ordered[max(0, int(centre - margin))])


def _sample(parts: list[_Part], low: float | None, high: float | None, stride: int) -> Tensor:
    """Every ``stride``-th entry between ``low`` and ``high``; all of them where that finds none."""
    device = parts[0][0].device
    strided = [(flat[::stride], None if allowed is None else allowed[::stride]) for flat, allowed in parts]
    sample = torch.cat([block.to(device) for block in _blocks(strided, low, high)])
    return sample if len(sample) or stride == 1 else _sample(parts, low, high, stride=1)


def _blocks(parts: list[_Part], low: float | None, high: float | None) -> Iterator[Tensor]:
    """The entries that may be kept, above ``low`` and below ``high``, a cache-sized block of each tensor at a time."""
    for flat, allowed in parts:
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            if allowed is not None:
                block = block[allowed[start : start + _BLOCK]]
            if low is not None:
                block = block[block > low]
            if high is not None:
                block = block[block < high]
            yield block


def _with_first_ties(part: _Part, threshold: float, ties_kept: int) -> tuple[Tensor, int]:
    """The entries above the threshold and the first ``ties_kept`` that equal it; how many ties are still to be kept."""
    flat, allowed = part
    mask = flat > threshold
    for start in range(0, len(flat) if ties_kept else 0, _BLOCK):
        block = slice(start, start + _BLOCK)
        ties = flat[block] == threshold
        if allowed is not None:
            ties &= allowed[block]
        places = ties.nonzero().flatten()[:ties_kept]
        mask[block][places] = True
        ties_kept -= len(places)
    return mask, ties_kept
