import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.golden import kept
from lightning_lottery import LotteryError
from lightning_lottery.functional import (
    count,
    drop_and_grow,
    drop_fraction,
    layer_counts,
    layer_densities,
    random_masks,
)
from lightning_lottery.functional.shares import share

quick = settings(deadline=None, max_examples=300)
sides = st.lists(st.integers(0, 9), max_size=4).map(tuple)
shapes = st.lists(sides, min_size=1, max_size=6).map(lambda each: {f"layer{i}": shape for i, shape in enumerate(each)})
sparsities = st.integers(0, 99).map(lambda percent: percent / 100)
layers = st.sampled_from(["erk", "uniform"])


@pytest.fixture(scope="module")
def authors(golden):
    """RigL's numbers."""
    return torch.load(golden / "rigl.pt", weights_only=False)["seed0"]


@pytest.mark.parametrize("chain", ["distinct", "ties"])
def test_every_update_gives_the_authors_masks(authors, chain):
    updates = authors["updates"][chain]
    assert any(layer["n_dropped_and_regrown"] for update in updates for layer in update["layers"].values())
    for update in updates:
        fraction = drop_fraction(update["step"], authors["T_end"], authors["alpha"])
        by_name = {
            key: {name: layer[key] for name, layer in update["layers"].items()}
            for key in ("weight_before", "dense_grad", "mask_before", "mask_after", "n_active", "n_drop")
        }
        magnitudes, growth = (
            {name: value.abs() for name, value in by_name[key].items()} for key in ("weight_before", "dense_grad")
        )
        after = drop_and_grow(magnitudes, growth, by_name["mask_before"], fraction)
        for name, mask in after.items():
            assert math.floor(share(fraction, by_name["n_active"][name])) == by_name["n_drop"][name]
            assert torch.equal(mask, by_name["mask_after"][name])


def test_an_active_weight_that_is_zero_is_no_removed_one(authors):
    """Unlike in the authors' code, where such weights tie with removed ones."""
    for case in kept(authors, "zero_weights"):
        scores = {"w": case["weight_before"].abs()}, {"w": case["dense_grad"].abs()}
        after = drop_and_grow(*scores, {"w": case["mask_before"]}, case["drop_fraction"])["w"]
        assert count({"w": after})[0] == case["n_active"]
        assert int((case["mask_before"] & ~after).sum()) <= case["n_drop"]


def test_the_fraction_dropped_is_that_of_the_authors_and_stays_zero_from_the_end_on(authors):
    ours = [drop_fraction(step, authors["T_end"], authors["alpha"]) for step in authors["schedule"]["steps"]]
    assert ours == pytest.approx(authors["schedule"]["float64"], abs=1e-16)


def test_erk_densities_are_the_authors(authors):
    for network in authors["densities"].values():
        for density, case in network["cases"].items():
            ours = layer_densities("erk", network["shapes"], 1 - density)
            assert ours == pytest.approx(case["erk"]["density"], rel=1e-14)
            assert layer_densities("uniform", network["shapes"], 1 - density) == dict.fromkeys(ours, 1 - (1 - density))
            counts = layer_counts("erk", network["shapes"], 1 - density)
            assert all(-2 <= counts[name] - ones <= 0 for name, ones in case["erk"]["n_ones"].items())


@quick
@given(layers, shapes, sparsities)
def test_all_layers_together_keep_exactly_what_was_asked_and_none_more_than_it_has(layers, shapes, sparsity):
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    counts = layer_counts(layers, shapes, sparsity)
    total = sum(sizes.values())
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == round(share(1 - sparsity, total))
    assert all(0 <= counts[name] <= sizes[name] for name in shapes)
    densities = layer_densities(layers, shapes, sparsity)
    assert all(0 <= density <= 1 for density in densities.values())
    more = sum(densities[name] * sizes[name] for name in shapes) - (1 - sparsity) * total
    assert -1e-9 <= more <= len(shapes) or not total


@quick
@given(shapes, sparsities)
def test_uniform_counts_differ_from_their_share_by_less_than_one(shapes, sparsity):
    for name, number in layer_counts("uniform", shapes, sparsity).items():
        total = sum(math.prod(shape) for shape in shapes.values())
        density = round(share(1 - sparsity, total)) / max(1, total)
        assert abs(number - density * math.prod(shapes[name])) < 1


@quick
@given(shapes, sparsities)
def test_erk_densities_are_in_proportion_to_sides_over_entries_where_a_layer_is_not_dense(shapes, sparsity):
    shapes = {name: shape for name, shape in shapes.items() if math.prod(shape) and shape}
    densities = layer_densities("erk", shapes, sparsity)
    scales = [densities[name] * math.prod(shape) / sum(shape) for name, shape in shapes.items() if densities[name] < 1]
    assert all(scale == pytest.approx(scales[0], rel=1e-9) for scale in scales)


@quick
@given(layers, shapes, sparsities, st.integers(0, 2**63))
def test_random_masks_keep_the_counts_and_depend_on_seed_and_names_alone(layers, shapes, sparsity, seed):
    masks = random_masks(layers, shapes, sparsity, seed)
    assert {name: count({name: mask})[0] for name, mask in masks.items()} == layer_counts(layers, shapes, sparsity)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == shapes
    again = random_masks(layers, shapes, sparsity, seed)
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())


def test_another_seed_draws_other_places():
    first, second = (random_masks("uniform", {"w": (40, 40)}, 0.5, seed)["w"] for seed in (0, 1))
    assert 0.3 < float((first == second).float().mean()) < 0.7


@quick
@given(st.data(), st.integers(1, 30), st.floats(0, 1))
def test_counts_stay_and_what_is_kept_is_the_highest_of_the_kept_what_grows_of_the_others(data, n, fraction):
    few = st.sampled_from([0.0, 1.0, 2.0, 3.0])
    weight, gradient = (torch.tensor(data.draw(st.lists(few, min_size=n, max_size=n))) for _ in range(2))
    before = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    after = drop_and_grow({"w": weight}, {"w": gradient}, {"w": before}, fraction)["w"]
    dropped = math.floor(share(fraction, int(before.sum())))
    by_weight = sorted(before.nonzero().flatten().tolist(), key=lambda i: (-float(weight[i]), i))
    stays = set(by_weight[: len(by_weight) - dropped])
    by_gradient = sorted(set(range(n)) - stays, key=lambda i: (-float(gradient[i]), i))
    assert set(after.nonzero().flatten().tolist()) == stays | set(by_gradient[:dropped])


def test_a_tensor_without_growth_keeps_its_mask_and_nan_is_refused():
    masks = {"a": torch.tensor([True, False]), "b": torch.tensor([True, False])}
    scores = {name: torch.ones(2) for name in masks}
    assert torch.equal(drop_and_grow(scores, {"a": torch.tensor([0.0, 1.0])}, masks, 1)["b"], masks["b"])
    with pytest.raises(LotteryError, match="'a'.*NaN"):
        drop_and_grow(scores, {"a": torch.tensor([0.0, torch.nan])}, masks, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer_densities("erdos", {"w": (2, 2)}, 0.5), "`layers` is 'erk' or 'uniform'"),
        (lambda: layer_counts("kernel", {"w": (2, 2)}, 0.5), "`layers` is 'erk' or 'uniform'"),
        (lambda: layer_densities("erk", {"w": (2, 2)}, 1.0), "`sparsity`"),
        (lambda: drop_and_grow({}, {}, {}, 1.5), "`fraction`"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(LotteryError, match=message):
        call()
