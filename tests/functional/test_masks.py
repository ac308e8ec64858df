import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import oracles
from helpers.selection import lists, searching, small
from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional import masks as masks_module
from lightning_lottery.functional.masks import (
    check_same_entries,
    count,
    density,
    hamming,
    keep_top,
    overlap,
    overlap_by_chance,
    shuffle,
    zero_removed_,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((), (0,), (1,), (2, 0, 3), (3,), (7,), (2, 3), (2, 2, 3))
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf])  # few values: ties everywhere
MANY = st.floats(allow_nan=False, width=32) | st.floats(allow_nan=False, width=16)
SPARSITIES = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 0.9, 0.99])


@st.composite
def tensors(draw, least=0, most=4):
    """Name to score tensor; the names stand in no particular order, and the dtypes are mixed."""
    scores = {}
    for name in draw(st.permutations("dcba"))[: draw(st.integers(least, most))]:
        shape = draw(st.sampled_from(SHAPES))
        values = draw(
            st.lists(draw(st.sampled_from([FEW, MANY])), min_size=math.prod(shape), max_size=math.prod(shape))
        )
        scores[name] = torch.tensor(values, dtype=torch.float64).to(draw(st.sampled_from(DTYPES))).reshape(shape)
    return scores


def some_of(draw, scores):
    """Masks that allow some entries of each tensor."""
    bools = {n: draw(st.lists(st.booleans(), min_size=s.numel(), max_size=s.numel())) for n, s in scores.items()}
    return {name: torch.tensor(bools[name], dtype=torch.bool).view_as(scores[name]) for name in scores}


def is_part_of(inner, outer):
    return all(not (inner[name] & ~outer[name]).any() for name in outer)


@small
@given(tensors(), SPARSITIES, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["all", "tensor"]), st.booleans())
def test_what_is_kept_is_what_sorting_by_score_and_reading_order_keeps(scores, sparsity, sample, block, per, on_device):
    with searching(sample, block, on_device):
        masks = keep_top(scores, sparsity, per=per)
    assert list(masks) == list(scores)
    assert lists(masks) == oracles.keep_top(lists(scores), sparsity, per=per)
    for name, mask in masks.items():
        assert (mask.dtype, mask.shape) == (torch.bool, scores[name].shape)


@small
@given(st.data(), tensors(), SPARSITIES, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["all", "tensor"]))
def test_within_keeps_the_same_number_but_only_of_what_is_allowed(data, scores, sparsity, sample, block, per):
    allowed = some_of(data.draw, scores)
    with searching(sample, block):
        try:
            expected = oracles.keep_top(lists(scores), sparsity, lists(allowed), per)
        except ValueError:
            with pytest.raises(LotteryError, match="do not come back"):
                keep_top(scores, sparsity, within=allowed, per=per)
        else:
            masks = keep_top(scores, sparsity, within=allowed, per=per)
            assert lists(masks) == expected
            assert is_part_of(masks, allowed)


@small
@given(st.data(), tensors(least=1), st.lists(SPARSITIES, min_size=2, max_size=5), st.integers(1, 9), st.integers(1, 9))
def test_masks_within_the_last_ones_are_nested_whatever_the_new_scores(data, scores, sparsities, sample, block):
    masks, total = None, sum(score.numel() for score in scores.values())
    for sparsity in sorted(sparsities):
        fresh = {n: torch.tensor(data.draw(FEW), dtype=s.dtype).expand_as(s) for n, s in scores.items()}
        with searching(sample, block):
            smaller = keep_top(fresh, sparsity, within=masks)
        assert count(smaller) == (oracles.kept_of(sparsity, total), total)
        assert masks is None or is_part_of(smaller, masks)
        masks = smaller


@pytest.mark.parametrize(
    ("entries", "sparsity", "kept"),
    [
        (10, 0.9, 1),  # (1 - 0.9) * 10 is just below 1
        (10, 0.7, 3),  # and (1 - 0.7) * 10 just above 3
        (15, 0.7, 4),  # (1 - 0.7) * 15 is above 4.5, a half that goes to the even number
        (15, 0.9, 2),  # and (1 - 0.9) * 15 below 1.5
        (5, 0.5, 2),  # half to even, as Python's round
        (7, 0.5, 4),
        (1, 0.5, 0),
        (1, 0.49, 1),
        (1, 0, 1),
        (3, 0.99, 0),
        (0, 0.5, 0),
    ],
)
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["all equal", "all different"])
def test_the_count_is_exact_whether_scores_tie_or_not(entries, sparsity, kept, spread):
    assert count(keep_top({"w": torch.arange(entries) * spread}, sparsity)) == (kept, entries)


def test_ties_are_kept_in_the_order_of_the_mapping_and_then_of_the_entries():
    scores = {"z": torch.ones(2, 2), "a": torch.tensor(1.0), "m": torch.ones(3).half()}
    for kept in range(1, 9):
        masks = keep_top(scores, 1 - kept / 8)
        assert sum(lists(masks).values(), []) == [True] * kept + [False] * (8 - kept)
    assert lists(keep_top({"m": scores["m"], "z": scores["z"]}, 1 - 4 / 7)) == {
        "m": [True] * 3,
        "z": [True] + [False] * 3,
    }


def test_the_two_zeros_tie():
    assert keep_top({"w": torch.tensor([-0.0, 0.0])}, 0.5)["w"].tolist() == [True, False]
    assert keep_top({"w": torch.tensor([0.0, -0.0])}, 0.5)["w"].tolist() == [True, False]


def test_infinities_rank_at_the_ends():
    score = torch.tensor([-math.inf, 0.0, math.inf, torch.finfo(torch.float32).max])
    assert keep_top({"w": score}, 0.75)["w"].tolist() == [False, False, True, False]
    assert keep_top({"w": score}, 0.25)["w"].tolist() == [False, True, True, True]


def test_float64_scores_that_float32_cannot_tell_apart_are_told_apart_also_beside_half():
    near = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    masks = keep_top({"half": torch.tensor([1.0], dtype=torch.float16), "near": near}, 2 / 3)
    assert lists(masks) == {"half": [False], "near": [False, True]}


def test_a_score_that_is_not_contiguous_is_read_in_its_own_order():
    score = torch.arange(6.0).view(2, 3)
    assert keep_top({"w": score.t()}, 0.5)["w"].tolist() == [[False, True], [False, True], [False, True]]
    image = torch.zeros(1, 2, 2, 2).to(memory_format=torch.channels_last)
    assert keep_top({"w": image}, 0.5)["w"].flatten().tolist() == [True] * 4 + [False] * 4
    assert keep_top({"w": image}, 0.5)["w"].is_contiguous() and keep_top({"w": image}, 0.99)["w"].is_contiguous()


def test_removed_entries_do_not_come_back_by_a_tie():
    allowed = {"w": torch.tensor([False, True, False, True]), "v": torch.tensor([True, False])}
    masks = keep_top({"w": torch.zeros(4), "v": torch.zeros(2)}, 0.5, within=allowed)
    assert same(masks, allowed)
    masks = keep_top({"w": torch.zeros(4), "v": torch.zeros(2)}, 2 / 3, within=allowed)
    assert lists(masks) == {"w": [False, True, False, True], "v": [False, False]}


def test_to_keep_more_than_within_holds_is_refused_with_the_numbers():
    scores = {"a": torch.ones(3), "b": torch.ones(1)}
    allowed = {"a": torch.tensor([True, False, False]), "b": torch.tensor([True])}
    assert count(keep_top(scores, 0.5, within=allowed)) == (2, 4)
    with pytest.raises(LotteryError, match="keeps 3 of 4 entries, but only 2 are left"):
        keep_top(scores, 0.25, within=allowed)
    with pytest.raises(LotteryError, match="keeps 2 of 3 entries, but only 1 "):
        keep_top(scores, 0.25, within=allowed, per="tensor")


@pytest.mark.parametrize(
    "allowed",
    [
        {},
        {"v": torch.ones(2, 2).bool()},
        {"w": torch.ones(3).bool()},
        {"w": torch.ones(4).bool()},
        {"w": torch.ones(2, 2, dtype=torch.uint8)},
        {"w": torch.ones(2, 2)},
    ],
    ids=["no mask", "other name", "too few entries", "other shape", "bytes", "floats"],
)
def test_a_within_that_is_not_masks_of_the_scores_is_refused_by_name(allowed):
    with pytest.raises(LotteryError, match="'w'"):
        keep_top({"w": torch.arange(4.0).view(2, 2)}, 0.5, within=allowed)


def test_an_unknown_per_is_refused():
    with pytest.raises(LotteryError, match="layer"):
        keep_top({"a": torch.ones(2), "b": torch.zeros(2)}, 0.5, per="layer")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99])
def test_nan_is_refused_by_the_name_of_its_tensor_also_where_it_could_not_be_kept(dtype, sparsity):
    scores = {"fine": torch.ones(3), "empty": torch.ones(0), "bad": torch.tensor([1, math.nan, math.inf], dtype=dtype)}
    for on_device in (False, True):
        with searching(9, 9, on_device), pytest.raises(LotteryError, match="'bad': 1 of 3"):
            keep_top(scores, sparsity)
    allowed = {name: ~score.isnan() for name, score in scores.items()}
    for per in ("all", "tensor"):
        with pytest.raises(LotteryError, match="'bad': 1 of 3"):
            keep_top(scores, max(sparsity, 0.5), within=allowed, per=per)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_scores_that_are_not_real_floating_point_are_refused_by_name(dtype):
    with pytest.raises(LotteryError, match=f"'odd'.*{dtype}"):
        keep_top({"w": torch.ones(2), "odd": torch.ones(2, dtype=dtype)}, 0.5)


@pytest.mark.parametrize("sparsity", [1, 1.0, -0.1, 2, math.nan, math.inf, True, False, "0.5", None, torch.tensor(0.5)])
def test_a_sparsity_that_is_no_number_from_0_to_below_1_is_refused(sparsity):
    for scores in ({}, {"w": torch.ones(2)}):
        for per in ("all", "tensor"):
            with pytest.raises(LotteryError, match=r"\[0, 1\)"):
                keep_top(scores, sparsity, per=per)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_ranking_changes_nothing_and_shares_nothing_with_what_it_is_given(sparsity):
    scores = {"w": torch.nn.Parameter(torch.tensor([[3.0, 1.0], [1.0, 2.0]])), "v": torch.zeros(6)}
    allowed = {"w": torch.ones(2, 2).bool(), "v": torch.ones(6).bool()}
    before = {n: s.detach().clone() for n, s in scores.items()}, {n: m.clone() for n, m in allowed.items()}
    masks = keep_top(scores, sparsity, within=allowed)
    for mask in masks.values():
        mask.logical_not_()
    assert same(scores, before[0])
    assert same(allowed, before[1])
    assert not any(mask.requires_grad for mask in masks.values())


def drawn_masks(least=0):
    return tensors(least=least).map(lambda scores: {name: score > 0 for name, score in scores.items()})


@small
@given(st.data(), drawn_masks())
def test_hamming_counts_the_entries_that_differ(data, a):
    b = some_of(data.draw, a)
    assert hamming(a, b) == hamming(b, a) == oracles.hamming(lists(a), lists(b))
    assert hamming(a, a) == 0.0
    total = count(a)[1]
    assert hamming(a, {name: ~mask for name, mask in reversed(a.items())}) == (1.0 if total else 0.0)


@small
@given(drawn_masks())
def test_density_is_the_kept_fraction_and_1_where_there_is_nothing(masks):
    flat = sum(lists(masks).values(), [])
    assert count(masks) == (sum(flat), len(flat))
    assert density(masks) == (sum(flat) / len(flat) if flat else 1.0)


@small
@given(st.data(), drawn_masks())
def test_the_overlap_is_what_both_keep(data, a):
    b = some_of(data.draw, a)
    pairs = zip(sum(lists(a).values(), []), sum(lists(b).values(), []), strict=True)
    assert overlap(a, b) == overlap(b, a) == sum(x and y for x, y in pairs)


def test_the_overlap_by_chance_is_that_of_all_ways_to_draw_one_of_them_anew():
    a = {"w": torch.tensor([True, True, True, False, False]), "v": torch.tensor([[True], [False]])}
    b = {"w": torch.tensor([True, True, False, False, False]), "v": torch.tensor([[True], [False]])}
    drawn = [
        sum(kept in (0, 1, 2) for kept in pair) + (one == 0)
        for pair in itertools.combinations(range(5), 2)
        for one in range(2)
    ]
    chance = overlap_by_chance(a, b)
    assert chance.mean == pytest.approx(statistics.fmean(drawn)) and chance.sd == pytest.approx(
        statistics.pstdev(drawn)
    )
    distance = abs(overlap(a, b) - statistics.fmean(drawn))
    as_far = [abs(number - statistics.fmean(drawn)) >= distance for number in drawn]
    assert chance.p == pytest.approx(statistics.fmean(as_far))
    whole = {"w": torch.ones(3).bool()}
    assert overlap_by_chance(whole, whole) == (3, 0, 1), "nothing is left to chance"
    with pytest.raises(LotteryError, match="in one only"):
        overlap_by_chance(a, whole)


def test_masks_of_shuffled_entries_overlap_as_by_chance_and_equal_ones_do_not():
    drawn = torch.Generator().manual_seed(0)
    masks = {"w": torch.rand(60, 50, generator=drawn) < 0.1, "v": torch.rand(400, generator=drawn) < 0.5}
    surprises = [overlap_by_chance(masks, shuffle(masks, seed)).p < 0.05 for seed in range(200)]
    assert sum(surprises) <= 20  # 10 on average, 3 in a thousand are more
    assert overlap_by_chance(masks, masks).p < 1e-12


def test_the_overlap_of_a_few_of_many_entries_is_as_probable_as_it_is():
    sparse = {"w": torch.arange(20_000) < 20}
    another = {"w": sparse["w"].roll(19)}  # one entry is in both
    none = math.prod((20_000 - 20 - drawn) / (20_000 - drawn) for drawn in range(20))
    assert overlap_by_chance(sparse, another).p == pytest.approx(1 - none, rel=1e-9)


def test_where_many_entries_could_be_kept_the_normal_distribution_says_nearly_the_same(monkeypatch):
    drawn = torch.Generator().manual_seed(0)
    for _ in range(5):
        a, b = ({name: torch.rand(120, 70, generator=drawn) < 0.5 for name in "wv"} for _ in range(2))
        exact = overlap_by_chance(a, b)
        monkeypatch.setattr(masks_module, "MOST_EXACT", 0)
        assert overlap_by_chance(a, b).p == pytest.approx(exact.p, abs=0.02)
        monkeypatch.undo()


def test_masks_of_other_names_or_shapes_are_not_compared():
    masks = {"w": torch.ones(2).bool(), "v": torch.ones(1).bool()}
    for compare in (hamming, overlap, check_same_entries):
        with pytest.raises(LotteryError, match="parameters: u, v in one only"):
            compare(masks, {"w": masks["w"], "u": masks["v"]})
        with pytest.raises(LotteryError, match=r"'w' differ in shape: \(2,\), \(2, 1\)"):
            compare(masks, {**masks, "w": torch.ones(2, 1).bool()})
    check_same_entries(masks, dict(reversed(masks.items())))


@small
@given(drawn_masks(), st.integers(0, 2**40))
def test_shuffling_keeps_the_number_in_each_tensor_and_depends_on_seed_and_names_alone(masks, seed):
    before = {name: mask.clone() for name, mask in masks.items()}
    shuffled = shuffle(masks, seed)
    torch.rand(3)  # the global generator has no say
    assert same(masks, before)
    assert list(shuffled) == list(masks)
    for name in masks:
        assert count({name: shuffled[name]}) == count({name: masks[name]})
        assert (shuffled[name].shape, shuffled[name].dtype) == (masks[name].shape, torch.bool)
    other_order = shuffle(dict(reversed(masks.items())), seed)
    assert same(shuffled, {name: other_order[name] for name in masks})


def test_shuffling_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    shuffle({"w": torch.ones(9).bool()}, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_every_place_is_about_as_likely_after_shuffling_and_each_tensor_is_drawn_anew():
    kept = torch.arange(8) < 2
    draws = [shuffle({"a": kept, "b": kept}, seed) for seed in range(2000)]
    for name in "ab":
        frequency = torch.stack([draw[name] for draw in draws]).double().mean(0)
        assert (frequency - 0.25).abs().max() < 0.06  # six standard deviations
    agreement = sum(torch.equal(draw["a"], draw["b"]) for draw in draws) / 2000
    assert agreement == pytest.approx(1 / 28, abs=0.025)
    assert len({tuple(draw["a"].tolist()) for draw in draws}) == 28


ODD = (torch.nan, torch.inf, -torch.inf, -0.0, 0.0, -1.5, 3.0, 2.0**-14)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e5m2, torch.complex64, torch.int64, torch.uint8, torch.bool])
def test_removed_entries_become_plus_zero_whatever_they_were_and_kept_ones_keep_every_bit(dtype):
    values = torch.tensor(ODD if dtype.is_floating_point or dtype.is_complex else range(1, 9)).to(dtype)
    mask = torch.tensor([True, False] * 4)
    for kept in (mask, ~mask, torch.ones_like(mask), torch.zeros_like(mask)):
        tensor = values.clone()
        assert zero_removed_(tensor, kept) is tensor
        size = tensor.element_size()
        bits, before = (t.view(torch.uint8).view(-1, size) for t in (tensor, values))
        assert torch.equal(bits[kept], before[kept])
        assert not bits[~kept].any()


def test_zeroing_follows_strides_reaches_parameters_and_is_not_recorded():
    weight = torch.nn.Parameter(torch.full((4, 3, 2, 2), -1.0).to(memory_format=torch.channels_last))
    mask = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    zero_removed_(weight[1:, 1:], mask[1:, 1:])
    zero_removed_(weight, mask)
    assert torch.equal(weight != 0, mask)
    assert weight.requires_grad and weight.is_leaf and weight.grad_fn is None
    scalar = torch.tensor(torch.nan)
    assert zero_removed_(scalar, torch.tensor(False)) == 0
