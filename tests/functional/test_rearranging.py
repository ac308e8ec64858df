import pytest
import torch

from helpers.golden import kept
from lightning_lottery.functional.rearranging import rearrange, rescaled


def vectors(golden):
    if not (golden / "kwon2022.pt").exists():
        pytest.skip("tests/golden has no vectors of Kwon et al.: let LOTTERY_GOLDEN name the whole folder")
    return torch.load(golden / "kwon2022.pt", weights_only=False)["seed0"]


def cost(gradients, mask):
    return float(gradients[:, ~mask].sum(1).square().sum())


@pytest.mark.parametrize("seed", range(4))
def test_rearranging_keeps_as_many_and_costs_no_more_than_the_lowest_fisher(seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(5, 12, generator=generator)
    lowest = torch.ones(12).bool()
    lowest[gradients.square().sum(0).argsort()[:5]] = False
    mask = rearrange(gradients, lowest)
    assert int(mask.sum()) == 7
    assert cost(gradients, mask) <= cost(gradients, lowest)


def test_rearranging_where_nothing_or_everything_is_removed_leaves_it_so():
    gradients = torch.randn(3, 4)
    for mask in (torch.ones(4).bool(), torch.zeros(4).bool()):
        assert torch.equal(rearrange(gradients, mask), mask)


def test_rescaling_finds_the_factors_that_made_the_target_and_leaves_1_where_the_data_say_nothing():
    torch.manual_seed(0)
    x, factors = torch.randn(5000, 4).double(), torch.tensor([2.0, 0.5, -1.0, 3.0]).double()
    x[:, 3] = 0
    y = x @ factors
    expected = torch.tensor([2.0, 0.5, -1.0, 1.0]).double()
    torch.testing.assert_close(rescaled(x.T @ x, x.T @ y), expected, rtol=1e-5, atol=1e-5)
    assert rescaled(torch.tensor([[1e4]]), torch.tensor([5e3])).item() == pytest.approx(0.5, abs=1e-6)  # one unknown


def test_rearranging_is_that_of_the_authors(golden):
    case = vectors(golden)
    for pairs in (*case["rearrange"].values(), *kept(case, "rearrange_random")):
        for kind in ("head", "neuron"):
            gradients, before, after = case[f"{kind}_grads"], pairs[f"{kind}_before"], pairs[f"{kind}_after"]
            for layer, mask in enumerate(before.bool()):
                assert torch.equal(rearrange(gradients[:, layer], mask), after[layer].bool())


def test_factors_are_those_of_the_authors_where_their_solver_converges(golden):
    case = vectors(golden)
    looked_at = 0
    for name, solve in kept(case, "solver").items():
        if name not in ("one_unknown", "ill_conditioned", "slow", "stiff"):
            torch.testing.assert_close(rescaled(solve["A"], solve["B"]), solve["solution"], rtol=1e-5, atol=1e-5)
            looked_at += 1
    assert looked_at == 6
