import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from helpers.models import REPARAMETRISATIONS
from lightning_lottery.units.layers import Layers, belongs_to
from lightning_lottery.units.parts import Part


@pytest.mark.parametrize(("layer", "dims"), [(nn.Linear(2, 3), (0, 1)), (Conv1D(3, 2), (1, 0))])
def test_what_a_layer_makes_and_reads_lies_along_the_dimensions_of_its_kind(layer, dims):
    layers = Layers(nn.ModuleDict({"fc": layer}))
    assert layers.linear_shape("fc") == (3, 2)
    assert layers.rows_of("fc", 1) == [Part("fc.weight", dims[0]), Part("fc.bias", 0)]
    assert layers.columns_of("fc", 2) == (Part("fc.weight", dims[1], 2),)
    assert layer.weight.shape[dims[0]] == 3 and layer.weight.shape[dims[1]] == 2


def test_a_fused_layer_has_parts_for_each_beginning_and_need_be_no_module():
    layers = Layers(nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)}))
    names = ["attn.in_proj_weight", "attn.in_proj_bias"]
    assert layers.rows_of("attn.in_proj", 2, (0, 4)) == [Part(name, 0, 2, start) for name in names for start in (0, 4)]


class Quantised(nn.Linear):
    """Whose weight holds two numbers in one."""

    def __init__(self):
        super().__init__(4, 4)
        self.weight = nn.Parameter(torch.zeros(4, 2))


@pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.Conv1d(2, 3, 1), nn.Bilinear(2, 2, 3), Quantised(), nn.ReLU()])
def test_what_is_no_linear_layer_yet_or_any_more_has_no_shape_of_one(layer):
    assert Layers(nn.ModuleDict({"fc": layer})).linear_shape("fc") is None


@pytest.mark.parametrize("norm", REPARAMETRISATIONS)
def test_a_computed_weight_is_named(norm):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    REPARAMETRISATIONS[norm](net[1])
    layers = Layers(net)
    assert layers.made_of_others(["0"]) == ""
    assert "'1.weight' is computed" in layers.made_of_others(["0", "1"])


def test_an_attribute_counts_where_both_its_name_and_its_value_fit():
    module = nn.Module()
    module.width, module.dim, module.flag = 4, 8, True
    layers, patterns = Layers(module), {"widths": ["width", "dim", "flag", "missing"]}
    assert layers.counts(["", ""], {"widths": (4, 1)}, patterns) == ("width",)


def test_a_name_belongs_to_a_layer_as_a_whole_word():
    assert all(belongs_to(name, "a.b") for name in ("a.b", "a.b.weight", "a.b_weight"))
    assert not any(belongs_to(name, "a.b") for name in ("a", "a.bc", "a.bc.weight"))
