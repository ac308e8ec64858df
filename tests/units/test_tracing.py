import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from helpers.models import FAMILIES, ids, images
from lightning_lottery.functional.alignment import Coupling, permute
from lightning_lottery.units.tracing import permutable
from lightning_lottery.zoo.networks import bert, lenet_300_100, resnet, vit


class Net(nn.Module):
    """A network of given modules and a forward of its own."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.run(self, x)


def jittered(net):
    """No two units alike, no norm at its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return net.double().eval()


def outputs(net, x):
    with torch.no_grad():
        out = net(x.double() if x.is_floating_point() else x)
    return out if isinstance(out, torch.Tensor) else out.logits if hasattr(out, "logits") else out[0]


def couplings_of(net):
    groups = permutable(net).groups
    return {name: Coupling(group.size, group.parts) for name, group in groups.items()}


def shuffled(net):
    """The state with the units of every group the other way round."""
    couplings = couplings_of(net)
    orders = {name: torch.arange(coupling.size).flip(0) for name, coupling in couplings.items()}
    return permute({name: tensor.clone() for name, tensor in net.state_dict().items()}, couplings, orders)


def flat(n=6):
    return lambda: torch.randn(5, n)


def mlp_with_norms():
    body = (nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU())
    return nn.Sequential(*body, nn.Dropout(), nn.Linear(9, 3))


def residual_mlp():
    def forward(net, x):
        x = net.stem(x)
        for block in net.blocks:
            x = x + block(x)
        return net.head(torch.relu(x))

    blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(2))
    return Net(forward, stem=nn.Linear(6, 8), blocks=blocks, head=nn.Linear(8, 3))


def dense_block():
    def forward(net, x):
        x = net.a(x)
        x = torch.cat([x, F.relu(net.b(x))], dim=1)
        x = torch.cat([net.c(x), x], 1)
        return net.head(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))

    convs = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 5, 3, padding=1), "c": nn.Conv2d(9, 6, 1)}
    return Net(forward, head=nn.Linear(15, 2), **convs)


def plain_convs():
    """As the VGGs without batch norm, and convolutions of which each sees one channel."""
    convs = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(24, 4), nn.Tanh(), nn.Linear(4, 2))


# How to build it, what it takes, and how many groups it has; every one of its weights is in one, or these are not.
NETWORKS = {
    "LeNet-300-100": (lambda: lenet_300_100(64), flat(64), 2, set()),
    "MLP with norms": (mlp_with_norms, flat(), 2, set()),
    "residual MLP": (residual_mlp, flat(), 3, set()),
    "dense block": (dense_block, images, 3, set()),
    "plain convolutions": (plain_convs, images, 2, set()),
    "VGG-like": (*FAMILIES["VGG-like"][:2], 2, set()),
    "ResNet-20": (lambda: resnet(20), images, 9 + 3, set()),
    "ResNet-18": (lambda: torchvision.models.resnet18(), lambda: images(32), 8 + 4, set()),
    "MobileNetV2": (lambda: torchvision.models.mobilenet_v2(), lambda: images(32), 25, set()),
    "ViT of the zoo": (
        vit,
        lambda: torch.randn(2, 1, 8, 8),
        6,
        {"classifier", "vit.embeddings", "vit.embeddings.patch_embeddings.projection"},
    ),
    "BERT of the zoo": (
        bert,
        ids,
        4,
        {"classifier", "bert.pooler.dense"}
        | {f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")},
    ),
}
NETWORKS |= {name: (*FAMILIES[name][:2], None, None) for name in FAMILIES if name not in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_permuting_every_group_changes_many_weights_and_not_the_function(name):
    build, inputs, count, left = NETWORKS[name]
    torch.manual_seed(0)
    net, x = jittered(build()), inputs()
    before, survey, state = outputs(net, x), permutable(net), shuffled(net)
    assert count in (None, len(survey.groups)) and left in (None, survey.unrecognised.keys())
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, state[name])}
    held = {part.parameter for group in survey.groups.values() for part in group.parts}
    assert moved == held
    net.load_state_dict(state)
    assert torch.allclose(outputs(net, x), before, rtol=1e-9, atol=1e-9 * float(before.abs().max()))


def test_a_residual_stream_that_widens_with_zeros_is_a_group_for_each_width_it_had():
    groups = permutable(resnet(20)).groups
    streams = {name: group for name, group in groups.items() if len(group.consumers) > 1}
    assert {name: group.size for name, group in streams.items()} == {
        "stem.0": 16,
        "blocks.3.conv2[16:32]": 16,
        "blocks.6.conv2[32:64]": 32,
    }
    stem = {part.parameter for part in streams["stem.0"].producers}
    assert {"stem.1.running_var", "blocks.2.bn2.weight", "blocks.8.conv2.weight"} <= stem
    assert {part.parameter for part in streams["blocks.6.conv2[32:64]"].consumers} == {
        "blocks.7.conv1.weight",
        "blocks.8.conv1.weight",
        "head.weight",
    }


def ending(forward, **modules):
    return Net(forward, first=nn.Linear(6, 8), last=nn.Linear(8, 8), **modules)


ODD = {
    "softmax over units": lambda: nn.Sequential(nn.Linear(6, 8), nn.Softmax(1), nn.Linear(8, 2)),
    "a gate that halves them": lambda: nn.Sequential(nn.Linear(6, 8), nn.GLU(1), nn.Linear(4, 2)),
    "groups of channels": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)),
    "a grouped convolution": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2)),
    "an order that is read": lambda: ending(lambda net, x: net.last(net.first(x).flip(1))),
    "a cumulative sum": lambda: ending(lambda net, x: net.last(net.first(x).cumsum(1))),
    "hidden units that are given out": lambda: ending(lambda net, x: (net.last(h := net.first(x)), h)),
    "a scale of their own": lambda: ending(
        lambda net, x: net.last(net.first(x) * net.scale), scale=nn.Parameter(torch.ones(8))
    ),
    "a weight that is read as data": lambda: ending(lambda net, x: net.last(net.first(x)) + net.first.weight.mean(1)),
    "a layer that reads the input as well": lambda: ending(
        lambda net, x: net.last(net.last(torch.relu(net.last(F.pad(x, (0, 2))))))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_depends_on_the_order_of_units_is_in_no_group_and_named(name):
    survey = permutable(ODD[name]())
    assert survey.groups == {} and survey.unrecognised


def test_layers_that_are_used_twice_move_for_both_uses():
    def forward(net, x):
        h = torch.relu(net.first(x))
        return net.out(torch.relu(net.again(torch.relu(net.again(h)))))

    net = jittered(Net(forward, first=nn.Linear(6, 8), again=nn.Linear(8, 8), out=nn.Linear(8, 3)))
    (group,) = permutable(net).groups.values()
    assert {(part.parameter, part.dim) for part in group.producers} >= {("again.weight", 0), ("first.weight", 0)}
    assert {part.parameter for part in group.consumers} == {"again.weight", "out.weight"}
    x = torch.randn(4, 6)
    before = outputs(net, x)
    net.load_state_dict(shuffled(net))
    assert torch.allclose(outputs(net, x), before, rtol=1e-12)


def test_a_forward_that_cannot_be_traced_leaves_what_is_inside_its_parts():
    def forward(net, x):
        return net.parts(x) if x.sum() > 0 else -net.parts(x)

    net = Net(forward, parts=nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), alone=nn.Linear(3, 3))
    survey = permutable(net)
    assert list(survey.groups) == ["parts.0"] and survey.unrecognised == {"alone": "its units are in no group"}


def test_looking_leaves_the_module_as_it_was():
    def forward(net, x):
        net.seen = net.first(x)
        return net.last(net.seen)

    net = ending(forward)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert list(permutable(net).groups) == ["first"]
    assert not hasattr(net, "seen") and net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
