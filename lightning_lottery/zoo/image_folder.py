"""Folders of small images as uint8 tensors: decoded once, kept in a file beside them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole


def read_image_folder(root: Path, name: str, shape: tuple[int, int, int], num_classes: int) -> dict[str, Tensor]:
    """The images under ``root/train/<class>/`` and ``root/test/<class>/``, and their labels.

    Labels number the class folders in alphabetical order. The decoded tensors are kept in
    ``root/<name>-uint8.safetensors`` and decoded again when a file came, went or changed its size; where this file
    cannot be written, a warning says so, and every run decodes.

    Args:
        root: The folder.
        name: Of the data set, for the file and the messages.
        shape: (C, H, W) that every image must have; with C = 1 they are read as grey, with C = 3 as RGB.
        num_classes: Class folders that there must be in each of the two.

    Returns:
        ``train_images`` and ``test_images``, (N, C, H, W), uint8; ``train_labels`` and ``test_labels``, (N,), int64.

    Raises:
        LotteryError: A folder is missing or empty, there are more or fewer classes, the two halves differ in them,
            or an image cannot be read or has another size.
    """
    classes = class_names(root, name, ("train", "test"), num_classes)
    files = {split: image_files(root / split, classes) for split in ("train", "test")}
    listing = _listing(root, [path for paths, _ in files.values() for path in paths])
    cache = root / f"{name}-uint8.safetensors"
    tensors = _load(cache, listing)
    if tensors is None:
        tensors = {}
        for split, (paths, labels) in files.items():
            tensors[f"{split}_images"] = _decode(paths, shape, f"{name} {split}")
            tensors[f"{split}_labels"] = torch.tensor(labels)
        _store(cache, tensors, listing)
    return tensors


def class_names(root: Path, name: str, splits: Sequence[str], num_classes: int | None = None) -> list[str]:
    """The class folders of every split, which are the same in each, in alphabetical order.

    Args:
        root: The folder of the splits' folders.
        name: Of the data set, for the messages.
        splits: Their folders, at least two.
        num_classes: How many there must be; None: any number but none.

    Raises:
        LotteryError: A folder is missing, two differ in their classes, or there are more or fewer.
    """
    names = []
    for split in splits:
        if not (root / split).is_dir():
            raise LotteryError(f"{name} is at {root} as folders, but {root / split} is missing.")
        names.append(sorted(entry.name for entry in os.scandir(root / split) if entry.is_dir()))
    first = names[0]
    another = next((number for number, classes in enumerate(names) if classes != first), 1)
    if names[another] != first or len(first) != (num_classes or len(first) or 1):
        raise LotteryError(
            f"{name} needs the same {f'{num_classes} ' if num_classes else ''}class folders in {root / splits[0]} and "
            f"{root / splits[another]}, found {len(first)} and {len(names[another])}: {_some(first)} and "
            f"{_some(names[another])}."
        )
    return first


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"


def image_files(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The images of every class, by name, and their labels.

    Raises:
        LotteryError: A class has none.
    """
    # Sorted: a folder lists its files in any order, and the order of the samples decides what a seed draws.
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        names = sorted(
            entry.name
            for entry in os.scandir(folder / name)
            if entry.name.lower().endswith((".jpg", ".jpeg", ".png")) and not entry.name.startswith(".")
        )
        if not names:
            raise LotteryError(f"{folder / name} holds no .jpg, .jpeg or .png image.")
        paths += [folder / name / file for file in names]
        labels += [label] * len(names)
    return paths, labels


def _listing(root: Path, paths: Sequence[Path]) -> str:
    """What the files are, in one line: how many, how large together, and a hash of names and sizes."""
    digest, total = hashlib.sha256(), 0
    for path in paths:
        size = path.stat().st_size
        total += size
        digest.update(f"{path.relative_to(root).as_posix()} {size}\n".encode())
    return f"{len(paths)} files, {total} bytes, sha256 {digest.hexdigest()}"


def open_image(path: Path, mode: str) -> Any:
    """An image of Pillow's, decoded in a mode of its, "L" or "RGB".

    Raises:
        LotteryError: It cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.convert(mode)
    except (OSError, SyntaxError) as error:  # the second is Pillow's word for a broken PNG
        raise LotteryError(f"{path} cannot be read as an image: remove or replace it.") from error


def _decode(paths: Sequence[Path], shape: tuple[int, int, int], title: str) -> Tensor:
    from rich.progress import track

    mode = "L" if shape[0] == 1 else "RGB"
    images = torch.empty(len(paths), *shape, dtype=torch.uint8)
    for index, path in enumerate(track(paths, f"decoding {title}", transient=True)):
        pixels = np.asarray(open_image(path, mode))
        if pixels.shape[:2] != shape[1:]:
            raise LotteryError(f"{path} is {pixels.shape[:2]} pixels (H, W), but {title} needs {shape[1:]}.")
        images[index] = torch.from_numpy(pixels.reshape(*shape[1:], shape[0]).transpose(2, 0, 1).copy())
    return images


def _load(cache: Path, listing: str) -> dict[str, Tensor] | None:
    """What ``_store`` wrote for the same listing, else None."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(cache, framework="pt") as file:
            if (file.metadata() or {}).get("listing") != listing:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def _store(cache: Path, tensors: dict[str, Tensor], listing: str) -> None:
    """Keep the tensors for later runs; where they cannot be kept, a warning says so."""
    from safetensors.torch import save

    try:
        # `save_file` would make a file that nobody but its owner may read (safetensors 0.8).
        write_whole(cache, save(tensors, metadata={"listing": listing}), "cache")
    except LotteryError as error:
        rank_zero_warn(f"{cache} cannot be written, so that every run decodes the images again: {error.__cause__}")
