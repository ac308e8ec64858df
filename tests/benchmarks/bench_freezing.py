"""What keeping half of the weights at zero costs per step, beside a plain multiplication and torch's own pruning."""

import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.measure import Row, interleaved, ratio
from benchmarks.stopwatch import Stopwatch, fit, vit_of_5_million
from lightning_lottery import MaskFreezing, Scope, Ticket


def run(toy: bool = False) -> list[Row]:
    """Inside a fit, and the naive designs alone on the same weights."""
    torch.manual_seed(0)
    network, steps = vit_of_5_million(toy), 4 if toy else 25
    params = Scope().select(network)
    masks = {f"network.{name}": torch.rand_like(param) < 0.5 for name, param in params.items()}
    watch = Stopwatch()
    fit(network, steps, MaskFreezing(Ticket(masks)), *watch.around, batch_size=2 if toy else 16)
    extra, adamw, dense = watch.by(1, skip=2)
    factors = [mask.float() for mask in masks.values()]
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer, factor in zip(layers, factors, strict=True):
        prune.custom_from_mask(layer, "weight", factor)
    weights = [layer.weight_orig for layer in layers]
    alone = interleaved(
        {"multiply": lambda: _multiply_(weights, factors), "prune": lambda: _reparametrise(layers)}, len(dense)
    )
    return [
        ratio(
            "freezing: gradients before and weights after the step / dense step",
            extra,
            dense,
            unit="%",
            goal="<= 0.6 %",
        ),
        ratio("freezing: the same / AdamW step", extra, adamw),
        ratio("freezing: one multiplication of weights / dense step", alone["multiply"], dense, unit="%"),
        ratio(
            "freezing: torch.nn.utils.prune / dense step",
            alone["prune"],
            dense,
            unit="%",
            goal="measured before: 1.6 %",
        ),
    ]


@torch.no_grad()
def _multiply_(weights: list[torch.Tensor], factors: list[torch.Tensor]) -> None:
    torch._foreach_mul_(weights, factors)


def _reparametrise(layers: list[nn.Module]) -> None:
    """What torch's parametrisation adds to a forward and a backward pass."""
    made = [layer.weight_orig * layer.weight_mask for layer in layers]
    torch.autograd.grad(made, [layer.weight_orig for layer in layers], [weight.detach() for weight in made])
