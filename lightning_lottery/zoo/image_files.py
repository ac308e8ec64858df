"""Folders of images too large for memory, as ImageNet's: read by workers when a batch needs them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_lottery.checks import check_count, check_fraction
from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo.image_folder import class_names, image_files, open_image
from lightning_lottery.zoo.in_memory import InMemory, Samples, hold_out, in_fixed_order
from lightning_lottery.zoo.loader import Prepare


class ImageFolder(InMemory):
    """Images of any size in one subfolder per class, read when a batch needs them; the folder of ImageNet, or alike.

    ``root/train/<class>/`` and ``root/val/<class>/`` hold the images (.jpg, .jpeg, .png); classes are numbered
    alphabetically. Where there is no ``root/test``, ``val`` is the test set, as is the custom with ImageNet, and
    validation is held out of train. Images are served as floats in [0, 1]: in training a random crop of 8 to 100 % of
    the area, resized, and flipped at random; else the middle, seven eighths as wide as the shorter side.

    Args:
        root: The folder; default "data/imagenet". Nothing is downloaded.
        batch_size: Samples of a batch on one device; default 256.
        image_size: Side of what is served, in pixels; default 224.
        num_workers: Processes that read ahead; default 4, 0 for none. They change no batch.
        jitter: Half width of the interval of the factors of brightness, contrast and saturation, [0, 1]; default 0.
        hue: The most that the hue is turned by in training, in turns, [0, 0.5]; default 0.
        val_fraction: Of train, in (0, 1), held out where ``val`` is the test set, the same in every run; default 0.01.
        seed: Of order and augmentation, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training images, for a smoke test; default: all.

    Raises:
        LotteryError: An argument is out of range, a folder is missing or empty, or they differ in their classes; of an
            image that cannot be read, when its batch is.

    Source: He et al. 2016, "Deep residual learning for image recognition", section 3.4; Szegedy et al. 2015 for the
    crops.
    """

    def __init__(
        self,
        root: str = "data/imagenet",
        batch_size: int = 256,
        *,
        image_size: int = 224,
        num_workers: int = 4,
        jitter: float = 0.0,
        hue: float = 0.0,
        val_fraction: float = 0.01,
        seed: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, limit)
        check_count("image_size", image_size, "a number of pixels")
        check_count("num_workers", num_workers, "a number of processes", least=0)
        check_fraction("jitter", jitter, "half the width of an interval of factors", one=True)
        check_fraction("val_fraction", val_fraction, "the fraction held out for validation", zero=False)
        if not 0 <= hue <= 0.5:
            raise LotteryError(f"`hue` is the most that it is turned by, in [0, 0.5], got {hue!r}.")
        self.root, self.image_size, self.num_workers, self.val_fraction = root, image_size, num_workers, val_fraction
        self.jitter, self.hue = jitter, hue
        self._paths: list[Path] = []

    def _read(self) -> dict[str, Samples]:
        root = Path(self.root).expanduser()
        halves = [split for split in ("train", "val", "test") if (root / split).is_dir()]
        folders = halves if "train" in halves and len(halves) > 1 else ["train", "val"]  # which says what is missing
        classes = class_names(root, type(self).__name__, folders)
        self.num_classes = len(classes)
        read: dict[str, Samples] = {}
        for folder in folders:
            paths, labels = image_files(root / folder, classes)
            # What stays in memory are numbers of files.
            read[folder] = torch.arange(len(paths)) + len(self._paths), torch.tensor(labels)
            self._paths += paths
        test = in_fixed_order(*read[folders[-1]])
        if len(folders) == 3:
            return {"train": in_fixed_order(*read["train"]), "val": in_fixed_order(*read["val"]), "test": test}
        return {**hold_out(*read["train"], self.val_fraction, str(root / "train")), "test": test}

    def _prepare(self, split: str) -> Prepare:
        from torchvision import transforms

        if split == "train":
            jitter = transforms.ColorJitter(self.jitter, self.jitter, self.jitter, self.hue)
            view = [transforms.RandomResizedCrop(self.image_size), transforms.RandomHorizontalFlip(), jitter]
        else:
            view = [transforms.Resize(self.image_size * 8 // 7), transforms.CenterCrop(self.image_size)]
        view.append(transforms.ToTensor())
        return partial(_views, paths=self._paths, view=transforms.Compose(view))


def _views(numbers: Tensor, generator: torch.Generator, paths: Sequence[Path], view: Callable[[Any], Tensor]) -> Tensor:
    # Torchvision's transforms draw from the global generator, which is lent and given back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([view(open_image(paths[number], "RGB")) for number in numbers.tolist()])
