import pytest
import torch
from torch import nn

from helpers.models import encoder, half, output, randomised
from lightning_lottery.errors import LotteryError
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import shrink
from lightning_lottery.units.tickets import cut_out_, readers, unit_ticket
from lightning_lottery.zoo import vit


def test_a_hugging_face_network_that_is_cut_out_of_a_module_saves_and_loads(tmp_path):
    module = nn.Module()
    module.network = vit(hidden_size=8, layers=2, heads=4, mlp_size=16)
    units = {n: torch.arange(g.size) < g.size // 2 for n, g in groups_of(module).items()}
    cut_out_(module, groups_of(module), units)
    module.network.save_pretrained(tmp_path)
    again = type(module.network).from_pretrained(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again.eval()(x).logits, module.network.eval()(x).logits)


def test_blocks_of_the_module_itself_are_cut_out_too():
    module = nn.Module()
    module.fc1, module.fc2 = nn.Linear(4, 6), nn.Linear(6, 3)
    cut_out_(module, groups_of(module), {"fc1": torch.arange(6) < 2})
    assert (module.fc1.out_features, module.fc2.in_features) == (2, 2)


def test_a_module_goes_on_with_what_a_shrunk_copy_computes():
    torch.manual_seed(0)
    module, inputs = nn.Module(), torch.randn(3, 5, 16)
    module.body = randomised(encoder())
    units = half(groups_of(module))
    ticket = unit_ticket(module, groups_of(module), units, {"step": 3})
    expected = output(shrink(module, ticket).body, inputs)
    cut_out_(module, groups_of(module), units)
    torch.testing.assert_close(output(module.body, inputs), expected)


def test_the_ticket_of_units_masks_the_weights_that_read_them_and_applies_to_a_whole_module():
    torch.manual_seed(0)
    model, inputs = randomised(encoder()), torch.randn(3, 5, 16)
    units = half(groups_of(model))
    ticket = unit_ticket(model, groups_of(model), units, {"step": 3})
    assert ticket.provenance["step"] == 3 and ticket.masks.keys() == readers(model, groups_of(model)).keys()
    small = shrink(model, ticket)
    ticket.apply(model)
    torch.testing.assert_close(output(small, inputs), output(model, inputs))


def test_the_readers_of_units_are_named_once_and_first_where_they_are_tied():
    model = nn.ModuleDict({"a": encoder(), "b": nn.Linear(24, 16)})
    model["b"].weight = model["a"].layers[0].linear2.weight
    groups = groups_of(model)
    expected = {part.parameter for group in groups.values() for part in group.consumers}
    assert readers(model, groups).keys() == expected
    tied = nn.ModuleDict({"b": model["b"], "a": model["a"]})
    assert "b.weight" in readers(tied, groups_of(tied)) and "a.layers.0.linear2.weight" not in readers(tied, groups)
    masks = unit_ticket(tied, groups_of(tied), {"a.layers.0.linear1": torch.arange(24) < 3}, {}).masks
    assert "b.weight" in masks


def test_a_mask_of_no_group_makes_no_ticket():
    model = encoder()
    with pytest.raises(LotteryError, match="no group of units 'nowhere'"):
        unit_ticket(model, groups_of(model), {"nowhere": torch.ones(2).bool()}, {})
