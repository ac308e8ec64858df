"""A fit in which two callbacks stand around the one that is measured, and look at the clock.

So its extra work is timed alone, and the dense step that it is compared with is the one it was part of: differences of
whole steps drift by more than the work that is looked for.
"""

import logging
import tempfile
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import ON_GPU
from lightning_lottery.zoo import ImageClassifier, vit


class Stopwatch:
    """Seconds of each step: the optimizer's, the measured callback's, and those of all else."""

    def __init__(self, measured: Callback) -> None:
        self.extra: list[float] = []
        self.optimizer: list[float] = []
        self.dense: list[float] = []
        self._marks: list[Any] = []
        self.around = (_Before(self), _After(self))
        hook = measured.on_before_optimizer_step

        def between_marks(*arguments: Any) -> None:  # a later callback with this hook would look at gradients
            self.mark()
            hook(*arguments)
            self.mark()

        measured.on_before_optimizer_step = between_marks

    def begins(self, trainer: Trainer) -> None:
        """Before the measured callback's hook at the end of a step."""

    def ends(self, trainer: Trainer) -> None:
        """After it."""

    def mark(self) -> None:
        """Look at the clock."""
        if ON_GPU:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def start(self) -> None:
        """A step begins."""
        self._marks = []
        self.mark()

    def stop(self) -> None:
        """A step ends: six marks were made since it began, two at each hook."""
        if ON_GPU:
            torch.cuda.synchronize()
            times = [self._marks[0].elapsed_time(mark) / 1000 for mark in self._marks]
        else:
            times = self._marks
        start, a1, a2, a3, a4, a5, a6 = times
        self.extra.append((a2 - a1) + (a4 - a3) + (a6 - a5))
        self.optimizer.append(a3 - a2)
        self.dense.append((a5 - start) - (a2 - a1) - (a4 - a3))

    def by(self, steps: int, *, skip: int) -> tuple[list[float], list[float], list[float]]:
        """Extra, optimizer's and dense seconds per step, each the mean over so many steps after the first ``skip``."""
        return tuple(
            [sum(seconds[i : i + steps]) / steps for i in range(skip, len(seconds) - steps + 1, steps)]
            for seconds in (self.extra, self.optimizer, self.dense)
        )


class _Side(Callback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch


class _Before(_Side):
    lottery_order = 0.5

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.watch.mark())
        self.watch.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.watch.begins(trainer)
        self.watch.mark()


class _After(_Side):
    lottery_order = 1.5

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.watch.mark())

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.watch.mark()
        self.watch.ends(trainer)
        self.watch.stop()
        self.watch.start()


def vit_of_5_million(toy: bool = False) -> nn.Module:
    """The vision transformer that the table means."""
    if toy:
        return vit(hidden_size=16, layers=1, heads=2, mlp_size=32, channels=3, image_size=32, patch_size=8)
    return vit(hidden_size=192, layers=12, heads=6, mlp_size=768, channels=3, image_size=32, patch_size=4)


class ManySmall(nn.Module):
    """So many linear layers side by side, of 256 weights each."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16))
        self.layers = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(count))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images of 32 x 32 pixels."""
        entry = self.entry(images)
        total: Tensor = sum(layer(entry) for layer in self.layers) / len(self.layers)
        return self.head(total)


def images(n: int) -> tuple[Tensor, Tensor]:
    """Random ones, and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator)


def fit(
    network: nn.Module, steps: int, *callbacks: Callback, batch_size: int = 16, loader: Any = None, **options: Any
) -> Trainer:
    """Train by AdamW (torch's default) for so many steps, on the batches of a loader where there is one."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    accelerator = "gpu" if ON_GPU else "cpu"
    data = TensorDataset(*images(batch_size * min(steps, 16)))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|was to reach sparsity)")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec", category=FutureWarning)
        trainer = Trainer(
            max_steps=steps,
            accelerator=accelerator,
            devices=1,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
            **options,
        )
        batches = loader or DataLoader(data, batch_size=batch_size)
        trainer.fit(ImageClassifier(network, num_classes=10, lr=1e-4), batches)
    return trainer
