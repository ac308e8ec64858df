from functools import partial

import lightning
import pytest
import torch
import torchvision
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.models import (
    FAMILIES,
    REPARAMETRISATIONS,
    Fused,
    encoder,
    half,
    image,
    images,
    masked,
    output,
    randomised,
    state,
    text,
    timm_vit,
    vgg_like,
)
from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.draws import unit_ticket
from lightning_lottery.units.groups import groups_of, survey
from lightning_lottery.units.removal import cut_out_, shrink
from lightning_lottery.units.residual import coupled_channels
from lightning_lottery.units.saved import load_shrunk
from lightning_lottery.units.scores import loss_of
from lightning_lottery.zoo import vit
from lightning_lottery.zoo.networks import resnet


@pytest.mark.parametrize("ragged", [False, True], ids=["half of every layer", "not the same in every layer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shrunk_model_computes_what_the_masked_one_does(family, ragged):
    torch.manual_seed(0)
    build, take, _ = FAMILIES[family]
    model, inputs = randomised(build()), take()
    groups = groups_of(model)
    units = half(groups, ragged)
    before = state(model)
    small = shrink(model, Ticket({}, units=units))
    expected = output(masked(model, units), inputs)
    torch.testing.assert_close(output(small, inputs), expected, rtol=1e-4, atol=1e-5)
    assert (expected - output(model, inputs)).abs().max() > 1e-2  # the units did matter
    assert {name: group.size for name, group in groups_of(small).items()} == {n: int(u.sum()) for n, u in units.items()}
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert same(before, state(model))


WIDTHS = st.sampled_from([3, 4])
BETWEEN = st.sampled_from(
    [lambda width, make=make: make() for make in (nn.ReLU, nn.Tanh, nn.Dropout, nn.PReLU, nn.Identity, nn.Flatten)]
    + [nn.BatchNorm1d, nn.LayerNorm, partial(nn.GroupNorm, 1), nn.PReLU]
    + [lambda width: nn.Softmax(-1), lambda width: nn.MaxPool1d(3, 1, 1)]
)


@st.composite
def chains(draw):
    """Linear layers in a row and what may lie between them, some shared, some run again, some in an inner chain."""
    width, layers, known = draw(WIDTHS), [], []
    for _ in range(draw(st.integers(2, 5))):
        again = [layer for layer in known if layer.in_features == width]
        if again and draw(st.booleans()):
            layer = draw(st.sampled_from(again))
        else:
            layer = nn.Linear(width, draw(WIDTHS), bias=draw(st.booleans()))
            if again and layer.weight.shape == again[0].weight.shape and draw(st.booleans()):
                layer.weight = again[0].weight
        known.append(layer)
        width = layer.out_features
        part = [layer, *(make(width) for make in draw(st.lists(BETWEEN, max_size=2)))]
        layers += [nn.Sequential(*part)] if draw(st.booleans()) else part
    return nn.Sequential(*layers)


@settings(max_examples=100, deadline=None)
@given(chains(), st.integers(0, 2**16))
def test_a_plain_chain_is_cut_so_that_it_computes_what_the_masked_one_does_or_not_at_all(model, seed):
    torch.manual_seed(seed)
    inputs = torch.randn(4, next(model.parameters()).shape[1], dtype=torch.float64)
    randomised(model, 1.0).double()
    groups = survey(model).groups
    event(f"{len(groups)} groups")
    if not groups:
        return
    units = half(groups)
    small = shrink(model, Ticket({}, units=units), groups=groups)
    torch.testing.assert_close(output(small, inputs), output(masked(model, units, groups), inputs))


def test_a_linear_layer_that_runs_twice_in_a_chain_is_not_cut():
    again = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), again, nn.ReLU(), again, nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(LotteryError, match="no block"):
        shrink(model, Ticket({}, units={"0": torch.arange(4) < 2}))
    model[4] = nn.Linear(4, 4)
    assert list(groups_of(model)) == ["0", "2", "4"]


def test_a_chain_with_a_tied_weight_is_left_alone_and_the_weight_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model = nn.ModuleDict({"net": net, "embedding": nn.Embedding(3, 5)})
    assert list(survey(model).groups) == ["net.0", "net.2"]
    model["embedding"].weight = net[4].weight
    groups, unrecognised = survey(model)
    assert list(groups) == ["net.0"] and "'net.4.weight' is tied" in unrecognised["net.2"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention_of_hugging_face_run_on_fewer_heads(attention):
    torch.manual_seed(0)
    settings = FAMILIES["BERT"][0].keywords
    model = randomised(text("BertForSequenceClassification", attn_implementation=attention, **settings))
    units, inputs = half(groups_of(model)), {"input_ids": FAMILIES["BERT"][1]()}
    inputs["attention_mask"] = torch.arange(6).expand(3, 6) < torch.tensor([[6], [4], [2]])
    with torch.no_grad():
        expected = masked(model, units)(**inputs).logits
        torch.testing.assert_close(shrink(model, Ticket({}, units=units))(**inputs).logits, expected)


@pytest.mark.parametrize(
    "build", [lambda: randomised(resnet(20)), lambda: randomised(image("ViTForImageClassification"))]
)
def test_a_shrunk_model_trains_and_its_gradients_are_those_of_the_masked_one(build):
    torch.manual_seed(0)
    model, inputs = build().double(), images().double()
    units = half(groups_of(model))
    small, large = shrink(model, Ticket({}, units=units)), masked(model, units)
    for network in (small, large):
        loss_of(network, (inputs, torch.tensor([0, 1, 1]))).backward()
    untouched = [n for n, p in small.named_parameters() if p.shape == large.get_parameter(n).shape]
    assert len(untouched) > 5
    for name in untouched:
        torch.testing.assert_close(small.get_parameter(name).grad, large.get_parameter(name).grad, msg=name)


def test_channels_go_through_residual_connections_with_the_graph():
    torch.manual_seed(0)
    model, inputs = randomised(torchvision.models.resnet18(num_classes=4), 0.05), images(32)
    groups = coupled_channels(model, inputs)
    units = half(groups)
    small = shrink(model, Ticket({}, units=units), groups=groups)
    expected = output(masked(model, units, groups), inputs)
    torch.testing.assert_close(output(small, inputs), expected, rtol=1e-4, atol=1e-5)
    assert (expected - output(model, inputs)).abs().max() > 1e-2
    assert (small.conv1.out_channels, small.fc.in_features, small.bn1.num_features) == (32, 256, 32)


def test_attributes_and_layers_say_their_new_sizes():
    model = FAMILIES["DistilBERT"][0]()
    layer = shrink(model, Ticket({}, units=half(groups_of(model)))).distilbert.transformer.layer[0]
    attention, ffn = layer.attention, layer.ffn
    assert (attention.n_heads, attention.dim, attention.attention_head_size) == (2, 8, 4)
    assert [(m.in_features, m.out_features) for m in (attention.q_lin, attention.out_lin)] == [(16, 8), (8, 16)]
    assert [(m.in_features, m.out_features) for m in (ffn.lin1, ffn.lin2)] == [(16, 12), (12, 16)]
    block = shrink(timm_vit(), Ticket({}, units={"blocks.0.attn": torch.arange(4) == 2})).blocks[0].attn
    assert (block.num_heads, block.attn_dim, block.qkv.out_features, block.proj.in_features) == (1, 4, 12, 4)
    net = resnet(8)
    block = shrink(net, Ticket({}, units={"blocks.0.conv1": torch.arange(16) < 5})).blocks[0]
    assert (block.conv1.out_channels, block.bn1.num_features, block.conv2.in_channels) == (5, 5, 5)


def test_device_dtype_mode_frozen_weights_and_the_class_are_kept():
    model = encoder().double()
    model.layers[0].train()
    model.layers[1].eval()
    model.layers[0].linear2.weight.requires_grad_(False)
    loss_of_any = model(torch.randn(2, 3, 16, dtype=torch.float64)).sum()
    loss_of_any.backward()
    small = shrink(model, Ticket({}, units=half(groups_of(model))))
    assert type(small) is type(model)
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert (small.layers[0].training, small.layers[1].training) == (True, False)
    frozen = {name for name, parameter in small.named_parameters() if not parameter.requires_grad}
    assert frozen == {"layers.0.linear2.weight"}
    assert all(p.grad is None for p in small.parameters())
    assert model.layers[1].linear1.weight.grad is not None


def test_one_module_under_two_names_is_cut_once_for_both():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    model = nn.Sequential(layer, layer).eval()
    units = {"0.linear1": torch.arange(6) < 2, "0.self_attn": torch.tensor([False, True])}
    small, inputs = shrink(model, Ticket({}, units=units)), torch.randn(2, 3, 8)
    assert small[0] is small[1]
    torch.testing.assert_close(output(small, inputs), output(masked(model, units), inputs))


def test_a_weight_tied_to_another_module_is_not_cut():
    model = nn.ModuleList([encoder(), nn.Linear(24, 16)])
    model[1].weight = model[0].layers[0].linear2.weight
    with pytest.raises(LotteryError, match="'0.layers.0.linear1' cannot be shrunk: '1.weight' is tied"):
        shrink(model, Ticket({}, units={"0.layers.0.linear1": torch.arange(24) < 3}))


@pytest.mark.parametrize("norm", REPARAMETRISATIONS)
@pytest.mark.filterwarnings("ignore:Left alone")
def test_units_of_a_layer_whose_weight_is_computed_are_refused_by_its_name(norm):
    whole = vgg_like()
    plain = groups_of(whole)
    for layer, group in (("2", "2"), ("2", "0.0"), ("7", "2")):
        model = vgg_like()
        REPARAMETRISATIONS[norm](model.get_submodule(layer))
        output(model.eval(), images())
        ticket = Ticket({}, units={group: torch.arange(plain[group].size) < 2})
        with pytest.raises(LotteryError, match=f"'{layer}.weight' is computed by a parametrization or a hook"):
            shrink(model, ticket)
        with pytest.raises(LotteryError, match=f"'{group}' cannot be shrunk: '{layer}.weight' is computed"):
            shrink(model, ticket, groups=plain)


@pytest.mark.parametrize("norm", REPARAMETRISATIONS)
@pytest.mark.filterwarnings("ignore:Left alone")
def test_what_is_cut_beside_a_layer_whose_weight_is_computed_computes_what_the_masked_model_does(norm):
    torch.manual_seed(0)
    model, inputs = randomised(vgg_like()), images()
    REPARAMETRISATIONS[norm](model[7])
    with torch.enable_grad():
        model(inputs)
    units = {"0.0": torch.arange(6) < 2}
    small = shrink(model, Ticket({}, units=units))
    model[2].weight.data[:, 2:] = 0
    torch.testing.assert_close(output(small, inputs), output(model, inputs))


def test_the_ticket_of_a_lightning_module_fits_it_and_with_a_prefix_the_network_inside(tmp_path):
    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = encoder().eval()

    module = Classifier()
    ticket = Ticket({}, units={"model.layers.0.linear1": torch.arange(24) < 5})
    assert shrink(module, ticket).model.layers[0].linear1.out_features == 5
    assert shrink(module.model, ticket, prefix="model.").layers[0].linear1.out_features == 5
    ticket.save(tmp_path / "ticket.safetensors")
    assert shrink(module, str(tmp_path / "ticket.safetensors")).model.layers[0].linear1.out_features == 5
    with pytest.raises(LotteryError, match="no group of units 'model.layers.0.linear1'.*`prefix`"):
        shrink(module.model, ticket)
    with pytest.raises(LotteryError, match="does not begin with the prefix 'net.'"):
        shrink(module.model, ticket, prefix="net.")


def test_a_ticket_that_empties_a_layer_leaves_one_unit_that_adds_nothing_and_says_so():
    torch.manual_seed(0)
    model, inputs = randomised(encoder()), torch.randn(3, 5, 16)
    units = {"layers.0.linear1": torch.zeros(24).bool(), "layers.1.self_attn": torch.zeros(4).bool()}
    with pytest.warns(UserWarning, match="of 'layers.*one of its (24|4) stays"):
        small = shrink(model, Ticket({}, units=units))
    assert small.layers[0].linear1.out_features == small.layers[1].self_attn.num_heads == 1
    torch.testing.assert_close(output(small, inputs), output(masked(model, units), inputs))


@pytest.mark.parametrize(
    ("ticket", "reason"),
    [
        (Ticket({"w": torch.ones(2).bool()}), "masks of parameters only"),
        (Ticket({}, units={"layers.7.linear1": torch.ones(24).bool()}), "no group of units 'layers.7.linear1'"),
        (Ticket({}, units={"layers.0.linear1": torch.ones(23).bool()}), r"shape \(23,\).*24 neurons"),
        (Ticket({}, units={"layers.0.self_attn": torch.ones(2, 2).bool()}), r"shape \(2, 2\).*4 heads"),
    ],
)
def test_a_ticket_that_does_not_fit_is_refused(ticket, reason):
    with pytest.raises(LotteryError, match=reason):
        shrink(encoder(), ticket)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "either a ticket or fractions"),
        ({"ticket": Ticket({}, units={"a": torch.ones(1).bool()}), "neurons": 0.5}, "either a ticket or fractions"),
        ({"heads": 0.5}, "`calibration`"),
        ({"heads": 1.0, "calibration": []}, r"\[0, 1\)"),
        ({"neurons": -0.1, "calibration": []}, r"\[0, 1\)"),
        ({"channels": 0.5, "calibration": []}, "channels were to be removed, but TransformerEncoder has none"),
        ({"neurons": 0.5, "calibration": []}, "at least one batch"),
        ({"neurons": 0.5, "calibration": [3]}, "calibration batch is.*got int"),
        ({"neurons": 0.5, "calibration": [{"src": torch.zeros(1, 2, 16)}]}, "calibration batch is.*got dict"),
    ],
)
def test_bad_arguments_are_refused(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        shrink(encoder(), **arguments)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(LotteryError, match="Linear has no block that could be recognised"):
        shrink(nn.Linear(2, 2), Ticket({}, units={"a": torch.ones(1).bool()}))


def test_the_attribute_of_ones_own_table_follows_the_heads():
    model = Fused()
    groups = groups_of(model, {"head": [{"qkv": "to_three", "output": "back"}], "head_counts": ["h"]})
    (name,) = groups
    small = shrink(model, Ticket({}, units={name: torch.tensor([False, True])}), groups=groups)
    assert (small.h, small.to_three.out_features, small.back.in_features) == (1, 12, 4)
    assert torch.equal(small.to_three.weight, model.to_three.weight[[4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]])


def test_a_hugging_face_network_that_is_cut_out_of_a_module_saves_and_loads(tmp_path):
    module = nn.Module()
    module.network = vit(hidden_size=8, layers=2, heads=4, mlp_size=16)
    units = {n: torch.arange(g.size) < g.size // 2 for n, g in groups_of(module).items()}
    cut_out_(module, groups_of(module), units)
    module.network.save_pretrained(tmp_path)
    again = load_shrunk(tmp_path)  # in transformers 4.50 a ViT's configuration has no key for the width of a head
    assert type(again) is type(module.network)
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
