"""From scores to masks: the only ranking in the package, and measures of masks."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.checks import check_fraction, check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.selection import blocks_of, count_true, keep_highest_, packs_of
from lightning_lottery.functional.shares import share

Scores = Mapping[str, Tensor]
"""Qualified parameter name to score tensor: higher is more worth keeping."""

Masks = Mapping[str, Tensor]
"""Qualified parameter name to bool tensor: ``True`` is kept."""


MOST_EXACT = 10_000
"""Entries that masks could both keep, for which their overlap by chance is counted out."""


class ScoresOnDemand(Mapping[str, Tensor]):
    """Scores that are made anew each time one is asked for, so that one tensor's is there at a time.

    Args:
        names: The parameters'.
        score: Gives one's scores.

    Example:
        >>> dict(ScoresOnDemand(["w"], lambda name: torch.tensor([2.0])))
        {'w': tensor([2.])}
    """

    def __init__(self, names: Iterable[str], score: Callable[[str], Tensor]) -> None:
        self._names, self._score = dict.fromkeys(names), score

    def __getitem__(self, name: str) -> Tensor:
        return self._score(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def keep_top(
    scores: Scores,
    sparsity: float,
    *,
    within: Masks | None = None,
    per: Literal["all", "tensor"] = "all",
) -> dict[str, Tensor]:
    """Masks that keep the highest scores: exactly ``round((1 - sparsity) * n)`` of ``n`` entries, ties or not.

    Equal scores are kept in reading order: tensor by tensor as they stand in ``scores``, then entry by entry.
    Takes time linear in ``n``, and memory for at most one entry in eight beside the masks; only a sample is sorted.

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
    check_word("per", per, ("all", "tensor"))
    check_within(scores, within)
    if per == "tensor":
        alone = {name: None if within is None else {name: within[name]} for name in scores}
        return {name: keep_top({name: scores[name]}, sparsity, within=alone[name])[name] for name in scores}
    dtype = ranking_dtype(scores)
    total = sum(score.numel() for score in scores.values())
    available = total if within is None else sum(count_true(within[name]) for name in scores)
    kept = round(share(1 - sparsity, total))
    if kept > available:
        # NaN is looked for only where something went wrong: a ranking that succeeds is spared one more pass.
        _refuse_nan(scores)
        raise too_few(sparsity, kept, total, available)
    if kept == 0:
        _refuse_nan(scores)
        return {name: _empty([score]).zero_().view(score.shape) for name, score in scores.items()}
    packs = packs_of(scores)
    flat = [_empty([scores[name] for name in pack]) for pack in packs]
    blocks = [
        block
        for pack, mask in zip(packs, flat, strict=True)
        for block in blocks_of(
            [scores[name] for name in pack], None if within is None else [within[name] for name in pack], mask, dtype
        )
    ]
    if not keep_highest_(blocks, kept, available):
        _refuse_nan(scores)
    masks: dict[str, Tensor] = {}
    for pack, mask in zip(packs, flat, strict=True):
        parts = mask.split_with_sizes([scores[name].numel() for name in pack])
        for name, part in zip(pack, parts, strict=True):  # each in memory of its own, for it may be saved alone
            masks[name] = (part.clone() if len(pack) > 1 else part).view(scores[name].shape)
    return masks


def _empty(scores: Sequence[Tensor]) -> Tensor:
    """Room for their masks."""
    return torch.empty(sum(score.numel() for score in scores), dtype=torch.bool, device=scores[0].device)


def keep_top_rows(scores: Tensor, sparsity: float) -> Tensor:
    """What ``keep_top`` says of each row by itself, for many short rows at once.

    Args:
        scores: Floating-point, of shape (rows, n), without NaN.
        sparsity: Fraction of each row that is removed, in [0, 1).

    Returns:
        Bool tensor of that shape, ``True`` = kept.

    Example:
        >>> keep_top_rows(torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]]), sparsity=0.5)
        tensor([[ True, False,  True, False],
                [False, False,  True,  True]])
    """
    check_sparsity(sparsity)
    n = scores.shape[-1]
    kept = round(share(1 - sparsity, n))
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # Rows are short, so a selection in each is fast enough; ``keep_top`` would start anew for every row.
    threshold = scores.kthvalue(n - kept + 1, dim=-1, keepdim=True).values
    above, ties = scores > threshold, scores == threshold
    spare = kept - above.sum(-1, keepdim=True)
    if (ties.sum(-1, keepdim=True) > spare).any():
        ties &= ties.cumsum(-1) <= spare  # the first ones stay
    return above | ties


def count(masks: Masks) -> tuple[int, int]:
    """How many entries are kept, and how many there are.

    Example:
        >>> count({"w": torch.tensor([True, False, False])})
        (1, 3)
    """
    return sum(count_true(mask) for mask in masks.values()), sum(mask.numel() for mask in masks.values())


def count_each(masks: Masks) -> dict[str, int]:
    """How many entries each keeps; a device is waited for once.

    Example:
        >>> count_each({"w": torch.tensor([True, False, False])})
        {'w': 1}
    """
    on_host = [mask.device.type == "cpu" for mask in masks.values()]
    if all(on_host):
        return {name: count_true(mask) for name, mask in masks.items()}
    sums = torch.stack([mask.sum() for mask in masks.values()]).tolist()
    return dict(zip(masks, map(int, sums), strict=True))


def overlap(a: Masks, b: Masks) -> int:
    """How many entries two sets of masks of the same entries both keep.

    Raises:
        LotteryError: The names or shapes differ.

    Example:
        >>> overlap({"w": torch.tensor([True, False, True])}, {"w": torch.tensor([True, True, False])})
        1
    """
    check_same_entries(a, b)
    return sum(count_true(mask & b[name]) for name, mask in a.items())


def jaccard(a: Masks, b: Masks) -> float:
    """Entries that both masks keep, of those that either keeps, in [0, 1]; 1 where neither keeps any.

    Args:
        a: Parameter name to bool tensor, ``True`` = kept.
        b: The same parameters in the same shapes.

    Raises:
        LotteryError: They are not.

    Example:
        >>> jaccard({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])})
        0.3333333333333333
    """
    both = overlap(a, b)
    either = count(a)[0] + count(b)[0] - both
    return both / either if either else 1.0


def jaccard_by_chance(density_a: float, density_b: float) -> float:
    """What ``jaccard`` is on average of two large masks that were drawn apart from each other.

    Args:
        density_a: Fraction that the first keeps, in [0, 1].
        density_b: Fraction that the second keeps, in [0, 1].

    Example:
        >>> round(jaccard_by_chance(0.5, 0.5), 4)
        0.3333
    """
    both = density_a * density_b
    either = density_a + density_b - both
    return both / either if either else 1.0


class ChanceOverlap(NamedTuple):
    """How many entries two sets of masks would both keep that have nothing to do with each other.

    Args:
        mean: On average.
        sd: Standard deviation.
        p: Two-sided probability of an overlap at least as far from the mean as the one found: exact where masks
            could both keep 10,000 entries at most; else of the normal distribution, rough in its tails.
    """

    mean: float
    sd: float
    p: float


def overlap_by_chance(a: Masks, b: Masks) -> ChanceOverlap:
    """The overlap of masks that keep as many entries of each tensor as these, at places drawn apart.

    Args:
        a: Parameter name to bool tensor, ``True`` = kept.
        b: The same parameters in the same shapes.

    Raises:
        LotteryError: They are not.

    Example:
        >>> both_keep_half = {"w": torch.arange(1000) % 2 == 0}
        >>> chance = overlap_by_chance(both_keep_half, both_keep_half)
        >>> chance.mean, round(chance.sd, 2), chance.p < 1e-6
        (250.0, 7.91, True)

    Source: hypergeometric in each tensor, tensors independent; the comparison at equal layer densities is that of
    Frankle et al. 2021, section 4 (shuffled masks).
    """
    from scipy.stats import hypergeom

    both = overlap(a, b)
    mean = variance = 0.0
    probability = np.ones(1)  # of 0, 1, ... entries that both keep
    counts = [(count_true(mask), count_true(b[name]), mask.numel()) for name, mask in a.items()]
    is_exact = sum(min(kept_a, kept_b) for kept_a, kept_b, _ in counts) <= MOST_EXACT
    for kept_a, kept_b, total in counts:
        if total:
            share = kept_a / total
            mean += kept_b * share
            variance += kept_b * share * (1 - share) * (total - kept_b) / max(total - 1, 1)
            if is_exact:
                of_this = hypergeom.pmf(np.arange(min(kept_a, kept_b) + 1), total, kept_a, kept_b)
                probability = np.convolve(probability, of_this)
    sd = math.sqrt(variance)
    if not sd:
        return ChanceOverlap(mean, sd, 1.0)
    if not is_exact:
        return ChanceOverlap(mean, sd, math.erfc(abs(both - mean) / sd / math.sqrt(2)))
    # A hair below its own distance: the one found counts, whatever rounding did to the mean.
    as_far = np.abs(np.arange(len(probability)) - mean) >= abs(both - mean) - 1e-6
    return ChanceOverlap(mean, sd, min(float(probability[as_far].sum()), 1.0))


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
    return sum(count_true(a[name] ^ b[name]) for name in a) / total if total else 0.0


def shuffle(masks: Masks, seed: int) -> dict[str, Tensor]:
    """Masks with the same number kept in each tensor, at places drawn anew: the layer-wise control of a ticket.

    The draw depends on ``seed`` and on the names in sorted order, not on the order of ``masks`` or on the device.

    Example:
        >>> shuffle({"w": torch.tensor([True, False, False, False])}, seed=0)["w"].sum()
        tensor(1)

    Source: Frankle et al. 2021, section 4 ("randomly shuffling", per layer).
    """
    generator = torch.Generator().manual_seed(seed)  # of the CPU: a device's draws other numbers from the same seed
    orders = {name: torch.randperm(masks[name].numel(), generator=generator) for name in sorted(masks)}
    return {name: mask.flatten()[orders[name].to(mask.device)].view_as(mask) for name, mask in masks.items()}


def zero_removed_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Exactly +0.0 where a mask says removed, whatever stood there, in place; multiplying numbers keeps NaN and signs.

    The bits are multiplied as integers, or where those are long and slow to multiply, combined with all ones or zeros.
    On a CPU that is several times as fast as ``torch.where`` or ``masked_fill_``, and as fast as multiplying numbers by
    a mask of numbers, which would be four times as large as this one.

    Args:
        tensor: Of any dtype, changed in place.
        mask: Bool tensor of its shape, ``True`` = kept.

    Returns:
        The tensor.

    Example:
        >>> zero_removed_(torch.tensor([-1.0, torch.nan, 2.0]), torch.tensor([True, False, False]))
        tensor([-1.,  0.,  0.])
    """
    bits, mask = tensor.detach().view(_INTEGERS[tensor.element_size()]), mask.to(tensor.device)
    if bits.dtype == torch.int64:
        bits.bitwise_and_(mask.view(torch.int8).neg())  # -1 is all ones, and stays so when it is widened
    else:
        bits.mul_(mask)
    return tensor


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_sparsity(sparsity: float) -> None:
    """Refuse anything but a number in [0, 1).

    Raises:
        LotteryError: It is none.
    """
    check_fraction("sparsity", sparsity, "the fraction removed")


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


def too_few(sparsity: float, kept: int, total: int, available: int) -> LotteryError:
    """The refusal to keep more entries than are left."""
    return LotteryError(
        f"Sparsity {sparsity} keeps {kept} of {total} entries, but only {available} are left within the given masks: "
        "ask for a higher sparsity, removed entries do not come back."
    )


def not_ranked(name: str, bad: int, total: int) -> LotteryError:
    """The refusal to rank NaN."""
    return LotteryError(f"Cannot rank '{name}': {bad} of {total} scores are NaN.")


def check_within(scores: Scores, within: Masks | None) -> None:
    """Refuse masks that do not fit scores.

    Raises:
        LotteryError: One is missing, no bool tensor, or of another shape.
    """
    if within is None:
        return
    for name in scores:
        mask, shape = within.get(name), scores[name].shape
        if mask is None or mask.dtype != torch.bool or mask.shape != shape:
            got = "nothing" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise LotteryError(f"`within` needs a bool mask of shape {tuple(shape)} for '{name}', got {got}.")


def ranking_dtype(scores: Scores) -> torch.dtype:
    """At least float32 and the widest among the scores: one threshold stands for all.

    Raises:
        LotteryError: Scores that are not floating-point.
    """
    # By name: no score outlives its turn where each is made on demand.
    dtypes = {name: scores[name].dtype for name in scores}
    for name, dtype in dtypes.items():
        if not dtype.is_floating_point:
            raise LotteryError(f"Cannot rank '{name}': its scores are {dtype}, not floating-point.")
    return reduce(torch.promote_types, dtypes.values(), torch.float32)


def _refuse_nan(scores: Scores) -> None:
    for name, score in scores.items():
        if bad := int(score.isnan().sum()):
            raise not_ranked(name, bad, score.numel())
