import pytest
import torch
from torch import nn

from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.adapters import merge_lora
from lightning_lottery.functional.masks import keep_top


class Adapted(nn.Module):
    """A layer beside whose output its adapter's is added, as LoRA trains it."""

    def __init__(self, layer, down, up, scaling):
        super().__init__()
        self.layer, self.down, self.up, self.scaling = layer, down, up, scaling

    def forward(self, x):
        return self.layer(x) + self.scaling * self.up(self.down(x))


def linear_case(seed=0):
    torch.manual_seed(seed)
    layer, down, up = nn.Linear(6, 4), nn.Linear(6, 2, bias=False), nn.Linear(2, 4, bias=False)
    return Adapted(layer, down, up, 1.5).double(), torch.randn(5, 6, dtype=torch.float64)


def convolution_case(seed=0):
    torch.manual_seed(seed)
    layer, down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1, bias=False)
    return Adapted(layer, down, nn.Conv2d(2, 4, 1, bias=False), 0.5).double(), torch.randn(2, 3, 5, 5).double()


def parts_of(net, before="base_model.model.", name=""):
    state = {f"fc.{key}": value.clone() for key, value in net.layer.state_dict().items()}
    adapter = {
        f"{before}fc.lora_A.{name}weight": net.down.weight.detach(),
        f"{before}fc.lora_B.{name}weight": net.up.weight.detach(),
    }
    return state, adapter


@pytest.mark.parametrize(("before", "name"), [("base_model.model.", ""), ("", ""), ("", "default.")])
@pytest.mark.parametrize("case", [linear_case, convolution_case])
def test_where_nothing_is_removed_the_merged_layer_computes_what_the_adapted_one_does(case, before, name):
    net, x = case()
    state, adapter = parts_of(net, before, name)
    before_merging = {key: value.clone() for key, value in state.items()}
    merged = merge_lora(state, adapter, net.scaling, {})
    expected = net(x)
    net.layer.load_state_dict({key.removeprefix("fc."): value for key, value in merged.items()})
    torch.testing.assert_close(net.layer(x), expected, rtol=1e-12, atol=1e-12)
    assert same(state, before_merging)
    assert torch.equal(merged["fc.bias"], state["fc.bias"])


@pytest.mark.parametrize("case", [linear_case, convolution_case])
def test_the_merge_brings_no_removed_weight_back_and_leaves_the_others_as_they_are_without_masks(case):
    net, _ = case()
    state, adapter = parts_of(net)
    masks = keep_top({"fc.weight": state["fc.weight"].abs()}, 0.75)
    state["fc.weight"][~masks["fc.weight"]] = 0
    merged, plain = (merge_lora(state, adapter, net.scaling, m)["fc.weight"] for m in (masks, {}))
    assert int((plain[~masks["fc.weight"]] != 0).sum()) == int((~masks["fc.weight"]).sum())  # the mere merge does
    assert int((merged[~masks["fc.weight"]] != 0).sum()) == 0
    assert torch.equal(merged[masks["fc.weight"]], plain[masks["fc.weight"]])


def test_a_transposed_weight_is_said_to_be_one_also_where_it_is_square():
    state = {"c.weight": torch.zeros(2, 2)}
    adapter = {"c.lora_A.weight": torch.tensor([[1.0, 2.0]]), "c.lora_B.weight": torch.tensor([[1.0], [0.0]])}
    assert merge_lora(state, adapter, 1.0, {})["c.weight"].tolist() == [[1, 2], [0, 0]]
    assert merge_lora(state, adapter, 1.0, {}, fan_in_fan_out=True)["c.weight"].tolist() == [[1, 0], [2, 0]]


def test_a_half_precise_weight_is_rounded_once():
    weight = torch.full((1, 1), 1.0, dtype=torch.bfloat16)
    adapter = {"c.lora_A.weight": torch.full((1, 1), 1.0), "c.lora_B.weight": torch.full((1, 1), 1.005859375)}
    expected = torch.tensor([[2.005859375]]).to(torch.bfloat16)
    assert torch.equal(merge_lora({"c.weight": weight}, adapter, 1.0, {})["c.weight"], expected)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({}, "no adapter"),
        ({"fc.lora_A.weight": torch.ones(2, 6)}, "has lora_A alone"),
        ({"no.lora_A.weight": torch.ones(2, 6), "no.lora_B.weight": torch.ones(4, 2)}, "no such weight"),
        ({"fc.lora_A.weight": torch.ones(2, 6), "fc.lora_B.weight": torch.ones(4, 3)}, "does not make a"),
        ({"fc.lora_A.weight": torch.ones(2, 5), "fc.lora_B.weight": torch.ones(4, 2)}, "does not make a"),
        ({"fc.lora_magnitude_vector": torch.ones(4)}, "neither lora_A nor lora_B"),
        ({"fc.lora_B.bias": torch.ones(4)}, "neither lora_A nor lora_B"),
        ({"fc.lora_A.a.weight": torch.ones(2, 6), "fc.lora_A.b.weight": torch.ones(2, 6)}, "several adapters"),
    ],
)
def test_what_cannot_be_merged_is_refused(adapter, message):
    state, _ = parts_of(linear_case()[0])
    with pytest.raises(LotteryError, match=message):
        merge_lora(state, adapter, 1.0, {})


def test_a_mask_of_another_shape_is_refused():
    net, _ = linear_case()
    state, adapter = parts_of(net)
    with pytest.raises(LotteryError, match="mask of 'fc.weight'"):
        merge_lora(state, adapter, 1.0, {"fc.weight": torch.ones(1).bool()})
