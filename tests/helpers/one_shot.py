"""Modules and data that one-shot pruning is tried on."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from helpers.projects import Batches


class Plain(LightningModule):
    """Linear layers without biases and ReLU: what SynFlow's laws are about."""

    def __init__(self, *, first: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        linear = [nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.ReLU()]
        self.net = nn.Sequential(*linear, nn.Linear(16, 3, bias=False))
        self.first = first

    def forward(self, x):
        return self.net(x if self.first is None else self.first(x))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class AtStep(Callback):
    """The weights right before and after the callback prunes, and the first batches of the epoch it prunes in."""

    lottery_order = 0

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer, pl_module):
        if trainer.global_step == self.step:
            self._remember(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            self._remember(pl_module)

    def _remember(self, module):
        self.weights = {name: param.detach().clone() for name, param in module.named_parameters()}


def first_batches(n: int, epoch: int) -> list:
    loader = Batches()
    loader.set_epoch(epoch)
    return [batch for batch, _ in zip(loader, range(n), strict=False)]


def net_of(module):
    return lambda weights, x: torch.func.functional_call(module, {**weights}, (x,))


class Tokens(LightningModule):
    """A transformer over tokens, with layer norm and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, ids=None, embeddings=None):
        x = self.embedding(ids) if embeddings is None else embeddings
        return self.head(self.body(x).mean(1))

    def training_step(self, batch, batch_idx):
        return {"loss": F.cross_entropy(self(batch["ids"]), batch["labels"])}

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


def sentences():
    ids = torch.randint(0, 11, (32, 5), generator=torch.Generator().manual_seed(0))
    pairs = [{"ids": row, "labels": row.sum() % 3} for row in ids]
    return torch.utils.data.DataLoader(pairs, batch_size=8)


def ones_for_tokens(module, batch):
    return {"embeddings": torch.ones(1, batch["ids"].shape[1], 8)}
