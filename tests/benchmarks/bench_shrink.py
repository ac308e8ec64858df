"""A vision transformer with half of its heads and neurons removed, beside the whole one: time, and operations."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, interleaved, plain, ratio
from benchmarks.stopwatch import images, vit_of_5_million
from lightning_lottery import Ticket, shrink
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import parameter_masks


def run(toy: bool = False) -> list[Row]:
    """Inference and a training step by AdamW, batches of 32."""
    torch.manual_seed(0)
    dense = vit_of_5_million(toy)
    units = {name: torch.arange(group.size) < group.size // 2 for name, group in groups_of(dense).items()}
    small, masked = shrink(dense, Ticket({}, units=units)), vit_of_5_million(toy)
    with torch.no_grad():
        for name, mask in parameter_masks(masked, units).items():
            masked.get_parameter(name).mul_(mask)
    networks = {"dense": dense, "shrunk": small, "masked": masked}
    x, y = images(2 if toy else 32)
    rounds = 2 if toy else 7
    inference = interleaved({name: lambda net=net: _infer(net, x) for name, net in networks.items()}, rounds)
    optimizers = {name: torch.optim.AdamW(net.parameters()) for name, net in networks.items()}
    training = interleaved(
        {name: lambda net=net, name=name: _train(net, optimizers[name], x, y) for name, net in networks.items()}, rounds
    )
    flops = {name: _flops(net, x) for name, net in networks.items()}
    return [
        ratio("shrink: dense / shrunk, inference", inference["dense"], inference["shrunk"], goal=">= 1.95 x"),
        ratio("shrink: dense / shrunk, training step", training["dense"], training["shrunk"], goal=">= 1.74 x"),
        plain("shrink: operations of a forward pass, dense / shrunk", [flops["dense"] / flops["shrunk"]], "x"),
        ratio("shrink: dense / only masked, inference", inference["dense"], inference["masked"]),
        ratio("shrink: dense / only masked, training step", training["dense"], training["masked"]),
    ]


@torch.no_grad()
def _infer(network: nn.Module, x: torch.Tensor) -> None:
    network.eval()(x)


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(network.train()(x).logits, y).backward()
    optimizer.step()


def _flops(network: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(x)
    return counter.get_total_flops()
