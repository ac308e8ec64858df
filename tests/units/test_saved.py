import numpy as np
import pytest
import torch
import transformers
from torch import nn

from helpers.models import FAMILIES, encoder, half, output, randomised, state, vgg_like
from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import KEPT, shrink
from lightning_lottery.units.saved import Size, comparison, load_shrunk, measure, save_shrunk

PRETRAINED = ["ViT", "DeiT", "BERT", "RoBERTa", "DistilBERT", "Llama", "BART", "DINOv2", "GPT-2", "ConvNeXt"]


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
    assert same(state(again), state(small))
    assert torch.equal(output(again, inputs), output(small, inputs))
    plain = not hasattr(small.config, KEPT)
    assert plain <= (not ragged)
    if family == "Llama" or (family in ("ViT", "DeiT") and int(transformers.__version__[0]) >= 5):
        assert plain == (not ragged)
    if plain:
        assert torch.equal(output(type(model).from_pretrained(tmp_path), inputs), output(small, inputs))
    assert not hasattr(model.config, KEPT)


def test_fewer_neurons_alone_are_a_plain_configuration_where_it_has_a_word_for_them(tmp_path):
    for family, word in (("BERT", "intermediate_size"), ("DistilBERT", "hidden_dim"), ("GPT-2", "n_inner")):
        model = FAMILIES[family][0]()
        units = {name: mask for name, mask in half(groups_of(model)).items() if len(mask) == 24}
        small = shrink(model, Ticket({}, units=units))
        assert (getattr(small.config, word), hasattr(small.config, KEPT)) == (12, False)
        assert getattr(model.config, word) == 24
        small.save_pretrained(tmp_path / family)
        assert same(state(type(model).from_pretrained(tmp_path / family)), state(small))


def test_a_model_shrunk_loaded_and_shrunk_again_loads_again(tmp_path):
    torch.manual_seed(0)
    model, inputs = randomised(FAMILIES["BERT"][0]()), FAMILIES["BERT"][1]()
    for _ in range(2):
        model = shrink(model, Ticket({}, units=half(groups_of(model))))
        model.save_pretrained(tmp_path)
        assert torch.equal(output(load_shrunk(tmp_path), inputs), output(model, inputs))
        model = load_shrunk(tmp_path)
    assert {group.size for group in groups_of(model).values()} == {1, 6}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {*PRETRAINED}))
def test_any_other_model_loads_into_its_unshrunk_self(family, tmp_path):
    torch.manual_seed(0)
    build, take, _ = FAMILIES[family]
    model, fresh, inputs = randomised(build()), randomised(build()), take()
    small = shrink(model, Ticket({}, units=half(groups_of(model), ragged=True)))
    save_shrunk(small, tmp_path)
    before = state(fresh)
    again = load_shrunk(tmp_path, fresh)
    assert torch.equal(output(again, inputs), output(small, inputs))
    assert same(before, state(fresh))


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
    (logits, *_) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    np.testing.assert_allclose(logits, output(small, inputs).numpy(), rtol=1e-3, atol=1e-4)


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
