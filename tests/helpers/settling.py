"""Rules of settling, short enough for a test, and series of masks and norms for them."""

import pytest
import torch

from lightning_lottery.functional.masks import keep_top
from lightning_lottery.functional.settling.rules import ADF, HammingFIFO, MannKendall, SlopeEquivalence, SlopeHAC
from lightning_lottery.functional.settling.tests import layers_by_units, nuclear_norm

short = {"smoothing": 5, "window": 20, "interval": 10}
NORM_RULES = [
    SlopeHAC(**short),
    MannKendall(**short),
    MannKendall(variant="hamed_rao", **short),
    ADF(**short),
    SlopeEquivalence(0.05, block=5, window=20, interval=10, patience=1),
    SlopeEquivalence(change=0.04, block=5, window=20, interval=10, patience=1),
]
RULES = [HammingFIFO(length=3, tolerance=0.2, interval=10), *NORM_RULES]
names = [f"{type(rule).__name__}-{getattr(rule, 'variant', getattr(rule, 'bound_by', ''))}" for rule in RULES]
every_rule = pytest.mark.parametrize("rule", RULES, ids=names)
every_norm_rule = pytest.mark.parametrize("rule", NORM_RULES, ids=names[1:])


def coefficients(steps, seed=0, settled_from=60):
    """[steps, 3 layers, 8 heads] of a training whose coefficients come to rest, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(3, 8, generator=generator) * torch.arange(1, steps + 1).clamp(max=settled_from)[:, None, None]
    return 1 + 0.02 * drift + 0.2 * torch.randn(steps, 3, 8, generator=generator)


def masks_of(scores):
    return keep_top({f"layer {i}": layer for i, layer in enumerate(scores)}, 0.5, per="tensor")


def series_for(rule, steps=150):
    """A logged series of what the rule watches."""
    masks = [masks_of(scores) for scores in coefficients(steps)]
    if rule.watches == "norms":
        masks = [nuclear_norm(layers_by_units(mask)).item() for mask in masks]
    return list(enumerate(masks, start=1))


def constant(rule, steps, value=None):
    mask = {"heads": torch.tensor([True, False])} if rule.watches == "masks" else 23.0
    return [(step, mask if value is None else value) for step in range(1, steps + 1)]


def same_verdicts(a, b):
    return [tuple(map(repr, verdict)) for verdict in a] == [tuple(map(repr, verdict)) for verdict in b]
