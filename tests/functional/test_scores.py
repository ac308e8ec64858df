import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_lottery.functional.scores import magnitude


@settings(deadline=None)
@given(st.lists(st.floats(width=16, allow_nan=False), max_size=6))
def test_magnitude_is_the_absolute_value_of_every_entry(values):
    assert magnitude({"w": torch.tensor(values, dtype=torch.float64)})["w"].tolist() == [abs(v) for v in values]


def test_magnitude_keeps_names_order_and_shapes_and_hides_no_nan():
    params = {"z": torch.tensor(-2.0), "a": torch.zeros(0, 3), "m": torch.tensor([[-math.inf, math.nan]])}
    scores = magnitude(params)
    assert [(name, score.shape) for name, score in scores.items()] == [(n, p.shape) for n, p in params.items()]
    assert scores["z"] == 2.0
    assert scores["m"][0, 0] == math.inf
    assert scores["m"][0, 1].isnan()


@pytest.mark.parametrize(
    ("dtype", "score_dtype"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_magnitude_is_at_least_float32(dtype, score_dtype):
    assert magnitude({"w": torch.tensor([-1.5], dtype=dtype)})["w"].dtype == score_dtype


def test_magnitude_leaves_weights_alone_shares_no_memory_and_records_no_gradient():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    score = magnitude({"w": weight})["w"]
    assert not score.requires_grad
    score.zero_()
    assert weight.tolist() == [1.0, -2.0]
    assert weight.grad is None
