"""What tests read from the golden vectors, of which tests/golden holds a part."""

import itertools

import pytest
from torch import nn


def kept(vectors, key):
    """``vectors[key]``; the test is skipped where the part was cut without it."""
    if key not in vectors:
        pytest.skip(f"the part in tests/golden was cut without '{key}': let LOTTERY_GOLDEN name the whole folder")
    return vectors[key]


def golden_net(kind: str) -> nn.Module:
    """The networks of golden/synflow_snip_grasp.pt."""
    if kind.startswith("mlp"):
        widths = (64, 32, 32, 24, 10)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers[:-1]).double()

    def block(inputs, outputs, *more):
        return (nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), *more)

    body = [*block(3, 8, nn.MaxPool2d(2)), *block(8, 16, nn.MaxPool2d(2)), *block(16, 16), *block(16, 24)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)).double()
