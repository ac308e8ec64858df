import jsonargparse
import pytest
import torch
from torch import nn

from lightning_lottery.callbacks.platon import BODY
from lightning_lottery.errors import LotteryError
from lightning_lottery.scope import DENSE_TYPES, Scope, named_parameters, plain_name, ties


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


class TiedDecoder(nn.Module):
    """A language model in little: `decoder` shares its weight with `embedding`, `second` with `first`."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.decoder = nn.Linear(4, 5)
        self.decoder.weight = self.embedding.weight


def selected(module, **scope):
    return list(Scope(**scope).select(module))


def reasons(module, **scope):
    return {entry.name: entry.reason for entry in Scope(**scope).explain(module)}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(2, 2),
        nn.Conv1d(2, 2, 1),
        nn.Conv2d(2, 2, 1),
        nn.Conv3d(2, 2, 1),
        nn.ConvTranspose1d(2, 2, 1),
        nn.ConvTranspose2d(2, 2, 1),
        nn.ConvTranspose3d(2, 2, 1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_by_default_the_weight_of_a_dense_layer_is_in_and_its_bias_is_not(layer):
    assert selected(nn.Sequential(layer)) == ["0.weight"]
    assert selected(nn.Sequential(layer), biases=True) == ["0.weight", "0.bias"]
    assert reasons(layer) == {"weight": "", "bias": "bias"}


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(2),
        nn.BatchNorm1d(2),
        nn.GroupNorm(1, 2),
        nn.RMSNorm(2),
        nn.Embedding(2, 2),
        nn.EmbeddingBag(2, 2),
        nn.PReLU(),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("biases", [False, True])
def test_norms_embeddings_and_activations_are_out_whether_biases_are_in_or_not(layer, biases):
    name = type(layer).__name__
    assert set(reasons(layer, biases=biases).values()) == {f"owned by {name}"}
    assert selected(nn.Sequential(layer, nn.Linear(2, 2)), biases=biases)[0] == "1.weight"
    assert selected(layer, types=(name,), biases=True) == [n for n, _ in layer.named_parameters()]


def test_a_parameter_that_hangs_on_a_module_of_no_dense_type_is_out():
    module = nn.Sequential(nn.Linear(2, 2))
    module.cls_token = nn.Parameter(torch.zeros(2))
    assert reasons(module) == {"cls_token": "owned by Sequential", "0.weight": "", "0.bias": "bias"}


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, ["in_proj_weight", "out_proj.weight"]),
        ({"add_bias_kv": True}, ["in_proj_weight", "out_proj.weight"]),
        ({"kdim": 3, "vdim": 2}, ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]),
    ],
    ids=["packed", "bias_kv", "unpacked"],
)
def test_every_projection_of_multihead_attention_is_in_and_none_of_its_biases(options, weights):
    assert selected(nn.MultiheadAttention(4, 2, **options)) == weights


def test_a_transformer_layer_has_its_attention_and_its_feed_forward_in_scope():
    weights = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    assert selected(layer) == weights
    assert selected(layer, types=("Linear",)) == weights[1:]  # out_proj is a subclass of Linear
    assert selected(layer, types=("MultiheadAttention",)) == weights[:1]


def test_gpt2_has_its_conv1d_weights_in_scope_and_neither_its_embeddings_nor_the_head_tied_to_them():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=4, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    block = "transformer.h.0"
    dense = [f"{block}.{layer}.weight" for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert selected(model) == dense
    assert reasons(model)["transformer.wte.weight"] == "owned by Embedding and Linear"
    assert selected(model, types=(*DENSE_TYPES, "Embedding")) == [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        *dense,
    ]


def test_hugging_face_s_conv1d_is_known_by_its_module_and_another_class_of_that_name_is_not():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    assert reasons(Conv1D()) == {"weight": "owned by Conv1D"}
    assert selected(Conv1D(), types=("Conv1D",)) == ["weight"]


def test_a_torchvision_resnet_has_all_its_convolutions_and_its_classifier_in_scope_and_no_norm():
    from torchvision.models import resnet18

    with torch.device("meta"):
        model = resnet18()
    dense = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert selected(model) == dense
    assert len(dense) == 21
    assert selected(model, exclude=("fc.*", "*.downsample.*", "conv1.*")) == [
        f"layer{layer}.{block}.conv{conv}.weight" for layer in (1, 2, 3, 4) for block in (0, 1) for conv in (1, 2)
    ]


def test_types_are_class_names_bare_or_dotted_with_globs_and_subclasses_count():
    class MyLinear(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(2, 2), MyLinear(2, 2), nn.Conv2d(2, 2, 1), nn.LayerNorm(2))
    assert selected(module, types=("Linear",)) == ["0.weight", "1.weight"]
    assert selected(module, types=("MyLinear",)) == ["1.weight"]
    assert selected(module, types=("torch.nn.modules.conv.*",)) == ["2.weight"]
    assert selected(module, types=("*Norm", "Conv?d")) == ["2.weight", "3.weight"]
    with pytest.raises(LotteryError, match="matches none"):
        selected(module, types=("linear",))


def test_a_weight_tied_to_an_embedding_is_out_unless_embeddings_are_asked_for():
    module = TiedDecoder()
    assert selected(module) == ["first.weight"]
    assert selected(module, types=("Embedding", "Linear")) == ["embedding.weight", "first.weight"]
    assert reasons(module, types=("Embedding",))["embedding.weight"] == "owned by Embedding and Linear"


def test_tied_weights_count_once_under_their_first_name():
    module = TiedDecoder()
    assert Scope(types=("Linear", "Embedding")).select(module)["first.weight"] is module.second.weight
    assert ties(module) == {"second.weight": "first.weight", "decoder.weight": "embedding.weight"}
    assert list(reasons(module)) == [name for name, _ in module.named_parameters()]


def test_a_module_used_twice_counts_once():
    shared = nn.Linear(2, 2)
    module = nn.ModuleDict({"a": shared, "b": shared})
    assert selected(module) == ["a.weight"]
    assert ties(module) == {"b.weight": "a.weight", "b.bias": "a.bias"}
    assert selected(module, include=("b.*",)) == ["a.weight"]


def test_tied_weights_are_included_and_excluded_by_any_of_their_names():
    module = TiedDecoder()
    for name in ("first", "second"):
        assert selected(module, include=(f"{name}.*",)) == ["first.weight"]
        assert reasons(module, exclude=(f"{name}.*",))["first.weight"] == f"excluded by '{name}.*'"


def test_a_weight_that_its_module_also_holds_as_a_bias_is_a_bias():
    layer = nn.Linear(2, 2, bias=False)
    layer.bias_too = layer.weight
    assert reasons(layer) == {"weight": "bias"}
    assert selected(layer, biases=True) == ["weight"]


def test_frozen_parameters_are_out_and_come_in_again_when_they_train_again():
    module = Tiny()
    module.net[0].weight.requires_grad_(False)
    assert selected(module) == ["net.2.weight"]
    assert reasons(module)["net.0.weight"] == "frozen (requires_grad=False)"
    module.requires_grad_(True)
    assert selected(module) == ["net.0.weight", "net.2.weight"]


def test_complex_weights_are_out():
    assert reasons(nn.Linear(2, 2, dtype=torch.complex64), biases=True)["weight"].startswith("torch.complex64")
    assert selected(nn.Linear(2, 2, dtype=torch.bfloat16)) == ["weight"]


def test_compiled_modules_have_the_names_that_they_have_uncompiled():
    module = Tiny()
    plain = named_parameters(module)
    module.net[2] = torch.compile(module.net[2])
    for compiled in (module, torch.compile(module)):
        assert any("_orig_mod" in name for name, _ in compiled.named_parameters())
        parameters = named_parameters(compiled)
        assert list(parameters) == list(plain)
        assert all(parameters[name] is plain[name] for name in plain)
        assert ties(compiled) == {}
        assert selected(compiled, include=("net.2.*", "re:^net")) == ["net.0.weight", "net.2.weight"]
        assert [entry.module_type for entry in Scope().explain(compiled)] == ["Linear"] * 4


def test_a_module_beside_its_compiled_self_is_tied_to_it():
    module = nn.Module()
    module.net = nn.Linear(2, 2)
    module.fast = torch.compile(module.net)
    assert ties(module) == {"fast.weight": "net.weight", "fast.bias": "net.bias"}
    assert selected(module) == ["net.weight"]


@pytest.mark.parametrize("name", ["my_orig_mod.weight", "net.weight", "_orig_modular.weight"])
def test_only_whole_parts_of_a_name_are_marks_of_compile(name):
    assert plain_name(name) == name
    assert plain_name(f"_orig_mod.{name}") == plain_name(name.replace(".", "._orig_mod.")) == name


@pytest.mark.parametrize(
    ("include", "names"),
    [
        (("*",), ["net.0.weight", "net.2.weight"]),
        (("net.2*",), ["net.2.weight"]),
        (("*.weight",), ["net.0.weight", "net.2.weight"]),  # a star also matches dots
        (("net.[1-9].*",), ["net.2.weight"]),
        (("net.?.weight",), ["net.0.weight", "net.2.weight"]),
        (("re:2",), ["net.2.weight"]),  # searched for, not matched from the beginning
        (("re:^net\\.(0|1)\\.",), ["net.0.weight"]),
        (("net.2.weight", "net.0.weight"), ["net.0.weight", "net.2.weight"]),  # in the module's order
    ],
)
def test_patterns_are_globs_of_whole_names_or_regular_expressions(include, names):
    assert selected(Tiny(), include=include) == names
    assert selected(Tiny(), include=list(include)) == names


@pytest.mark.parametrize("include", [("net",), ("weight",), ("NET.*",), ("re:^weight",), ("0.weight",), ()])
def test_a_glob_is_no_substring_and_case_counts(include):
    with pytest.raises(LotteryError, match="matches none"):
        selected(Tiny(), include=include)


def test_exclude_is_stronger_than_include():
    assert selected(Tiny(), include=("net.0.weight", "net.2.*"), exclude=("re:0",)) == ["net.2.weight"]
    assert reasons(Tiny(), include=("net.2.*",), exclude=("*.bias", "net.2.*"), biases=True) == {
        "net.0.weight": "not included",
        "net.0.bias": "not included",
        "net.2.weight": "excluded by 'net.2.*'",
        "net.2.bias": "excluded by '*.bias'",
    }


@pytest.mark.parametrize("field", ["include", "exclude", "types"])
@pytest.mark.parametrize("patterns", ["*", "", (1,), (None,), ["*", b"*"]])
def test_anything_but_a_list_of_strings_is_refused_by_its_field(field, patterns):
    with pytest.raises(LotteryError, match=f"`{field}` of a Scope is a list of patterns"):
        Scope(**{field: patterns})


@pytest.mark.parametrize("field", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["re:(", "re:*", "re:[a"])
def test_a_regular_expression_that_does_not_compile_is_refused_when_written(field, pattern):
    with pytest.raises(LotteryError, match="is not a regular expression") as refusal:
        Scope(**{field: ("*", pattern)})
    assert f"'{pattern}'" in str(refusal.value)


def test_matching_nothing_says_the_scope_the_count_the_names_there_are_and_what_left_them_out():
    with pytest.raises(LotteryError) as refusal:
        Scope(include=("*.weights",)).select(Tiny())
    assert str(refusal.value) == (
        "Scope(include=('*.weights',)) matches none of the 4 parameters of Tiny. "
        "Names look like 'net.0.weight', 'net.2.weight'. Left out: 2 not included; 2 bias."
    )
    with pytest.raises(
        LotteryError, match=r"Scope\(\) matches none of the 2 parameters of LayerNorm.*2 owned by LayerN"
    ):
        Scope().select(nn.LayerNorm(2))


def test_a_module_without_parameters_matches_nothing():
    with pytest.raises(LotteryError, match="matches none of the 0 parameters of ReLU"):
        Scope().select(nn.ReLU())


def test_a_lazy_weight_is_refused_by_name_until_a_batch_has_shaped_it():
    module = nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(2))
    with pytest.raises(LotteryError, match="'1.weight' has no shape yet"):
        Scope().select(module)
    assert selected(module, exclude=("1.*",)) == ["0.weight"]
    module(torch.ones(1, 3))
    assert selected(module) == ["0.weight", "1.weight"]


SCOPES = [
    (Scope(), "Scope()"),
    (Scope(include=["a.*"]), "Scope(include=('a.*',))"),
    (Scope(include=()), "Scope(include=())"),
    (Scope(exclude=("re:\\.0",), biases=True), "Scope(exclude=('re:\\\\.0',), biases=True)"),
    (Scope(types=("Linear",)), "Scope(types=('Linear',))"),
]


@pytest.mark.parametrize(("scope", "text"), SCOPES)
def test_a_scope_prints_as_the_call_that_makes_it_and_compares_by_value(scope, text):
    assert repr(scope) == text
    assert eval(text) == scope
    assert hash(eval(text)) == hash(scope)


@pytest.mark.parametrize("scope", [scope for scope, _ in SCOPES] + [BODY])
def test_a_scope_is_a_mapping_in_a_configuration_there_and_back(scope):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--scope", type=Scope | None)
    mapping = {name: getattr(scope, name) for name in ("include", "exclude", "types", "biases")}
    mapping = {name: list(value) if isinstance(value, tuple) else value for name, value in mapping.items()}
    config = parser.parse_object({"scope": mapping})
    assert parser.instantiate(config).scope == scope
    assert parser.instantiate(parser.parse_string(parser.dump(config))).scope == scope


def left_out(module):
    """The dense weights that are in scope by default, but not for PLATON."""
    body = BODY.select(module)
    return [name for name in selected(module) if name not in body]


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(vocab_size=8, max_position_embeddings=4, **SMALL))


def distilbert():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=8, max_position_embeddings=4, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
    return DistilBertForSequenceClassification(config)


def hugging_face_vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(image_size=4, patch_size=2, **SMALL))


def roberta():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(RobertaConfig(vocab_size=8, max_position_embeddings=4, **SMALL))


def torchvision_vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(image_size=4, patch_size=2, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)


@pytest.mark.parametrize(
    ("model", "dense", "names"),
    [
        (bert, 8, ["bert.pooler.dense.weight", "classifier.weight"]),
        (distilbert, 8, ["pre_classifier.weight", "classifier.weight"]),
        (hugging_face_vit, 8, ["classifier.weight"]),
        (roberta, 8, ["classifier.dense.weight", "classifier.out_proj.weight"]),
        (torchvision_vit, 6, ["heads.head.weight"]),
        (Tiny, 2, []),
    ],
)
def test_platon_s_default_scope_leaves_out_classifier_head_and_pooler_and_nothing_else(model, dense, names):
    model = model()
    assert left_out(model) == names
    assert len(selected(model)) == dense


@pytest.mark.parametrize("part", ["header", "multihead_attn", "classifiers", "headed", "subhead", "poolers"])
def test_platon_s_default_scope_keeps_what_only_sounds_like_a_head(part):
    assert left_out(nn.ModuleDict({part: nn.ModuleDict({"inner": nn.Linear(2, 2)})})) == []


@pytest.mark.parametrize("part", ["head", "lm_head", "classifier", "pre_classifier", "pooler", "text_pooler"])
def test_platon_s_default_scope_leaves_a_head_out_wherever_it_stands(part):
    head = nn.ModuleDict({part: nn.Linear(2, 2), "body": nn.Linear(2, 2)})
    assert left_out(head) == [f"{part}.weight"]
    assert left_out(nn.ModuleDict({"model": head})) == [f"model.{part}.weight"]
    inner = nn.ModuleDict({part: nn.ModuleDict({"dense": nn.Linear(2, 2)}), "body": nn.Linear(2, 2)})
    assert left_out(inner) == [f"{part}.dense.weight"]
