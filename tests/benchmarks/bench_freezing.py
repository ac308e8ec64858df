"""What keeping half of the weights at zero costs per step, beside a plain multiplication and torch's own pruning."""

import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.measure import Row, interleaved, ratio
from benchmarks.stopwatch import Stopwatch, fit, vit_of_5_million
from lightning_lottery import MaskFreezing, Scope, Ticket


def run(toy: bool = False) -> list[Row]:
    """Inside two fits, one with clipped gradients, and the naive designs alone on the same weights."""
    torch.manual_seed(0)
    network, steps = vit_of_5_million(toy), 4 if toy else 25
    params = Scope().select(network)
    masks = {f"network.{name}": torch.rand_like(param) < 0.5 for name, param in params.items()}
    watch, clipped = Stopwatch(), Stopwatch()
    for watching, given in ((watch, {}), (clipped, {"gradient_clip_val": 1.0})):
        fit(network, steps, MaskFreezing(Ticket(masks)), *watching.around, batch_size=2 if toy else 16, **given)
    extra, adamw, dense = watch.by(1, skip=2)
    extra_clipped, adamw_clipped, dense_clipped = clipped.by(1, skip=2)
    factors = [mask.float() for mask in masks.values()]
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer, factor in zip(layers, factors, strict=True):
        prune.custom_from_mask(layer, "weight", factor)
    weights = [layer.weight_orig for layer in layers]
    alone = interleaved(
        {"multiply": lambda: _multiply_(weights, factors), "prune": lambda: _reparametrise(layers)}, len(dense)
    )
    times = {
        "weights after the step": (extra, dense, "<= 0.6 %"),
        "where gradients are clipped, those before it as well": (extra_clipped, dense_clipped, ""),
        "one multiplication of weights": (alone["multiply"], dense, ""),
        "torch.nn.utils.prune": (alone["prune"], dense, "measured before: 1.6 %"),
    }
    return [
        *(ratio(f"freezing: {what} / dense step", *of, unit="%", goal=goal) for what, (*of, goal) in times.items()),
        ratio("freezing: weights after the step / AdamW step", extra, adamw),
        ratio("freezing: AdamW's own step, of masked gradients / of others", adamw_clipped, adamw),
    ]


@torch.no_grad()
def _multiply_(weights: list[torch.Tensor], factors: list[torch.Tensor]) -> None:
    torch._foreach_mul_(weights, factors)


def _reparametrise(layers: list[nn.Module]) -> None:
    """What torch's parametrisation adds to a forward and a backward pass."""
    made = [layer.weight_orig * layer.weight_mask for layer in layers]
    torch.autograd.grad(made, [layer.weight_orig for layer in layers], [weight.detach() for weight in made])
