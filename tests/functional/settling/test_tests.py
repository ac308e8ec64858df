import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.settling.tests import layers_by_units, moving_average, nuclear_norm, slope_hac


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**30))
def test_the_nuclear_norm_is_the_sum_of_singular_values_also_with_repeated_and_empty_rows(layers, units, copies, seed):
    matrix = torch.rand(layers, units, generator=torch.Generator().manual_seed(seed)) > 0.3
    matrix[: min(copies, layers)] = matrix[0].clone()
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False).sum()
    assert nuclear_norm(matrix).item() == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert nuclear_norm(matrix.mT).item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_norms_that_are_known_by_heart():
    assert nuclear_norm(torch.ones(12, 3001).bool()).item() == pytest.approx(math.sqrt(12 * 3001), rel=1e-12)
    assert nuclear_norm(torch.zeros(12, 12).bool()).item() == 0
    assert nuclear_norm(torch.eye(5).bool()).item() == 5


def test_a_batch_has_the_norms_of_its_matrices_bit_for_bit_also_under_autocast():
    matrices = torch.rand(4, 5, 12, 3072, generator=torch.Generator().manual_seed(0)) > 0.2
    norms = nuclear_norm(matrices)
    assert norms.dtype == torch.float64
    alone = torch.stack([torch.stack([nuclear_norm(matrix) for matrix in row]) for row in matrices])
    assert torch.equal(norms, alone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nuclear_norm(matrices), norms)


def test_layers_of_unequal_size_are_filled_up_with_removed_units():
    ragged = {"a": torch.tensor([[True, False, True], [True, True, True]]), "b": torch.tensor([[True], [False]])}
    matrix = layers_by_units(ragged)
    assert matrix.tolist() == [
        [[True, False, True], [True, False, False]],
        [[True, True, True], [False, False, False]],
    ]
    assert torch.equal(layers_by_units({name: layer[0] for name, layer in ragged.items()}), matrix[0])
    wider = torch.nn.functional.pad(matrix, (0, 4))
    assert nuclear_norm(wider).tolist() == pytest.approx(nuclear_norm(matrix).tolist())


@pytest.mark.parametrize(
    "masks", [{}, {"a": torch.ones(2)}, {"a": torch.tensor(True)}], ids=["none", "float", "scalar"]
)
def test_what_are_no_unit_masks_make_no_matrix(masks):
    with pytest.raises(LotteryError, match="a|empty"):
        layers_by_units(masks)


@pytest.mark.parametrize("matrix", [torch.ones(2, 2), torch.ones(2).bool()])
def test_the_norm_of_what_is_no_bool_matrix_is_refused(matrix):
    with pytest.raises(LotteryError, match="bool matrices"):
        nuclear_norm(matrix)


def test_a_moving_average_is_the_mean_of_each_run_and_refuses_a_run_longer_than_the_series():
    series = np.arange(7.0) ** 2
    assert moving_average(series, 3).tolist() == pytest.approx([sum(series[i : i + 3]) / 3 for i in range(5)])
    assert moving_average(series, 1).tolist() == series.tolist()
    assert moving_average(series, 7).tolist() == pytest.approx([13.0])
    # Correctly rounded, whatever the processor: averages of the same values are equal.
    norms = np.random.default_rng(0).choice([22.1, 22.3, 23.7], 300)
    exact = [float(sum(map(Fraction, norms[i : i + 200].tolist()), Fraction(0))) / 200 for i in range(101)]
    assert moving_average(norms, 200).tolist() == exact
    for length in (0, 8):
        with pytest.raises(LotteryError, match="series of 7"):
            moving_average(series, length)


def test_no_lags_are_the_standard_error_of_white_not_that_of_least_squares():
    series = np.random.default_rng(0).normal(size=60) * np.linspace(0.1, 2, 60)
    steps = np.arange(60) - 29.5
    slope = float(steps @ series / (steps @ steps))
    left = series - series.mean() - slope * steps
    white = float(np.sqrt(((steps * left) ** 2).sum()) / (steps @ steps))
    plain = float(np.sqrt((left @ left) / 58 / (steps @ steps)))
    ours, p_value = slope_hac(series, 0)
    assert ours == pytest.approx(slope)
    assert p_value == pytest.approx(math.erfc(abs(slope) / white / 2**0.5))
    assert abs(p_value - math.erfc(abs(slope) / plain / 2**0.5)) > 0.01
