"""Batches that are a function of (seed, epoch, batch, rank) alone: a resumed run sees what an unbroken one does."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_lottery.checks import check_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.counters import mix64

Prepare = Callable[[Tensor, torch.Generator], Any]


class SeededBatches:
    """A loader whose batch k depends on (seed, epoch, k) alone, with each rank taking its part.

    Random numbers come from generators of its own, seeded anew for each epoch's order and for each batch;
    the global ones are left alone. Lightning saves and restores its position with a checkpoint, and tells
    it the epoch.

    With ``shuffle`` (training) every rank gets equally many batches of equal sizes: what does not divide by the ranks
    is left out, other samples in each epoch, and only the last batch may be smaller. Without (evaluation) every sample
    comes exactly once over all ranks, in equally many batches on each, of sizes that differ by at most one.

    Args:
        inputs: (N, ...), of any type: images, tokens.
        labels: (N,), int64.
        batch_size: Samples of a batch on one rank. One exception: at ``batch_size`` 1, where the samples of an
            evaluation do not divide by the ranks, some ranks end with one batch of two.
        seed: Of the order, and of what ``prepare`` draws; default 0.
        rank: Of this process among ``world_size``; default 0.
        world_size: Number of processes; default 1.
        shuffle: A new order in each epoch; default False.
        num_workers: Processes that prepare batches ahead; default 0, this one does. They change no batch.
        prepare: A function of (a batch's inputs, generator) that returns what is served in their place: augmented
            images, or tokens without needless padding; the generator is its only source of randomness. Default: inputs
            are served as they are.

    Raises:
        TypeError: Labels are not int64.
        LotteryError: There are no samples, or fewer than ranks, or inputs and labels differ in number, or
            ``batch_size`` or ``rank`` is out of range.

    Example:
        >>> inputs, labels = torch.zeros(5, 1, 8, 8), torch.arange(5)
        >>> [len(labels) for inputs, labels in SeededBatches(inputs, labels, batch_size=2)]
        [2, 2, 1]
    """

    batch_sampler = None  # Lightning looks here too when there is a `sampler`

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        prepare: Prepare | None = None,
    ) -> None:
        _check_samples(inputs, labels)
        check_count("batch_size", batch_size, "a number of samples")
        if not 0 <= rank < world_size:
            raise LotteryError(f"rank must be in [0, world_size), got rank {rank} of {world_size}.")
        if len(inputs) < world_size:
            raise LotteryError(f"{len(inputs)} samples do not suffice for {world_size} ranks: use fewer devices.")
        self.inputs, self.labels = inputs, labels
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        check_count("num_workers", num_workers, "a number of processes", least=0)
        self.shuffle, self.num_workers, self.prepare = shuffle, num_workers, prepare
        self.order_seed = seed
        """Of the order alone: children that differ in the order of the data, or in all but it, have another here."""
        self.epoch = 0
        self._start = self._next = 0

    @property
    def dataset(self) -> Tensor:
        """The labels of all samples, over all ranks: its length is how many there are."""
        return self.labels

    @property
    def sampler(self) -> "SeededBatches":
        """Itself: Lightning looks here for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; another one than the restored epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self._start = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch and the batch that comes next; after the last one, batch 0."""
        return {"epoch": self.epoch, "batch": self._next % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration continue at the stored batch of the stored epoch.

        Raises:
            LotteryError: An epoch has no such batch.
        """
        if not 0 <= state["batch"] < len(self):
            raise LotteryError(
                f"The checkpoint stands before batch {state['batch']}, but an epoch has {len(self)}: resume with the "
                "data, batch_size and number of devices that it was trained with."
            )
        self.epoch = state["epoch"]
        self._start = self._next = state["batch"]

    def __len__(self) -> int:
        """Batches of an epoch, the same number on every rank."""
        # Every rank must get as many batches, or those that have one more wait for the others for ever: as many as the
        # largest share needs, but never more than the smallest share has samples.
        fewest, more = divmod(len(self.inputs), self.world_size)
        most = fewest if self.shuffle or not more else fewest + 1
        return min(-(-most // self.batch_size), fewest)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """Batches (inputs, labels) from the restored one, else the first, to the end of the epoch."""
        start, self._start = self._start, 0
        parts = self._parts(self.epoch)
        numbers = range(start, len(parts))
        batches: Iterable[tuple[Any, Tensor] | LotteryError] = map(partial(self._batch, self.epoch, parts), numbers)
        if self.num_workers:
            batches = DataLoader(
                _Batches(partial(self._batch, self.epoch, parts), len(parts)),
                batch_size=None,
                sampler=numbers,
                num_workers=self.num_workers,
                collate_fn=_as_it_is,
                generator=torch.Generator(),  # which its workers' seed is from: the global one is left alone
            )
        for batch, served in zip(numbers, batches, strict=True):
            if isinstance(served, LotteryError):
                raise served
            self._next = batch + 1
            yield served

    def _batch(self, epoch: int, parts: Sequence[Tensor], batch: int) -> tuple[Any, Tensor]:
        inputs: Any = self.inputs[parts[batch]]
        if self.prepare is not None:
            inputs = self.prepare(inputs, _generator(self.seed, epoch, batch, self.rank))
        return inputs, self.labels[parts[batch]]

    def _parts(self, epoch: int) -> tuple[Tensor, ...]:
        """The indices of this rank's samples, one tensor per batch."""
        total = len(self.inputs)
        if not self.shuffle:
            mine = torch.arange(self.rank, total, self.world_size)
            return mine.tensor_split(len(self))
        order = torch.randperm(total, generator=_generator(self.order_seed, epoch))  # the same on every rank
        mine = order[: total - total % self.world_size][self.rank :: self.world_size]
        return torch.split(mine, self.batch_size)


class _Batches(Dataset[tuple[Any, Tensor] | LotteryError]):
    """An epoch's batches by their numbers, for workers; or why there is none.

    Not raised: a DataLoader makes its worker's whole traceback the message of what it raises here.
    """

    def __init__(self, batch: Callable[[int], tuple[Any, Tensor]], count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Any, Tensor] | LotteryError:
        try:
            return self.batch(number)
        except LotteryError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch  # a DataLoader would make a list of it


def _check_samples(inputs: Tensor, labels: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"SeededBatches takes int64 labels, got {labels.dtype}.")
    if not inputs.ndim or labels.ndim != 1 or len(inputs) != len(labels):
        raise LotteryError(
            f"SeededBatches takes inputs (N, ...) and labels (N,), got {tuple(inputs.shape)} and {tuple(labels.shape)}."
        )
    if not len(inputs):
        raise LotteryError("SeededBatches got no samples.")


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix64(*numbers))
