"""What keeping half of the weights at zero costs per step, beside a plain multiplication and torch's own pruning."""

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.utils import prune

from benchmarks.measure import Row, interleaved, ratio
from benchmarks.stopwatch import Stopwatch, fit, vit_of_5_million
from lightning_lottery import MaskFreezing, Scope, Ticket


def run(toy: bool = False) -> list[Row]:
    """Inside two fits, in one of which somebody looks at gradients, and the naive designs alone on the same weights."""
    torch.manual_seed(0)
    network, steps = vit_of_5_million(toy), 4 if toy else 12
    params = Scope().select(network)
    masks = {f"network.{name}": torch.rand_like(param) < 0.5 for name, param in params.items()}
    extra, adamw, dense = _seconds(network, masks, steps, 2 if toy else 16)
    seen_extra, seen_adamw, seen_dense = _seconds(network, masks, steps, 2 if toy else 16, Onlooker())
    factors = [mask.float() for mask in masks.values()]
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer, factor in zip(layers, factors, strict=True):
        prune.custom_from_mask(layer, "weight", factor)
    weights = [layer.weight_orig for layer in layers]
    alone = interleaved(
        {"multiply": lambda: _multiply_(weights, factors), "prune": lambda: _reparametrise(layers)}, len(dense)
    )
    what = "freezing: weights after the step"
    return [
        ratio(f"{what} / dense step", extra, dense, unit="%", goal="<= 0.6 %"),
        ratio(f"{what} / AdamW step", extra, adamw),
        ratio(
            "freezing: where gradients matter, those before the step as well / dense step",
            seen_extra,
            seen_dense,
            unit="%",
        ),
        ratio("freezing: AdamW's own step, of masked gradients / of others, in another fit", seen_adamw, adamw),
        ratio("freezing: one multiplication of weights / dense step", alone["multiply"], dense, unit="%"),
        ratio(
            "freezing: torch.nn.utils.prune / dense step",
            alone["prune"],
            dense,
            unit="%",
            goal="measured before: 1.6 %",
        ),
    ]


class Onlooker(Callback):
    """Looks at gradients after the callback that is measured."""

    lottery_order = 2

    def on_before_optimizer_step(self, *_: Any) -> None:
        pass


def _seconds(
    network: nn.Module, masks: dict[str, torch.Tensor], steps: int, batch_size: int, *others: Callback
) -> tuple[list[float], ...]:
    freezing = MaskFreezing(Ticket(masks))
    watch = Stopwatch(freezing)
    fit(network, steps, freezing, *watch.around, *others, batch_size=batch_size)
    return watch.by(1, skip=2)


@torch.no_grad()
def _multiply_(weights: list[torch.Tensor], factors: list[torch.Tensor]) -> None:
    torch._foreach_mul_(weights, factors)


def _reparametrise(layers: list[nn.Module]) -> None:
    """What torch's parametrisation adds to a forward and a backward pass."""
    made = [layer.weight_orig * layer.weight_mask for layer in layers]
    torch.autograd.grad(made, [layer.weight_orig for layer in layers], [weight.detach() for weight in made])
