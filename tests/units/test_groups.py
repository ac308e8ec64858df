import warnings

import pytest
import torch
from torch import nn

from helpers.models import (
    FAMILIES,
    LLAMA,
    REPARAMETRISATIONS,
    ROW,
    SIZES,
    Fused,
    convnext,
    encoder,
    text,
    timm_convnext,
    vgg_like,
)
from lightning_lottery.errors import LotteryError
from lightning_lottery.units.groups import groups_of, survey
from lightning_lottery.units.parts import Part, owners_of
from lightning_lottery.zoo.networks import resnet


@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_neuron_and_inner_channel_of_a_known_family_is_found_and_nothing_is_left_over(family):
    build, _, expected = FAMILIES[family]
    model = build()
    groups, unrecognised = survey(model)
    pairs = [(group.kind, group.size) for group in groups.values()]
    assert {pair: pairs.count(pair) for pair in pairs} == expected
    assert unrecognised == {}
    assert all(name == group.name for name, group in groups.items())
    assert groups.keys() <= dict(model.named_modules()).keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_units_own_whole_tensors_without_overlap(family):
    model = FAMILIES[family][0]()
    held = owners_of(model)
    for group in groups_of(model).values():
        for side in (group.producers, group.consumers):
            entries = {}
            for part in side:
                places = range(part.start, part.start + group.size * part.block)
                entries.setdefault((part.parameter, part.dim), []).extend(places)
            for (name, dim), places in entries.items():
                module, leaf = held[name]
                assert sorted(places) == list(range(getattr(module, leaf).shape[dim]))


@pytest.mark.parametrize("family", [name for name in FAMILIES if "ResNet" not in name and name != "VGG-like"])
def test_the_one_consumer_of_heads_and_neurons_is_a_linear_layer_that_reads_them(family):
    model = FAMILIES[family][0]()
    for group in groups_of(model).values():
        (part,) = group.consumers
        layer = model.get_submodule(part.parameter.removesuffix(".weight"))
        assert part.start == 0
        if family == "GPT-2":  # transposed
            assert (part.dim, layer.nx) == (0, group.size * part.block)
        else:
            assert (part.dim, layer.in_features) == (1, group.size * part.block)


def test_channels_are_produced_with_their_batch_norm():
    (group, _) = groups_of(vgg_like()).values()
    norms = [part.parameter for part in group.producers if part.parameter.startswith("0.1.")]
    assert norms == ["0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var"]


def test_features_that_a_flattening_spreads_are_a_block_per_channel():
    group = groups_of(vgg_like())["2"]
    assert group.consumers == (Part("7.weight", 1, 16),)


def test_names_of_ones_own_are_given_as_a_table():
    (group,) = groups_of(Fused(), ROW).values()
    assert (group.kind, group.size, group.counts) == ("head", 2, ("h",))
    assert [part for part in group.producers if part.parameter == "to_three.weight"] == [
        Part("to_three.weight", 0, 4, start) for start in (0, 8, 16)
    ]


def test_a_model_without_blocks_is_refused_in_two_lines_that_show_how_to_name_them():
    for model in (nn.Linear(2, 2), nn.Identity(), timm_convnext("convnextv2_tiny")):
        with pytest.raises(
            LotteryError, match=r"has no block.*\nName its layers, `groups_of\(model, patterns=.*README"
        ):
            groups_of(model)
        try:
            groups_of(model)
        except LotteryError as error:
            assert str(error).count("\n") == 1 and len(str(error)) < 500


def test_what_looks_like_a_block_and_is_not_recognised_is_named():
    odd = text("CTRLModel", n_embd=8, n_layer=2, n_head=2, dff=8)
    with pytest.raises(LotteryError, match=r"'h.0.multi_head_attention', 'h.1.multi_head_attention' \(MultiHeadAtt"):
        groups_of(odd)
    both = nn.ModuleDict({"known": encoder(), "odd": nn.MultiheadAttention(8, 2, kdim=4)})
    with pytest.warns(UserWarning, match=r"Left alone: 'odd' \(an nn.MultiheadAttention with .*kdim"):
        assert len(groups_of(both)) == 4


def test_neurons_that_depend_on_each_other_by_a_response_norm_are_refused_by_its_name():
    for model in (timm_convnext("convnextv2_tiny"), convnext("ConvNextV2ForImageClassification")):
        groups, unrecognised = survey(model)
        assert not groups and unrecognised
        assert all("its neurons also reach 'grn' in " in reason for reason in unrecognised.values())


def test_experts_in_one_tensor_are_left_alone_with_their_share_of_the_model():
    pytest.importorskip("transformers", minversion="5", reason="Mixtral's experts were linear layers until then")
    settings = {**SIZES, "num_key_value_heads": 2, "num_local_experts": 3, **LLAMA}
    model = text("MixtralModel", **settings)
    experts = [p for name, p in model.named_parameters() if ".experts." in name]
    share = sum(p.numel() for p in experts) / sum(p.numel() for p in model.parameters())
    assert {p.dim() for p in experts} == {3} and share > 0.5
    with pytest.warns(UserWarning, match=rf"'layers.0.mlp.experts', 'layers.1.mlp.experts' .*3-dim.*: {share:.0%} of"):
        groups = groups_of(model)
    assert {group.kind for group in groups.values()} == {"head"}


def test_positions_class_tokens_and_convolutions_are_not_taken_for_experts():
    net = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Bilinear(2, 3, 4))
    net.tokens = nn.Parameter(torch.zeros(1, 5, 4))
    assert survey(net) == ({}, {})


UNSAFE = {
    "the hidden neurons are given out": lambda s, x: (s.fc2(h := s.fc1(x)), h),
    "the input is added to them": lambda s, x: s.fc2(s.fc1(x) + x),
    "another layer reads them": lambda s, x: s.fc2(h := s.fc1(x)) + s.fc3(h),
    "softmax": lambda s, x: s.fc2(s.fc1(x).softmax(-1)),
    "they are fed back": lambda s, x: s.fc2(s.fc1(s.fc1(x))),
    "the weight is used twice": lambda s, x: s.fc2(s.fc1(x)) @ s.fc1.weight,
}


class Named(nn.Module):
    """Layers of names that we know, and a forward that does not do what the names say."""

    def __init__(self, forward):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize("name", UNSAFE)
def test_what_a_forward_does_overrules_names(name):
    groups, unrecognised = survey(Named(UNSAFE[name]))
    assert "fc1" not in groups and "also reach" in unrecognised["fc1"]
    assert list(survey(Named(lambda s, x: s.fc2(s.fc1(x).relu()))).groups) == ["fc1"]


def test_channels_of_which_pieces_are_taken_are_left_alone():
    class Features(nn.Module):
        def __init__(self, takes_pieces):
            super().__init__()
            self.net, self.takes_pieces = vgg_like(), takes_pieces

        def forward(self, x):
            return [x := layer(x) for layer in self.net] if self.takes_pieces else self.net(x)

    assert list(survey(Features(False)).groups) == ["net.0.0", "net.2"]
    groups, unrecognised = survey(Features(True))
    assert not groups and "also reach the output of Features" in unrecognised["net.0.0"]


def test_a_batch_norm_that_runs_twice_in_a_chain_ends_it():
    conv, norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    twice = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), conv, norm, nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert survey(twice).groups == {}


def test_hidden_layers_of_a_head_on_a_pretrained_network_are_found_and_those_inside_of_it_are_not():
    class Tuned(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = text("RobertaForSequenceClassification", **SIZES)  # has dense -> tanh -> out_proj
            self.head = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            return self.head(self.network(x).logits)

    neurons = [name for name, group in groups_of(Tuned()).items() if group.kind == "neuron"]
    assert [name for name in neurons if "intermediate.dense" not in name] == ["head.0"]


@pytest.mark.parametrize(
    ("model", "patterns", "reason"),
    [
        (nn.MultiheadAttention(8, 2, add_bias_kv=True), None, "bias_k"),
        (nn.MultiheadAttention(8, 2, add_zero_attn=True), None, "add_zero_attn"),
        (nn.MultiheadAttention(8, 2, kdim=4, bias=False), None, "kdim"),
        (Fused(norm=nn.LayerNorm(8)), ROW, "norm.weight"),
        (Fused(heads=3), ROW, "no attribute says"),
        (nn.ModuleDict({"fc1": nn.Linear(4, 6), "fc2": nn.Linear(5, 4)}), None, "6 neurons.*takes 5"),
        (
            nn.ModuleDict({"fc1": nn.Linear(4, 6), "norm": nn.LayerNorm(6), "fc2": nn.Linear(6, 4)}),
            None,
            "'norm' stands between",
        ),
    ],
)
def test_a_block_whose_units_depend_on_each_other_or_do_not_fit_is_not_taken(model, patterns, reason):
    with pytest.raises(LotteryError, match=f"has no block.*{reason}"):
        groups_of(model, patterns)


@pytest.mark.parametrize("norm", REPARAMETRISATIONS)
def test_every_group_with_a_layer_whose_weight_is_computed_is_left_out_and_the_layer_named(norm):
    layers = {
        "TransformerEncoder": ("layers.1.linear2", "layers.0.self_attn.out_proj"),
        "VGG-like": ("2", "7"),
    }
    for family, names in layers.items():
        for name in names:
            model = FAMILIES[family][0]()
            before = groups_of(model)
            REPARAMETRISATIONS[norm](model.get_submodule(name))
            groups, unrecognised = survey(model)
            holding = {n for n, g in before.items() if name in {p.parameter.rpartition(".")[0] for p in g.parts}}
            assert holding
            assert groups == {n: g for n, g in before.items() if n not in holding}
            assert unrecognised.keys() == holding
            assert all(f"'{name}.weight' is computed by" in reason for reason in unrecognised.values())
            if groups:
                with pytest.warns(UserWarning, match=f"Left alone.*'{name}.weight' is computed"):
                    groups_of(model)


def test_a_bias_alone_that_is_computed_keeps_its_layer_whole():
    model = encoder()
    nn.utils.prune.l1_unstructured(model.layers[0].linear1, "bias", 0.5)
    nn.utils.prune.l1_unstructured(model.layers[1].self_attn, "in_proj_weight", 0.5)
    groups, unrecognised = survey(model)
    assert list(groups) == ["layers.0.self_attn", "layers.1.linear1"]
    assert unrecognised.keys() == {"layers.0.linear1", "layers.1.self_attn"}


def test_a_chain_ends_where_channels_mix_or_the_next_layer_is_unknown():
    def row(*between):
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *between)

    reader = nn.Conv2d(4, 2, 1)
    assert len(survey(row(nn.ReLU(), nn.Dropout(), nn.AvgPool2d(2), reader)).groups) == 1
    for between in (nn.Softmax(1), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(2), resnet(8)):
        assert "0" not in survey(row(between, reader)).groups
    assert not survey(row(nn.Linear(4, 2))).groups  # a linear layer reads the last dimension, not the channels
    assert not survey(row()).groups


def test_compiled_parts_have_the_names_of_plain_ones():
    model = nn.ModuleDict({"a": encoder(), "b": encoder()})
    expected = groups_of(model)
    model["a"] = torch.compile(model["a"])
    assert groups_of(model) == expected


def test_a_recognised_model_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert groups_of(encoder())


class Pieces(nn.Module):
    """Runs a chain in pieces, in a forward that depends on the data."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.net[2](self.net[0](x).softmax(-1)) if x.sum() > 0 else self.net(x)


def test_a_chain_is_left_whole_where_the_forward_around_it_cannot_be_recorded():
    with pytest.raises(LotteryError, match="no block that could be recognised"):
        groups_of(Pieces())
    assert list(groups_of(Pieces().net)) == ["0"]
