"""Batches to evaluate on: where they come from, and this rank's share of each, no sample lost or seen twice."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from statistics import mode
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.random_numbers import random_numbers_kept
from lightning_lottery.hooks.scoring import generators_of

Split = Literal["train", "val", "test"]
"""Which of a project's loaders, and with it which of the module's steps."""


def loader_of(module: LightningModule, data: Any, split: Split, trainer: Trainer) -> Iterable[Any]:
    """The one loader of a split, before Lightning has changed anything about it; with all samples for every rank.

    Raises:
        LotteryError: There is none, or several.
    """
    if isinstance(data, (LightningDataModule, LightningModule)) or data is None:
        source = data if data is not None else module
        if not is_overridden(f"{split}_dataloader", source):
            raise LotteryError(f"{type(source).__name__} has no `{split}_dataloader` to take batches from.")
        # A data module may divide its data by `trainer.world_size` itself; `Batches` would then divide it again.
        alone: Any = trainer if trainer.world_size == 1 else _AsIfAlone(trainer)
        source.trainer = alone
        source.prepare_data()
        source.setup({"train": "fit", "val": "validate", "test": "test"}[split])
        loader = getattr(source, f"{split}_dataloader")()
    else:
        loader = data
    if isinstance(loader, (list, tuple, dict)) and len(loader) == 1:
        loader = next(iter(loader.values() if isinstance(loader, dict) else loader))
    if isinstance(loader, (list, tuple, dict)) or not isinstance(loader, Iterable):
        number = f"{len(loader)} loaders" if isinstance(loader, Sized) else "no loader"
        raise LotteryError(f"Evaluation needs one {split} loader, found {number}.")
    return loader


class _AsIfAlone:
    """A Trainer that says it has one rank, for data modules that would divide their data over several."""

    world_size, global_rank, local_rank = 1, 0, 0

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def split_of(module: LightningModule, data: Any) -> Split:
    """``"test"`` where module and data know how, else ``"val"``.

    Raises:
        LotteryError: The module has neither ``test_step`` nor ``validation_step``.
    """
    is_loader = not isinstance(data, LightningDataModule) and data is not None
    source = data if isinstance(data, LightningDataModule) else module
    if is_overridden("test_step", module) and (is_loader or is_overridden("test_dataloader", source)):
        return "test"
    if is_overridden("validation_step", module) and (is_loader or is_overridden("val_dataloader", source)):
        return "val"
    raise LotteryError(f"{type(module).__name__} has no `test_step` or `validation_step` to evaluate with.")


class Repeated:
    """A training loader as something to evaluate on: it shuffles and augments alike in each iteration.

    Whoever draws afterwards gets the numbers that would have come without it.

    Args:
        loader: Of whose batches only the first are given, where ``limit`` says so.
        limit: As the Trainer's of training batches: a whole number of them, or a fraction.
    """

    def __init__(self, loader: Iterable[Any], limit: int | float = 1.0) -> None:
        self.loader, self.limit = loader, limit

    def __iter__(self) -> Iterator[Any]:
        generators = [(generator, generator.get_state()) for generator in generators_of(self.loader)]
        most = self.limit if isinstance(self.limit, int) else None
        if most is None and self.limit < 1 and isinstance(self.loader, Sized):
            most = int(self.limit * len(self.loader))
        try:
            with random_numbers_kept():
                torch.manual_seed(0)
                random.seed(0)
                np.random.seed(0)
                yield from islice(self.loader, most)
        finally:
            for generator, state in generators:
                generator.set_state(state)


class Batches:
    """This rank's share of a loader's batches, kept in memory where they fit, else loaded anew each time.

    Every batch is divided over the ranks, so all ranks have equally many, no sample twice and none left out; a last one
    with fewer samples than ranks is joined to the one before it.

    Args:
        loader: Gives whole batches, the same in each iteration.
        rank: Of this process among ``world_size``.
        world_size: Number of processes.
        memory: Bytes up to which batches are kept.
    """

    def __init__(self, loader: Iterable[Any], *, rank: int = 0, world_size: int = 1, memory: int = 2**31) -> None:
        self.loader, self.rank, self.world_size, self.memory = loader, rank, world_size, memory
        self.kept: list[Any] | None = []
        self.sizes: list[int] = []
        self.parts: list[int] = []  # in which each of the loader's batches is given, alike on all ranks
        self.least: list[int] = []  # samples that every rank has of each: shares of ranks differ by one
        used = 0
        for whole in self._whole():
            batch = self._share(whole)
            self.sizes.append(samples_in(batch))
            self.parts.append(1)
            self.least.append(samples_in(whole) // world_size)
            used += bytes_of(batch)
            if used > memory:
                self.kept = None  # all or nothing: a part kept would only save a part of each pass
            if self.kept is not None:
                self.kept.append(batch)
        if not self.sizes:
            raise LotteryError("There is no batch to evaluate on: the loader is empty.")

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.kept) if self.kept is not None else self._load()

    def cut(self, parts: int) -> None:
        """Give every batch in so many parts from here on, in fewer where ranks would run out of samples.

        Raises:
            LotteryError: As ``share_of``; nothing is cut then.
        """
        numbers = [min(parts, max(1, least)) for least in self.least]
        kept = None if self.kept is None else list(_in_parts(self.kept, numbers))
        self.sizes = [samples_in(piece) for piece in kept or _in_parts(self._load_whole(), numbers)]
        self.kept, self.parts = kept, numbers

    def _load(self) -> Iterator[Any]:
        return _in_parts(self._load_whole(), self.parts)

    def _load_whole(self) -> Iterator[Any]:
        return map(self._share, self._whole())

    def _share(self, batch: Any) -> Any:
        return batch if self.world_size == 1 else share_of(batch, self.rank, self.world_size)

    def _whole(self) -> Iterator[Any]:
        """The loader's batches, one too small for all ranks joined to the one before it."""
        if self.world_size == 1:
            yield from self.loader
            return
        # A batch waits until the next has been seen, which may have to be joined to it.
        waiting: list[Any] = []
        for batch in self.loader:
            if waiting and samples_in(batch) < self.world_size:
                waiting[-1] = _joined(waiting[-1], batch)
                continue
            yield from waiting
            waiting = [batch]
        yield from waiting


def _in_parts(batches: Iterable[Any], numbers: Iterable[int]) -> Iterator[Any]:
    """Each batch in so many parts."""
    for batch, number in zip(batches, numbers, strict=True):
        yield from [batch] if number == 1 else (share_of(batch, part, number) for part in range(number))


def samples_in(batch: Any) -> int:
    """How many samples a batch has: the first dimension that most of its tensors agree on.

    Raises:
        LotteryError: It holds no tensor with a dimension.
    """
    sizes: list[int] = []
    apply_to_collection(batch, Tensor, lambda tensor: sizes.append(tensor.shape[0]) if tensor.ndim else None)
    if not sizes:
        raise LotteryError("A batch without tensors has no size: evaluation averages over samples.")
    return mode(sizes)


def _joined(first: Any, second: Any) -> Any:
    """Two batches as one."""
    (left, structure), (right, _) = tree_flatten(first), tree_flatten(second)
    sizes = samples_in(first), samples_in(second)

    def join(a: Any, b: Any) -> Any:
        is_of_samples = isinstance(a, Tensor) and a.ndim and (a.shape[0], b.shape[0]) == sizes
        return torch.cat([a, b]) if is_of_samples else a

    return tree_unflatten([join(a, b) for a, b in zip(left, right, strict=True)], structure)


def bytes_of(batch: Any) -> int:
    """Memory of a batch's tensors."""
    used: list[int] = []
    apply_to_collection(batch, Tensor, lambda tensor: used.append(tensor.numel() * tensor.element_size()))
    return sum(used)


def share_of(batch: Any, part: int, parts: int) -> Any:
    """One of several parts of a batch, a rank's for instance; they differ by at most one sample.

    Tensors and lists of plain values are cut where they have an entry for each sample.

    Raises:
        LotteryError: The batch has fewer samples than parts, or tensors that disagree on how many it has.
    """
    size = samples_in(batch)
    sizes: set[int] = set()
    apply_to_collection(batch, Tensor, lambda tensor: sizes.add(tensor.shape[0]) if tensor.ndim else None)
    if len(sizes) > 1:
        raise LotteryError(
            f"The tensors of a batch begin with {sorted(sizes)} entries, so it is not known how to share its samples "
            f"in {parts} parts: evaluate on one device, or give batches whose tensors begin with the samples."
        )
    if size < parts:
        raise LotteryError(f"A batch of {size} samples cannot be shared by {parts} ranks: use larger batches.")
    # A part ends where the next begins: every sample is in exactly one, whatever remains of size / parts.
    mine = slice(size * part // parts, size * (part + 1) // parts)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[mine] if value.ndim and len(value) == size else value
        if len(value) == size and not any(isinstance(item, (Tensor, Mapping, list, tuple)) for item in value):
            return value[mine]  # a list of each sample's name, for instance
        items = [apply_to_collection(item, (Tensor, list, tuple), cut) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    return apply_to_collection(batch, (Tensor, list, tuple), cut)
