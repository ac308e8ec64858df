import pytest
import torch
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import lenet_300_100, pretrained_vit, resnet, torchvision_model, vit


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image_size": 8, "patch_size": 3}, "tile"),
        ({"hidden_size": 10, "heads": 4}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"layers": 0}, "layers"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_a_vit_that_cannot_be_is_refused(arguments, says):
    with pytest.raises(LotteryError, match=says):
        vit(**arguments)


def test_a_vit_has_the_layers_heads_and_classes_it_was_asked_for():
    network = vit(image_size=6, patch_size=3, channels=2, hidden_size=12, layers=2, heads=3, mlp_size=7, num_classes=5)
    config = network.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (2, 3, 7)
    assert network(torch.rand(4, 2, 6, 6)).logits.shape == (4, 5)
    assert network.training


@pytest.fixture(scope="module")
def saved_vit(tmp_path_factory):
    from transformers import ViTImageProcessor

    folder = tmp_path_factory.mktemp("pretrained")
    network = vit(image_size=8, patch_size=4, channels=3, hidden_size=8, layers=1, heads=2, mlp_size=8, num_classes=3)
    network.save_pretrained(folder)
    ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]
    ).save_pretrained(folder)
    return folder, network


def test_a_pretrained_vit_keeps_the_body_and_gets_a_head_for_the_new_classes(saved_vit):
    folder, saved = saved_vit
    network = pretrained_vit(str(folder), num_classes=5)
    body, saved_body = network.vit.state_dict(), saved.vit.state_dict()
    assert body.keys() == saved_body.keys()
    assert all(torch.equal(body[name], saved_body[name]) for name in body)
    assert network(torch.rand(1, 3, 8, 8)).logits.shape == (1, 5)


def test_a_pretrained_vit_of_as_many_classes_keeps_its_head(saved_vit):
    folder, saved = saved_vit
    assert torch.equal(pretrained_vit(str(folder), num_classes=3).classifier.weight, saved.classifier.weight)


def test_a_pretrained_vit_carries_what_its_image_processor_says(saved_vit):
    network = pretrained_vit(str(saved_vit[0]))
    assert (network.image_size, network.image_mean, network.image_std) == ((8, 8), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_a_pretrained_vit_is_in_training_mode_and_float32(saved_vit, tmp_path):
    folder, saved = saved_vit
    half = vit(image_size=8, patch_size=4, hidden_size=8, layers=1, heads=2, mlp_size=8).bfloat16()
    half.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="not normalised"):
        network = pretrained_vit(str(tmp_path))
    assert network.training
    assert all(module.training for module in network.modules())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_vit_saved_without_an_image_processor_is_not_normalised_and_says_so(tmp_path):
    vit(hidden_size=8, layers=1, mlp_size=8).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="preprocessor_config.json"):
        network = pretrained_vit(str(tmp_path))
    assert (network.image_size, network.image_mean, network.image_std) == ((8, 8), None, None)


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "no/such/folder", "nobody-has-this"])
def test_a_vit_that_is_not_here_and_cannot_be_fetched_is_refused_by_name(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LotteryError, match=name):
        pretrained_vit(name)


def test_an_unknown_torchvision_network_is_refused_with_names_that_are_close():
    with pytest.raises(LotteryError, match="resnet18"):
        torchvision_model("resnet_18", num_classes=10)
    with pytest.raises(LotteryError, match="alexnet"):
        torchvision_model("", num_classes=10)


def test_a_torchvision_network_of_another_task_is_refused():
    with pytest.raises(LotteryError, match="classification"):
        torchvision_model("fasterrcnn_resnet50_fpn", num_classes=10)


def test_unknown_torchvision_weights_are_refused_with_those_there_are():
    with pytest.raises(LotteryError, match="IMAGENET1K_V1"):
        torchvision_model("squeezenet1_1", num_classes=10, weights="IMAGENET")


def test_torchvision_weights_fill_everything_but_the_head_of_other_classes(monkeypatch):
    from torchvision import models

    stored = torchvision_model("squeezenet1_1", num_classes=1000).state_dict()
    monkeypatch.setattr(models.SqueezeNet1_1_Weights, "get_state_dict", lambda self, **_: stored)
    network = torchvision_model("squeezenet1_1", num_classes=4, weights="DEFAULT")
    loaded = network.state_dict()
    assert [name for name in loaded if not torch.equal(loaded[name], stored[name])] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    assert network.image_size == (224, 224)
    assert len(network.image_mean) == len(network.image_std) == 3


def test_torchvision_weights_that_cannot_be_downloaded_are_refused_in_a_sentence(monkeypatch):
    from torchvision import models

    def no_network(self, **_):
        raise OSError("unreachable")

    monkeypatch.setattr(models.SqueezeNet1_1_Weights, "get_state_dict", no_network)
    with pytest.raises(LotteryError, match="could not be downloaded"):
        torchvision_model("squeezenet1_1", num_classes=4, weights="DEFAULT")
