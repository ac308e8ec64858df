"""Networks to draw lines between, and modules that judge them."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from helpers.projects import trainer
from lightning_lottery.connectivity.path import path


class Judged(LightningModule):
    """Wraps any network; logs a test loss and a test accuracy."""

    def __init__(self, network: nn.Module, percent: bool = False, silent: bool = False) -> None:
        super().__init__()
        self.network, self.percent, self.silent = network, percent, silent

    def test_step(self, batch, batch_idx):
        out = self.network(batch[0])
        if not self.silent:
            right = (out.argmax(1) == batch[1]).to(out.dtype).mean()
            self.log_dict(
                {"test_loss": F.cross_entropy(out, batch[1]), "test_acc": right * (100 if self.percent else 1)}
            )


def quadrants(n: int = 61, batch_size: int = 8) -> DataLoader:
    """Labels that no line separates."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long()), batch_size=batch_size)


def mlp(wide: int = 32) -> nn.Module:
    return nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 2))


def trained(seed: int, build=mlp, steps: int = 300) -> nn.Module:
    torch.manual_seed(seed)
    net = build()
    x, y = (torch.cat(parts) for parts in zip(*quadrants(), strict=True))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def permuted(net: nn.Module) -> nn.Module:
    """The same function with its hidden units in another order."""
    copy = mlp()
    copy.load_state_dict(net.state_dict())
    for one, two in ((0, 2), (2, 4)):
        order = torch.randperm(32, generator=torch.Generator().manual_seed(one))
        with torch.no_grad():
            copy[one].weight.copy_(copy[one].weight[order])
            copy[one].bias.copy_(copy[one].bias[order])
            copy[two].weight.copy_(copy[two].weight[:, order])
    return copy


def saved(folder: Path, *nets: nn.Module) -> list[Path]:
    files = [folder / f"{number}.pt" for number in range(len(nets))]
    for file, net in zip(files, nets, strict=True):
        torch.save({f"network.{name}": value for name, value in net.state_dict().items()}, file)
    return files


def line_between(folder: Path, *nets: nn.Module, loader=None, module=None, **settings):
    data = quadrants() if loader is None else loader
    module = module or Judged(type(nets[0])() if not isinstance(nets[0], nn.Sequential) else mlp())
    return path(module, data, saved(folder, *nets), trainer=trainer(folder), **settings)


class Normed(Judged):
    """Batch norm, and the accuracy logged both as a mean and as a torchmetrics object."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)))
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        self.accuracy(self.network(batch[0]), batch[1])
        self.log("test_metric", self.accuracy)

    def train_dataloader(self):
        return quadrants(32)

    def test_dataloader(self):
        return quadrants(61)


def golden_net() -> nn.Module:
    """The network of golden/interpolation.pt, in double precision."""
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 16, 3, padding=1, bias=False)
    body = [first, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), second, nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)).double().eval()
