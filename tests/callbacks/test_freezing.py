"""MaskFreezing trains a ticket and nothing else; the laws of every callback: `test_contract.py`."""

import pytest

from helpers.callbacks import ticket
from helpers.projects import Odd, fit
from helpers.states import checkpoint, removed_are_zero
from lightning_lottery import (
    PLATON,
    LotteryError,
    MaskFreezing,
    Ticket,
)


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
