import pytest
import torch
from torch import nn

from helpers.blocks import Blocks
from helpers.models import REPARAMETRISATIONS
from lightning_lottery.units.parts import (
    Group,
    Part,
    acts_per_channel,
    computed_tensors,
    copy_of,
    owners_of,
    qualified,
    shared_weights,
    tensor_at,
)


def test_parameters_and_buffers_are_named_once_for_each_place_and_without_the_marks_of_compile():
    net = nn.ModuleDict({"a": nn.BatchNorm1d(2), "b": torch.compile(nn.Linear(2, 2, bias=False))})
    net["c"] = net["a"]
    owners = owners_of(net)
    assert "b.weight" in owners and "b.bias" not in owners  # a tensor that is None has no name
    assert owners["a.running_mean"] == (net["a"], "running_mean")
    assert [name for name in owners if tensor_at(owners, name) is net["a"].weight] == ["a.weight"]


@pytest.mark.parametrize("shape", [(6,), (6, 2), (2, 6), (3, 6, 2)])
def test_the_entries_of_a_unit_are_its_block_and_nothing_else(shape):
    tensor, dim = torch.arange(torch.Size(shape).numel()).view(shape), shape.index(6)
    part = Part("w", dim, block=2, start=2)
    entries = part.entries_by_unit(tensor, size=2)
    for unit in range(2):
        indices = torch.arange(2 + 2 * unit, 4 + 2 * unit)
        assert sorted(entries[unit].tolist()) == sorted(tensor.index_select(dim, indices).flatten().tolist())


def test_the_parts_of_a_group_are_its_producers_and_then_its_consumers():
    made, read = Part("up.weight", 0), Part("down.weight", 1)
    assert Group("up", "neuron", 3, (made,), (read,)).parts == (made, read)


def test_names_inside_of_the_model_itself_have_no_dot():
    assert (qualified("", "weight"), qualified("a.b", "weight")) == ("weight", "a.b.weight")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.ReLU(), True),
        (nn.Dropout(), True),
        (nn.MaxPool2d(2), True),
        (nn.Identity(), True),
        (nn.Flatten(), True),
        (nn.Flatten(2), False),
        (nn.Flatten(1, 2), False),  # behind the channels something is left
        (nn.PReLU(), False),  # a parameter of its own
        (nn.Softmax(1), False),
        (nn.GLU(1), False),
        (nn.LogSoftmax(1), False),
        (nn.GroupNorm(1, 2), False),
        (nn.Linear(2, 2), False),
    ],
)
def test_what_acts_on_each_channel_by_itself_has_no_parameters_and_mixes_nothing(module, expected):
    assert acts_per_channel(module) is expected


def test_a_parameter_is_shared_where_two_modules_hold_it_not_where_one_module_has_two_names():
    module = Blocks()
    assert shared_weights(module) == {}
    module.again = module.head
    assert shared_weights(module) == {}
    module.extra = nn.Linear(8, 3)
    module.extra.weight = module.head.weight
    assert shared_weights(module) == {"extra.weight": "head.weight"}


@pytest.mark.parametrize("norm", REPARAMETRISATIONS)
def test_a_tensor_that_is_made_of_others_is_named_and_a_copy_computes_what_the_model_does(norm):
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[0].remembered = torch.ones(2)  # a tensor that nothing makes anew
    assert computed_tensors(net) == set()
    REPARAMETRISATIONS[norm](net[2])
    assert computed_tensors(net) == {"2.weight"}
    x = torch.randn(4, 3)
    expected = net.eval()(x)  # old-style hooks leave a weight with a graph, which deepcopy refuses
    twin = copy_of(net)
    torch.testing.assert_close(twin(x), expected)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}
