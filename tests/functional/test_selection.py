"""How the entries that are kept are found: exact, however the sample misleads, in few passes and without a copy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import oracles
from helpers.selection import lists, searching, small
from lightning_lottery.functional import selection as module
from lightning_lottery.functional.masks import (
    count,
    keep_top,
)

N = 4096
SAMPLE = 16  # so that every 257th entry is sampled, of blocks of 512 the first and one other
PLACES = torch.arange(N)
SAMPLED = PLACES % 512 % 257 == 0
NOISE = torch.rand(N, generator=torch.Generator().manual_seed(0))
DISTRACTING = {
    "rising": PLACES.float(),
    "falling": -PLACES.float(),
    "all zero": torch.zeros(N),
    "two values": (NOISE > 0.3).float(),
    "half dead": NOISE.clamp(min=0.5),
    "the sampled ones are highest": torch.where(SAMPLED, 9.0, NOISE),
    "the sampled ones are lowest": torch.where(SAMPLED, -9.0, NOISE),
    "the sampled ones are higher, and differ": torch.where(SAMPLED, 9.0 + NOISE, NOISE),
    "the sampled ones are lower, and differ": torch.where(SAMPLED, NOISE - 9.0, NOISE),
    "a period of the stride": (PLACES % 512 % 257).float(),
    "one block far above": torch.where((PLACES > 300) & (PLACES < 500), 1e30 * NOISE, NOISE),
    "one block infinite": torch.where((PLACES > 300) & (PLACES < 500), math.inf, NOISE),
    "one entry apart": torch.where(PLACES == 1234, 1e30, 0.0),
}


MISLEADING = [name for name in DISTRACTING if name.startswith("the sampled") or name == "a period of the stride"]


@pytest.mark.parametrize("name", DISTRACTING)
@pytest.mark.parametrize("hidden", [False, True], ids=["all may be kept", "no sampled one may be kept"])
@pytest.mark.parametrize("block", [512, 100])  # that begin at the sampled entries, or anywhere
def test_a_sample_that_misleads_costs_rounds_not_exactness(name, hidden, block, monkeypatch):
    rounds, bracket = [], module._bracket
    monkeypatch.setattr(module, "_bracket", lambda *args: rounds.append(1) or bracket(*args))
    score = DISTRACTING[name]
    scores = {"a": score[:1024].view(32, 32), "b": score[1024:]}
    within = {n: (torch.arange(s.numel()) % 512 % 257 != 0).view_as(s) for n, s in scores.items()} if hidden else None
    sparsities = (0.01, 0.1, 0.5, 0.9, 0.95, 0.997)
    with searching(SAMPLE, block):
        for sparsity in sparsities:
            masks = keep_top(scores, sparsity, within=within)
            assert lists(masks) == oracles.keep_top(lists(scores), sparsity, within and lists(within))
    assert len(rounds) >= len(sparsities) - 1
    if name in MISLEADING and not hidden and block == 512:
        assert len(rounds) > len(sparsities)


@pytest.mark.parametrize("room", [module._ROOM, 8], ids=["room for all", "no room"])
@pytest.mark.parametrize("lowest", [True, False], ids=["lowest", "highest"])
@pytest.mark.parametrize("ties", [1, 4096], ids=["no ties", "ties"])
def test_however_a_sample_misleads_a_few_passes_are_enough(lowest, ties, room, monkeypatch):
    passes, pass_over = [], module._pass_over
    monkeypatch.setattr(module, "_pass_over", lambda *args, **given: passes.append(1) or pass_over(*args, **given))
    monkeypatch.setattr(module, "_ROOM", room)
    n = 2**20
    places = torch.arange(n) % module._BLOCK
    stride = n // module._sample_size(n) | 1
    noise = torch.rand(n, generator=torch.Generator().manual_seed(0))
    noise = (noise * 2**20 / ties).floor()
    score = torch.where(places % stride == 0, noise - 2**21 if lowest else noise + 2**21, noise)
    order = score.sort(descending=True, stable=True).indices
    for kept in (1, n // 100, n // 51, n // 50, n // 4, n // 2, n - n // 51, n - n // 100, n - 1):
        passes.clear()
        mask = keep_top({"a": score.view(1024, 1024)}, 1 - kept / n)["a"]
        assert set(mask.flatten().nonzero().flatten().tolist()) == set(order[:kept].tolist())
        assert len(passes) <= 5, kept


@small
@given(
    st.integers(1, 300),
    st.integers(1, 12),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from([1, 2, 5, 1000]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_search_ends_at_the_exact_place_for_long_tensors_too(
    n, sample, block, part, levels, allowed, seed, on_device, room
):
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randint(levels, (n,), generator=generator).float() for name in "ab"}
    within = {name: torch.rand(n, generator=generator) <= allowed for name in "ab"}
    within["b"][-1] = True
    available, total = count(within)
    kept = max(1, round(part * available))
    with searching(sample, block, on_device, room):
        masks = keep_top(scores, 1 - kept / total, within=within)
    assert lists(masks) == oracles.keep_top(lists(scores), 1 - kept / total, lists(within))
    assert count(masks) == (kept, total)


@pytest.mark.parametrize("sparsity", [0.1, 0.8, 0.999])
def test_five_million_scores_rank_as_a_stable_sort_ranks_them(sparsity):
    n = 5_000_000
    score = torch.randn(n, generator=torch.Generator().manual_seed(0)).abs_()
    score[::3] = 0.0  # removed weights
    score = (score * 4096).round_()  # ties at every threshold
    order = score.sort(descending=True, stable=True).indices
    expected = torch.zeros(n, dtype=torch.bool)
    expected[order[: round((1 - sparsity) * n)]] = True
    masks = keep_top({"a": score[:2_000_001], "b": score[2_000_001:].view(-1, 1)}, sparsity)
    assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), expected)


def test_scores_of_half_precision_rank_without_a_copy_of_them_all():
    score = torch.rand(300_000, generator=torch.Generator().manual_seed(0)).bfloat16()  # 256 values an octave: ties
    mask = keep_top({"a": score}, 0.7)["a"]
    order = score.float().sort(descending=True, stable=True).indices
    assert set(mask.nonzero().flatten().tolist()) == set(order[: round(0.3 * 300_000)].tolist())


def test_neighbours_that_are_small_are_ranked_as_one_and_large_ones_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(module, "_SMALL", 4)
    monkeypatch.setattr(module, "_BLOCK", 10)
    sizes = {"a": 4, "b": 4, "c": 3, "large": 5, "d": 1, "empty": 0, "e": 4}
    packs = module.packs_of({name: torch.zeros(size) for name, size in sizes.items()})
    assert packs == [["a", "b"], ["c"], ["large"], ["d", "empty", "e"]]


def test_tensors_of_another_device_are_in_another_pack():
    assert module.packs_of({"a": torch.zeros(2), "b": torch.zeros(2, device="meta")}) == [["a"], ["b"]]


@small
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 9), st.booleans(), st.floats(0, 0.99))
def test_masks_of_many_small_tensors_are_those_of_one_tensor_at_a_time(sizes, seed, is_limited, sparsity):
    generator = torch.Generator().manual_seed(seed)
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    scores = {f"{i}": torch.randint(4, (size,), generator=generator).to(dtypes[i % 3]) for i, size in enumerate(sizes)}
    within = {n: torch.rand(s.shape, generator=generator) < 0.99 for n, s in scores.items()} if is_limited else None
    if within and round((1 - sparsity) * sum(sizes)) > count(within)[0]:
        return
    packed = keep_top(scores, sparsity, within=within)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SMALL", -1)
        alone = keep_top(scores, sparsity, within=within)
    assert lists(packed) == lists(alone)
    assert all(mask.untyped_storage().nbytes() == mask.numel() for mask in packed.values())  # saved alone, it is small
