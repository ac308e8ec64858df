"""A data set that stays in memory: three splits that no seed changes, loaders that follow the run's seed."""

import os
from abc import abstractmethod

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_lottery.checks import check_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.shares import share
from lightning_lottery.zoo.loader import Prepare, SeededBatches

Samples = tuple[Tensor, Tensor]


class InMemory(LightningDataModule):
    """Inputs and labels in memory; a data set says how they are read and what a batch of them becomes.

    Args:
        batch_size: Samples of a batch on one device.
        seed: Of the order and of what a batch draws; None: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training samples; None: all.

    Raises:
        LotteryError: ``batch_size`` or ``limit`` is smaller than 1.
    """

    num_classes: int
    num_workers = 0
    """Processes that prepare batches."""

    def __init__(self, batch_size: int, seed: int | None, limit: int | None) -> None:
        super().__init__()
        check_count("batch_size", batch_size, "a number of samples")
        if limit is not None:
            check_count("limit", limit, "a number of training samples")
        self.batch_size, self.seed, self.limit = batch_size, seed, limit
        self._splits: dict[str, Samples] | None = None

    @abstractmethod
    def _read(self) -> dict[str, Samples]:
        """The samples of "train", "val" and "test"."""

    @abstractmethod
    def _prepare(self, split: str) -> Prepare:
        """What becomes of a batch's inputs."""

    def samples(self, split: str) -> Samples:
        """The samples of a split, read at the first call.

        Args:
            split: "train", "val" or "test".

        Returns:
            Inputs (N, ...), as the data set keeps them, and labels (N,), int64.
        """
        if self._splits is None:
            self._splits = self._read()
        inputs, labels = self._splits[split]
        return (inputs[: self.limit], labels[: self.limit]) if split == "train" else (inputs, labels)

    def prepare_data(self) -> None:
        self.samples("train")

    def setup(self, stage: str | None = None) -> None:
        self.samples("train")

    def train_dataloader(self) -> SeededBatches:
        return self._loader("train")

    def val_dataloader(self) -> SeededBatches:
        return self._loader("val")

    def test_dataloader(self) -> SeededBatches:
        return self._loader("test")

    def predict_dataloader(self) -> SeededBatches:
        return self._loader("test")

    def _loader(self, split: str) -> SeededBatches:
        inputs, labels = self.samples(split)
        return SeededBatches(
            inputs,
            labels,
            batch_size=self.batch_size,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            shuffle=split == "train",
            num_workers=self.num_workers,
            prepare=self._prepare(split),
        )


def in_fixed_order(inputs: Tensor, labels: Tensor) -> Samples:
    """The samples in one shuffled order for ever: folders come class by class, and the first batches should be fair.

    Args:
        inputs: (N, ...).
        labels: (N,).

    Returns:
        Both, in that order.
    """
    # NumPy promises that the numbers of `RandomState` never change; those of torch's generators may, with a version.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    return inputs[order], labels[order]


def in_fifths(inputs: Tensor, labels: Tensor) -> dict[str, Samples]:
    """A small data set, shuffled for ever, as 60 % "train", 20 % "val" and 20 % "test"."""
    inputs, labels = in_fixed_order(inputs, labels)
    fifth = round(len(labels) / 5)
    return {
        "test": (inputs[:fifth], labels[:fifth]),
        "val": (inputs[fifth : 2 * fifth], labels[fifth : 2 * fifth]),
        "train": (inputs[2 * fifth :], labels[2 * fifth :]),
    }


def hold_out(inputs: Tensor, labels: Tensor, val_fraction: float, name: str) -> dict[str, Samples]:
    """The training samples, shuffled for ever, as "train" and "val".

    Args:
        inputs: (N, ...).
        labels: (N,).
        val_fraction: Of them, in (0, 1), held out for validation.
        name: Of the data set, for the message.

    Returns:
        The samples of both.

    Raises:
        LotteryError: One of them is empty.
    """
    inputs, labels = in_fixed_order(inputs, labels)
    held_out = round(share(val_fraction, len(labels)))
    if not 0 < held_out < len(labels):
        raise LotteryError(
            f"val_fraction={val_fraction} splits the {len(labels)} training samples of {name} into "
            f"{len(labels) - held_out} for training and {held_out} for validation: change it."
        )
    return {"train": (inputs[held_out:], labels[held_out:]), "val": (inputs[:held_out], labels[:held_out])}
