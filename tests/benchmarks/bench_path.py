"""A line of 21 places: `path` beside the naive sweep, which loads and decodes the data anew for each place."""

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from benchmarks.measure import Row, interleaved, plain, ratio
from lightning_lottery import path
from lightning_lottery.zoo import ImageClassifier, lenet_300_100, resnet


class Encoded(Dataset):
    """Images that are kept as PNG and decoded when asked for, as those of a folder are."""

    def __init__(self, n: int, grey: bool) -> None:
        generator = np.random.default_rng(0)
        shape = (28, 28) if grey else (32, 32, 3)
        self.files = [_png(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(n)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(io.BytesIO(self.files[index]))), index % 10

    transform = Compose([ToTensor(), Normalize(0.5, 0.5)])


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def run(toy: bool = False) -> Iterator[Row]:
    """An MLP and ResNet-20; several pairs; more data, more places."""
    few, many = (32, 64) if toy else (1024, 4096)
    places, rounds = (3, 2) if toy else (21, 2)
    yield from _line("MLP", lenet_300_100, few, places, rounds, ">= 9 x")
    yield from _line("MLP", lenet_300_100, many, places, rounds, ">= 9 x")
    yield from _growth(few, places, rounds)
    yield from _line("ResNet-20", lambda: resnet(8 if toy else 20), few // 2, places, rounds)


def _line(name: str, make: Callable[[], nn.Module], n: int, places: int, rounds: int, goal: str = "") -> list[Row]:
    """With what decoding and forward passes alone allow."""
    loader = DataLoader(Encoded(n, grey=name == "MLP"), batch_size=128)
    with tempfile.TemporaryDirectory() as folder:
        module, ends = _ends(make, Path(folder), 2)
        cached = DataLoader(list(loader), batch_size=None)
        variants = {
            "ours": lambda: _ours(module, loader, ends, places),
            "naive": lambda: _naive(module, loader, ends, places, _tested),
            "bare": lambda: _naive(module, loader, ends, places, _forward),
            "decode": lambda: list(loader),
            "pass": lambda: _tested(module, cached),
        }
        times = interleaved(variants, rounds)
    best = [
        places * (d + f) / (d + places * f) * o / n
        for d, f, o, n in zip(times["decode"], times["pass"], times["ours"], times["naive"], strict=True)
    ]
    what = f"path, {name}, {places} places, {n} images"
    return [
        ratio(f"{what}: `Trainer.test` at each / ours", times["naive"], times["ours"], goal=goal),
        plain(f"{what}: speed-up that decoding once allows, by the one reached", best, "x", goal="<= 1.1 x"),
        ratio(f"{what}: a loop of one's own, without Lightning / ours", times["bare"], times["ours"], goal=goal),
    ]


def _growth(n: int, places: int, rounds: int) -> list[Row]:
    """Twice the data, twice the places, three pairs instead of one."""
    loaders = {factor: DataLoader(Encoded(factor * n, grey=True), batch_size=128) for factor in (1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        module, ends = _ends(lenet_300_100, Path(folder), 3)
        times = interleaved(
            {
                "one": lambda: _ours(module, loaders[1], ends[:2], places),
                "twice the data": lambda: _ours(module, loaders[2], ends[:2], places),
                "twice the places": lambda: _ours(module, loaders[1], ends[:2], 2 * places - 1),
                "three pairs": lambda: _ours(module, loaders[1], ends, places),
            },
            rounds,
        )
    return [ratio(f"path, MLP: {what} / one line", times[what], times["one"]) for what in list(times)[1:]]


def _ends(make: Callable[[], nn.Module], folder: Path, count: int) -> tuple[LightningModule, list[Path]]:
    files = []
    for seed in range(count):
        torch.manual_seed(seed)
        module = ImageClassifier(make())
        files.append(folder / f"{seed}.pt")
        torch.save(module.state_dict(), files[-1])
    return module, files


def _ours(module: LightningModule, loader: DataLoader, ends: list[Path], places: int) -> None:
    path(module, loader, ends, trainer=_trainer(), alphas=[k / (places - 1) for k in range(places)])


@torch.no_grad()
def _naive(
    module: LightningModule, loader: DataLoader, ends: list[Path], places: int, evaluate: Callable[..., object]
) -> None:
    a, b = (torch.load(file, weights_only=True) for file in ends)
    for k in range(places):
        alpha = k / (places - 1)
        module.load_state_dict({n: alpha * a[n] + (1 - alpha) * b[n] if a[n].is_floating_point() else a[n] for n in a})
        evaluate(module, loader)


def _tested(module: LightningModule, batches: object) -> None:
    _trainer().test(module, batches, verbose=False)


def _trainer() -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(devices=1, enable_model_summary=False, **quiet)


@torch.no_grad()
def _forward(module: LightningModule, batches: object) -> tuple[float, int]:
    module.eval()
    loss, correct = 0.0, 0
    for x, y in batches:
        logits = module(x)
        loss += nn.functional.cross_entropy(logits, y, reduction="sum").item()
        correct += int((logits.argmax(1) == y).sum())
    return loss, correct
