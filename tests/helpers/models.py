"""Small models of every known family, with weights that matter, and what tests of units do with them."""

import copy
import warnings
from functools import partial

import torch
import torch.nn.utils.prune
import torchvision
from torch import nn

from lightning_lottery.ticket import Ticket
from lightning_lottery.units.removal import parameter_masks
from lightning_lottery.zoo.networks import resnet

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def text(name, **settings):
    import transformers

    config = {"vocab_size": 30, "max_position_embeddings": 16, **settings}
    return getattr(transformers, name)(
        getattr(transformers, f"{name.split('For')[0].removesuffix('Model').removesuffix('LMHead')}Config")(**config)
    )


def image(name, **settings):
    return text(name, vocab_size=1, max_position_embeddings=1, image_size=8, patch_size=4, **SIZES, **settings)


def timm_vit():
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=4, mlp_ratio=1.5
    )


def encoder(batch_first=True, norm_first=False):
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first and not norm_first)


def vgg_like():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8 * 16, 5),
    )


def convnext(name):
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "patch_size": 2}
    return text(name, vocab_size=1, max_position_embeddings=1, **sizes)


def torchvision_convnext():
    settings = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([settings(8, 16, 1), settings(16, None, 2)], num_classes=5)


def timm_convnext(name="convnext_tiny"):
    import timm

    return timm.create_model(name, depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), patch_size=1)


class Mlp(nn.Module):
    """Hidden layers as most people write them: in a row, in a list, one by one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 6))
        self.more = nn.ModuleList([nn.Linear(6, 8, bias=False), nn.Linear(8, 4)])

    def forward(self, x):
        x = self.body(x).tanh()
        for layer in self.more:
            x = nn.functional.gelu(layer(x))
        return x


def ids():
    return torch.randint(2, 30, (3, 6))


def images(side=8):
    return torch.randn(3, 3, side, side)


LLAMA = {"bos_token_id": 1, "eos_token_id": 2}


# Each: how to build it, what it takes, and the number of its groups of each kind and size.
FAMILIES = {
    "ViT": (partial(image, "ViTForImageClassification"), images, {("head", 4): 2, ("neuron", 24): 2}),
    "DeiT": (partial(image, "DeiTForImageClassification"), images, {("head", 4): 2, ("neuron", 24): 2}),
    "BERT": (partial(text, "BertForSequenceClassification", **SIZES), ids, {("head", 4): 2, ("neuron", 24): 2}),
    "RoBERTa": (partial(text, "RobertaForSequenceClassification", **SIZES), ids, {("head", 4): 2, ("neuron", 24): 2}),
    "DistilBERT": (
        partial(text, "DistilBertForSequenceClassification", dim=16, n_layers=2, n_heads=4, hidden_dim=24),
        ids,
        {("head", 4): 2, ("neuron", 24): 2},
    ),
    "Llama": (
        partial(text, "LlamaForCausalLM", num_key_value_heads=2, **LLAMA, **SIZES),
        ids,
        {("head", 2): 2, ("neuron", 24): 2},  # two query heads share a key and a value: one unit
    ),
    "timm ViT": (timm_vit, images, {("head", 4): 2, ("neuron", 24): 2}),
    "torchvision ViT": (
        lambda: torchvision.models.VisionTransformer(8, 4, 2, 4, 16, 24),
        images,
        {("head", 4): 2, ("neuron", 24): 2},
    ),
    "TransformerEncoder": (encoder, lambda: torch.randn(3, 5, 16), {("head", 4): 2, ("neuron", 24): 2}),
    "BART": (
        partial(
            text,
            "BartForConditionalGeneration",
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            **LLAMA,
        ),
        ids,
        {("head", 4): 3, ("neuron", 24): 2},
    ),
    "DINOv2": (partial(image, "Dinov2ForImageClassification"), images, {("head", 4): 2, ("neuron", 64): 2}),
    "GPT-2": (
        partial(text, "GPT2LMHeadModel", n_embd=16, n_layer=2, n_head=4, n_inner=24, **LLAMA),
        ids,
        {("head", 4): 2, ("neuron", 24): 2},
    ),
    "ConvNeXt": (partial(convnext, "ConvNextForImageClassification"), images, {("neuron", 32): 1, ("neuron", 64): 2}),
    "torchvision ConvNeXt": (torchvision_convnext, images, {("neuron", 32): 1, ("neuron", 64): 2}),
    "timm ConvNeXt": (timm_convnext, images, {("neuron", 32): 1, ("neuron", 64): 3}),
    "plain MLP": (Mlp, lambda: torch.randn(3, 5), {("neuron", 7): 1, ("neuron", 6): 1, ("neuron", 8): 1}),
    "torchvision ResNet": (
        partial(torchvision.models.ResNet, torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 4, width_per_group=4),
        partial(images, 32),
        {("channel", 4): 2, ("channel", 8): 2, ("channel", 16): 2, ("channel", 32): 2},
    ),
    "ResNet-20": (partial(resnet, 20), images, {("channel", 16): 3, ("channel", 32): 3, ("channel", 64): 3}),
    "VGG-like": (vgg_like, images, {("channel", 6): 1, ("channel", 8): 1}),
}


def _old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


REPARAMETRISATIONS = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "old weight norm": _old_weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "torch's prune": partial(nn.utils.prune.l1_unstructured, name="weight", amount=0.5),
}


class Fused(nn.Module):
    """Attention whose names nobody knows."""

    def __init__(self, heads=2, **extra):
        super().__init__()
        self.to_three, self.back = nn.Linear(8, 24), nn.Linear(8, 8)
        self.h = heads
        for name, module in extra.items():
            setattr(self, name, module)


ROW = {"head": [{"qkv": "to_three", "output": "back"}], "head_counts": ["h"]}


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
        result = model(inputs)
    return result if isinstance(result, torch.Tensor) else result.logits


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


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def batches(number=3, size=2):
    return [(torch.randn(size, 3, 8, 8), torch.randint(2, (size,))) for _ in range(number)]
