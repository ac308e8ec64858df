import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset

from helpers.lines import Judged, line_between, mlp, quadrants, saved, trained
from helpers.projects import plain_loader, trainer
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.batches import Batches, Repeated
from lightning_lottery.connectivity.path import path


class Record(NamedTuple):
    x: torch.Tensor
    names: list[str]


def test_ranks_have_a_part_of_every_batch_and_what_has_an_entry_a_sample_is_cut_alike():
    rows = [Record(torch.arange(n), [str(i) for i in range(n)]) for n in (129, 64, 3)]
    shares = [list(Batches(rows, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[len(part.x) for part in share] for share in shares] == [[64, 32, 1], [65, 32, 2]]
    for part in (part for share in shares for part in share):
        assert list(map(str, part.x.tolist())) == part.names


def test_a_small_last_batch_is_shared_by_the_ranks_with_the_one_before_it():
    loader = DataLoader(TensorDataset(torch.arange(61)), batch_size=20)
    shares = [list(Batches(loader, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 3
    everything = torch.cat([batch[0] for share in shares for batch in share])
    assert sorted(everything.tolist()) == list(range(61))
    with pytest.raises(LotteryError, match=r"tensors of a batch begin with \[3, 4\] entries"):
        list(Batches([[[torch.zeros(3, 2, 2)] * 4, torch.zeros(4)]], rank=0, world_size=2))


def test_a_data_module_may_ask_its_trainer(tmp_path):
    class Asking(LightningDataModule):
        def test_dataloader(self):
            return plain_loader(size=8 // self.trainer.world_size)

    files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
    assert path(Judged(mlp()), Asking(), files, trainer=trainer(tmp_path)).samples == 32


def test_what_does_not_fit_in_memory_is_streamed_with_the_same_result(tmp_path):
    nets = trained(0), trained(1)
    assert line_between(tmp_path, *nets, memory=10).curves == line_between(tmp_path, *nets).curves


def test_limited_batches_are_what_is_counted(tmp_path):
    files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
    report = path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path, limit_test_batches=2))
    assert report.samples == 16


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)], ids=["global", "its own"])
def test_a_training_loader_repeats_itself_and_leaves_whoever_draws_alone(generator):
    class Noisy(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.tensor([index, torch.rand(1).item(), np.random.rand(), random.random()])

    loader = DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    repeated = Repeated(loader)
    first, again = torch.cat(list(repeated)), torch.cat(list(repeated))
    assert torch.equal(first, again) and sorted(first[:, 0].tolist()) == [*range(20)]
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[2]
    assert np.random.get_state()[1].tolist() == state[1]
    for limit, batches in ((2, 2), (0.5, 2), (1.0, 5), (0, 0), (9, 5)):
        assert len(list(Repeated(loader, limit))) == batches
