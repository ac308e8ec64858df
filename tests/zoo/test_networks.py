import pytest
import torch
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import ImageClassifier, bert, gpt2, lenet_5, lenet_300_100, resnet, vit


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 18, 21, 51])
def test_a_depth_that_is_not_6n_plus_2_is_refused_with_one_that_is(depth):
    with pytest.raises(LotteryError, match="6n") as refusal:
        resnet(depth=depth)
    suggestion = int(str(refusal.value).split("try ")[1].rstrip("."))
    assert parameters(resnet(depth=suggestion)) > 0


def test_a_resnet_of_depth_d_has_d_weighted_layers_none_of_them_in_a_shortcut():
    for depth in (8, 20, 32):
        layers = [m for m in resnet(depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth
        assert all(m.kernel_size == (3, 3) for m in layers if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_resnets_have_the_paper_s_number_of_parameters(depth, millions):
    assert parameters(resnet(depth)) / 1e6 == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize(("channels", "side", "classes"), [(3, 32, 10), (1, 28, 3), (1, 8, 10), (3, 5, 2)])
def test_a_resnet_takes_images_of_any_side(channels, side, classes):
    logits = resnet(8, num_classes=classes, channels=channels)(torch.rand(2, channels, side, side))
    assert logits.shape == (2, classes)


def test_a_resnet_whose_convolutions_are_zero_passes_the_stem_on_subsampled_and_padded_with_zeros():
    network = resnet(8).eval()
    for block in network.blocks:
        nn.init.zeros_(block.conv2.weight)
    images = torch.rand(1, 3, 8, 8)
    features, stem = network.blocks(network.stem(images)), network.stem(images)
    assert torch.equal(features[:, :16], stem[:, :, ::4, ::4])
    assert not features[:, 16:].any()


def test_lenet_flattens_what_it_gets():
    assert lenet_300_100(inputs=12, num_classes=3)(torch.rand(2, 3, 2, 2)).shape == (2, 3)


def test_lenet_5_has_the_paper_s_layers_and_says_what_images_it_takes():
    network = lenet_5()
    sizes = [parameters(m) for m in network if isinstance(m, nn.Conv2d | nn.Linear)]
    # The paper's C3 leaves out connections, of 2,416; C5 and F6 are its own.
    assert sizes == [156, 2_416, 48_120, 10_164, 850]
    assert lenet_5(channels=3, num_classes=4)(torch.rand(2, 3, *network.image_size)).shape == (2, 4)
    with pytest.raises(LotteryError, match="channels"):
        lenet_5(channels=0)


@pytest.mark.parametrize(
    ("arguments", "reason"), [({"hidden_size": 10, "heads": 4}, "heads"), ({"max_length": 0}, "max_length")]
)
def test_a_gpt2_that_cannot_be_is_refused(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        gpt2(**arguments)


def test_a_gpt2_has_its_head_tied_to_its_embedding_and_looks_at_no_later_token():
    network = gpt2(vocab_size=20, hidden_size=8, layers=2, heads=2, dropout=0.0).eval()
    assert network.lm_head.weight is network.transformer.wte.weight
    assert len(network.transformer.h) == 2
    tokens = torch.arange(6)[None]
    changed = tokens.clone()
    changed[0, 4] = 9
    logits, others = network(tokens).logits, network(changed).logits
    torch.testing.assert_close(logits[:, :4], others[:, :4])
    assert not torch.allclose(logits[:, 4:], others[:, 4:])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image_size": 8, "patch_size": 3}, "tile"),
        ({"hidden_size": 10, "heads": 4}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"layers": 0}, "layers"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_a_vit_that_cannot_be_is_refused(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        vit(**arguments)


def test_a_vit_has_the_layers_heads_and_classes_it_was_asked_for():
    network = vit(image_size=6, patch_size=3, channels=2, hidden_size=12, layers=2, heads=3, mlp_size=7, num_classes=5)
    config = network.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (2, 3, 7)
    assert network(torch.rand(4, 2, 6, 6)).logits.shape == (4, 5)
    assert network.training


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"hidden_size": 10, "heads": 4}, "heads"),
        ({"dropout": -0.1}, "dropout"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"max_length": 0}, "max_length"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_a_bert_that_cannot_be_is_refused(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        bert(**arguments)


def test_a_bert_has_the_layers_heads_words_and_classes_it_was_asked_for():
    network = bert(vocab_size=11, hidden_size=12, layers=3, heads=3, mlp_size=7, max_length=5, num_classes=4)
    config = network.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (3, 3, 7)
    assert network(torch.full((2, 5), 10)).logits.shape == (2, 4)
    for misfit in (torch.full((2, 5), 11), torch.zeros(2, 6, dtype=torch.int64)):
        with pytest.raises((IndexError, RuntimeError)):
            network(misfit)
    assert network.training


def test_what_stands_under_a_mask_of_zero_changes_no_logit():
    network = bert(vocab_size=11, layers=1).eval()
    tokens, mask = torch.tensor([[2, 5, 0, 0], [2, 5, 7, 9]]), torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]])
    short = network(tokens[:1, :2], attention_mask=mask[:1, :2]).logits
    torch.testing.assert_close(network(tokens, attention_mask=mask).logits, short.expand(2, 2))


def test_a_resnet_of_a_smaller_image_size_is_shown_smaller_images():
    network = resnet(8, image_size=16).eval()
    seen = []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    assert ImageClassifier(network)(torch.rand(2, 3, 32, 32)).shape == (2, 10) and seen == [(16, 16)]
    with pytest.raises(LotteryError, match="`image_size` is pixels along a side >= 4, got 2"):
        resnet(8, image_size=2)


def test_a_vit_takes_images_of_any_size_from_the_classifier_and_computes_alike_by_either_attention():
    network = {}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        network[attention] = vit(hidden_size=8, layers=1, heads=2, mlp_size=8, attention=attention).eval()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = {attention: ImageClassifier(each)(images) for attention, each in network.items()}
    assert network["eager"].config._attn_implementation == "eager"
    assert torch.allclose(logits["sdpa"], logits["eager"], atol=1e-6)
    with pytest.raises(LotteryError, match="attention"):
        vit(attention="flash")
