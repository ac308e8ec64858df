"""The networks of the recipes, as functions: sizes in, an ``nn.Module`` out, so that YAML can name them."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_lottery.checks import check_count, check_counts, check_fraction, check_word
from lightning_lottery.errors import LotteryError


def lenet_300_100(inputs: int = 784, num_classes: int = 10) -> nn.Module:
    """The multilayer perceptron LeNet-300-100: flatten, 300, 100, classes, with ReLU between.

    Args:
        inputs: Entries of one image, C·H·W.
        num_classes: Number of logits.

    Returns:
        The network: (B, C, H, W) to (B, num_classes).

    Raises:
        LotteryError: An argument is smaller than 1.

    Example:
        >>> sum(p.numel() for p in lenet_300_100().parameters())
        266610

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.C.3; with ReLU and
    the cross-entropy of the lottery-ticket papers in place of its scaled tanh and squared error.
    """
    check_counts("a number", inputs=inputs, num_classes=num_classes)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def lenet_5(channels: int = 1, num_classes: int = 10) -> nn.Module:
    """The convolutional network LeNet-5: 6 and 16 channels of 5×5, each pooled, then 120, 84, classes.

    It carries ``image_size`` (28, 28), to which ``ImageClassifier`` resizes other images.

    Args:
        channels: Channels of the images.
        num_classes: Number of logits.

    Returns:
        The network: (B, channels, 28, 28) to (B, num_classes).

    Raises:
        LotteryError: An argument is smaller than 1.

    Example:
        >>> sum(p.numel() for p in lenet_5().parameters())
        61706

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.B; with ReLU, the
    maximum as pooling, every channel seen by every other, and logits in place of its radial units.
    """
    check_counts("a number", channels=channels, num_classes=num_classes)
    network = nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=2),  # the paper's images have 32×32 pixels, two more at each side
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )
    network.image_size = (28, 28)  # type: ignore[assignment]
    return network


def resnet(depth: int = 20, num_classes: int = 10, channels: int = 3, image_size: int | None = None) -> nn.Module:
    """The residual network for CIFAR: three stages of (depth − 2) / 6 blocks, 16, 32 and 64 channels wide.

    Args:
        depth: Weighted layers, 6n + 2 with n >= 1: 20, 32, 44, 56, 110, ...
        num_classes: Number of logits.
        channels: Channels of the images.
        image_size: Pixels along a side that ``ImageClassifier`` resizes images to; default: as they are.

    Returns:
        The network: (B, channels, H, W) to (B, num_classes), H and W of at least 4.

    Raises:
        LotteryError: ``depth`` is not 6n + 2, or another argument is smaller than 1.

    Example:
        >>> sum(p.numel() for p in resnet(depth=20).parameters())
        269722

    Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2, with its option A (a shortcut
    without parameters). The paper does not say where the zero channels go; here they stand behind the others.
    """
    if depth < 8 or (depth - 2) % 6:
        nearest = max(1, round((depth - 2) / 6)) * 6 + 2
        raise LotteryError(f"A CIFAR ResNet has depth 6n + 2 (20, 32, 56, ...), got depth={depth}: try {nearest}.")
    check_counts("a number", num_classes=num_classes, channels=channels)
    network = _ResNet(blocks=(depth - 2) // 6, num_classes=num_classes, channels=channels)
    if image_size is not None:
        check_count("image_size", image_size, "pixels along a side", least=4)
        network.image_size = (image_size, image_size)
    return network


class _ResNet(nn.Module):
    image_size: tuple[int, int] | None = None

    def __init__(self, blocks: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv3x3(channels, 16), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16] * blocks + [32] * blocks + [64] * blocks
        self.blocks = nn.Sequential(*map(_Block, [16, *widths[:-1]], widths))
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; where the width grows, the side is halved."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.new_channels = outputs - inputs
        self.conv1 = _conv3x3(inputs, outputs, self.stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # Option A of the paper, without parameters: every other pixel, and zeros in place of the new channels.
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(residual + shortcut)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


def vit(
    image_size: int = 8,
    patch_size: int = 2,
    channels: int = 1,
    hidden_size: int = 64,
    layers: int = 3,
    heads: int = 4,
    mlp_size: int = 128,
    num_classes: int = 10,
    dropout: float = 0.0,
    attention: Literal["sdpa", "eager"] = "sdpa",
) -> nn.Module:
    """A vision transformer of Hugging Face's ``ViTForImageClassification``, randomly initialised.

    The defaults fit the 8×8 digits. Logits are the ``logits`` of what it returns. It carries ``image_size``, to which
    ``ImageClassifier`` resizes other images.

    Args:
        image_size: Side of the square images, in pixels.
        patch_size: Side of a patch, in pixels; divides ``image_size``.
        channels: Channels of the images.
        hidden_size: Width of the tokens; a multiple of ``heads``.
        layers: Transformer blocks.
        heads: Attention heads of a block.
        mlp_size: Neurons in the middle of a block's feed-forward network.
        num_classes: Number of logits.
        dropout: Probability, after attention, feed-forward and embedding and on the attention weights.
        attention: PyTorch's fused attention, or products and a softmax one by one. In bfloat16 on a CPU the fused one's
            backward pass is so slow that ``"eager"`` makes a whole training step of few tokens three times as fast.

    Returns:
        The network: (B, channels, image_size, image_size) to an output with ``logits`` (B, num_classes).

    Raises:
        LotteryError: Patches do not tile the image, heads do not share the width, or a number is out of range.

    Example:
        >>> import torch
        >>> vit(layers=1)(torch.zeros(2, 1, 8, 8)).logits.shape
        torch.Size([2, 10])

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words".
    """
    check_counts("a number", patch_size=patch_size, channels=channels, layers=layers, heads=heads, mlp_size=mlp_size)
    check_counts("a number", image_size=image_size, hidden_size=hidden_size, num_classes=num_classes)
    if image_size % patch_size:
        raise LotteryError(f"Patches of side {patch_size} do not tile images of side {image_size}: change patch_size.")
    _refuse_misfits(hidden_size, heads, dropout)
    check_word("attention", attention, ("sdpa", "eager"))

    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        num_channels=channels,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation=attention,  # type: ignore[call-arg]
    )
    config.num_labels = num_classes
    network = ViTForImageClassification(config)
    network.image_size = (image_size, image_size)  # type: ignore[assignment]
    return network


def bert(
    vocab_size: int = 10_000,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    mlp_size: int = 128,
    max_length: int = 128,
    num_classes: int = 2,
    dropout: float = 0.1,
) -> nn.Module:
    """A transformer of Hugging Face's ``BertForSequenceClassification``, randomly initialised.

    The default vocabulary is as large as that of the tokenizer "words" can become. Logits are the ``logits`` of what it
    returns.

    Args:
        vocab_size: Number of tokens that the tokenizer knows.
        hidden_size: Width of the tokens; a multiple of ``heads``.
        layers: Transformer blocks.
        heads: Attention heads of a block.
        mlp_size: Neurons in the middle of a block's feed-forward network.
        max_length: Tokens of the longest sentence.
        num_classes: Number of logits.
        dropout: Probability, after attention, feed-forward, embedding and pooling and on the attention weights.

    Returns:
        The network: ``input_ids`` and ``attention_mask``, (B, L) each, to an output with ``logits`` (B, num_classes).

    Raises:
        LotteryError: Heads do not share the width, or a number is out of range.

    Example:
        >>> import torch
        >>> bert(vocab_size=100, layers=1)(torch.zeros(2, 7, dtype=torch.int64)).logits.shape
        torch.Size([2, 2])

    Source: Devlin et al. 2019, "BERT: Pre-training of deep bidirectional transformers for language understanding".
    """
    check_counts(
        "a number", vocab_size=vocab_size, hidden_size=hidden_size, layers=layers, heads=heads, mlp_size=mlp_size
    )
    check_counts("a number", max_length=max_length, num_classes=num_classes)
    _refuse_misfits(hidden_size, heads, dropout)

    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp_size,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config.num_labels = num_classes
    return BertForSequenceClassification(config)


def gpt2(
    vocab_size: int = 2_000,
    hidden_size: int = 64,
    layers: int = 3,
    heads: int = 4,
    max_length: int = 64,
    dropout: float = 0.1,
) -> nn.Module:
    """A causal language model of Hugging Face's ``GPT2LMHeadModel``, randomly initialised; its head is its embedding.

    Args:
        vocab_size: Number of tokens.
        hidden_size: Width of the tokens; a multiple of ``heads``. Feed-forward networks are four times as wide.
        layers: Transformer blocks.
        heads: Attention heads of a block.
        max_length: Most tokens of a text.
        dropout: Probability, after attention, feed-forward and embedding and on the attention weights.

    Returns:
        The network: tokens (B, L) to an output with ``logits`` (B, L, vocab_size), each of the token that comes next.

    Raises:
        LotteryError: Heads do not share the width, or a number is out of range.

    Example:
        >>> import torch
        >>> gpt2(vocab_size=100, layers=1)(torch.zeros(2, 7, dtype=torch.int64)).logits.shape
        torch.Size([2, 7, 100])

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners".
    """
    check_counts("a number", vocab_size=vocab_size, hidden_size=hidden_size, layers=layers, heads=heads)
    check_counts("a number", max_length=max_length)
    _refuse_misfits(hidden_size, heads, dropout)

    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_length,
        n_embd=hidden_size,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,  # GPT-2's own lie beyond a small vocabulary
        eos_token_id=None,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def _refuse_misfits(hidden_size: int, heads: int, dropout: float) -> None:
    if hidden_size % heads:
        raise LotteryError(f"{heads} heads cannot share a hidden_size of {hidden_size}: take a multiple of {heads}.")
    check_fraction("dropout", dropout, "a probability")
