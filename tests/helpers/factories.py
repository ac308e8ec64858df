"""Somebody's functions that build a project, which children import; another seed orders the batches anew."""

import os
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F

from helpers.projects import Batches, plain_loader, trainer
from lightning_lottery.children.factories import FactoryProject

STEPS = 12  # of a whole fit: 3 epochs of 4 batches


class Net(LightningModule):
    """Somebody's module: dropout, batch norm, momentum, a schedule."""

    def __init__(self, lr: float = 0.05, dropout: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        out = self.net(batch[0])
        self.log("test_loss", F.cross_entropy(out, batch[1]))
        self.log("test_acc", (out.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Data(LightningDataModule):
    """Batches in an order that the run's seed decides, unless told to be fixed."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed

    def train_dataloader(self):
        return Batches(seed=0 if self.fixed else int(os.environ["PL_GLOBAL_SEED"]))

    def test_dataloader(self):
        return plain_loader(24)


def predicted(module, batch):
    """The classes that a module predicts for a batch."""
    return module.net(batch[0]).argmax(1)


def make_trainer(**arguments):
    return trainer(arguments["default_root_dir"], logger=arguments["logger"])


def make_data():
    return Data()


def closures(*callbacks, module=Net, data=Data) -> FactoryProject:
    """A project that only this process can build: nobody else can import a closure."""

    def build_trainer(**arguments):
        made = (make() for make in callbacks)
        return trainer(arguments["default_root_dir"], *made, logger=arguments["logger"])

    return FactoryProject(lambda: module(), lambda: data(), build_trainer)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights and buffers that a child ended with."""
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
