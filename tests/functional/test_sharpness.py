import numpy as np
import pytest
import torch

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional import adam_scale, hessian_product, sharpness


def quadratic(matrix):
    """A loss of two tensors whose Hessian is the matrix times the batch."""

    def loss(weights, batch):
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        return batch * (flat @ matrix @ flat) / 2

    return loss


def symmetric(size, seed=0):
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return matrix + matrix.T


WEIGHTS = {"a": torch.ones(2, 3, dtype=torch.float64), "b": torch.zeros(4, dtype=torch.float64)}


def test_it_is_the_largest_eigenvalue_of_the_mean_hessian_not_the_largest_by_size():
    matrix = symmetric(10) - 5 * torch.eye(10, dtype=torch.float64)  # the largest by size is negative
    values = np.linalg.eigvalsh(matrix.numpy())
    assert abs(values[0]) > values[-1]
    batches = [torch.tensor(1.0), torch.tensor(3.0)]
    assert sharpness(quadratic(matrix), WEIGHTS, batches, tolerance=1e-8) == pytest.approx(2 * values[-1])


def test_what_an_optimizer_scales_counts_and_a_scale_of_zero_leaves_entries_out():
    matrix = symmetric(10, seed=1)
    scale = {"a": torch.tensor([[0.0, 1.0, 4.0], [0.5, 2.0, 0.0]]), "b": torch.tensor([1.0, 0.0, 3.0, 9.0])}
    flat = torch.cat([each.flatten() for each in scale.values()]).double()
    expected = torch.linalg.eigvals(torch.diag(flat) @ matrix).real.max()
    value = sharpness(quadratic(matrix), WEIGHTS, [torch.tensor(1.0)], scale=scale, tolerance=1e-8)
    assert value == pytest.approx(float(expected))


def test_one_weight_is_enough_and_the_same_network_is_as_sharp_again():
    one = {"a": torch.ones(1)}
    assert sharpness(lambda w, _: 3 * (w["a"] ** 2).sum(), one, [0]) == pytest.approx(6)
    assert sharpness(lambda w, _: 3 * (w["a"] ** 2).sum(), one, [0], scale={"a": torch.zeros(1)}) == 0
    matrix = symmetric(10, seed=2)
    assert len({sharpness(quadratic(matrix), WEIGHTS, [torch.tensor(1.0)]) for _ in range(3)}) == 1


def test_a_loss_without_finite_second_derivative_is_refused():
    with pytest.raises(LotteryError, match="finite"):
        sharpness(lambda w, _: w["a"].sqrt().sum(), {"a": torch.zeros(3)}, [0])


def test_a_hessian_product_is_a_column_of_the_hessian():
    matrix = symmetric(10, seed=3)
    unit = {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 0, 0, 0])}
    product = hessian_product(quadratic(matrix), WEIGHTS, [torch.tensor(1.0), torch.tensor(2.0)], unit)
    assert torch.allclose(torch.cat([product["a"].flatten(), product["b"]]), 1.5 * matrix[:, 6])


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_s_step_is_the_gradient_times_its_scale_where_it_averages_no_gradients(optimizer, amsgrad):
    weight = torch.nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0)))
    adam = optimizer([weight], lr=0.1, betas=(0.0, 0.9), eps=0.01, weight_decay=0.0, amsgrad=amsgrad)
    for factor in (3.0, 0.1, 0.2):  # after a large gradient the largest squares are not the last ones
        before = weight.detach().clone()
        weight.grad = factor * before
        adam.step()
        scale = adam_scale(adam.state[weight], 0.9, 0.01)
        torch.testing.assert_close(before - weight.detach(), 0.1 * scale * factor * before)
