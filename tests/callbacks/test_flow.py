"""The network whose flow SynFlow measures."""

import pytest
import torch
from torch import nn

from lightning_lottery import LotteryError
from lightning_lottery.callbacks.flow import Flow


def conv_net(biases: bool = False) -> nn.Sequential:
    """A network with batch norm that looks trained: means, biases and variances of its own."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=biases),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=biases),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3, bias=biases),
    )
    for norm in (net[1], net[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 9.0)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.weight)
    return net


def prunable(flow: Flow) -> dict[str, torch.Tensor]:
    return {name: value for name, value in flow.state.items() if value.ndim > 1}


def flow_of(net: nn.Module, x: torch.Tensor, dtype=torch.float64, **given) -> Flow:
    flow = Flow(net, dtype, **({"neutral": True, "bypass": ()} | given))
    flow.inputs = x
    return flow


def sums(flow: Flow) -> list[float]:
    return [float(score.sum()) for score in flow.scores(prunable(flow)).values()]


def test_with_neutral_batch_norm_every_layer_carries_the_same_flow_also_with_statistics_of_a_trained_network():
    total, *others = sums(flow_of(conv_net(), torch.rand(1, 2, 10, 10)))
    assert others == pytest.approx([total] * 2, rel=1e-10) and total > 0
    absolute = sums(flow_of(conv_net(), torch.rand(1, 2, 10, 10), neutral=False))
    assert absolute != pytest.approx([absolute[0]] * 3, rel=1e-3)


def test_zero_biases_conserve_as_no_biases_do():
    net = conv_net(biases=True)
    for layer in (net[0], net[4], net[8]):
        nn.init.zeros_(layer.bias)
    total, *others = sums(flow_of(net, torch.rand(1, 2, 10, 10)))
    assert others == pytest.approx([total] * 2, rel=1e-10)


def test_the_module_itself_is_left_alone():
    net = conv_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sums(flow_of(net, torch.rand(1, 2, 10, 10)))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(param.grad is None for param in net.parameters())


def deep(layers: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*[layer for _ in range(layers) for layer in (nn.Linear(64, 64), nn.ReLU())][:-1])


def test_in_float32_scores_that_overflow_are_scaled_down_and_rank_as_in_float64():
    net = deep(30)
    for layer in net[::2]:
        nn.init.normal_(layer.weight)  # every layer makes the flow fifty times greater
    x = torch.ones(1, 64)
    wide, narrow = flow_of(net, x), flow_of(net, x, dtype=torch.float32)
    assert not narrow(prunable(narrow)).isfinite()
    exact, scaled = wide.scores(prunable(wide)), narrow.scores(prunable(narrow))
    factor = exact["0.weight"].sum() / scaled["0.weight"].double().sum()
    assert factor > 1e10
    for name, score in scaled.items():
        torch.testing.assert_close(score.double() * factor, exact[name], rtol=1e-4, atol=0)


def test_scores_that_overflow_all_the_same_are_refused():
    net = deep(2)
    nn.init.constant_(net[0].weight, torch.inf)
    with pytest.raises(LotteryError, match="not finite, in torch.float64 and scaled down"):
        sums(flow_of(net, torch.ones(1, 64)))


class Normalising(nn.Module):
    """Normalises by itself, and sends what comes out through two first layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        self.seen = []

    def forward(self, x):
        x = (x - 5) / 2
        self.left.register_forward_hook(lambda layer, args, output: self.seen.append(args[0].detach().clone()))
        return self.last(torch.relu(self.left(x)) + torch.relu(self.right(x)))


def test_first_layers_receive_what_replaces_their_input_after_the_modules_own_normalisation():
    net = Normalising()
    samples = [torch.rand(3, 4, dtype=torch.float64), torch.rand(5, 4, dtype=torch.float64)]
    flow = flow_of(net, samples[0][:1])
    received = flow.received(samples)
    assert len(received) == 2
    expected = sum(((x - 5) / 2).abs().mean(0, keepdim=True) for x in samples)
    torch.testing.assert_close(received[0], expected)
    torch.testing.assert_close(received[1], expected)
    net.seen.clear()
    flow.replace([torch.full((1, 4), 7.0, dtype=torch.float64)] * 2)
    flow(prunable(flow))
    assert net.seen[-1].tolist() == [[7.0] * 4]


def test_bypassed_layers_hand_their_input_on_by_name_or_pattern():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))
    x = torch.ones(1, 4)
    first, last = sums(flow_of(net, x))
    assert first != pytest.approx(last, rel=1e-3)
    first, last = sums(flow_of(net, x, bypass=("Layer*",)))
    assert first == pytest.approx(last, rel=1e-10)


def test_additive_buffers_that_are_not_batch_norms_keep_their_sign():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

        def forward(self, x):
            return (self.layer(x) + self.mask).softmax(-1)[:, 0]

    flow = flow_of(Masked(), torch.ones(1, 3))
    assert all(score.isfinite().all() for score in flow.scores(prunable(flow)).values())


def test_every_floating_point_output_counts_and_none_is_refused():
    class Several(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.layer, self.outputs = nn.Linear(2, 2, bias=False), outputs

        def forward(self, a, b=None):
            return self.outputs(self.layer(a if b is None else a + b))

    one = flow_of(Several(lambda y: y), torch.ones(1, 2))
    several = flow_of(Several(lambda y: {"a": y, "b": [y, y.argmax()], "c": None}), {"a": torch.ones(1, 2)})
    several.state["layer.weight"] = one.state["layer.weight"]
    assert float(several(prunable(several)).detach()) == pytest.approx(2 * float(one(prunable(one)).detach()))
    both = flow_of(Several(lambda y: y), (torch.ones(1, 2), torch.ones(1, 2)))
    both.state["layer.weight"] = one.state["layer.weight"]
    assert float(both(prunable(both)).detach()) == pytest.approx(2 * float(one(prunable(one)).detach()))
    with pytest.raises(LotteryError, match="returns no floating-point tensor"):
        sums(flow_of(Several(lambda y: y.argmax()), torch.ones(1, 2)))
