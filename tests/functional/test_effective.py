from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.functional.effective import effective_masks, places_on_paths, positive, shuffle_on_paths
from lightning_lottery.functional.masks import count_each, jaccard


def random_masks(net, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in net.named_parameters() if p.ndim > 1}


def on_a_path(masks):
    """Of the masks of a chain of layers, by following every path from an input to an output."""
    layers = list(masks.values())
    used = [torch.zeros_like(mask) for mask in layers]
    for path in product(range(layers[0].shape[1]), *(range(len(mask)) for mask in layers)):
        edges = [(k, path[k + 1], path[k]) for k in range(len(layers))]
        if all(layers[k][i, j] for k, i, j in edges):
            for k, i, j in edges:
                used[k][i, j] = True
    return dict(zip(masks, used, strict=True))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.ReLU6])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_effective_lies_on_a_path_from_an_input_to_an_output(activation, seed):
    net = nn.Sequential(
        nn.Linear(4, 5), activation(), nn.BatchNorm1d(5), nn.Linear(5, 4), activation(), nn.Linear(4, 2)
    )
    nn.init.constant_(net[2].running_mean, 9.0)  # would turn every unit off
    masks = random_masks(net, 0.35, seed)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    effective = effective_masks(net, masks, lambda net: net(positive(torch.zeros(3, 4))))
    assert same(effective, on_a_path(masks))
    assert 0 < sum(int(m.sum()) for m in effective.values()) < sum(int(m.sum()) for m in masks.values())
    assert same(before, net.state_dict()) and net.training
    assert torch.equal(state, torch.get_rng_state())


def test_with_everything_kept_every_weight_of_a_transformer_and_a_convolution_is_effective():
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first) for first in (False, True)]
    convolution = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    for net, x in (*((layer, torch.zeros(2, 5, 8)) for layer in layers), (convolution, torch.zeros(1, 2, 6, 6))):
        masks = random_masks(net, 2.0, 0)
        assert same(effective_masks(net, masks, lambda net, x=x: net(positive(x))), masks)


def test_a_head_whose_output_nobody_reads_is_dead_in_the_packed_projection():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    masks = random_masks(net, 2.0, 0)
    masks["self_attn.out_proj.weight"][:, :4] = False
    effective = effective_masks(net, masks, lambda net: net(positive(torch.zeros(2, 5, 8))))["self_attn.in_proj_weight"]
    assert effective.view(3, 2, 4, 8).any(-1).any(-1).tolist() == [[False, True]] * 3


def test_where_no_path_is_left_nothing_is_effective():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    masks = {"0.weight": torch.ones(2, 2).bool(), "2.weight": torch.zeros(1, 2).bool()}
    effective = effective_masks(net, masks, lambda net: net(positive(torch.ones(1, 2))))
    assert not any(mask.any() for mask in effective.values())


def chain(*widths):
    """A chain of linear layers, and what lies on a path in it."""
    layers = [module for pair in pairwise(widths) for module in (nn.Linear(*pair), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    return net, lambda masks: places_on_paths(net, masks, lambda net: net(positive(torch.zeros(1, widths[0]))))


WIDTHS = st.lists(st.integers(1, 4), min_size=2, max_size=4)


@settings(deadline=None, max_examples=50)
@given(WIDTHS, st.floats(0.1, 0.9), st.integers(0, 99))
def test_a_place_is_on_a_path_where_the_entry_would_be_effective_if_it_alone_were_added(widths, density, seed):
    net, paths = chain(*widths)
    masks = random_masks(net, density, seed)
    for name, places in paths(masks).items():
        for index in product(*map(range, places.shape)):
            added = {name: mask.clone() for name, mask in masks.items()}
            added[name][index] = True
            assert places[index] == on_a_path(added)[name][index]


@settings(deadline=None, max_examples=50)
@given(WIDTHS, st.floats(0.1, 0.9), st.integers(0, 99), st.integers(0, 2))
def test_a_shuffle_on_paths_keeps_as_many_in_each_layer_and_as_many_effective(widths, density, seed, draw):
    net, paths = chain(*widths)
    masks = random_masks(net, density, seed)
    before = {name: mask.clone() for name, mask in masks.items()}
    shuffled = shuffle_on_paths(masks, draw, paths)
    assert count_each(shuffled) == count_each(masks)
    assert count_each(on_a_path(shuffled)) == count_each(on_a_path(masks))
    assert same(shuffled, shuffle_on_paths(masks, draw, paths)) and same(masks, before)
    backwards = shuffle_on_paths(dict(reversed(masks.items())), draw, paths)
    assert same({name: backwards[name] for name in masks}, shuffled)


@settings(deadline=None, max_examples=50)
@given(WIDTHS, st.floats(0.1, 0.9), st.integers(0, 99))
def test_every_weight_stays_effective_where_all_were(widths, density, seed):
    net, paths = chain(*widths)
    masks = on_a_path(random_masks(net, density, seed))
    shuffled = shuffle_on_paths(masks, seed, paths)
    assert same(on_a_path(shuffled), shuffled) and count_each(shuffled) == count_each(masks)


def test_it_overlaps_with_the_masks_as_chance_would_and_draws_every_place_equally_often():
    net, paths = chain(40, 30, 20, 10)
    masks = random_masks(net, 0.1, 0)
    assert 0.02 < jaccard(masks, shuffle_on_paths(masks, 1, paths)) < 0.09  # by chance 0.05
    assert not same(shuffle_on_paths(masks, 1, paths), shuffle_on_paths(masks, 2, paths))
    net, paths = chain(4, 1)
    one = {"0.weight": torch.tensor([[True, False, False, False]])}
    drawn = [int(shuffle_on_paths(one, seed, paths)["0.weight"].int().argmax()) for seed in range(400)]
    assert all(70 < drawn.count(place) < 130 for place in range(4))


def test_a_ticket_that_leaves_no_choice_stays_as_it_is():
    net, paths = chain(1, 2, 1)
    masks = {"0.weight": torch.tensor([[True], [False]]), "2.weight": torch.tensor([[True, False]])}
    assert same(shuffle_on_paths(masks, 0, paths), masks)
    nothing = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    assert same(shuffle_on_paths(nothing, 0, paths), nothing)


def test_a_convolution_with_a_norm_and_a_residual_path_is_shuffled_on_paths():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
            self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.head((x + torch.relu(self.norm(self.second(x)))).mean((2, 3)))

    net = Net()

    def paths(masks):
        return places_on_paths(net, masks, lambda net: net(positive(torch.zeros(1, 2, 6, 6))))

    masks = random_masks(net, 0.05, 3)

    def effective(masks):
        return count_each({name: mask & paths(masks)[name] for name, mask in masks.items()})

    shuffled = shuffle_on_paths(masks, 0, paths)
    assert count_each(shuffled) == count_each(masks) and effective(shuffled) == effective(masks)
    assert 0 < sum(effective(masks).values()) < sum(count_each(masks).values()) and jaccard(masks, shuffled) < 0.3


def test_where_counts_cannot_be_kept_it_is_refused():
    masks = {"w": torch.tensor([True, False, False, False])}
    calls = []

    def capricious(masks):  # what lies on a path changes from one look to the next
        calls.append(masks)
        return {"w": torch.full((4,), len(calls) == 1)}

    with pytest.raises(LotteryError, match="As many effective weights cannot be drawn"):
        shuffle_on_paths(masks, 0, capricious)
