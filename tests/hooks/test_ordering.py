"""The order of the data by a seed of its own: what follows it, what does not, and what cannot."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)

from helpers.factories import Net
from helpers.projects import Batches, plain_loader, trainer
from lightning_lottery import LotteryError
from lightning_lottery.hooks.ordering import Order, ordered
from lightning_lottery.zoo.loader import SeededBatches

N = 24


class Numbers(Dataset):
    """Each sample is its number, and what it drew from the global generators."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(1).item(), np.random.rand(), random.random()], dtype=torch.float64)


class Drawing:
    """Somebody's sampler, whose order comes from a source of its own."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return N

    def __iter__(self):
        order = list(range(N))
        self.source.shuffle(order)
        return iter(order)


SAMPLERS = {
    "shuffle": lambda: {"shuffle": True},
    "a generator": lambda: {"shuffle": True, "generator": torch.Generator().manual_seed(0)},
    "with replacement": lambda: {"sampler": WeightedRandomSampler(torch.ones(N), N)},
    "numpy's Generator": lambda: {"sampler": Drawing(np.random.default_rng(0))},
    "numpy's RandomState": lambda: {"sampler": Drawing(np.random.RandomState(0))},
    "Python's Random": lambda: {"sampler": Drawing(random.Random(0))},
    "numpy's global": lambda: {"sampler": Drawing(np.random)},
    "Python's global": lambda: {"sampler": Drawing(random)},
    "distributed": lambda: {"sampler": DistributedSampler(range(2 * N), num_replicas=2, rank=0)},
}


def seeded(seed=0):
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)


def drawn(loader, seed=0):
    """Numbers of the samples in the order that they come, and what they drew, from generators seeded before."""
    seeded(seed)
    rows = torch.cat(list(loader))
    return rows[:, 0].tolist(), rows[:, 1:].tolist()


@pytest.mark.parametrize("arguments", SAMPLERS.values(), ids=SAMPLERS)
def test_the_order_follows_its_seed_and_the_epoch_alone_and_what_samples_draw_the_global_one_alone(arguments):
    loader = DataLoader(Numbers(), batch_size=5, **arguments())
    if isinstance(loader.sampler, DistributedSampler):
        loader.sampler.set_epoch(1)
    orders, draws = {}, {}
    for run, (seed, epoch, others) in {
        "first": (1, 0, 0), "again": (1, 0, 0), "order": (2, 0, 0), "epoch": (1, 1, 0), "others": (1, 0, 9)
    }.items():  # fmt: skip
        orders[run], draws[run] = drawn(ordered(loader, seed, lambda epoch=epoch: epoch), others)
    assert orders["first"] == orders["again"] == orders["others"]
    assert orders["first"] != orders["order"] and orders["first"] != orders["epoch"]
    assert draws["first"] == draws["again"] == draws["order"] == draws["epoch"] and draws["first"] != draws["others"]


def test_the_loader_itself_and_what_it_draws_from_stay_as_they_were():
    generator = torch.Generator().manual_seed(3)
    sampler = RandomSampler(range(N), generator=generator)
    loader = DataLoader(Numbers(), batch_sampler=BatchSampler(sampler, 5, drop_last=True))
    before = generator.get_state()
    twin = ordered(loader, 1, lambda: 0)
    rows = iter(twin)
    next(rows)
    assert sampler.generator is generator  # between two draws as well
    assert len(list(rows)) == len(twin) - 1 == len(loader) - 1 == 3
    assert torch.equal(generator.get_state(), before) and type(loader.batch_sampler) is BatchSampler


def test_two_iterations_that_overlap_do_not_mix():
    loader = DataLoader(Numbers(), batch_size=1, shuffle=True, generator=torch.Generator())
    alone = drawn(ordered(loader, 1, lambda: 0))[0]
    epochs = iter((0, 1))
    twin = ordered(loader, 1, lambda: next(epochs))
    first, second = iter(twin), iter(twin)
    pairs = [(int(a[0, 0]), int(b[0, 0])) for a, b in zip(first, second, strict=True)]
    assert [a for a, _ in pairs] == alone != [b for _, b in pairs]


def test_workers_draw_what_they_drew_in_another_order():
    def drawn_by(seed):
        loader = DataLoader(Numbers(), batch_size=6, shuffle=True, num_workers=1, multiprocessing_context="fork")
        order, draws = drawn(ordered(loader, seed, lambda: 0))
        return order, [row[0] for row in draws]  # torch's, which alone a DataLoader seeds

    (order, draws), (another, the_same) = drawn_by(1), drawn_by(2)
    assert order != another and draws == the_same


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on a newer torch
def test_a_loader_with_a_state_goes_on_in_its_order():
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata's StatefulDataLoader is missing")

    def loader():
        return ordered(stateful.StatefulDataLoader(Numbers(), batch_size=5, shuffle=True), 4, lambda: 2)

    whole, twin = drawn(loader())[0], loader()
    batches = iter(twin)
    begun = [*next(batches)[:, 0].tolist(), *next(batches)[:, 0].tolist()]
    state, again = twin.state_dict(), loader()
    again.load_state_dict(state)
    assert begun + drawn(again, 7)[0] == whole


def test_a_loader_of_its_own_class_says_what_decides_its_order():
    labels, prepared = torch.arange(N), []

    def prepare(inputs, generator):
        prepared.append(torch.rand(1, generator=generator).item())
        return inputs

    loader = SeededBatches(labels, labels, batch_size=6, seed=5, shuffle=True, prepare=prepare)
    orders = [torch.cat([y for _, y in each]).tolist() for each in (loader, *(ordered(loader, s, int) for s in (5, 6)))]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == [*range(N)]
    assert prepared[:4] == prepared[4:8] == prepared[8:] and loader.order_seed == 5


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(N))


@pytest.mark.parametrize("loader", [Batches(), DataLoader(Stream())], ids=["a class", "a stream"])
def test_where_order_and_samples_are_drawn_together_it_is_refused_by_name_before_the_first_step(loader, tmp_path):
    fitted = trainer(tmp_path, Order(1))
    with pytest.raises(LotteryError, match=rf"\({type(loader).__name__}.*order and augmentation cannot be told apart"):
        fitted.fit(Net(), loader)
    assert fitted.global_step == 0 and "process_dataloader" not in vars(fitted.strategy)


class Sees(Net):
    def on_fit_start(self):
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].clone())
        return super().training_step(batch, batch_idx)


def test_a_fit_draws_the_order_and_no_other_and_leaves_its_strategy_as_it_was(tmp_path):
    def seen(seed, run_seed):
        torch.manual_seed(run_seed)
        order, module = Order(seed), Sees()
        fitted = trainer(tmp_path, order)
        fitted.fit(module, plain_loader(shuffle=True))
        assert "process_dataloader" not in vars(fitted.strategy) and len({*order.first.values()}) == 3
        return torch.stack(module.seen), order.first

    (first, hashes), (again, same), (other, another) = seen(1, 0), seen(1, 1), seen(2, 0)
    assert torch.equal(first, again) and hashes == same
    assert not torch.equal(first, other) and not {*hashes.values()} & {*another.values()}
