import pytest
import torch
from torch import nn

from helpers.models import LLAMA, Fused, text
from lightning_lottery.units.groups import survey
from lightning_lottery.units.heads import heads
from lightning_lottery.units.layers import Layers, NotRecognised
from lightning_lottery.units.parts import Part
from lightning_lottery.units.patterns import PATTERNS

PATHS = {"qkv": "to_three", "output": "back"}
PATTERNS_WITH_H = {**PATTERNS, "head_counts": ["h"]}


def test_each_head_owns_its_rows_in_each_of_three_and_its_columns_of_the_output():
    group = heads(Layers(Fused()), PATTERNS_WITH_H, "", PATHS)
    assert [part.start for part in group.producers if part.parameter == "to_three.weight"] == [0, 8, 16]
    assert group.consumers == (Part("back.weight", 1, 4),)


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (Fused(heads=3), "no attribute says"),
        (Fused(scale=nn.LayerNorm(8)), "it also holds 'scale.weight'"),
        (Fused(to_three=nn.Linear(8, 20)), "qkv 20, output 8 wide for heads of 4"),
        (Fused(back=nn.Bilinear(8, 8, 8)), "not plain linear"),
    ],
)
def test_what_cannot_be_cut_head_by_head_says_why(attention, reason):
    with pytest.raises(NotRecognised) as refusal:
        heads(Layers(attention), PATTERNS_WITH_H, "", PATHS)
    assert reason in refusal.value.args[1]


@pytest.mark.parametrize(("shape", "is_mask"), [((1, 1, 5, 5), True), ((1, 2, 5, 5), False), ((), True)])
def test_a_mask_that_is_one_for_all_heads_does_not_hinder(shape, is_mask):
    attention = Fused()
    attention.register_buffer("bias", torch.ones(shape, dtype=torch.bool))
    groups = survey(attention, {"head": [PATHS], "head_counts": ["h"]}).groups
    assert bool(groups) == is_mask


def test_of_gpt_2_self_attention_is_cut_and_cross_attention_left_whole_by_name():
    model = text("GPT2Model", n_embd=8, n_layer=1, n_head=2, add_cross_attention=True, **LLAMA)
    groups, unrecognised = survey(model)
    assert groups["h.0.attn"].size == 2
    assert groups["h.0.attn"].counts == tuple(f"h.0.attn.{name}" for name in ("num_heads", "split_size", "embed_dim"))
    assert list(unrecognised) == ["h.0.crossattention"]


def test_the_names_of_gpt_2_on_plain_linear_layers_are_neurons_and_no_heads():
    """As in nanoGPT, whose attention divides the width of its input by the number of heads."""
    block = nn.Module()
    block.attn, block.mlp = nn.Module(), nn.Module()
    block.attn.c_attn, block.attn.c_proj, block.attn.n_head = nn.Linear(8, 24), nn.Linear(8, 8), 2
    block.mlp.c_fc, block.mlp.c_proj = nn.Linear(8, 32), nn.Linear(32, 8)
    assert list(survey(block).groups) == ["mlp.c_fc"]
