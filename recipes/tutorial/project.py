"""A project that knows nothing of lightning_lottery: a small transformer reads scikit-learn's digits row by row."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Reader(LightningModule):
    """Two layers of four heads over the eight rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Linear(8, 32)
        self.position = nn.Parameter(torch.zeros(8, 32))
        layer = nn.TransformerEncoderLayer(32, nhead=4, dim_feedforward=64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.classifier = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.encoder(self.row(images) + self.position).mean(dim=1))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: list[Tensor], index: int) -> None:
        images, labels = batch
        self.log("test_acc", (self(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Handwriting(LightningDataModule):
    """1,280 images to train on, 512 to test."""

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images, labels = torch.tensor(digits.images / 16).float(), torch.tensor(digits.target)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.train, self.test = (TensorDataset(images[i], labels[i]) for i in (order[:1280], order[1280:1792]))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, batch_size=64)


def make_trainer(**more: object) -> Trainer:
    """300 optimizer steps."""
    return Trainer(accelerator="cpu", max_epochs=15, enable_progress_bar=False, enable_model_summary=False, **more)
