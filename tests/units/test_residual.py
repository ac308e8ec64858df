import pytest
import torch
import torchvision
from torch import nn

from helpers.models import REPARAMETRISATIONS, images, vgg_like
from lightning_lottery.errors import LotteryError
from lightning_lottery.units.residual import coupled_channels


def test_channels_that_a_residual_connection_shares_are_one_group_of_the_graph():
    model = torchvision.models.resnet18(num_classes=3)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = coupled_channels(model, torch.randn(1, 3, 32, 32))
    shared = groups["conv1"]
    assert {part.parameter for part in shared.producers} >= {"conv1.weight", "layer1.1.conv2.weight", "bn1.running_var"}
    assert {part.parameter for part in shared.consumers} >= {"layer1.0.conv1.weight", "layer2.0.downsample.0.weight"}
    assert model.training
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_without_torch_pruning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(LotteryError, match=r"lightning_lottery\[shrink\]"):
        coupled_channels(vgg_like(), images())


def test_a_network_without_convolutions_has_no_channels_to_couple():
    with pytest.raises(LotteryError, match="Sequential has no convolution whose channels could be removed"):
        coupled_channels(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.zeros(1, 4))


@pytest.mark.parametrize("norm", REPARAMETRISATIONS)
def test_channels_of_a_layer_whose_weight_is_computed_are_left_out(norm):
    model = torchvision.models.resnet18(num_classes=3)
    REPARAMETRISATIONS[norm](model.layer4[1].conv1)
    model(torch.randn(2, 3, 32, 32))
    groups = coupled_channels(model, torch.randn(1, 3, 32, 32))
    layers = {part.parameter.rpartition(".")[0] for group in groups.values() for part in group.parts}
    assert "conv1" in groups
    assert not any("layer4.1.conv1" in layer for layer in layers)
