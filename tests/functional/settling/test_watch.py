import pytest
import torch

from lightning_lottery.functional.masks import hamming, keep_top
from lightning_lottery.functional.settling.rules import ADF, HammingFIFO, SlopeHAC, scores_differ
from lightning_lottery.functional.settling.watch import Watch, names_of, tells_apart, unit_masks_of

LAYERS = {"head": {"a": 4, "b": 4}, "neuron": {"c": 6, "d": 2}}
PER = {"head": "tensor", "neuron": "all"}


def rows(steps, seed=0):
    return torch.rand(steps, 16, generator=torch.Generator().manual_seed(seed))


def watch(rules=None, sparsities=(0.25, 0.5), kinds=("head", "neuron")):
    return Watch(LAYERS, {"H": HammingFIFO(2, 0.99, interval=1)} if rules is None else rules, sparsities, PER, kinds)


def test_pushed_at_once_or_one_by_one_a_series_is_the_same():
    at_once, one_by_one, scores = watch(), watch(), rows(30)
    all_probes = at_once.push(range(1, 31), scores)
    probes = [probe for i in range(30) for probe in one_by_one.push([i + 1], scores[i : i + 1])]
    assert sorted(map(repr, probes)) == sorted(map(repr, all_probes))
    assert at_once.norms == one_by_one.norms
    assert len(all_probes) == 4 * 29


def test_steps_whose_scores_are_equal_or_not_finite_say_nothing_of_that_kind_alone():
    scores = rows(3)
    scores[1, :4] = 1.0
    scores[2, 9] = torch.nan
    one = watch()
    one.push([1, 2, 3], scores)
    assert [step for step, _ in one.norms["head-0.5"]] == [1, 3]
    assert [step for step, _ in one.norms["neuron-0.5"]] == [1, 2]
    assert one.masks(0.5).keys() == {"a", "b"} and one.last_step == 3


def test_a_layer_that_would_be_emptied_keeps_its_best_unit():
    scores = torch.tensor([[9.0, 8.0, 7.0, 1.0, 3.0, 2.0], [9.0, 8.0, 1.0, 7.0, 3.0, 2.0]])
    masks = unit_masks_of(scores, (3, 3), 0.5, "all")
    assert masks.int().tolist() == [[1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 0, 0]]
    assert unit_masks_of(torch.tensor([[1.0, 2.0]]), (2,), 0.9, "tensor").tolist() == [[False, True]]


@pytest.mark.parametrize("per", ["all", "tensor"])
@pytest.mark.parametrize("values", [2, 5, 1000])  # many ties, some, none
def test_many_steps_at_once_are_ranked_and_told_apart_as_each_by_itself(per, values):
    sizes, generator = (5, 1, 7), torch.Generator().manual_seed(values)
    scores = torch.randint(values, (200, 13), generator=generator).float()
    scores[0] = 1.0
    informative = tells_apart(scores, sizes, per)
    for sparsity in (0.0, 0.3, 0.5, 0.99):
        masks = unit_masks_of(scores, sizes, sparsity, per)
        for row, mask, differ in zip(scores, masks, informative, strict=True):
            layers = {str(i): part for i, part in enumerate(row.split(sizes))}
            expected = keep_top(layers, sparsity, per=per)
            for name in [name for name, layer_mask in expected.items() if not layer_mask.any()]:
                expected[name] = keep_top({name: layers[name]}, 1 - 1 / len(layers[name]))[name]
            assert torch.equal(mask, torch.cat(list(expected.values())))
            assert differ == scores_differ(layers, per)
    assert not informative[0] and informative[1:].any()


def test_distances_are_the_hamming_distances_of_masks_and_old_ones_are_thinned_evenly():
    one, scores = watch(sparsities=[0.5], kinds=["head"]), rows(200)
    one.push(range(1, 201), scores)
    steps, distances = one.distances("head-0.5")
    assert steps == list(range(4, 201, 4))
    masks = {s: keep_top({"a": scores[s - 1, :4], "b": scores[s - 1, 4:8]}, 0.5, per="tensor") for s in steps}
    assert torch.equal(distances, distances.T) and not distances.diagonal().any()
    assert distances[3, 7].item() == pytest.approx(hamming(masks[16], masks[32]))


def test_a_watch_goes_on_from_its_state():
    whole, first, second, scores = watch(), watch(), watch(), rows(40)
    expected = whole.push(range(1, 41), scores)
    before = first.push(range(1, 18), scores[:17])
    second.load_state_dict(first.state_dict())
    assert sorted(map(repr, before + second.push(range(18, 41), scores[17:]))) == sorted(map(repr, expected))
    assert second.norms == whole.norms
    assert torch.equal(second.distances("head-0.5")[1], whole.distances("head-0.5")[1])


def test_rules_of_one_class_are_named_by_what_tells_them_apart():
    rules = [ADF(), SlopeHAC(lags=5), SlopeHAC(p=0.1), HammingFIFO()]
    assert list(names_of(rules)) == ["ADF", "SlopeHAC-p=0.2-lags=5", "SlopeHAC-p=0.1-lags=None", "HammingFIFO"]
    assert len(names_of([ADF(), ADF()])) == 1


def test_moves_are_distances_of_masks_the_shortest_interval_apart_and_survive_a_state_that_lacks_them():
    rules = {"H": HammingFIFO(2, interval=2), "I": HammingFIFO(2, interval=4)}
    layers, per = {"head": {"a": 4}}, {"head": "all"}
    rows = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1], [4, 3, 2, 1], [4, 1, 3, 2], [4, 3, 2, 1]])
    watch = Watch(layers, rules, [0.5], per, ["head"])
    watch.push([1, 2, 3], rows[:3])
    again, old = (Watch(layers, rules, [0.5], per, ["head"]) for _ in range(2))
    again.load_state_dict(watch.state_dict())
    old.load_state_dict({name: value for name, value in watch.state_dict().items() if name not in ("moves", "before")})
    for one in (watch, again, old):
        one.push([4, 6, 10], rows[[3, 4, 5]])
    assert watch.moves == again.moves == {"head-0.5": [(4, 1.0), (6, 0.5)]}
    assert old.moves == {"head-0.5": [(6, 0.5)]}
