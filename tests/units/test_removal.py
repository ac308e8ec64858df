import copy
import warnings

import lightning
import numpy as np
import pytest
import torch
import torchvision
import transformers
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import count
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.attention import OpenAttention, open_attention_
from lightning_lottery.units.groups import coupled_channels, groups_of
from lightning_lottery.units.removal import KEPT, parameter_masks, shrink
from lightning_lottery.units.saved import Size, comparison, load_shrunk, measure, save_shrunk
from lightning_lottery.units.scores import loss_of, unit_masks, unit_scores
from lightning_lottery.zoo.networks import resnet
from units.test_groups import FAMILIES, Fused, encoder, image, images, text, timm_vit, vgg_like


def randomised(model, scale=0.2):
    """The model with weights, biases and running statistics that all matter; in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def output(model, inputs):
    with torch.no_grad():
        found = model(inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def half(groups, ragged=False):
    """Half the units of each group, drawn; or more in one layer than in another."""
    sizes = {
        name: max(1, group.size // (2 + i // 2 % 2 * 2 if ragged else 2))
        for i, (name, group) in enumerate(groups.items())
    }
    return {name: torch.randperm(groups[name].size) < size for name, size in sizes.items()}


def masked(model, units, groups=None):
    twin = copy.deepcopy(model)
    Ticket(parameter_masks(twin, units, groups)).apply(twin)
    return twin


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


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
    assert same_state(before, state(model))


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


def batches(number=3, size=2):
    return [(torch.randn(size, 3, 8, 8), torch.randint(2, (size,))) for _ in range(number)]


def test_the_score_of_a_unit_is_the_mean_squared_slope_of_the_loss_as_its_mask_moves_from_one():
    torch.manual_seed(0)
    model = randomised(timm_vit()).double()
    groups = groups_of(model)
    data = [(x.double(), y) for x, y in batches()]
    scores = unit_scores(model, data, groups)
    name = "blocks.1.attn"
    for unit in range(4):
        squares = []
        for batch in data:
            losses = []
            for mask in (1 + 1e-5, 1 - 1e-5):
                moved = copy.deepcopy(model)
                with torch.no_grad():
                    moved.get_parameter(f"{name}.proj.weight")[:, 4 * unit : 4 * unit + 4] *= mask
                    losses.append(loss_of(moved, batch))
            squares.append(((losses[0] - losses[1]) / 2e-5) ** 2)
        assert scores[name][unit].item() == pytest.approx(float(sum(squares) / len(squares)), rel=1e-4)


def test_scoring_leaves_no_trace_also_when_it_fails():
    model = vgg_like()
    model[0].eval()
    model[2].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    before, random = state(model), torch.get_rng_state()
    unit_scores(model, ((torch.randn(2, 3, 8, 8), torch.tensor([0, 1])) for _ in range(2)), groups_of(model))
    with pytest.raises(LotteryError):
        unit_scores(model, [(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])), "not a batch"], groups_of(model))
    assert [module.training for module in model.modules()] == modes
    assert same_state(before, state(model))
    assert torch.equal(random, torch.get_rng_state())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["2.weight"]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("heads", "neurons"), [(0.5, 0.5), (0.25, 0.0), (0.0, 0.75)])
def test_fractions_remove_exactly_so_many_units_and_the_worst_of_them(heads, neurons):
    torch.manual_seed(0)
    model, data = randomised(timm_vit()), batches()
    groups = groups_of(model)
    masks = unit_masks(model, data, heads=heads, neurons=neurons)
    scores = unit_scores(model, data, groups)
    for kind, fraction, total in (("head", heads, 8), ("neuron", neurons, 48)):
        own = {name: mask for name, mask in masks.items() if groups[name].kind == kind}
        assert count(own) == ((round((1 - fraction) * total), total) if fraction else (0, 0))
        kept, removed = ([s for n, m in own.items() for s in scores[n][m == want].tolist()] for want in (True, False))
        assert not own or min(kept) >= max(removed)
    small = shrink(model, heads=heads, neurons=neurons, calibration=data)
    assert {name: group.size for name, group in groups_of(small).items()} == {
        name: int(masks[name].sum()) if name in masks else group.size for name, group in groups.items()
    }
    alike = unit_masks(model, data, heads=heads, neurons=neurons, per="tensor")
    assert {int(m.sum()) for n, m in alike.items() if groups[n].kind == "head"} == (
        {round(4 * (1 - heads))} if heads else set()
    )


def test_a_fraction_that_would_empty_a_layer_keeps_its_best_unit_and_says_so():
    torch.manual_seed(0)
    model = randomised(timm_vit())
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight.mul_(1e-9)
    data = batches()
    with pytest.warns(UserWarning, match="No neuron of 'blocks.0.mlp.fc1'.*one of its 24 stays"):
        masks = unit_masks(model, data, neurons=0.75)
    name = "blocks.0.mlp.fc1"
    assert masks[name].nonzero().flatten().tolist() == [
        unit_scores(model, data, groups_of(model))[name].argmax().item()
    ]


@pytest.mark.parametrize("flops", [0.2, 0.5, 0.8])
def test_a_budget_of_operations_is_met_and_used_but_for_the_last_units_of_layers(flops):
    torch.manual_seed(0)
    model = randomised(timm_vit())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        small = shrink(model, Ticket({}, units=unit_masks(model, batches(), flops=flops)))
    of_head, of_neuron = 4 * 4 * 16, 2 * 16  # entries in matrices
    floor = sum(of_head if "No head" in str(warning.message) else of_neuron for warning in said)
    budget = (1 - flops) * 2 * (4 * of_head + 24 * of_neuron)
    left = sum(p.numel() for n, p in small.named_parameters() if "blocks." in n and p.dim() == 2)
    assert budget - of_neuron < left - floor <= budget


@pytest.mark.parametrize(("worthless", "kept"), [("attn.proj", range(2, 4)), ("fc2", range(8, 9))])
def test_a_budget_is_split_so_that_what_is_worth_least_goes(worthless, kept):
    torch.manual_seed(0)
    model = randomised(timm_vit())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(f"{worthless}.weight"):
                parameter.mul_(1e-6)
    masks = unit_masks(model, batches(), flops=0.3)
    assert sum(int(mask.sum()) for mask in masks.values() if len(mask) == 4) in kept


def test_a_budget_and_fractions_together_are_refused():
    with pytest.raises(LotteryError, match="`flops`"):
        unit_masks(timm_vit(), batches(), flops=0.5, heads=0.5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_an_opened_attention_computes_what_the_closed_one_does(batch_first, need_weights):
    torch.manual_seed(0)
    closed = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    opened = copy.deepcopy(closed)
    open_attention_(opened)
    query, key = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    padding = torch.arange(4).expand(3, 4) >= torch.tensor([[4], [3], [1]])
    masks = [{}, {"key_padding_mask": padding}, {"attn_mask": torch.rand(5, 4)}]
    masks += [{"attn_mask": torch.arange(4).expand(5, 4) > torch.arange(5)[:, None]}]
    masks += [{"attn_mask": torch.rand(6, 5, 4), "key_padding_mask": padding.float() * -2.0}]
    for mask in masks:
        for average in (True, False):
            arguments = {"need_weights": need_weights, "average_attn_weights": average, **mask}
            expected, found = closed(query, key, key, **arguments), opened(query, key, key, **arguments)
            torch.testing.assert_close(found[0], expected[0])
            assert (found[1] is None) == (expected[1] is None)
            if need_weights:
                torch.testing.assert_close(found[1], expected[1])
    single = torch.randn(5, 8)
    torch.testing.assert_close(opened(single, single, single), closed(single, single, single))
    assert same_state(closed.state_dict(), opened.state_dict())
    seen = []
    opened.out_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    opened(query, key, key)
    assert seen == [(3, 5, 8)]


def test_padded_sequences_run_through_a_shrunk_encoder_without_gradients_as_with_them():
    torch.manual_seed(0)
    model = randomised(encoder())
    units, inputs = half(groups_of(model)), torch.randn(3, 5, 16)
    padding = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [2]])
    small, large = shrink(model, Ticket({}, units=units)), masked(model, units)
    large.use_nested_tensor = False
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            a, b = (network(inputs, src_key_padding_mask=padding) for network in (small, large))
        torch.testing.assert_close(a[~padding], b[~padding])
    assert isinstance(small.layers[0].self_attn, OpenAttention)


PRETRAINED = ["ViT", "DeiT", "BERT", "RoBERTa", "DistilBERT", "Llama"]


@pytest.mark.parametrize("ragged", [False, True], ids=["uniform", "ragged"])
@pytest.mark.parametrize("family", PRETRAINED)
def test_a_saved_pretrained_model_loads_again_with_its_shapes(family, ragged, tmp_path):
    torch.manual_seed(0)
    build, take, _ = FAMILIES[family]
    model, inputs = randomised(build()), take()
    small = shrink(model, Ticket({}, units=half(groups_of(model), ragged)))
    small.save_pretrained(tmp_path)
    again = load_shrunk(tmp_path)
    assert type(again) is type(model)
    assert same_state(state(again), state(small))
    assert torch.equal(output(again, inputs), output(small, inputs))
    plain = not hasattr(small.config, KEPT)
    assert plain <= (not ragged)
    if family == "Llama" or (family in ("ViT", "DeiT") and int(transformers.__version__[0]) >= 5):
        assert plain == (not ragged)
    if plain:
        assert torch.equal(output(type(model).from_pretrained(tmp_path), inputs), output(small, inputs))
    assert not hasattr(model.config, KEPT)


def test_fewer_neurons_alone_are_a_plain_configuration_of_bert_and_distilbert(tmp_path):
    for family, word in (("BERT", "intermediate_size"), ("DistilBERT", "hidden_dim")):
        model = FAMILIES[family][0]()
        units = {name: mask for name, mask in half(groups_of(model)).items() if len(mask) == 24}
        small = shrink(model, Ticket({}, units=units))
        assert (getattr(small.config, word), hasattr(small.config, KEPT)) == (12, False)
        assert getattr(model.config, word) == 24
        small.save_pretrained(tmp_path / family)
        assert same_state(state(type(model).from_pretrained(tmp_path / family)), state(small))


def test_a_model_shrunk_loaded_and_shrunk_again_loads_again(tmp_path):
    torch.manual_seed(0)
    model, inputs = randomised(FAMILIES["BERT"][0]()), FAMILIES["BERT"][1]()
    for _ in range(2):
        model = shrink(model, Ticket({}, units=half(groups_of(model))))
        model.save_pretrained(tmp_path)
        assert torch.equal(output(load_shrunk(tmp_path), inputs), output(model, inputs))
        model = load_shrunk(tmp_path)
    assert {group.size for group in groups_of(model).values()} == {1, 6}


@pytest.mark.parametrize("family", ["timm ViT", "torchvision ViT", "TransformerEncoder", "ResNet-20", "VGG-like"])
def test_any_other_model_loads_into_its_unshrunk_self(family, tmp_path):
    torch.manual_seed(0)
    build, take, _ = FAMILIES[family]
    model, fresh, inputs = randomised(build()), randomised(build()), take()
    small = shrink(model, Ticket({}, units=half(groups_of(model), ragged=True)))
    save_shrunk(small, tmp_path)
    before = state(fresh)
    again = load_shrunk(tmp_path, fresh)
    assert torch.equal(output(again, inputs), output(small, inputs))
    assert same_state(before, state(fresh))


def test_a_model_whose_layers_are_made_alike_again_has_a_plain_configuration():
    model = FAMILIES["Llama"][0]()
    ragged = shrink(model, Ticket({}, units={"model.layers.0.self_attn": torch.tensor([True, False])}))
    assert getattr(ragged.config, KEPT)["model.layers.0.self_attn"] == 1
    alike = shrink(ragged, Ticket({}, units={"model.layers.1.self_attn": torch.tensor([False, True])}))
    config = alike.config
    assert not hasattr(config, KEPT)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 4)


def test_folders_that_hold_no_shrunk_model_are_refused(tmp_path):
    with pytest.raises(LotteryError, match="no config.json"):
        load_shrunk(tmp_path)
    with pytest.raises(LotteryError, match="no model at"):
        load_shrunk(tmp_path, encoder())
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    with pytest.raises(LotteryError, match="class NoSuchModel"):
        load_shrunk(tmp_path)
    save_shrunk(encoder(), tmp_path)
    with pytest.raises(LotteryError, match="does not hold a shrunk Sequential"):
        load_shrunk(tmp_path, vgg_like())


@pytest.mark.parametrize("family", ["ViT"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnxruntime_computes_what_the_shrunk_model_does(family, tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    build, take, _ = FAMILIES[family]
    model, inputs = randomised(build()), take()
    small = shrink(model, Ticket({}, units=half(groups_of(model), ragged=True)))
    torch.onnx.export(small, (inputs,), tmp_path / "small.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    (found, *_) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    np.testing.assert_allclose(found, output(small, inputs).numpy(), rtol=1e-3, atol=1e-4)


def test_sizes_are_counted_and_the_mode_comes_back():
    layer = nn.Linear(4, 3).train()
    size = measure(layer, torch.ones(2, 4), repeats=2)
    assert (size.parameters, size.flops, layer.training) == (15, 2 * 2 * 4 * 3, True)
    assert size.seconds > 0
    model = encoder()
    groups = groups_of(model)
    small = shrink(model, Ticket({}, units=half(groups)))
    inputs = torch.randn(2, 5, 16)
    a, b = (measure(network, (inputs,), repeats=1) for network in (model, small))
    assert 2 * b.flops == a.flops  # every product in a block is by heads or neurons
    assert torch.backends.mha.get_fastpath_enabled()
    bert = FAMILIES["BERT"][0]()
    assert measure(bert, {"input_ids": FAMILIES["BERT"][1]()}, repeats=1).flops > 0
    assert comparison(Size(0, 0, 0.0), Size(0, 0, 0.0)).count("100.0%") == 3


def test_the_attribute_of_ones_own_table_follows_the_heads():
    model = Fused()
    groups = groups_of(model, {"head": [{"qkv": "to_three", "output": "back"}], "head_counts": ["h"]})
    (name,) = groups
    small = shrink(model, Ticket({}, units={name: torch.tensor([False, True])}), groups=groups)
    assert (small.h, small.to_three.out_features, small.back.in_features) == (1, 12, 4)
    assert torch.equal(small.to_three.weight, model.to_three.weight[[4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]])
