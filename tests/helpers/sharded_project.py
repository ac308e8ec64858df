"""What `test_shards.py` starts as a script: children of one checkpoint, each trained and judged over two ranks."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from helpers.sharded import WORDS, Small
from lightning_lottery import FactoryProject, InstabilityAnalysis
from lightning_lottery.children.records import read_rows


class Tested(Small):
    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.training_step(batch, batch_idx), sync_dist=True)


class Data(LightningDataModule):
    def loader(self, samples, seed):
        texts = torch.randint(WORDS, (samples, 7), generator=torch.Generator().manual_seed(seed))
        return DataLoader(texts, batch_size=4, shuffle=seed == 1)

    def train_dataloader(self):
        return self.loader(32, 1)

    def test_dataloader(self):
        return self.loader(40, 2)


def make_trainer(**arguments):
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    return Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, **arguments)


if __name__ == "__main__":
    OUT = Path(sys.argv[1])
    analysis = InstabilityAnalysis(seeds=(1, 2), monitor="test_loss", mode="min", threshold=0.1, alphas=(0, 0.5, 1))
    report = analysis.run(FactoryProject(Tested, Data, make_trainer), out=OUT)
    line = report.curves["raw"][0, 1]["test_loss"]
    recorded = [
        next(row["value"] for row in read_rows(OUT / f"seed-{seed}" / "results.jsonl") if row["metric"] == "test_loss")
        for seed in (2, 1)
    ]
    assert torch.allclose(torch.tensor([line[0], line[-1]]), torch.tensor(recorded), rtol=1e-5), (line, recorded)
    assert recorded[0] != recorded[1]
    assert not [*OUT.rglob(".resume.ckpt*")]
    print("judged")
