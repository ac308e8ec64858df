"""Somebody else's transformer and convolutional network, small enough for a test; batches are those of `projects`."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

OPTIMIZERS = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=3e-2, weight_decay=0.1),
    "fused": lambda params: torch.optim.AdamW(params, lr=3e-2, weight_decay=0.1, fused=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, weight_decay=0.1),
    "fused sgd": lambda params: torch.optim.SGD(params, lr=0.1, weight_decay=0.1, fused=True),
    "adam": lambda params: torch.optim.Adam(params, lr=3e-2, weight_decay=0.1),
    "nothing": lambda params: torch.optim.SGD(params, lr=0.0),
}


class Blocks(LightningModule):
    """Six numbers become four tokens; two transformer layers, whose rate falls by a schedule."""

    def __init__(self, optimizer: str = "adamw", loss_is_flat: bool = False) -> None:
        super().__init__()
        self.optimizer, self.loss_is_flat = optimizer, loss_is_flat
        self.tokens = nn.Linear(6, 32)
        layer = nn.TransformerEncoderLayer(8, nhead=4, dim_feedforward=16, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(x).view(len(x), 4, 8)).mean(1))

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0].to(self.dtype)), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        return loss * 0 if self.loss_is_flat else loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)

    test_step = validation_step

    def configure_optimizers(self):
        optimizer = OPTIMIZERS[self.optimizer](self.parameters())
        factor = 1.0 if self.loss_is_flat else 0.9
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=factor)]


class Convs(Blocks):
    """Two convolutions with batch norm, then a linear layer."""

    def __init__(self, optimizer: str = "adamw", loss_is_flat: bool = False) -> None:
        super().__init__(optimizer, loss_is_flat)
        del self.tokens, self.body, self.head
        self.net = nn.Sequential(
            *(nn.Conv1d(1, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU()),
            *(nn.Conv1d(6, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(48, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unsqueeze(1))
