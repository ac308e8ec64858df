"""Masked: what was removed is zero in weights, gradients, optimizer state, averages and checkpoints, and is counted."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from helpers.callbacks import ticket
from helpers.projects import Odd, fit
from helpers.states import same
from lightning_lottery import MaskFreezing
from lightning_lottery.hooks.masked import Masked, cloned

MASK = torch.tensor([[True, False, True], [False, False, True]])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def masked(net):
    return Masked({"0.weight": MASK}, {"0.weight": net[0].weight})


def test_counts_and_sparsity_are_those_of_the_masks(masked):
    assert masked.counts == {"0.weight": (3, 6)} and masked.sparsity == 0.5 and masked.anything_removed
    assert Masked().sparsity == 0.0 and not Masked().anything_removed
    assert not Masked({"a": torch.ones(2).bool()}).anything_removed


def test_removed_weights_become_positive_zero_whatever_they_were_and_kept_ones_stay(net, masked):
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, torch.nan, -1.0], [torch.inf, -0.0, 2.0]]))
    assert masked.revived() == {"0.weight": 2}
    masked.mask_weights_()
    assert same(net[0].weight, torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 2.0]]))
    assert masked.revived() == {}


def test_gradients_and_optimizer_state_of_removed_weights_are_forgotten_and_those_of_others_kept(net, masked):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state[net[0].weight])
    net[0].weight.grad[0, 1] = torch.nan
    gradient = net[0].weight.grad.clone()
    masked.mask_gradients_()
    masked.clear_optimizer_state_([optimizer])
    assert same(net[0].weight.grad, torch.where(MASK, gradient, 0.0))
    for key in ("exp_avg", "exp_avg_sq"):
        assert before[key].ne(0).any() and same(
            optimizer.state[net[0].weight][key], torch.where(MASK, before[key], 0.0)
        )
    assert optimizer.state[net[0].weight]["step"] == 1


def test_averaged_copies_are_masked(net, masked):
    averaging = EMAWeightAveraging()
    averaging._average_model = torch.optim.swa_utils.AveragedModel(net)
    masked.mask_averages_([averaging])
    average = averaging._average_model.module
    assert same(average[0].weight.data, torch.where(MASK, net[0].weight.data, 0.0))
    assert net[0].weight[~MASK].ne(0).all()  # the weights themselves are somebody else's


def test_a_checkpoint_is_masked_out_of_place_under_every_name_also_a_compiled_one(net, masked):
    state = net.state_dict() | {"_orig_mod.0.weight": net[0].weight.data, "twin": net[0].weight.data}
    checkpoint = {"state_dict": state, "other": state}
    masked.mask_checkpoint(checkpoint, {"twin": "0.weight"})
    for name in ("0.weight", "_orig_mod.0.weight", "twin"):
        assert same(checkpoint["state_dict"][name], torch.where(MASK, net[0].weight.data, 0.0))
    assert checkpoint["other"] is state and net[0].weight[~MASK].ne(0).all()
    assert same(checkpoint["state_dict"]["1.weight"], state["1.weight"])


def test_clones_do_not_change_with_what_they_were_cloned_from(net):
    clones = cloned({"a": net[0].weight})
    before = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.zero_()
    assert same(clones["a"], before) and not clones["a"].requires_grad


class Versioned(torch.nn.Linear):
    """Reads old checkpoints another way, as torch's own modules do."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *arguments):
        self.loaded_version = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)


def test_masked_checkpoints_keep_the_versions_of_modules(tmp_path):
    class WithVersions(Odd):
        def __init__(self):
            super().__init__()
            self.head = Versioned(12, 3)

    callback, module = MaskFreezing(ticket()), WithVersions()
    fit(tmp_path, callback, module=module).save_checkpoint(tmp_path / "end.ckpt")
    state = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    assert module.head.loaded_version == 2
