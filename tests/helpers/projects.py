"""Somebody else's Lightning project: it knows nothing of lightning_lottery, and has what real ones have."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Odd(LightningModule):
    """Odd names, nested modules, dropout, a buffer called attn_mask, tied weights, a frozen layer, a norm, a head."""

    def __init__(self, optimizer: str = "adamw", manual: bool = False, wide: int = 12) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = not manual
        self.my_mask = nn.Sequential(
            nn.Linear(6, wide), nn.Dropout(0.1), nn.ModuleDict({"orig": nn.Linear(wide, wide)})["orig"]
        )
        self.tied_a = nn.Linear(wide, wide, bias=False)
        self.tied_b = nn.Linear(wide, wide, bias=False)
        self.tied_b.weight = self.tied_a.weight
        self.norm = nn.BatchNorm1d(wide)
        self.fixed = nn.Linear(wide, wide)
        self.fixed.requires_grad_(False)
        self.head = nn.Linear(wide, 3)
        self.register_buffer("attn_mask", torch.ones(wide))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.my_mask(x)) * self.attn_mask
        return self.head(self.norm(torch.tanh(self.tied_b(torch.tanh(self.tied_a(x)))) + self.fixed(x)))

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0].to(self.dtype)), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trainable = [p for p in self.parameters() if p.requires_grad]
        return OPTIMIZERS[self.hparams["optimizer"]](trainable)


class TwoOptimizers(Odd):
    """Manual optimization: two optimizers step in every batch."""

    def __init__(self, zero_last: bool = False) -> None:
        super().__init__(manual=True)
        self.zero_last = zero_last

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        if not self.zero_last:
            body.zero_grad(), head.zero_grad()
        self.manual_backward(self.loss(batch))
        body.step(), head.step()
        if self.zero_last:
            body.zero_grad(), head.zero_grad()

    def configure_optimizers(self):
        head = list(self.head.parameters())
        body = [p for p in self.parameters() if p.requires_grad and all(p is not h for h in head)]
        return [torch.optim.SGD(body, 0.1, momentum=0.9), torch.optim.AdamW(head, 1e-2)]


OPTIMIZERS = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1),
    "fused": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1, fused=True),
    "amsgrad": lambda params: torch.optim.Adam(params, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda params: torch.optim.SGD(params, lr=1e-1, momentum=0.9, nesterov=True),
    "lbfgs": lambda params: torch.optim.LBFGS(params, lr=1e-2),
}


@contextmanager
def says(pattern: str, times: int | None = None) -> Iterator[None]:
    """Some warning in the block matches; others (Lightning has its own) pass. ``pytest.warns`` re-raises those."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        yield
    matching = [one for one in shown if re.search(pattern, str(one.message))]
    assert matching and times in (None, len(matching)), [str(one.message) for one in shown]


class Batches:
    """A loader that keeps the contract: batch k is a function of (seed, epoch, k), and it says where it is."""

    def __init__(self, batches: int = 4, size: int = 8, seed: int = 0, rank: int = 0) -> None:
        self.batches, self.size, self.seed, self.rank = batches, size, seed, rank
        self.epoch, self._start, self._next = 0, 0, 0

    sampler = property(lambda self: self)  # where Lightning looks for set_epoch
    batch_sampler = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def state_dict(self) -> dict[str, int]:
        return {"batch": self._next % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._start = state["batch"]

    def __iter__(self):
        start, self._start = self._start, 0
        for k in range(start, len(self)):
            self._next = k + 1
            generator = torch.Generator().manual_seed(1_000_000 * self.rank + 10_000 * self.seed + 100 * self.epoch + k)
            x = torch.randn(self.size, 6, generator=generator)
            yield [x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()]


class RankBatches(Batches):
    """Each rank draws batches of its own."""

    def __iter__(self):
        self.rank = torch.distributed.get_rank()
        return super().__iter__()


def plain_loader(n: int = 32, size: int = 8, shuffle: bool = False) -> DataLoader:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=size, shuffle=shuffle)


def trainer(folder: Path, *callbacks: object, **arguments: object) -> Trainer:
    """A quiet Trainer on the CPU: three epochs unless told otherwise."""
    defaults = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": list(callbacks),
    }
    return Trainer(**(defaults | arguments))


def fit(
    folder: Path,
    *callbacks: object,
    module: LightningModule | None = None,
    seed: int = 1,
    train: object = None,
    val: object = None,
    ckpt: Path | None = None,
    **arguments: object,
) -> Trainer:
    """Fit a fresh Odd (or the given module) from a seed."""
    seed_everything(seed, verbose=False)
    fitted = trainer(folder, *callbacks, **arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
        module = Odd() if module is None else module
        val = Batches(batches=1, seed=9) if val is None else val
        fitted.fit(module, Batches() if train is None else train, val, ckpt_path=ckpt)
    return fitted
