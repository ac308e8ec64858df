"""One table of mask callbacks, and the ways to train that laws are asked about; a later callback joins the table."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.plugins import MixedPrecision

from helpers import oracles
from helpers.projects import plain_loader
from helpers.states import same
from lightning_lottery import (
    PLATON,
    SNIP,
    Constant,
    DynamicMask,
    GraSP,
    MagnitudePruning,
    MaskFreezing,
    Scope,
    SynFlow,
    Ticket,
)
from lightning_lottery.callbacks import MaskCallback

BODY = Scope(exclude=("head.*",))
STEPS = 12  # of a fit: three epochs of four batches
IN_SCOPE = ("my_mask.0.weight", "my_mask.2.weight", "tied_a.weight")


def ticket() -> Ticket:
    generator = torch.Generator().manual_seed(0)
    shapes = {"my_mask.0.weight": (12, 6), "my_mask.2.weight": (12, 12), "tied_a.weight": (12, 12)}
    masks = {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in shapes.items()}
    return Ticket(masks | {"tied_b.weight": masks["tied_a.weight"]}, ties={"tied_b.weight": "tied_a.weight"})


CALLBACKS: dict[str, Callable[..., MaskCallback]] = {
    "PLATON": lambda **more: PLATON(0.7, interval=2, begin=1, end=9, **more),
    "PLATON every step": lambda **more: PLATON(0.7, interval=1, begin=2, end=7, **more),
    "MagnitudePruning": lambda **more: MagnitudePruning(0.7, interval=2, begin=1, end=9, scope=BODY, **more),
    "MagnitudePruning rarely": lambda **more: MagnitudePruning(0.7, interval=5, begin=0, end=10, scope=BODY, **more),
    "MagnitudePruning once": lambda **more: MagnitudePruning(Constant(0.7, begin=5), scope=BODY, **more),
    "MagnitudePruning at once": lambda **more: MagnitudePruning(Constant(0.7), per="tensor", scope=BODY, **more),
    "SynFlow": lambda **more: SynFlow(0.7, iterations=5, per="tensor", scope=BODY, **more),
    "AdSynFlow": lambda **more: SynFlow(
        0.7, at_step=5, iterations=5, input="mean", batches=2, per="tensor", scope=BODY, **more
    ),
    "SNIP": lambda **more: SNIP(0.7, batches=2, scope=BODY, **more),
    "SNIP in training mode": lambda **more: SNIP(0.7, at_step=5, train_mode=True, scope=BODY, **more),
    "GraSP": lambda **more: GraSP(0.7, at_step=3, batches=2, scope=BODY, **more),
    "DynamicMask": lambda **more: DynamicMask(0.7, interval=2, end=10, scope=BODY, **more),
    "DynamicMask at random": lambda **more: DynamicMask(
        0.7, grow="random", layers="uniform", interval=1, end=9, scope=BODY, **more
    ),
    "MaskFreezing": lambda **more: MaskFreezing(ticket(), **more),
    "MaskFreezing on paths": lambda **more: MaskFreezing(ticket(), shuffle_seed=1, shuffle_layers="effective", **more),
}


def each(callbacks: dict[str, Callable[..., MaskCallback]]) -> pytest.MarkDecorator:
    """Parametrize by callbacks; the class of each is a column of README's table of what works with what."""
    marked = [
        pytest.param(make, id=name, marks=pytest.mark.shows(column=type(make()).__name__))
        for name, make in callbacks.items()
    ]
    return pytest.mark.parametrize("make", marked)


EVERY = each(CALLBACKS)
FROZEN = {name: make for name, make in CALLBACKS.items() if make().frozen}
EVERY_FROZEN = each(FROZEN)
ONE_OF_EACH = each({type(make()).__name__: make for make in reversed(CALLBACKS.values())})
COLUMNS = sorted({type(make()).__name__ for make in CALLBACKS.values()})


def prunes_as_asked(callback: MaskCallback, sparsity: float = 0.7) -> bool:
    """Whether exactly as many weights are kept as asked, in all or in each tensor; of a ticket its own, or as many."""
    if callback.schedule is None and callback.network == "effective":
        pairs = [(mask, ticket().masks[name]) for name, mask in callback.masks.items()]
        return all(int(mask.sum()) == int(of_ticket.sum()) and not same(mask, of_ticket) for mask, of_ticket in pairs)
    if callback.schedule is None:
        return all(same(mask, ticket().masks[name]) for name, mask in callback.masks.items())
    counts = [(int(mask.sum()), mask.numel()) for mask in callback.masks.values()]
    if callback.per == "all":
        counts = [tuple(map(sum, zip(*counts, strict=True)))]
    return bool(counts) and all(kept == oracles.kept_of(sparsity, total) for kept, total in counts)


def scaler(init_scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000))


PRECISIONS: dict[str, Callable[[], dict[str, Any]]] = {  # and loops
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "float64": lambda: {"precision": "64-true"},
    "16-mixed with a scaler": lambda: {"plugins": [scaler(1024.0)]},
    "gradients clipped by norm": lambda: {"gradient_clip_val": 0.1},
    "gradients clipped by value": lambda: {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulate_grad_batches": lambda: {"accumulate_grad_batches": 3, "max_epochs": 6},
    "overfit_batches": lambda: {"overfit_batches": 2, "max_epochs": 6, "train": plain_loader(), "val": plain_loader()},
    "limit_train_batches": lambda: {"limit_train_batches": 3, "max_epochs": 4},
    "max_steps": lambda: {"max_steps": STEPS, "max_epochs": -1},
    "detect_anomaly": lambda: {"detect_anomaly": True},
}

AVERAGING = {
    "EMAWeightAveraging": lambda: EMAWeightAveraging(decay=0.8),
    "WeightAveraging": WeightAveraging,
    "StochasticWeightAveraging": lambda: StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1),
}

WITH_STATE_PER_WEIGHT = {
    "AdamW": "adamw",
    "AdamW (fused)": "fused",
    "Adam (AMSGrad)": "amsgrad",
    "SGD with momentum and decay": "sgd",
    "SGD (Nesterov)": "nesterov",
}
