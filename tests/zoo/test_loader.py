import itertools
import random

import numpy as np
import pytest
import torch

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import SeededBatches

SHARDINGS = [
    (samples, batch_size, world_size)
    for samples, batch_size, world_size in itertools.product(
        (1, 2, 3, 4, 5, 7, 8, 9, 16, 17), (1, 2, 3, 32), (1, 2, 3, 4)
    )
    if samples >= world_size
]


def batches_of(samples: int, **arguments) -> SeededBatches:
    """A loader of 1×2×2 images whose label, and first pixel, is the sample's number."""
    images = torch.arange(samples, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return SeededBatches(images, torch.arange(samples), **({"batch_size": 4} | arguments))


def noisy(images, generator):
    return images / 255 + torch.rand(images.shape, generator=generator)


def served(loader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def ranks(samples: int, world_size: int, **arguments) -> list[list[list[int]]]:
    return [served(batches_of(samples, rank=r, world_size=world_size, **arguments)) for r in range(world_size)]


@pytest.mark.parametrize(
    ("samples", "arguments", "reason"),
    [
        (0, {}, "no samples"),
        (4, {"batch_size": 0}, "batch_size"),
        (3, {"world_size": 4}, "fewer devices"),
        (4, {"num_workers": -1}, "num_workers"),
        (4, {"rank": 2, "world_size": 2}, "rank"),
        (4, {"rank": -1, "world_size": 2}, "rank"),
        (4, {"rank": 0, "world_size": 0}, "rank"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(samples, arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        batches_of(samples, **arguments)


def test_inputs_and_labels_of_other_types_or_shapes_are_refused():
    inputs, labels = torch.zeros(3, 1, 2, 2), torch.arange(3)
    with pytest.raises(TypeError, match="int64"):
        SeededBatches(inputs, labels.int(), batch_size=1)
    for wrong in ((inputs[0], labels), (inputs, labels[:2]), (inputs, labels[:, None]), (torch.tensor(3), labels)):
        with pytest.raises(LotteryError, match="inputs"):
            SeededBatches(*wrong, batch_size=1)


@pytest.mark.parametrize(("samples", "batch_size", "world_size"), SHARDINGS)
def test_evaluation_serves_every_sample_exactly_once_in_equally_many_batches_of_nearly_one_size(
    samples, batch_size, world_size
):
    shares = ranks(samples, world_size, batch_size=batch_size)
    assert sorted(label for share in shares for batch in share for label in batch) == list(range(samples))
    assert len({len(share) for share in shares}) == 1
    sizes = [len(batch) for share in shares for batch in share]
    assert max(sizes) - min(sizes) <= 1 <= min(sizes)
    assert max(sizes) <= max(batch_size, 2 if samples % world_size else 1)


@pytest.mark.parametrize(("samples", "batch_size", "world_size"), SHARDINGS)
def test_training_serves_each_rank_as_many_samples_in_the_same_sizes_and_none_twice(samples, batch_size, world_size):
    shares = ranks(samples, world_size, batch_size=batch_size, shuffle=True)
    labels = [label for share in shares for batch in share for label in batch]
    assert len(labels) == len(set(labels)) == samples - samples % world_size
    sizes = [[len(batch) for batch in share] for share in shares]
    assert all(share == sizes[0] for share in sizes)
    assert set(sizes[0][:-1]) <= {batch_size}
    assert 1 <= sizes[0][-1] <= batch_size


@pytest.mark.parametrize(("samples", "batch_size", "world_size"), SHARDINGS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_length_is_the_number_of_batches(samples, batch_size, world_size, shuffle):
    loader = batches_of(samples, batch_size=batch_size, world_size=world_size, shuffle=shuffle)
    assert len(loader) == len(list(loader))


def test_two_ranks_share_the_batch_that_one_process_of_twice_the_size_would_serve():
    first, second = ranks(12, 2, batch_size=3, shuffle=True)
    whole = served(batches_of(12, batch_size=6, shuffle=True))
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in whole]


def test_the_samples_left_out_of_training_change_with_the_epoch():
    left_out = set()
    for epoch in range(8):
        loader = batches_of(7, world_size=3, shuffle=True)
        loader.set_epoch(epoch)
        order = torch.cat([loader._parts(epoch)[0]]).tolist()
        left_out.add(tuple(sorted(set(range(7)) - set(order))))
    assert len(left_out) > 1


def test_the_same_seed_epoch_and_batch_give_the_same_images_bit_for_bit():
    for epoch in (0, 3):
        first, again = (batches_of(10, shuffle=True, seed=5, prepare=noisy) for _ in range(2))
        first.set_epoch(epoch)
        again.set_epoch(epoch)
        for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
            assert torch.equal(images, images_again)
            assert torch.equal(labels, labels_again)


def test_another_seed_or_epoch_gives_another_order():
    loader, other_seed = batches_of(20, shuffle=True, seed=1), batches_of(20, shuffle=True, seed=2)
    first_epoch = served(loader)
    loader.set_epoch(1)
    assert first_epoch != served(other_seed)
    assert first_epoch != served(loader)


def test_what_is_drawn_differs_between_seeds_epochs_batches_and_ranks():
    noises = []
    for seed, epoch, rank in itertools.product((0, 1), (0, 1), (0, 1)):
        loader = batches_of(8, batch_size=2, seed=seed, rank=rank, world_size=2, prepare=noisy)
        loader.set_epoch(epoch)
        noises += [images - labels.view(-1, 1, 1, 1) / 255 for images, labels in loader]
    assert len(noises) == 16
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in itertools.combinations(noises, 2))


def test_without_shuffle_the_order_is_that_of_the_data_in_every_epoch():
    loader = batches_of(5, batch_size=2)
    assert served(loader) == served(loader) == [[0, 1], [2, 3], [4]]


def test_inputs_are_served_as_they_are_unless_something_prepares_them():
    inputs = torch.tensor([[0, 1], [51, 2], [255, 3]], dtype=torch.uint8)
    ((as_they_are, _),) = SeededBatches(inputs, torch.arange(3), batch_size=3)
    assert as_they_are.dtype == torch.uint8
    assert torch.equal(as_they_are, inputs)
    ((prepared, labels),) = SeededBatches(
        inputs, torch.arange(3), batch_size=3, prepare=lambda x, _: {"first": x[:, 0]}
    )
    assert prepared["first"].tolist() == [0, 51, 255]
    assert labels.tolist() == [0, 1, 2]


def test_the_global_random_numbers_are_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(batches_of(10, shuffle=True, prepare=noisy))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


@pytest.mark.parametrize("position", range(4))
def test_a_restored_loader_serves_what_was_left_of_the_epoch(position):
    unbroken, resumed = (batches_of(10, batch_size=3, shuffle=True, seed=1, prepare=noisy) for _ in range(2))
    unbroken.set_epoch(2)
    rest = iter(unbroken)
    for _ in range(position):
        next(rest)
    resumed.load_state_dict(unbroken.state_dict())
    assert resumed.state_dict() == unbroken.state_dict()
    resumed.set_epoch(2)
    left, left_again = list(rest), list(resumed)
    assert [labels.tolist() for _, labels in left] == [labels.tolist() for _, labels in left_again]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(left, left_again, strict=True))


def test_after_the_last_batch_the_state_is_the_first_batch():
    loader = batches_of(10)
    list(loader)
    assert loader.state_dict()["batch"] == 0


def test_the_restored_position_is_used_once():
    loader = batches_of(10)
    loader.load_state_dict({"epoch": 0, "batch": 2})
    assert [len(served(loader)), len(served(loader))] == [1, 3]


def test_a_position_restored_for_one_epoch_does_not_shorten_another():
    stopped_early = batches_of(10)
    next(iter(stopped_early))
    resumed = batches_of(10)
    resumed.load_state_dict(stopped_early.state_dict())
    resumed.set_epoch(1)
    assert len(served(resumed)) == len(resumed)


def test_the_iterator_may_be_made_before_the_epoch_is_named():
    early, late = (batches_of(10, shuffle=True) for _ in range(2))
    iterator = iter(early)
    early.set_epoch(4)
    late.set_epoch(4)
    assert [labels.tolist() for _, labels in iterator] == served(late)


def test_a_position_that_no_epoch_has_is_refused():
    with pytest.raises(LotteryError, match="before batch 3, but an epoch has 3"):
        batches_of(10).load_state_dict({"epoch": 0, "batch": 3})


def test_lightning_finds_set_epoch_where_it_looks_for_it():
    from lightning.fabric.utilities.data import _set_sampler_epoch

    loader = batches_of(4)
    _set_sampler_epoch(loader, 7)
    assert loader.epoch == 7


@pytest.mark.parametrize("start", [0, 2])
def test_workers_change_no_batch_no_position_and_no_random_number(start):
    loaders = [
        batches_of(11, batch_size=2, shuffle=True, seed=3, prepare=noisy, num_workers=number) for number in (0, 2)
    ]
    states = []
    for loader in loaders:
        loader.load_state_dict({"epoch": 1, "batch": start})
        before = torch.get_rng_state()
        states.append([(*batch, loader.state_dict()) for batch in loader])
        assert torch.equal(torch.get_rng_state(), before)
    assert len(states[0]) == len(states[1]) == 6 - start
    for (images, labels, state), (same, same_labels, same_state) in zip(*states, strict=True):
        assert torch.equal(images, same) and torch.equal(labels, same_labels) and state == same_state
