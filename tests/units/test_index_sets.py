import pytest
import torch
from torch import nn

from lightning_lottery.units.index_sets import CONSTANT, IndexSets, Unknown
from lightning_lottery.units.parts import Part


def two_layers():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def connected(sets, net):
    """The rows of the first layer, with its bias, joined to the columns of the second."""
    rows = sets.join(sets.along(net[0].weight, 0), sets.along(net[0].bias, 0))
    return sets.join(rows, sets.along(net[1].weight, 1))


def test_indices_that_were_joined_are_one_group_in_every_tensor():
    net = two_layers()
    sets = IndexSets(net)
    connected(sets, net)
    (group,) = sets.groups().values()
    assert (group.name, group.kind, group.size) == ("0", "neuron", 4)
    assert group.producers == (Part("0.weight", 0), Part("0.bias", 0)) and group.consumers == (Part("1.weight", 1),)


def test_what_nobody_joined_or_nobody_reads_is_no_group():
    net = two_layers()
    sets = IndexSets(net)
    sets.along(net[0].weight, 0)
    sets.join(sets.along(net[1].weight, 0), sets.along(net[1].bias, 0))
    assert sets.groups() == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_frozen_or_fixed_does_not_move_whether_that_was_before_or_after(when):
    net = two_layers()
    for hold in (lambda s: s.freeze(net[1].weight), lambda s: s.fix(s.along(net[0].bias, 0))):
        sets = IndexSets(net)
        if when == "before":
            hold(sets)
        connected(sets, net)
        hold(sets)
        assert sets.groups() == {}


def test_one_fixed_unit_of_four_leaves_no_row_of_them_unless_it_is_at_an_end():
    net = two_layers()
    for fixed, name in ((1, None), (3, "0[0:3]")):
        sets = IndexSets(net)
        sets.fix([connected(sets, net)[fixed]])
        assert list(sets.groups()) == ([name] if name else [])


def test_a_constant_binds_nothing_and_gives_way_to_a_unit():
    net = two_layers()
    sets = IndexSets(net)
    rows = connected(sets, net)
    assert sets.join([CONSTANT] * 4, rows) == rows and sets.join(rows, [CONSTANT] * 4) == rows
    sets.fix([CONSTANT] * 4)
    assert [group.size for group in sets.groups().values()] == [4]


def test_lists_of_different_lengths_and_two_divisions_of_one_dimension_are_unknown():
    net = two_layers()
    sets = IndexSets(net)
    with pytest.raises(Unknown):
        sets.join([0, 1], [2])
    connected(sets, net)
    with pytest.raises(Unknown):
        sets.along(net[1].weight, 1, block=2)
    assert sets.groups() == {}  # its entries stay where they are


def test_features_of_a_block_are_one_unit():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(6, 2))
    sets = IndexSets(net)
    sets.join(sets.along(net[0].weight, 0), sets.along(net[2].weight, 1, block=3))
    (group,) = sets.groups().values()
    assert (group.kind, group.consumers) == ("channel", (Part("2.weight", 1, 3),))


def test_tied_tensors_are_one_under_their_first_name():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    sets = IndexSets(net)
    assert torch.equal(torch.tensor(sets.along(net[1].weight, 0)), torch.tensor(sets.along(net[0].weight, 0)))
