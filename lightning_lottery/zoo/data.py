"""The data sets of the recipes: small images that stay in memory, split the same way in every run."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo.augment import crop_flip_jitter
from lightning_lottery.zoo.image_folder import read_image_folder
from lightning_lottery.zoo.loader import SeededBatches

Samples = tuple[Tensor, Tensor]


class _Images(LightningDataModule):
    """Images and labels in memory, three splits that no seed changes, loaders that follow the run's seed."""

    num_classes: int = 10
    shape: tuple[int, int, int]

    def __init__(self, batch_size: int, augment: bool, seed: int | None, limit: int | None) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise LotteryError(f"{name} must be at least 1, got {value}.")
        self.batch_size, self.augment, self.seed, self.limit = batch_size, augment, seed, limit
        self._splits: dict[str, Samples] | None = None

    @abstractmethod
    def _read(self) -> dict[str, Samples]:
        """The samples of "train", "val" and "test"."""

    def samples(self, split: str) -> Samples:
        """The samples of a split, read at the first call.

        Args:
            split: "train", "val" or "test".

        Returns:
            Images (N, C, H, W), uint8, and labels (N,), int64.
        """
        if self._splits is None:
            self._splits = self._read()
        images, labels = self._splits[split]
        return (images[: self.limit], labels[: self.limit]) if split == "train" else (images, labels)

    def prepare_data(self) -> None:
        self.samples("train")

    def setup(self, stage: str | None = None) -> None:
        self.samples("train")

    def train_dataloader(self) -> SeededBatches:
        return self._loader("train", shuffle=True, augment=crop_flip_jitter if self.augment else None)

    def val_dataloader(self) -> SeededBatches:
        return self._loader("val")

    def test_dataloader(self) -> SeededBatches:
        return self._loader("test")

    def predict_dataloader(self) -> SeededBatches:
        return self._loader("test")

    def _loader(self, split: str, **training: Any) -> SeededBatches:
        images, labels = self.samples(split)
        return SeededBatches(
            images,
            labels,
            batch_size=self.batch_size,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            **training,
        )


class Digits(_Images):
    """1,797 handwritten digits, 8×8, grey: scikit-learn's, without a download; 60 % train, 20 % val, 20 % test.

    Args:
        batch_size: samples of a batch on one device; default 32.
        augment: random crops, flips and colour jitter in training (see `crop_flip_jitter`); default False.
        seed: of order and augmentation; default: the run's (`PL_GLOBAL_SEED`), else 0. The split does not depend on it.
        limit: at most so many training images, for a smoke test; default: all.

    Raises:
        LotteryError: if `batch_size` or `limit` is smaller than 1, or scikit-learn is not installed.

    Example:
        >>> [len(Digits().samples(split)[0]) for split in ("train", "val", "test")]
        [1079, 359, 359]

    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits" (UCI); scikit-learn's copy of its test
    set, with 0..16 scaled to 0..255.
    """

    shape = (1, 8, 8)

    def __init__(
        self, batch_size: int = 32, *, augment: bool = False, seed: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, augment, seed, limit)

    def _read(self) -> dict[str, Samples]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise LotteryError("Digits needs scikit-learn: pip install lightning_lottery[demo].") from error
        pixels, targets = load_digits(return_X_y=True)
        images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, *self.shape)
        images, labels = _in_fixed_order(images, torch.from_numpy(targets).long())
        fifth = round(len(labels) / 5)
        return {
            "test": (images[:fifth], labels[:fifth]),
            "val": (images[fifth : 2 * fifth], labels[fifth : 2 * fifth]),
            "train": (images[2 * fifth :], labels[2 * fifth :]),
        }


class _StoredImages(_Images):
    """Images of a folder: torchvision's files, downloaded if need be, or one subfolder per class."""

    name: str

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        *,
        augment: bool = False,
        val_fraction: float = 0.1,
        seed: int | None = None,
        limit: int | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(batch_size, augment, seed, limit)
        if not 0 < val_fraction < 1:
            raise LotteryError(f"val_fraction must be in (0, 1), got {val_fraction}.")
        self.root, self.val_fraction, self.download = root, val_fraction, download

    def _read(self) -> dict[str, Samples]:
        root = Path(self.root).expanduser()
        if (root / "train").is_dir():
            stored = read_image_folder(root, self.name, self.shape, self.num_classes)
        else:
            stored = self._read_torchvision(root)
        images, labels = _in_fixed_order(stored["train_images"], stored["train_labels"])
        held_out = round(self.val_fraction * len(labels))
        if not 0 < held_out < len(labels):
            raise LotteryError(
                f"val_fraction={self.val_fraction} splits the {len(labels)} training images of {self.name} into "
                f"{len(labels) - held_out} for training and {held_out} for validation: change it."
            )
        return {
            "train": (images[held_out:], labels[held_out:]),
            "val": (images[:held_out], labels[:held_out]),
            "test": _in_fixed_order(stored["test_images"], stored["test_labels"]),
        }

    def _read_torchvision(self, root: Path) -> dict[str, Tensor]:
        from torchvision import datasets

        stored = {}
        for split in ("train", "test"):
            try:
                source = getattr(datasets, self.name)(root, train=split == "train", download=self.download)
            except (RuntimeError, OSError) as error:
                why = f"the download failed ({error})" if self.download else "download is False"
                raise LotteryError(
                    f"{self.name} is not in {str(root)!r}, neither as train/<class>/ and test/<class>/ nor as "
                    f"torchvision's files, and {' '.join(why.split())}: give a root that has it, or a network."
                ) from error
            channels, height, width = self.shape
            pixels = torch.as_tensor(source.data).view(-1, height, width, channels)
            stored[f"{split}_images"] = pixels.permute(0, 3, 1, 2).contiguous()
            stored[f"{split}_labels"] = torch.as_tensor(source.targets, dtype=torch.int64)
        return stored


class FashionMNIST(_StoredImages):
    """70,000 articles of clothing in 10 classes, 28×28, grey: 60,000 to train and validate, 10,000 to test.

    Args:
        root: a folder with torchvision's `FashionMNIST/raw`, downloaded into it if missing; or with images as
            `train/<class>/` and `test/<class>/` (.jpg, .png), numbered alphabetically. Default "data".
        batch_size: samples of a batch on one device; default 128.
        augment: random crops, flips and colour jitter in training (see `crop_flip_jitter`); default False.
        val_fraction: of the 60,000, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: of order and augmentation; default: the run's (`PL_GLOBAL_SEED`), else 0. The split does not depend on it.
        limit: at most so many training images, for a smoke test; default: all.
        download: whether missing files may be downloaded; default True.

    Raises:
        LotteryError: if an argument is out of range, or the data is neither there nor to be had.

    Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST".
    """

    name = "FashionMNIST"
    shape = (1, 28, 28)


class CIFAR10(_StoredImages):
    """60,000 photographs in 10 classes, 32×32, RGB: 50,000 to train and validate, 10,000 to test.

    Args:
        root: a folder with torchvision's `cifar-10-batches-py`, downloaded into it if missing; or with images as
            `train/<class>/` and `test/<class>/` (.jpg, .png), numbered alphabetically, as in the original.
            Default "data".
        batch_size: samples of a batch on one device; default 128.
        augment: random crops, flips and colour jitter in training (see `crop_flip_jitter`); default False.
        val_fraction: of the 50,000, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: of order and augmentation; default: the run's (`PL_GLOBAL_SEED`), else 0. The split does not depend on it.
        limit: at most so many training images, for a smoke test; default: all.
        download: whether missing files may be downloaded; default True.

    Raises:
        LotteryError: if an argument is out of range, or the data is neither there nor to be had.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    name = "CIFAR10"
    shape = (3, 32, 32)


def _in_fixed_order(images: Tensor, labels: Tensor) -> Samples:
    """The samples in one shuffled order for ever: folders come class by class, and the first batches should be fair.

    numpy's `RandomState` is the one generator whose numbers are promised never to change.
    """
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    return images[order], labels[order]
