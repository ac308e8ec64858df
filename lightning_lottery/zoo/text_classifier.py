"""A LightningModule that trains any network on sentences and labels."""

from torch import Tensor

from lightning_lottery.zoo.classifier import Classifier, logits_of


class TextClassifier(Classifier):
    """Cross-entropy on tokens; logs ``train_loss``, and loss and accuracy of validation and test.

    ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc`` are means over samples, also over ranks with unequal
    numbers of them; accuracies are fractions. The network is the attribute ``network``. A batch is (tokens, labels),
    the tokens as ``SST2`` serves them.

    Args:
        network: Takes ``input_ids`` and ``attention_mask``, (B, L) each, as Hugging Face's networks for sequence
            classification do; returns logits (B, num_classes), or an output that has them as ``logits``.
        num_classes: Number of logits; default 2.
        optimizer: "adamw" (the default) or "sgd".
        lr: The base learning rate, positive; default 0.001.
        weight_decay: The optimizer's, on all parameters; default 0.
        momentum: SGD's, in [0, 1); AdamW has none. Default 0.9.
        learning_rate: The factor of ``lr`` at each optimizer step; default ``ConstantRate()``.

    Raises:
        LotteryError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from lightning_lottery.zoo import bert
        >>> tokens = torch.tensor([[2, 5, 7], [2, 6, 0]])
        >>> batch = {"input_ids": tokens, "attention_mask": tokens.sign()}
        >>> TextClassifier(bert(layers=1), lr=0.0001)(batch).shape
        torch.Size([2, 2])
    """

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """The logits.

        Args:
            tokens: ``input_ids`` and ``attention_mask``, (B, L) each, int64; the mask is 0 where there is only padding.

        Returns:
            (B, num_classes).
        """
        return logits_of(self.network(**tokens))
