"""A LightningModule that trains any network to foretell the next token."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_lottery.zoo.classifier import Batch, Classifier, logits_of
from lightning_lottery.zoo.learning_rates import LearningRate


class Perplexity(MeanMetric):
    """The exponential of the mean loss over all tokens of all batches and ranks, which no mean over batches is."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class LanguageModel(Classifier):
    """Cross-entropy of the next token; logs ``train_loss``, and loss, perplexity and accuracy of validation and test.

    ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc`` are means over tokens, ``val_perplexity`` and
    ``test_perplexity`` the exponentials of the losses' means, all of them also over ranks. The network is the attribute
    ``network``. A batch is (tokens, the token after each piece), as ``SST2Stream`` serves them. Under Lightning's
    ``ModelParallelStrategy`` the network is sharded by FSDP2, each of its blocks by itself.

    Args:
        network: Takes tokens (B, L); returns logits (B, L, vocab_size), or an output that has them as ``logits``.
        vocab_size: Number of tokens; default 2,000.
        optimizer: "adamw" (the default) or "sgd".
        lr: The base learning rate, positive; default 0.001.
        weight_decay: The optimizer's, on all parameters; default 0.
        momentum: SGD's, in [0, 1); AdamW has none. Default 0.9.
        learning_rate: The factor of ``lr`` at each optimizer step; default ``ConstantRate()``.

    Raises:
        LotteryError: An argument is out of its range.

    Example:
        >>> from lightning_lottery.zoo import gpt2
        >>> LanguageModel(gpt2(layers=1), lr=0.001)(torch.zeros(2, 7, dtype=torch.int64)).shape
        torch.Size([2, 7, 2000])
    """

    def __init__(
        self,
        network: nn.Module,
        vocab_size: int = 2_000,
        *,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        learning_rate: LearningRate | None = None,
    ) -> None:
        super().__init__(
            network,
            vocab_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            learning_rate=learning_rate,
        )
        self.val_perplexity, self.test_perplexity = (Perplexity(nan_strategy="disable") for _ in range(2))

    def configure_model(self) -> None:
        """Shard the network where the strategy says over which devices; once, though each run asks for it."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule, fully_shard  # takes a second to import

        if isinstance(self.network, FSDPModule):
            return
        blocks = [block for child in self.network.modules() if isinstance(child, nn.ModuleList) for block in child]
        for module in (*blocks, self.network):
            fully_shard(module, mesh=self.device_mesh["data_parallel"])

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of each place's next token.

        Args:
            tokens: (B, L), int64.

        Returns:
            (B, L, vocab_size).
        """
        return logits_of(self.network(tokens))

    def _predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens, following = batch
        return self(tokens).flatten(0, 1), torch.cat([tokens[:, 1:], following[:, None]], dim=1).flatten()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_loss, self.val_acc, perplexity=self.val_perplexity)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_loss, self.test_acc, perplexity=self.test_perplexity)
