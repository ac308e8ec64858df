"""What a fit leaves behind: kept at every step, and compared bit for bit."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from helpers.projects import fit
from lightning_lottery import Snapshots


def same(a: object, b: object) -> bool:
    """Bit for bit and in the same order, through nested containers."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(bits(a), bits(b))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def differences(a: object, b: object, name: str = "") -> Iterator[str]:
    """The names of what is not the same in nested mappings, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if key not in a or key not in b:
                yield f"{name}/{key} is in one only"
            else:
                yield from differences(a[key], b[key], f"{name}/{key}")
    elif not same(a, b):
        yield f"{name} was {str(a)[:300]}, is {str(b)[:300]}"


def bits(tensor: Tensor) -> Tensor:
    """Its bytes, so that NaN is itself and -0.0 is not 0.0."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def removed_are_zero(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    return all(not state[name][~mask].any() for name, mask in masks.items())


class KeepEveryResume(Callback):
    """Copies each checkpoint that ExactResume writes, so that one unbroken run gives every point to resume from."""

    lottery_order = 2.5

    def __init__(self, folder: Path, into: Path) -> None:
        self.file, self.into = folder / "resume.ckpt", into

    def _keep(self, trainer, *_):
        if self.file.is_file():
            step = torch.load(self.file, weights_only=True)["global_step"]
            self.into.mkdir(exist_ok=True)
            shutil.copy(self.file, self.into / f"{step}.ckpt")

    on_train_batch_end = on_validation_end = on_train_end = _keep


def ending(trainer: Trainer, callback: Callback) -> dict[str, object]:
    return {
        "weights": trainer.lightning_module.state_dict(),
        "callback": {**callback.state_dict()},
        "optimizer": trainer.optimizers[0].state_dict(),
        "step": trainer.global_step,
    }


def checkpoint(folder: Path, *callbacks: object) -> Path:
    """Of a fit of these callbacks, after step 6."""
    fit(folder, *callbacks, Snapshots([6]))
    return folder / "snapshots" / "step=6.ckpt"
