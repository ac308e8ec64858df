"""Tensors that lose the entries of removed units, and whatever else has their shape."""

import torch
from torch import nn

from lightning_lottery.units.coefficients import attach_, coefficients_of
from lightning_lottery.units.cuts import cut_, shapes_in
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.parts import owners_of


def net():
    torch.manual_seed(0)
    first = (nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
    return nn.Sequential(*first, nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 5, 2))


def test_a_cut_gives_of_a_tensor_of_the_old_shape_what_it_left_of_the_tensor_itself():
    model = net()
    model[3].weight.no_decay = True
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    units = {"0": torch.tensor([True, False, True, True]), "3": torch.arange(6) % 2 == 0}
    cuts = cut_(owners_of(model), groups_of(model), units)
    after = model.state_dict()
    for cut in cuts:  # the second convolution loses entries of both dimensions
        (name,) = (n for n, value in after.items() if value.data_ptr() == cut.after.data_ptr())
        assert torch.equal(cut.entries_of(before[name]), after[name])
        assert cut.before.shape == before[name].shape and cut.after.requires_grad == cut.before.requires_grad
    assert len(cuts) == 2 + 4 + 2 + 4 + 1 and after["3.weight"].shape == (3, 3, 1)
    assert torch.equal(after["3.weight"], before["3.weight"][::2][:, [0, 2, 3]])
    assert model[3].weight.no_decay and not hasattr(model[0].weight, "no_decay")
    assert (model[1].num_features, model[3].in_channels, model[3].out_channels) == (3, 3, 3)


def test_coefficients_go_with_their_units():
    model = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=4, batch_first=True)
    attach_(model.linear2, 4)
    with torch.no_grad():
        coefficients_of(model.linear2).copy_(torch.arange(4.0))
    keep = torch.tensor([False, True, False, True])
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        model.linear2.weight[:, ~keep] = 0
    expected = model.eval()(x)
    cut_(owners_of(model), groups_of(model), {"linear1": keep})
    assert coefficients_of(model.linear2).tolist() == [1.0, 3.0]
    torch.testing.assert_close(model(x), expected)


def test_what_has_no_shape_yet_has_none():
    model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4))
    assert shapes_in(owners_of(model)) == {"0.weight": (3, 2), "0.bias": (3,)}
