import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import oracles
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.iterative import levels_to, prune_further
from lightning_lottery.functional.masks import count, hamming

FRACTIONS = st.floats(0.05, 0.9)


def dense(shapes):
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}


def test_ties_and_weights_that_are_zero_already_do_not_change_the_count():
    scores = {"a": torch.zeros(10), "b": torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])}
    masks, kept = dense({"a": 10, "b": 5}), 15
    for _ in range(4):
        masks, before = prune_further(scores, masks, 0.2), masks
        assert count(masks)[0] == kept - round(0.2 * kept)
        assert all(not (masks[name] & ~before[name]).any() for name in masks)
        kept = count(masks)[0]
    assert masks["b"].tolist()[2:] == [True, True, True]


@given(st.integers(10, 200), FRACTIONS, st.integers(0, 5), st.sampled_from(["all", "tensor"]))
def test_every_level_loses_exactly_the_fraction_of_what_remains_the_lowest_of_it(n, fraction, seed, per):
    generator = torch.Generator().manual_seed(seed)
    masks = dense({"a": (n, 3), "b": (n,)})
    for _ in range(3):
        scores = {name: torch.rand(mask.shape, generator=generator) for name, mask in masks.items()}
        groups = [("a", "b")] if per == "all" else [("a",), ("b",)]
        kept = [count({name: masks[name] for name in group})[0] for group in groups]
        if any(round(oracles.exact(fraction) * k) in (0, k) for k in kept):
            break
        after = prune_further(scores, masks, fraction, per=per)
        for group, k in zip(groups, kept, strict=True):
            assert count({name: after[name] for name in group})[0] == k - round(oracles.exact(fraction) * k)
            left = torch.cat([scores[name][after[name]] for name in group])
            gone = torch.cat([scores[name][masks[name] & ~after[name]] for name in group])
            assert gone.max() <= left.min()
        masks = after


@pytest.mark.parametrize("run", ["frac0.2", "frac0.5", "frac0.2_tied_weights"])
def test_the_authors_masks_are_those_of_this_package_less_the_few_that_they_remove_too_many(golden, run):
    vectors = torch.load(golden / "imp_open_lth.pt", weights_only=False)
    fraction = float(run.split("_")[0].removeprefix("frac"))
    before = {name: torch.ones_like(mask, dtype=torch.bool) for name, mask in vectors["runs"][run][0]["masks"].items()}
    for level, run_level in enumerate(vectors["runs"][run]):
        theirs = {name: mask.bool() for name, mask in run_level["masks"].items()}
        if "tied" not in run:
            weights = vectors["weights_per_level"][level]
            ours = prune_further({name: weights[name].abs() for name in before}, before, fraction)
            kept = count(before)[0]
            assert count(theirs)[0] == kept - math.ceil(fraction * kept) - 1  # one too many, by a strict comparison
            assert count(ours)[0] == kept - round(fraction * kept)
            assert not any((theirs[name] & ~ours[name]).any() for name in ours)
            assert hamming(ours, theirs) * count(ours)[1] == pytest.approx(count(ours)[0] - count(theirs)[0])
        else:  # which of equal weights go is their own choice: only how many there were to choose from is known
            assert count(theirs)[0] < count(before)[0] - round(fraction * count(before)[0])
        before = theirs


@given(st.floats(0.01, 0.99), FRACTIONS)
def test_the_last_level_is_the_first_that_reaches_the_target(sparsity, fraction):
    levels = levels_to(sparsity, fraction)
    assert 1 - (1 - fraction) ** levels >= sparsity - 1e-7
    assert levels == 1 or 1 - (1 - fraction) ** (levels - 1) < sparsity


def test_a_target_that_a_whole_number_of_levels_hits_takes_no_level_more():
    for fraction in (0.1, 0.2, 0.3, 0.5):
        for levels in range(1, 20):
            assert levels_to(1 - (1 - fraction) ** levels, fraction) == levels


class TestRefusals:
    @pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5, math.nan, True, "0.2", None])
    def test_a_fraction_that_is_none(self, fraction):
        with pytest.raises(LotteryError, match=r"`prune_fraction` is the fraction of what remains .* in \(0, 1\), got"):
            prune_further({"a": torch.ones(3)}, dense({"a": 3}), fraction)
        with pytest.raises(LotteryError, match="`prune_fraction` is the fraction"):
            levels_to(0.5, fraction)

    def test_a_fraction_that_removes_nothing_or_everything(self):
        with pytest.raises(LotteryError, match="0.1 removes none of the 4 entries that remain"):
            prune_further({"a": torch.ones(4)}, dense({"a": 4}), 0.1)
        with pytest.raises(LotteryError, match="0.9 leaves none of the 2 entries that remain in b"):
            prune_further({"a": torch.ones(9), "b": torch.ones(2)}, dense({"a": 9, "b": 2}), 0.9, per="tensor")

    @pytest.mark.parametrize("sparsity", [0, 1, -1, 1.1, math.nan, True, "0.9"])
    def test_a_target_that_is_never_reached(self, sparsity):
        with pytest.raises(LotteryError, match=r"`sparsity` to prune to by levels is in \(0, 1\), got"):
            levels_to(sparsity, 0.2)
