"""MaskFreezing trains a ticket and nothing else; the laws of every callback: `test_contract.py`."""

import pytest
import torch
from lightning.pytorch import Callback

from helpers.callbacks import ticket
from helpers.projects import Odd, fit
from helpers.states import checkpoint, removed_are_zero, same
from lightning_lottery import (
    PLATON,
    LotteryError,
    MaskFreezing,
    Ticket,
)
from lightning_lottery.functional import count, layer_counts


def test_a_ticket_that_names_a_tied_weight_by_its_other_name_is_frozen(tmp_path):
    mask = ticket().masks["tied_a.weight"]
    callback, module = MaskFreezing(Ticket({"tied_b.weight": mask})), Odd()
    fit(tmp_path, callback, module=module)
    assert callback.masks.keys() == {"tied_a.weight"}
    assert removed_are_zero(module.state_dict(), {"tied_a.weight": mask})
    with pytest.raises(LotteryError, match="one tied weight here, but their masks in the ticket differ"):
        fit(tmp_path, MaskFreezing(Ticket({"tied_a.weight": mask, "tied_b.weight": ~mask})), module=Odd())


def test_a_pruned_networks_checkpoint_can_be_trained_on_with_its_ticket_frozen(tmp_path):
    path = checkpoint(tmp_path, PLATON(0.5, interval=2))
    callback = MaskFreezing(tmp_path / "ticket.safetensors")
    module = Odd()
    fit(tmp_path, callback, module=module, ckpt=path)
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_a_checkpoint_trained_with_another_ticket_is_refused(tmp_path):
    path = checkpoint(tmp_path, MaskFreezing(ticket()))
    with pytest.raises(LotteryError, match="trained with other masks"):
        fit(tmp_path, MaskFreezing(ticket(), shuffle_seed=3), ckpt=path)


@pytest.mark.parametrize("layers", ["erk", "uniform"])
def test_random_masks_at_other_layer_densities_keep_as_many_weights_in_all(layers, tmp_path):
    callback, module = MaskFreezing(ticket(), shuffle_seed=3, shuffle_layers=layers), Odd()
    fit(tmp_path, callback, module=module)
    assert count(callback.masks)[0] == count(ticket().distinct)[0]
    shapes = {name: mask.shape for name, mask in callback.masks.items()}
    kept = {name: count({name: mask})[0] for name, mask in callback.masks.items()}
    assert kept == layer_counts(layers, shapes, ticket().sparsity)
    assert removed_are_zero(module.state_dict(), callback.masks)
    assert callback.network == layers and callback.origin.startswith(layers)


def test_the_control_on_paths_keeps_as_many_effective_weights_as_the_ticket_and_the_same_when_resumed(tmp_path):
    callback = MaskFreezing(ticket(), shuffle_seed=3, shuffle_layers="effective")
    path = checkpoint(tmp_path, callback)
    tables = [each.table(Odd(), torch.zeros(4, 6)) for each in (ticket(), callback.ticket())]
    counted = [[(row.name, row.kept, row.effective) for row in table] for table in tables]
    assert counted[0] == counted[1] and callback.ticket().hamming(ticket()) > 0.2
    assert callback.network == "effective" and callback.origin.startswith("effective")
    assert callback.ticket().provenance["found_by"] == {"shuffle_seed": 3, "layers": "effective"}
    again = MaskFreezing(ticket(), shuffle_seed=3, shuffle_layers="effective")
    fit(tmp_path, again, ckpt=path)
    assert same(again.masks, callback.masks)
    fewer = {name: mask.clone() for name, mask in ticket().distinct.items()}
    fewer["my_mask.0.weight"][:] = False
    with pytest.raises(LotteryError, match="trained with other masks"):
        fit(tmp_path, MaskFreezing(Ticket(fewer), shuffle_seed=3, shuffle_layers="effective"), ckpt=path)


@pytest.mark.parametrize("layers", [None, "effective"])
def test_training_begins_with_every_kept_weight_as_it_was(layers, tmp_path):
    torch.manual_seed(0)
    callback, module = MaskFreezing(ticket(), shuffle_seed=3, shuffle_layers=layers), Odd()
    before, begun = {name: value.clone() for name, value in module.state_dict().items()}, {}

    class AtTheBeginning(Callback):
        lottery_order = 3

        def on_train_start(self, trainer, pl_module):
            begun.update({name: value.clone() for name, value in pl_module.state_dict().items()})

    fit(tmp_path, callback, AtTheBeginning(), module=module)
    for name, mask in callback.masks.items():
        assert torch.equal(begun[name], torch.where(mask, before[name], 0))


class Penalised(Odd):
    """A loss that holds weights by themselves."""

    def loss(self, batch):
        return super().loss(batch) + 1e-3 * self.my_mask[0].weight.square().sum()


def test_paths_are_those_to_the_output_whatever_else_is_in_the_loss(tmp_path):
    plain, penalised = (MaskFreezing(ticket(), shuffle_seed=3, shuffle_layers="effective") for _ in range(2))
    fit(tmp_path / "plain", plain)
    fit(tmp_path / "penalised", penalised, module=Penalised())
    assert same(plain.masks, penalised.masks)


def test_a_forward_that_cannot_run_on_the_inputs_of_a_batch_is_told_the_way_round(tmp_path):
    class Strange(Odd):
        def forward(self, x):
            if x.dtype == torch.float64:
                raise ValueError("not in float64")
            return super().forward(x)

    with pytest.raises(LotteryError, match="which fails: .*not in float64.*shuffled_on_paths"):
        fit(tmp_path, MaskFreezing(ticket(), shuffle_seed=3, shuffle_layers="effective"), module=Strange())


def test_densities_of_layers_are_those_of_a_draw():
    with pytest.raises(LotteryError, match="`shuffle_layers`.*`shuffle_seed`"):
        MaskFreezing(ticket(), shuffle_layers="erk")
    with pytest.raises(LotteryError, match="`layers` is 'erk' or 'uniform'"):
        MaskFreezing(ticket(), shuffle_seed=1, shuffle_layers="er")
