"""The data sets of the recipes: small images that stay in memory, split the same way in every run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.checks import check_fraction
from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo.augment import crop_flip_jitter
from lightning_lottery.zoo.image_folder import read_image_folder
from lightning_lottery.zoo.in_memory import InMemory, Samples, hold_out, in_fifths, in_fixed_order
from lightning_lottery.zoo.loader import Prepare


class _Images(InMemory):
    """Images (N, C, H, W), uint8, served as floats in [0, 1]."""

    num_classes = 10
    shape: tuple[int, int, int]
    hue = 0.0

    def __init__(self, batch_size: int, augment: bool, seed: int | None, limit: int | None) -> None:
        super().__init__(batch_size, seed, limit)
        self.augment = augment

    def _prepare(self, split: str) -> Prepare:
        return partial(_augmented, hue=self.hue) if split == "train" and self.augment else _as_floats


def _as_floats(images: Tensor, _: torch.Generator) -> Tensor:
    return images.float().div_(255)


def _augmented(images: Tensor, generator: torch.Generator, hue: float) -> Tensor:
    return crop_flip_jitter(_as_floats(images, generator), generator, hue=hue)


class Digits(_Images):
    """1,797 handwritten digits, 8×8, grey: scikit-learn's, without a download; 60 % train, 20 % val, 20 % test.

    Args:
        batch_size: Samples of a batch on one device; default 32.
        augment: Random crops, flips and colour jitter in training (see ``crop_flip_jitter``); default False.
        seed: Of order and augmentation, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training images, for a smoke test; default: all.

    Raises:
        LotteryError: ``batch_size`` or ``limit`` is smaller than 1, or scikit-learn is not installed.

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
        return in_fifths(images, torch.from_numpy(targets).long())


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
        check_fraction("val_fraction", val_fraction, "the fraction held out for validation", zero=False)
        self.root, self.val_fraction, self.download = root, val_fraction, download

    def _read(self) -> dict[str, Samples]:
        root = Path(self.root).expanduser()
        if (root / "train").is_dir():
            stored = read_image_folder(root, self.name, self.shape, self.num_classes)
        else:
            stored = self._read_torchvision(root)
        return {
            **hold_out(stored["train_images"], stored["train_labels"], self.val_fraction, self.name),
            "test": in_fixed_order(stored["test_images"], stored["test_labels"]),
        }

    def _read_torchvision(self, root: Path) -> dict[str, Tensor]:
        from torchvision import datasets

        stored = {}
        for split in ("train", "test"):
            try:
                source = getattr(datasets, self.name)(root, train=split == "train", download=self.download)
            except (RuntimeError, OSError) as error:
                reason = f"the download failed ({error})" if self.download else "download is False"
                raise LotteryError(
                    f"{self.name} is not in {str(root)!r}, neither as train/<class>/ and test/<class>/ nor as "
                    f"torchvision's files, and {' '.join(reason.split())}: give a root that has it, or a network."
                ) from error
            channels, height, width = self.shape
            pixels = torch.as_tensor(source.data).view(-1, height, width, channels)
            stored[f"{split}_images"] = pixels.permute(0, 3, 1, 2).contiguous()
            stored[f"{split}_labels"] = torch.as_tensor(source.targets, dtype=torch.int64)
        return stored


class FashionMNIST(_StoredImages):
    """70,000 articles of clothing in 10 classes, 28×28, grey: 60,000 to train and validate, 10,000 to test.

    Args:
        root: A folder with torchvision's ``FashionMNIST/raw``, downloaded into it if missing; or with images as
            ``train/<class>/`` and ``test/<class>/`` (.jpg, .png), numbered alphabetically. Default "data".
        batch_size: Samples of a batch on one device; default 128.
        augment: Random crops, flips and colour jitter in training (see ``crop_flip_jitter``); default False.
        val_fraction: Of the 60,000, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: Of order and augmentation, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training images, for a smoke test; default: all.
        download: Whether missing files may be downloaded; default True.

    Raises:
        LotteryError: An argument is out of range, or the data is neither there nor to be had.

    Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST".
    """

    name = "FashionMNIST"
    shape = (1, 28, 28)


class MNIST(_StoredImages):
    """70,000 handwritten digits, 28×28, grey: 60,000 to train and validate, 10,000 to test.

    Args:
        root: A folder with torchvision's ``MNIST/raw``, downloaded into it if missing; or with images as
            ``train/<class>/`` and ``test/<class>/`` (.jpg, .png), numbered alphabetically. Default "data".
        batch_size: Samples of a batch on one device; default 128.
        augment: Random crops, flips and colour jitter in training (see ``crop_flip_jitter``); default False.
        val_fraction: Of the 60,000, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: Of order and augmentation, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training images, for a smoke test; default: all.
        download: Whether missing files may be downloaded; default True.

    Raises:
        LotteryError: An argument is out of range, or the data is neither there nor to be had.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """

    name = "MNIST"
    shape = (1, 28, 28)


class CIFAR10(_StoredImages):
    """60,000 photographs in 10 classes, 32×32, RGB: 50,000 to train and validate, 10,000 to test.

    Args:
        root: A folder with torchvision's ``cifar-10-batches-py``, downloaded into it if missing; or with images as
            ``train/<class>/`` and ``test/<class>/`` (.jpg, .png), numbered alphabetically, as in the original.
            Default "data".
        batch_size: Samples of a batch on one device; default 128.
        augment: Random crops, flips and colour jitter in training (see ``crop_flip_jitter``); default False.
        hue: How far that turns the hue at most, in turns, [0, 0.5]; default 0.
        val_fraction: Of the 50,000, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: Of order and augmentation, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training images, for a smoke test; default: all.
        classes: Those of 0 to 9 whose images are served, in every split, with their labels as they are; default: all.
        download: Whether missing files may be downloaded; default True.

    Raises:
        LotteryError: An argument is out of range, or the data is neither there nor to be had.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    name = "CIFAR10"
    shape = (3, 32, 32)

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 128,
        *,
        augment: bool = False,
        hue: float = 0.0,
        val_fraction: float = 0.1,
        seed: int | None = None,
        limit: int | None = None,
        classes: Sequence[int] | None = None,
        download: bool = True,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            augment=augment,
            val_fraction=val_fraction,
            seed=seed,
            limit=limit,
            download=download,
        )
        if not 0 <= hue <= 0.5 or (hue and not augment):
            raise LotteryError(f"`hue` is the most that `augment=True` turns it by, in [0, 0.5], got {hue!r}.")
        if classes is not None and (not classes or {*classes} - {*range(self.num_classes)}):
            raise LotteryError(f"`classes` are some of 0 to {self.num_classes - 1}, got {classes!r}.")
        self.hue, self.classes = hue, classes

    def _read(self) -> dict[str, Samples]:
        splits = super()._read()
        if self.classes is None:
            return splits
        chosen = {split: torch.isin(labels, torch.tensor(self.classes)) for split, (_, labels) in splits.items()}
        return {split: (images[chosen[split]], labels[chosen[split]]) for split, (images, labels) in splits.items()}
