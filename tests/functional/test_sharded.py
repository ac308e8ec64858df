"""A ranking over shards is the ranking of the whole: same masks, whatever the ties and however uneven the shards."""

import math
from hashlib import blake2b

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.selection import small
from helpers.shards import Ranks, rows
from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional import sharded as module
from lightning_lottery.functional.counters import mix64
from lightning_lottery.functional.masks import ScoresOnDemand, keep_top, overlap
from lightning_lottery.functional.sharded import keep_top_of_shards, mask_hash

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((1,), (1, 3), (2,), (3,), (7,), (5, 2), (2, 2, 3), (0, 2))  # one entry; fewer rows than ranks; uneven
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf])
MANY = st.floats(allow_nan=False, width=32) | st.floats(allow_nan=False, width=16)
SPARSITIES = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 0.99])


@st.composite
def tensors(draw):
    scores = {}
    for name in draw(st.permutations("dcba"))[: draw(st.integers(0, 4))]:
        shape = draw(st.sampled_from(SHAPES))
        n = math.prod(shape)
        values = draw(st.lists(draw(st.sampled_from([FEW, MANY])), min_size=n, max_size=n))
        scores[name] = torch.tensor(values, dtype=torch.float64).to(draw(st.sampled_from(DTYPES))).reshape(shape)
    return scores


def ranked(scores, sparsity, ranks, within=None, per="all"):
    """The whole masks that ranks make of their parts, or the message with which all of them refuse."""

    def work(rank, sum_over_ranks):
        part = {name: rows(score, rank, ranks) for name, score in scores.items()}
        allowed = None if within is None else {name: rows(mask, rank, ranks) for name, mask in within.items()}
        alone = {"sum_over_ranks": sum_over_ranks, "rank": rank, "ranks": ranks}
        return keep_top_of_shards(part, sparsity, **alone, within=allowed, per=per).masks

    together = Ranks(ranks)
    parts = together.all(work)
    refusals = {str(part) for part in parts if isinstance(part, Exception)}
    if refusals:
        assert len(refusals) == 1 and all(isinstance(part, LotteryError) for part in parts), parts
        return refusals.pop(), together
    return {name: torch.cat([part[name] for part in parts]) for name in scores}, together


@small
@given(st.data(), tensors(), SPARSITIES, st.integers(1, 4), st.integers(1, 9), st.sampled_from(["all", "tensor"]))
def test_shards_rank_as_the_whole_does(data, scores, sparsity, ranks, block, per):
    within = None
    if data.draw(st.booleans()):
        within = {n: torch.tensor(data.draw(st.lists(st.booleans(), min_size=s.numel(), max_size=s.numel())))
                  .bool().view_as(s) for n, s in scores.items()}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        masks, together = ranked(scores, sparsity, ranks, within, per)
    try:
        expected = keep_top(scores, sparsity, within=within, per=per)
    except LotteryError as error:
        assert masks == str(error)
    else:
        assert same(masks, expected)
        is_wide = any(score.dtype == torch.float64 for score in scores.values())
        assert len(together.messages) <= {"all": 5, "tensor": 7}[per] + is_wide * {"all": 2, "tensor": 4}[per]


@small
@given(st.data(), tensors(), SPARSITIES, st.integers(1, 3), st.integers(1, 9))
def test_masks_take_the_memory_of_earlier_ones_and_say_how_many_entries_stayed(data, scores, sparsity, ranks, block):
    drawn = {
        name: data.draw(st.lists(st.booleans(), min_size=s.numel(), max_size=s.numel())) for name, s in scores.items()
    }
    before = {name: torch.tensor(drawn[name], dtype=torch.bool).view_as(score) for name, score in scores.items()}
    within = before if data.draw(st.booleans()) else None
    try:
        expected = keep_top(scores, sparsity, within=within)
    except LotteryError:
        assume(False)

    def work(rank, sum_over_ranks):
        part, memory = ({n: rows(t, rank, ranks).clone() for n, t in whole.items()} for whole in (scores, before))
        alone = {"sum_over_ranks": sum_over_ranks, "rank": rank, "ranks": ranks}
        on_demand = ScoresOnDemand(part, lambda name: part[name].clone())
        ranked = keep_top_of_shards(on_demand, sparsity, **alone, within=within and memory, into=memory)
        assert all(ranked.masks[name] is memory[name] for name in scores)
        return ranked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        ranked = Ranks(ranks).all(work)
    assert same({name: torch.cat([each.masks[name] for each in ranked]) for name in scores}, expected)
    assert sum(each.stayed for each in ranked) == overlap(expected, before)


def test_a_refusal_leaves_the_memory_of_earlier_masks_alone():
    before = {"a": torch.tensor([True, False, True])}
    alone = {"sum_over_ranks": lambda counts: counts, "rank": 0, "ranks": 1}
    for scores, within in ((torch.tensor([1.0, math.nan, 2.0]), None), (torch.ones(3), before)):
        with pytest.raises(LotteryError):
            keep_top_of_shards({"a": scores}, 0.0, **alone, within=within, into=before)
        assert before["a"].tolist() == [True, False, True]


@pytest.mark.parametrize("per", ["all", "tensor"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_scores_of_many_sizes_rank_alike_in_few_small_messages(per, ranks):
    generator = torch.Generator().manual_seed(0)
    scores = {str(i): torch.randn(50, 40, generator=generator).abs() * 10.0**i for i in range(-4, 4)}
    scores["tied"] = (scores["0"] * 8).round() / 8
    for sparsity in (0.1, 0.5, 0.93):
        masks, together = ranked(scores, sparsity, ranks, per=per)
        assert same(masks, keep_top(scores, sparsity, per=per))
        assert len(together.messages) <= {"all": 5, "tensor": 7}[per]
        assert max(8 * math.prod(shape) for shape, _ in together.messages) <= 2**19
        assert {dtype for _, dtype in together.messages} == {torch.int64}


@pytest.mark.parametrize("per", ["all", "tensor"])
def test_nan_on_one_rank_is_refused_on_all_and_named(per):
    scores = {"a": torch.zeros(4), "b": torch.tensor([1.0, 2.0, math.nan, 3.0])}
    refusal, _ = ranked(scores, 0.5, 2, per=per)
    with pytest.raises(LotteryError) as refused:
        keep_top(scores, 0.5, per=per)
    assert refusal == str(refused.value) and "'b': 1 of 4" in refusal


@small
@given(st.data(), st.sampled_from(SHAPES), st.integers(1, 9))
def test_a_mask_has_one_hash_however_many_ranks_share_it_and_another_once_a_bit_is_flipped(data, shape, block):
    n = math.prod(shape)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool).view(shape)
    whole = mask_hash("a", mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        for ranks in (1, 2, 3, 4):
            parts = [rows(mask, rank, ranks) for rank in range(ranks)]
            hashes = [mask_hash("a", part, rank * len(parts[0])) for rank, part in enumerate(parts)]
            assert int(torch.tensor(hashes).sum()) == whole
    for i in range(n):
        mask.view(-1)[i] ^= True
        assert mask_hash("a", mask) != whole
        mask.view(-1)[i] ^= True
    assert mask_hash("b", mask) != whole or not mask.any()


def test_a_masks_hash_is_the_sum_of_products_that_it_says():
    mask = torch.tensor([[[True, False], [False, True]], [[False, False], [True, True]]])
    seed = int.from_bytes(blake2b(b"a.weight", digest_size=8).digest(), "little")
    terms = [(mix64(seed, i) | 1) * (mix64(seed + 1, j) | 1) for i in (0, 1) for j in range(4) if mask[i].flatten()[j]]
    assert mask_hash("a.weight", mask) % 2**64 == sum(terms) % 2**64
