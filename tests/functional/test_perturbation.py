"""One change of weights: its length, its direction, and where it does not go."""

import math

import pytest
import torch

from lightning_lottery import LotteryError, Perturbation
from lightning_lottery.functional import gaussian_noise, weight_change

SCALES = {"a": 0.5, "b": 2.0}
LIKE = {"a": torch.zeros(4, 25), "b": torch.zeros(100)}
MASKS = {"a": torch.arange(100).reshape(4, 25) % 4 == 0}  # 25 of 100 are kept


def changed(sigma=0.1, *, share=1.0, seed=0, masks=MASKS):
    return weight_change(Perturbation(sigma, share=share), gaussian_noise(SCALES, LIKE, seed), masks, SCALES, seed)


def length(change):
    return math.sqrt(sum(float(part.double().square().sum()) for part in change.values()))


@pytest.mark.parametrize("masks", [{}, MASKS])
@pytest.mark.parametrize("sigma", [1e-6, 0.1, 3])
def test_the_change_is_sigma_times_as_long_as_the_kept_initial_weights_are_expected_to_be(sigma, masks):
    expected = sigma * math.sqrt((25 if masks else 100) * 0.5**2 + 100 * 2.0**2)
    assert length(changed(sigma, masks=masks)) == pytest.approx(expected, rel=1e-6)


def test_gaussian_entries_have_the_scale_of_their_tensor():
    noise = gaussian_noise({"a": 0.5, "b": 0.0}, {"a": torch.zeros(10_000), "b": torch.zeros(3)}, 0)
    assert noise["a"].std() == pytest.approx(0.5, rel=0.03) and not noise["b"].any()


def test_what_is_removed_is_not_changed_and_all_that_is_kept_is():
    change = changed()
    assert torch.equal(change["a"] != 0, MASKS["a"]) and change["b"].all()


def test_any_other_direction_is_kept():
    direction = {"a": torch.linspace(-1, 3, 100).reshape(4, 25), "b": torch.linspace(2, -7, 100)}
    change = weight_change(Perturbation(0.1, "gradient"), direction, {}, SCALES, 0)
    ratios = torch.cat([(change[name] / direction[name]).flatten() for name in direction])
    assert ratios.std() < 1e-6 and ratios[0] > 0


@pytest.mark.parametrize(("share", "count"), [(0.56, 70), (0.5, 62), (1e-9, 1)])  # of 125: 62.5 is rounded to even
def test_a_share_is_an_exact_count_of_the_kept_weights_each_changed_as_in_a_change_of_all(share, count):
    whole, part = changed(), changed(share=share)
    places = {name: part[name] != 0 for name in part}
    assert sum(int(chosen.sum()) for chosen in places.values()) == count
    assert all(torch.equal(part[name][chosen], whole[name][chosen]) for name, chosen in places.items())
    assert not (places["a"] & ~MASKS["a"]).any()


def test_the_same_seed_changes_the_same_and_another_does_not():
    first, again, other = changed(share=0.5), changed(share=0.5), changed(share=0.5, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["b"], other["b"])


@pytest.mark.parametrize("direction", [torch.zeros(3), torch.tensor([1.0, math.nan, 0.0]), torch.tensor([math.inf])])
def test_no_direction_is_refused(direction):
    with pytest.raises(LotteryError, match="no direction .* the gradient is (zero|not finite)"):
        weight_change(Perturbation(1, "gradient"), {"w": direction}, {}, {"w": 1.0}, 0)


@pytest.mark.parametrize(("scale", "kept"), [(0.0, True), (1.0, False)])
def test_weights_without_a_scale_or_none_that_is_kept_are_refused(scale, kept):
    masks = {"w": torch.full((3,), kept)}
    with pytest.raises(LotteryError, match="none of the weights in its scope that are kept was initialised at random"):
        weight_change(Perturbation(1), {"w": torch.ones(3)}, masks, {"w": scale}, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sigma": -0.1}, "`sigma` is the length"),
        ({"sigma": math.nan}, "`sigma` is the length"),
        ({"sigma": math.inf}, "`sigma` is the length"),
        ({"sigma": True}, "`sigma` is the length"),
        ({"sigma": 1, "direction": "up"}, "`direction` is 'gaussian' or 'gradient'"),
        ({"sigma": 1, "share": 0}, r"`share` is .* in \(0, 1\]"),
        ({"sigma": 1, "share": 1.5}, r"`share` is .* in \(0, 1\]"),
        ({"sigma": 1, "scope": "head"}, "`scope` of a Perturbation is a Scope"),
    ],
)
def test_an_argument_out_of_its_range_is_refused(arguments, says):
    with pytest.raises(LotteryError, match=says):
        Perturbation(**arguments)
