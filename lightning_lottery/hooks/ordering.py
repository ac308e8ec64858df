"""The order of the training data by a seed of its own, apart from every other random number of a fit."""

import random
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.counters import mix64
from lightning_lottery.hooks.private import Loader, without_iterator

Epoch = Callable[[], int]
"""The epoch of an iteration that begins now."""


class Order(Callback):
    """Lets a fit's training loaders draw their order by a seed of its own.

    Args:
        seed: Of the order: in each epoch another, the same on every machine.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.first: dict[int, str] = {}
        """Epoch to a hash of the indices that its first batch is made of."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand behind the strategy, which has the last word on loaders: before, Lightning may make them anew."""
        process = trainer.strategy.process_dataloader

        def process_in_order(loader: Any) -> Any:
            loader = process(loader)
            if not trainer.training:
                return loader
            return ordered(loader, self.seed, lambda: trainer.current_epoch, trainer.global_rank, self.first)

        if stage == "fit":
            vars(trainer.strategy)["process_dataloader"] = process_in_order

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        vars(trainer.strategy).pop("process_dataloader", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")


def ordered(loader: Loader, seed: int, epoch: Epoch, rank: int = 0, first: dict[int, str] | None = None) -> Loader:
    """A copy of a training loader whose order a seed decides; workers and what they draw stay as they are.

    A ``DataLoader``'s sampler draws from generators that are seeded by (seed, epoch), and finds the global ones as it
    left them: those of Python, NumPy and torch (by rank as well), its own, and an int ``seed`` beside ``set_epoch``, as
    ``DistributedSampler`` has. A loader of another class says that it can by an attribute ``order_seed``, an int from
    which alone it draws its order; it is set on the copy.

    Args:
        loader: Left alone.
        seed: Of the order.
        epoch: Asked when an iteration begins.
        rank: Of this process.
        first: Filled with a hash of the first indices of each epoch, where there is a sampler.

    Raises:
        LotteryError: Order and samples are drawn together: an ``IterableDataset``, or a loader that cannot be asked.
    """
    twin: Any = without_iterator(loader)
    if hasattr(loader, "order_seed"):
        twin.order_seed = seed
        return twin  # type: ignore[no-any-return]
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        stream = f" of {type(loader.dataset).__name__}" if isinstance(loader, DataLoader) else ""
        raise LotteryError(
            f"The training loader ({type(loader).__name__}{stream}) draws the order of the data where it makes the "
            "samples, so that order and augmentation cannot be told apart: take a DataLoader with a sampler, give the "
            "loader an attribute `order_seed` that alone decides its order, or let children differ in all of it "
            "(noise='seed')."
        )
    sampler = "sampler" if loader.batch_sampler is None else "batch_sampler"
    in_order = _InOrder(getattr(loader, sampler), seed, epoch, rank, {} if first is None else first)
    vars(twin)[sampler] = in_order  # torch's DataLoader refuses to set it, though nothing is read from it before
    return twin  # type: ignore[no-any-return]


class _InOrder:
    """Stands in for a sampler: what that draws comes from a stream of its own.

    It has no state to save, whatever the sampler has: a loader that saves its place finds it again by counting.
    """

    def __init__(self, sampler: Any, seed: int, epoch: Epoch, rank: int, first: dict[int, str]) -> None:
        self._sampler, self._seed, self._epoch, self._rank, self._first = sampler, seed, epoch, rank, first

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("state_dict", "load_state_dict"):
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._epoch()
        draws = _Draws(self._sampler, mix64(self._seed, epoch), self._rank)
        with draws:
            indices = iter(self._sampler)
        while True:
            with draws:
                try:
                    drawn = next(indices)
                except StopIteration:
                    return
            self._first.setdefault(epoch, blake2b(repr(drawn).encode(), digest_size=16).hexdigest())
            yield drawn


class _Draws:
    """Random numbers of one iteration, in place of the global ones and of a sampler's own while the block runs.

    Only within: between two draws others use the global ones, and the next iteration may have begun.
    """

    def __init__(self, sampler: Any, seed: int, rank: int) -> None:
        self._sources = list(_sources_of(sampler, seed))
        self._next = _states_seeded(mix64(seed, rank))

    def __enter__(self) -> None:
        self._before = _states()
        _set(self._next)
        self._lent = [(holder, name, vars(holder)[name]) for holder, name, _ in self._sources]
        for holder, name, value in self._sources:
            vars(holder)[name] = value

    def __exit__(self, *_: object) -> None:
        for holder, name, value in self._lent:
            vars(holder)[name] = value
        self._next = _states()
        _set(self._before)


def _sources_of(sampler: Any, seed: int) -> Iterator[tuple[Any, str, Any]]:
    """What a sampler, and those that it draws from, hold to draw from: holder, attribute and what is lent to it."""
    while sampler is not None:
        for name, value in vars(sampler).items() if hasattr(sampler, "__dict__") else ():
            if isinstance(value, torch.Generator):
                yield sampler, name, torch.Generator().manual_seed(seed)
            elif isinstance(value, np.random.Generator):
                yield sampler, name, np.random.default_rng(seed)
            elif isinstance(value, np.random.RandomState):
                yield sampler, name, np.random.RandomState(seed % 2**32)
            elif isinstance(value, random.Random):
                yield sampler, name, random.Random(seed)
            elif name == "seed" and isinstance(value, int) and hasattr(sampler, "set_epoch"):
                yield sampler, name, seed % 2**32
        sampler = getattr(sampler, "sampler", None)


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _states_seeded(seed: int) -> tuple[Any, ...]:
    # Not `torch.manual_seed`, which would seed the generators of GPUs as well.
    return (
        torch.Generator().manual_seed(seed).get_state(),
        np.random.RandomState(seed % 2**32).get_state(),
        random.Random(seed).getstate(),
    )
