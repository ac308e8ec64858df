from itertools import product

import pytest
import torch
from torch import nn

from helpers.states import same
from lightning_lottery.functional.effective import effective_masks, positive


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
