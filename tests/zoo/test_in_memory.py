import pytest
import torch

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo.in_memory import hold_out, in_fifths, in_fixed_order


def numbered(count: int):
    """Samples whose input is ten times their label."""
    return 10 * torch.arange(count)[:, None], torch.arange(count)


def test_the_fixed_order_is_the_same_today_as_ever():
    inputs, labels = in_fixed_order(*numbered(6))
    assert labels.tolist() == [5, 2, 1, 3, 0, 4]
    assert inputs.flatten().tolist() == [50, 20, 10, 30, 0, 40]


def test_the_fixed_order_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    in_fixed_order(*numbered(6))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("count", "sizes"), [(10, (6, 2, 2)), (11, (7, 2, 2)), (13, (7, 3, 3))])
def test_fifths_lose_nothing_and_serve_nothing_twice(count, sizes):
    parts = in_fifths(*numbered(count))
    assert tuple(len(parts[split][1]) for split in ("train", "val", "test")) == sizes
    assert sorted(label for _, labels in parts.values() for label in labels.tolist()) == list(range(count))
    assert all(torch.equal(inputs[:, 0], 10 * labels) for inputs, labels in parts.values())


def test_holding_out_loses_nothing_and_serves_nothing_twice():
    parts = hold_out(*numbered(20), 0.25, "Numbers")
    assert {split: len(labels) for split, (_, labels) in parts.items()} == {"train": 15, "val": 5}
    assert sorted(torch.cat([labels for _, labels in parts.values()]).tolist()) == list(range(20))
    assert all(torch.equal(inputs[:, 0], 10 * labels) for inputs, labels in parts.values())


@pytest.mark.parametrize(("count", "val_fraction"), [(1, 0.5), (4, 0.1), (4, 0.9), (0, 0.5)])
def test_holding_out_all_or_nothing_is_refused_by_name(count, val_fraction):
    with pytest.raises(LotteryError, match=f"the {count} training samples of Numbers"):
        hold_out(*numbered(count), val_fraction, "Numbers")
