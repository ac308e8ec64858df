import shutil

import pytest
import torch
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import (
    bert,
    lenet_300_100,
    pretrained_text,
    pretrained_vit,
    random_text,
    random_vit,
    torchvision_model,
    vit,
    with_weights,
)


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


def test_a_random_vit_is_the_pretrained_one_with_other_weights(saved_vit):
    folder = str(saved_vit[0])
    torch.manual_seed(0)
    network, pretrained = random_vit(folder, num_classes=5), pretrained_vit(folder, num_classes=5)
    ours, theirs = network.state_dict(), pretrained.state_dict()
    assert {name: p.shape for name, p in ours.items()} == {name: p.shape for name, p in theirs.items()}
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours if name.endswith("dense.weight"))
    for name in ("image_size", "image_mean", "image_std", "training"):
        assert getattr(network, name) == getattr(pretrained, name)
    assert network(torch.rand(1, 3, 8, 8)).logits.shape == (1, 5)


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    network = bert(vocab_size=12, hidden_size=8, layers=1, heads=2, mlp_size=8, num_classes=3)
    network.save_pretrained(folder)
    return str(folder), network


def test_a_pretrained_text_network_keeps_the_body_and_gets_a_head_for_the_new_classes(saved_bert):
    folder, saved = saved_bert
    network = pretrained_text(folder, num_classes=5)
    body, saved_body = network.bert.state_dict(), saved.bert.state_dict()
    assert body.keys() == saved_body.keys()
    assert all(torch.equal(body[name], saved_body[name]) for name in body)
    assert network(torch.arange(4)[None]).logits.shape == (1, 5)
    assert torch.equal(pretrained_text(folder, num_classes=3).classifier.weight, saved.classifier.weight)


def test_a_random_text_network_is_the_pretrained_one_with_other_weights(saved_bert):
    folder, _ = saved_bert
    network, pretrained = random_text(folder, num_classes=5), pretrained_text(folder, num_classes=5)
    ours, theirs = network.state_dict(), pretrained.state_dict()
    assert {name: p.shape for name, p in ours.items()} == {name: p.shape for name, p in theirs.items()}
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours if name.endswith("dense.weight"))


def test_a_random_text_network_of_other_sizes_keeps_the_rest_of_the_configuration(saved_bert):
    folder, saved = saved_bert
    sizes = {"hidden_size": 6, "num_attention_heads": 3, "intermediate_size": 5, "num_hidden_layers": 1}
    config = random_text(folder, sizes=sizes).config.to_dict()
    assert {name: config[name] for name in sizes} == sizes
    assert config["vocab_size"] == saved.config.vocab_size


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 2}, "'heads', which .* does not have"),
        ({"hidden_size": 0}, "`hidden_size` is a number >= 1"),
        ({"hidden_size": 7, "num_attention_heads": 2}, "No text network can be built from .*'hidden_size': 7"),
    ],
)
def test_sizes_that_make_no_text_network_are_refused(sizes, message, saved_bert):
    with pytest.raises(LotteryError, match=message):
        random_text(saved_bert[0], sizes=sizes)


@pytest.mark.parametrize("network", [pretrained_text, random_text])
def test_a_text_network_is_in_training_mode_and_float32(network, saved_bert, tmp_path):
    pretrained_text(saved_bert[0]).bfloat16().save_pretrained(tmp_path)
    loaded = network(str(tmp_path))
    assert all(module.training for module in loaded.modules())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_what_is_random_follows_the_seed_of_the_run(saved_bert, saved_vit):
    for network, folder in ((random_text, saved_bert[0]), (random_vit, str(saved_vit[0]))):
        weights = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            weights.append(torch.cat([p.flatten() for p in network(folder).parameters()]))
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


def test_random_networks_need_no_weights(saved_bert, saved_vit, tmp_path):
    for network, folder in ((random_text, saved_bert[0]), (random_vit, str(saved_vit[0]))):
        target = shutil.copytree(folder, tmp_path / network.__name__)
        (target / "model.safetensors").unlink()
        network(str(target))


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "no/such/folder", "nobody-has-this"])
@pytest.mark.parametrize("network", [pretrained_vit, random_vit, pretrained_text, random_text])
def test_a_network_that_is_not_here_and_cannot_be_fetched_is_refused_by_name(network, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LotteryError, match=name):
        network(name)


@pytest.mark.parametrize("network", [pretrained_text, random_text])
def test_a_network_for_images_is_refused_where_text_is_wanted(network, saved_vit):
    with pytest.raises(LotteryError, match="text network"):
        network(str(saved_vit[0]))


@pytest.mark.parametrize("network", [pretrained_vit, random_vit, pretrained_text, random_text])
def test_fewer_classes_than_one_are_refused(network):
    with pytest.raises(LotteryError, match="num_classes"):
        network(num_classes=0)


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


def test_a_checkpoint_s_weights_go_into_a_network(tmp_path):
    saved, network = lenet_300_100(inputs=4), lenet_300_100(inputs=4)
    state = {f"network.{name}": each for name, each in saved.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "a.ckpt")
    assert with_weights(network, str(tmp_path / "a.ckpt")) is network
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), network.parameters(), strict=True))


def test_weights_of_another_network_or_of_no_checkpoint_are_refused(tmp_path):
    torch.save({"state_dict": {"network.weight": torch.ones(2, 2)}}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_text("b")
    for name in ("a.ckpt", "b.ckpt", "c.ckpt"):
        with pytest.raises(LotteryError, match=name):
            with_weights(nn.Linear(2, 2), str(tmp_path / name))
