"""LightningModules that train any network to classify: what they share, and the one for images."""

import math
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_lottery.checks import check_fraction, check_positive, check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.private import restore_loader
from lightning_lottery.zoo.learning_rates import ConstantRate, LearningRate

Batch = tuple[Any, Tensor]


class Classifier(LightningModule):
    """Cross-entropy; logs ``train_loss``, and loss and accuracy of validation and test.

    ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc`` are means over samples, also over ranks with unequal
    numbers of them; accuracies are fractions. A batch is (inputs, labels); a subclass's ``forward`` makes logits of
    the inputs.

    Args:
        network: The network, which becomes the attribute ``network``.
        num_classes: Number of logits; default 2.
        optimizer: "adamw" (the default) or "sgd".
        lr: The base learning rate, positive; default 0.001.
        weight_decay: The optimizer's, on all parameters; default 0.
        momentum: SGD's, in [0, 1); AdamW has none. Default 0.9.
        learning_rate: The factor of ``lr`` at each optimizer step; default ``ConstantRate()``.

    Raises:
        LotteryError: An argument is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 2,
        *,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        learning_rate: LearningRate | None = None,
    ) -> None:
        super().__init__()
        check_word("optimizer", optimizer, ("adamw", "sgd"))
        check_positive("lr", lr, "the base learning rate")
        check_fraction("momentum", momentum, "SGD's momentum")
        if not weight_decay >= 0:
            raise LotteryError(f"`weight_decay` is the optimizer's, >= 0, got {weight_decay!r}.")
        # Objects stay out: a checkpoint that holds them does not load without pickle.
        self.save_hyperparameters(ignore=["network", "learning_rate"])
        self.network = network
        self.optimizer, self.lr, self.weight_decay, self.momentum = optimizer, lr, weight_decay, momentum
        self.learning_rate = learning_rate or ConstantRate()
        # "disable": a NaN counts, while torchmetrics would leave it out of the mean.
        self.val_loss, self.test_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def on_train_start(self) -> None:
        restore_loader(self.trainer)  # the learning rate's schedule asked for `estimated_stepping_batches`

    def _predicted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (N, num_classes), and the labels (N,) that they should have had."""
        inputs, labels = batch
        return self(inputs), labels

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits, labels = self._predicted(batch)
        loss = F.cross_entropy(logits, labels)
        self.log("train_loss", loss, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_loss, self.val_acc)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_loss, self.test_acc)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits: Tensor = self(batch[0])
        return logits

    def _evaluate(
        self, batch: Batch, split: str, loss: MeanMetric, acc: MulticlassAccuracy, **further: MeanMetric
    ) -> None:
        """Log loss and accuracy of a batch, and whatever else is updated with the losses."""
        logits, labels = self._predicted(batch)
        logits = logits.float()
        losses = F.cross_entropy(logits, labels, reduction="none")
        acc.update(logits, labels)
        for mean in (loss, *further.values()):
            mean.update(losses)
        for name, metric in {"loss": loss, "acc": acc, **further}.items():
            # The metric, not its value: Lightning computes it at the epoch's end, from the samples of all ranks.
            self.log(f"{split}_{name}", metric, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        estimate = self.trainer.estimated_stepping_batches  # -1 without an end of steps, inf where nobody knows
        total_steps = int(estimate) if 0 < estimate < math.inf else 0
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.learning_rate.factor_at(step, total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def logits_of(outputs: Any) -> Tensor:
    """What a network returned, or the ``logits`` in it, as Hugging Face's networks return them."""
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits


class ImageClassifier(Classifier):
    """Cross-entropy on images in [0, 1]; logs ``train_loss``, and loss and accuracy of validation and test.

    ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc`` are means over samples, also over ranks with unequal
    numbers of them; accuracies are fractions. The network is the attribute ``network``.

    Args:
        network: Maps (B, C, H, W) to logits (B, num_classes), or to an output that has them as ``logits``. If it
            carries ``image_size`` (H, W), images are resized to it; ``image_mean`` and ``image_std`` are the default of
            ``mean`` and ``std``.
        num_classes: Number of logits; default 10.
        optimizer: "adamw" (the default) or "sgd".
        lr: The base learning rate, positive; default 0.001.
        weight_decay: The optimizer's, on all parameters; default 0.
        momentum: SGD's, in [0, 1); AdamW has none. Default 0.9.
        learning_rate: The factor of ``lr`` at each optimizer step; default ``ConstantRate()``.
        mean: Subtracted from each channel; default: the network's, else nothing.
        std: Each channel is divided by it; default: the network's, else nothing.

    Raises:
        LotteryError: An argument is out of its range, or only one of ``mean`` and ``std`` is given.

    Example:
        >>> from lightning_lottery.zoo import lenet_300_100
        >>> ImageClassifier(lenet_300_100(), lr=0.01)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        *,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        learning_rate: LearningRate | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(
            network,
            num_classes,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            learning_rate=learning_rate,
        )
        self._set_normalisation(mean, std)

    def _set_normalisation(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
        if mean is None and std is None:
            mean, std = getattr(self.network, "image_mean", None), getattr(self.network, "image_std", None)
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise LotteryError(f"Give mean and std together, one number per channel, got mean={mean}, std={std}.")
        if std is not None and not all(value > 0 for value in std):
            raise LotteryError(f"std must be positive, got {std}.")
        for name, values in (("mean", mean), ("std", std)):
            buffer = None if values is None else torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The logits.

        Args:
            images: (B, C, H, W), float in [0, 1].

        Returns:
            (B, num_classes).
        """
        size = getattr(self.network, "image_size", None)
        if size is not None and tuple(images.shape[-2:]) != tuple(size):
            images = F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        return logits_of(self.network(images))
