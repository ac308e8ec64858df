"""Networks that somebody published, with their weights or randomly initialised, as functions that YAML can name."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_lottery.checks import check_count, check_counts
from lightning_lottery.errors import LotteryError


def pretrained_vit(name: str = "google/vit-base-patch16-224", num_classes: int = 10) -> nn.Module:
    """A pretrained vision transformer with a head for ``num_classes``, a new one where the old does not fit.

    The network carries what ``ImageClassifier`` needs to feed it: ``image_size`` (H, W), and ``image_mean`` and
    ``image_std`` of its image processor, None when that does not normalise. It is float32 and in training mode.

    Args:
        name: A model on the Hugging Face hub, or a folder that ``save_pretrained`` wrote.
        num_classes: Number of logits.

    Returns:
        The network: (B, C, H, W) to an output with ``logits`` (B, num_classes).

    Raises:
        LotteryError: There is no such model, here or on the hub, or ``num_classes`` is smaller than 1.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words"; the weights are the publisher's.
    """
    check_count("num_classes", num_classes, "a number")

    from transformers import ViTForImageClassification

    with published(f"pretrained ViT {name!r}"):
        network: nn.Module = ViTForImageClassification.from_pretrained(
            name, num_labels=num_classes, ignore_mismatched_sizes=True
        )
    return _with_preprocessing(network, name)


def random_vit(name: str = "google/vit-base-patch16-224", num_classes: int = 10) -> nn.Module:
    """The network of ``pretrained_vit``, randomly initialised: its control.

    Args:
        name: A model on the Hugging Face hub, or a folder that ``save_pretrained`` wrote; its weights are not read.
        num_classes: Number of logits.

    Returns:
        The network: (B, C, H, W) to an output with ``logits`` (B, num_classes); it carries what ``pretrained_vit``'s
        does.

    Raises:
        LotteryError: There is no such model, here or on the hub, or ``num_classes`` is smaller than 1.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words"; the initialisation is Hugging Face's.
    """
    check_count("num_classes", num_classes, "a number")

    from transformers import ViTConfig, ViTForImageClassification

    with published(f"ViT {name!r}"):
        config = ViTConfig.from_pretrained(name, num_labels=num_classes)
    return _with_preprocessing(ViTForImageClassification(config), name)


def pretrained_text(name: str = "sentence-transformers/all-MiniLM-L6-v2", num_classes: int = 2) -> nn.Module:
    """A pretrained network for text with a head for ``num_classes``, a new one where the old does not fit.

    It is float32 and in training mode. Its tokenizer goes to the data: ``SST2(tokenizer=name)``.

    Args:
        name: A model on the Hugging Face hub, or a folder that ``save_pretrained`` wrote.
        num_classes: Number of logits.

    Returns:
        The network: ``input_ids`` and ``attention_mask``, (B, L) each, to an output with ``logits`` (B, num_classes).

    Raises:
        LotteryError: There is no such model for text, here or on the hub, or ``num_classes`` is smaller than 1.

    Source: the default is a sentence encoder made from MiniLM, Wang et al. 2020, "MiniLM: Deep self-attention
    distillation for task-agnostic compression of pre-trained transformers"; the weights are the publisher's.
    """
    check_count("num_classes", num_classes, "a number")

    from transformers import AutoModelForSequenceClassification

    with published(f"pretrained text network {name!r}"):
        network: nn.Module = AutoModelForSequenceClassification.from_pretrained(
            name, num_labels=num_classes, ignore_mismatched_sizes=True
        )
    return network.float().train()


def random_text(
    name: str = "sentence-transformers/all-MiniLM-L6-v2", num_classes: int = 2, sizes: Mapping[str, int] | None = None
) -> nn.Module:
    """The network of ``pretrained_text``, randomly initialised: its control, or a smaller one from scratch.

    Args:
        name: A model on the Hugging Face hub, or a folder that ``save_pretrained`` wrote; its weights are not read.
        num_classes: Number of logits.
        sizes: Numbers of its configuration that are others here, as Hugging Face calls them: ``hidden_size``,
            ``num_attention_heads``, ``intermediate_size``, ``num_hidden_layers``.

    Returns:
        The network: ``input_ids`` and ``attention_mask``, (B, L) each, to an output with ``logits`` (B, num_classes).

    Raises:
        LotteryError: There is no such model for text, here or on the hub, ``num_classes`` or a size is smaller than 1,
            or no network can be built from these sizes.
    """
    check_count("num_classes", num_classes, "a number")
    sizes = sizes or {}
    check_counts("a number", **sizes)

    from transformers import AutoConfig, AutoModelForSequenceClassification

    with published(f"text network {name!r}"):
        config = AutoConfig.from_pretrained(name, num_labels=num_classes)
    for size, value in sizes.items():
        if not hasattr(config, size):
            raise LotteryError(f"`sizes` names {size!r}, which {name!r} does not have.")
        setattr(config, size, value)
    try:
        network: nn.Module = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:  # a network for images, or heads that do not share the width
        others = f" with {dict(sizes)}" if sizes else ""
        raise LotteryError(
            f"No text network can be built from {name!r}{others}: {str(error).splitlines()[0]}"
        ) from error
    return network.float().train()


def with_weights(network: nn.Module, checkpoint: str) -> nn.Module:
    """A network with the weights of a checkpoint, and nothing else of it: what was trained before is trained anew.

    Args:
        network: As it was built for the fit that saved the checkpoint.
        checkpoint: A ``.ckpt`` of a module that keeps its network as ``network``, as the classifiers here do.

    Returns:
        The same network.

    Raises:
        LotteryError: There is no such checkpoint, or it is one of another network.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        network.load_state_dict(
            {name.removeprefix("network."): each for name, each in state.items() if name.startswith("network.")}
        )
    except Exception as error:  # a file may hold anything
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise LotteryError(f"'{checkpoint}' has no weights of this network: {reason}") from error
    return network


def torchvision_model(name: str, num_classes: int, weights: str | None = None) -> nn.Module:
    """A classification network of torchvision, by its name there.

    With ``weights``, every tensor but those of another number of classes is loaded, and the network carries
    ``image_size``, ``image_mean`` and ``image_std`` of these weights for ``ImageClassifier``, which then resizes to
    them.

    Args:
        name: As in ``torchvision.models.list_models()``: "resnet18", "vgg16_bn", "vit_b_16", ...
        num_classes: Number of logits.
        weights: None for random ones, else "DEFAULT", "IMAGENET1K_V1", ...: a member of the network's weights.

    Returns:
        The network: (B, 3, H, W) to (B, num_classes).

    Raises:
        LotteryError: Torchvision has no such network or weights, or the weights cannot be downloaded.

    Example:
        >>> sum(p.numel() for p in torchvision_model("squeezenet1_1", num_classes=10).parameters())
        727626
    """
    check_count("num_classes", num_classes, "a number")

    from torchvision import models

    _refuse_unknown(name, models.list_models(module=models), "torchvision has no classification network")
    if weights is None:
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
        return network

    known = models.get_model_weights(name)
    _refuse_unknown(weights, list(known.__members__), f"torchvision's {name} has no weights")
    network = models.get_model(name, weights=None, num_classes=num_classes)
    try:
        stored = known[weights].get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise LotteryError(
            f"The weights {weights} of torchvision's {name} could not be downloaded from {known[weights].url}: "
            "check the network, or take weights=None."
        ) from error
    # Not `strict`: with another number of classes the last layer has another shape, and stays random.
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    network.load_state_dict({k: v for k, v in stored.items() if shapes.get(k) == v.shape}, strict=False)
    preset = known[weights].transforms()
    _carry(network, (preset.crop_size[0], preset.crop_size[0]), tuple(preset.mean), tuple(preset.std))
    return network


@contextmanager
def published(what: str) -> Iterator[None]:
    """One sentence for what Hugging Face's loaders raise when they find nothing, or something else.

    Raises:
        LotteryError: In place of theirs.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise LotteryError(
            f"No {what}: it is neither a folder that save_pretrained wrote nor could it be fetched from the Hugging "
            "Face hub; check the name and the network, or give a local folder."
        ) from error


def _with_preprocessing(network: nn.Module, name: str) -> nn.Module:
    """The network, carrying the size and normalisation of its images, ready to be trained."""
    side: int | tuple[int, int] = network.config.image_size  # type: ignore[union-attr, assignment]
    _carry(network, (side, side) if isinstance(side, int) else tuple(side), *_normalisation(name))
    return network.float().train()  # from_pretrained leaves it in eval mode, and Lightning would train it so


def _carry(
    network: nn.Module, size: tuple[int, ...], mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    """Let the network say what images it was trained on: ``image_size``, ``image_mean`` and ``image_std``."""
    for name, value in (("image_size", size), ("image_mean", mean), ("image_std", std)):
        setattr(network, name, value)


def _normalisation(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of the image processor beside the weights."""
    from transformers import ViTImageProcessor

    try:
        processor, _ = ViTImageProcessor.get_image_processor_dict(name)
    except OSError:
        rank_zero_warn(f"{name!r} has no preprocessor_config.json: its images are not normalised.")
        return None, None
    if not processor.get("do_normalize", True):
        return None, None
    return tuple(processor["image_mean"]), tuple(processor["image_std"])


def _refuse_unknown(name: str, known: list[str], complaint: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or sorted(known)[:5]
        raise LotteryError(f"{complaint} {name!r}; names look like {', '.join(close)}.")
