"""SynFlow's hundred iterations beside what cannot be left out of them: a hundred forward and backward passes."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from benchmarks.measure import Row, interleaved, ratio
from benchmarks.stopwatch import fit, vit_of_5_million
from lightning_lottery import SynFlow
from lightning_lottery.zoo import resnet


class Inside(Callback):
    """Times what the callback does, from within a fit."""

    lottery_order = 2

    def __init__(self, synflow: SynFlow, rounds: int, iterations: int) -> None:
        self.synflow, self.rounds, self.iterations = synflow, rounds, iterations

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        params, copy = self.synflow.parameters, deepcopy(pl_module.network).eval().double()
        wanted = [copy.get_parameter(name.removeprefix("network.")) for name in params]
        image = torch.ones(1, 3, 32, 32, dtype=torch.float64)

        def passes() -> None:
            for _ in range(self.iterations):
                output = copy(image)
                torch.autograd.grad(getattr(output, "logits", output).sum(), wanted)

        def naive() -> None:
            _naive(copy, wanted, image, self.iterations)

        self.synflow.iterations = self.iterations
        variants = {"ours": lambda: self.synflow.find_masks(params, 0.9, None), "floor": passes, "naive": naive}
        self.times = interleaved(variants, self.rounds)
        self.synflow.iterations = 1


def _naive(network: nn.Module, weights: list[nn.Parameter], image: Tensor, iterations: int) -> None:
    """The straightforward way: scores of all layers joined, one threshold by ``kthvalue``, weights by their masks."""
    masks = [torch.ones_like(weight) for weight in weights]
    for iteration in range(1, iterations + 1):
        masked = [weight.detach() * mask for weight, mask in zip(weights, masks, strict=True)]
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, value in zip(weights, masked, strict=True):
                weight.copy_(value.abs())
        output = network(image)
        gradients = torch.autograd.grad(getattr(output, "logits", output).sum(), weights)
        scores = [(gradient * weight).detach().abs() for gradient, weight in zip(gradients, weights, strict=True)]
        joined = torch.cat([score.flatten() for score in scores])
        removed = int((1 - 0.1 ** (iteration / iterations)) * joined.numel())
        threshold = joined.kthvalue(max(1, removed)).values
        masks = [torch.where(score <= threshold, 0.0, 1.0).double() for score in scores]
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


def run(toy: bool = False) -> Iterator[Row]:
    """Both networks in float64, one image."""
    for name, network, goal, rounds in (
        ("ViT", vit_of_5_million(toy), "<= 1.7 x", 1),
        ("ResNet-20", resnet(8 if toy else 20), "<= 1.35 x", 3),
    ):
        synflow = SynFlow(0.9, at_step=1, iterations=1)
        inside = Inside(synflow, 2 if toy else rounds, 2 if toy else 100)
        fit(network, 1, synflow, inside, batch_size=2)
        times = inside.times
        yield ratio(f"SynFlow, {name}: 100 iterations / their passes alone", times["ours"], times["floor"], goal=goal)
        yield ratio(f"SynFlow, {name}: naive design / the same passes", times["naive"], times["floor"])
