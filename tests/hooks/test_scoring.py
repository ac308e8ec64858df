"""Scoring leaves no trace, whether it ends or breaks."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from helpers.callbacks import BODY, STEPS
from helpers.projects import Batches, Odd, fit, plain_loader
from helpers.states import KeepEveryResume
from lightning_lottery import SNIP, ExactResume, GraSP, LotteryError, SynFlow
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.hooks.scoring import training_batches, untouched
from lightning_lottery.zoo.loader import SeededBatches


class Careless(Odd):
    """Counts, collects, measures, draws random numbers and logs in its training step, and has hooks of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.losses, self.by_label = 0, [], {}
        self.metric = MulticlassAccuracy(3)
        self.total = torch.zeros(())
        self.looks = []
        self.head.register_forward_hook(lambda layer, args, output: self.looks.append(1))
        self.breaks_at = None

    def training_step(self, batch, batch_idx):
        self.calls += 1
        loss = super().training_step(batch, batch_idx) + 0 * torch.rand(()) * np.random.rand() * random.random()
        self.losses.append(loss.detach())
        self.by_label[int(batch[1][0])] = self.calls
        self.metric.update(torch.zeros(len(batch[1]), 3), batch[1])
        self.total += 1
        self.log_dict({"acc": self.metric, "total": self.total})
        if self.logger is not None:
            self.logger.experiment.log_metrics({"raw": 1.0})
        return loss

    def forward(self, x):
        if self.breaks_at is not None:
            self.breaks_at -= 1
            if self.breaks_at < 0:
                raise RuntimeError("in the middle")
        return super().forward(x)


def traces(trainer, module) -> dict[str, object]:
    """Everything that scoring could have changed."""
    tensors = {f"state {n}": t for n, t in module.state_dict().items()}
    tensors |= {f"grad {n}": p.grad for n, p in module.named_parameters() if p.grad is not None}
    tensors |= {"rng": torch.get_rng_state(), "tp": module.metric.tp, "total": module.total}
    return {
        "tensors": hash_of_tensors(tensors),
        "names": sorted(tensors),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "modes": [(name, child.training) for name, child in module.named_modules()],
        "requires_grad": [(name, p.requires_grad) for name, p in module.named_parameters()],
        "hooks": [(len(c._forward_hooks), len(c._forward_pre_hooks)) for c in module.modules()],
        "identity": [id(p) for p in (*module.parameters(), *module.buffers())],
        "own": (module.calls, len(module.losses), dict(module.by_label), len(module.looks), module.metric.update_count),
        "attributes": [sorted(vars(child)) for child in module.modules()],
        "logged": {key: float(value) for key, value in trainer.logged_metrics.items()},
        "loggers": trainer.loggers[:],
        "dtype": (torch.get_default_dtype(), module.dtype, torch.is_grad_enabled()),
        "loader": [dict(vars(loader)) for loader in trainer.fit_loop._combined_loader.flattened],
        "written": len(trainer.logger.experiment.metrics),
    }


METHODS = {
    "SynFlow": lambda: SynFlow(0.5, at_step=5, iterations=3, per="tensor", scope=BODY),
    "SynFlow, mean": lambda: SynFlow(0.5, at_step=5, iterations=3, input="mean", per="tensor", bypass=("BatchNorm1d",)),
    "SNIP": lambda: SNIP(0.5, at_step=5, batches=3, scope=BODY),
    "SNIP in training mode": lambda: SNIP(0.5, at_step=5, batches=3, train_mode=True, scope=BODY),
    "GraSP": lambda: GraSP(0.5, at_step=5, batches=2, train_mode=True, scope=BODY),
}


@pytest.mark.parametrize("breaks", [False, True], ids=["ends", "breaks"])
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_scoring_leaves_no_trace_whether_it_ends_or_breaks(make, breaks, tmp_path):
    callback, module = make(), Careless()
    original, seen = callback.find_masks, []

    def find_masks(params, sparsity, within):
        seen.append(traces(trainer := callback._trainer, module))
        before = module.breaks_at
        module.breaks_at = 1 if breaks else None
        try:
            return original(params, sparsity, within)
        finally:
            module.breaks_at = before
            seen.append(traces(trainer, module))

    callback.find_masks = find_masks
    logger = CSVLogger(tmp_path, name="", version="")
    if breaks:
        with pytest.raises(LotteryError, match="RuntimeError: in the middle"):
            fit(tmp_path, callback, module=module, logger=logger)
    else:
        fit(tmp_path, callback, module=module, logger=logger)
    before, after = seen
    assert before["own"][0] == 5 and any(name.startswith("grad") for name in before["names"])
    for what in before:
        assert before[what] == after[what], what


def shuffled() -> DataLoader:
    loader = plain_loader(shuffle=True)
    return DataLoader(loader.dataset, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))


def digits() -> SeededBatches:
    images = torch.arange(40 * 6, dtype=torch.uint8).view(40, 1, 1, 6)
    return SeededBatches(images, torch.arange(40) % 3, batch_size=10, shuffle=True)


class Flat(Odd):
    def loss(self, batch):
        return super().loss([batch[0].flatten(1), batch[1]])


class Look(Callback):
    """Remembers which batches were trained on."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(hash_of_tensors({"x": batch[0]}))


LOADERS = {
    "own": Batches,
    "seeded": digits,
    "shuffled": lambda: plain_loader(shuffle=True),
    "with a generator": shuffled,
    "with workers": lambda: DataLoader(plain_loader().dataset, batch_size=8, shuffle=True, num_workers=1),
    "workers that stay": lambda: DataLoader(
        plain_loader().dataset, batch_size=8, shuffle=True, num_workers=1, persistent_workers=True
    ),
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_training_goes_on_with_the_same_batches_and_numbers_as_if_nothing_had_been_scored(loader, tmp_path):
    class OnlyLook(SNIP):
        def find_masks(self, params, sparsity, within):
            super().find_masks(params, sparsity, within)
            return {name: torch.ones_like(mask) for name, mask in within.items()}

    ends = []
    for callbacks in ([], [OnlyLook(0.5, at_step=6, batches=2, scope=BODY)], [OnlyLook(0.5, batches=2, scope=BODY)]):
        torch.manual_seed(0)
        module, look = Flat(), Look()
        fit(tmp_path, look, *callbacks, module=module, train=loader())
        ends.append((look.seen, hash_of_tensors(module.state_dict())))
    assert len(ends[0][0]) == STEPS
    assert ends[0] == ends[1] == ends[2]


def test_a_callback_that_joins_a_resumed_fit_does_not_move_its_loader(tmp_path):
    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    fit(tmp_path / "whole", ExactResume(interval=1), keep)
    orders = []
    for callbacks in ([], [SNIP(0.5, at_step=4, batches=3, scope=BODY)]):
        look = Look()
        point = tmp_path / "points" / "6.ckpt"
        fit(tmp_path / "again", look, ExactResume(interval=100), *callbacks, ckpt=point)
        orders.append(look.seen)
    assert len(orders[0]) == STEPS - 6 and orders[0] == orders[1]


def test_no_more_batches_are_drawn_than_an_epoch_has_and_they_are_its_first(tmp_path):
    drawn = {}

    class Draw(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            with untouched(trainer, torch.float32):
                drawn[trainer.global_step] = [
                    hash_of_tensors({"x": b["batch"][0]}) for b in training_batches(trainer, 100)
                ]

    look = Look()
    fit(tmp_path, Draw(), look, limit_train_batches=3)
    assert drawn[1] == drawn[3] == look.seen[:3]
    assert drawn[4] == look.seen[3:6] != drawn[1]


def test_a_loader_that_cannot_be_begun_anew_is_refused(tmp_path):
    stream = (batch for batch in Batches(batches=100))
    with pytest.raises(LotteryError, match="of type generator, cannot be copied"):
        fit(tmp_path, SNIP(0.5, scope=BODY), train=stream, max_steps=3, max_epochs=-1)


class Counted:
    def __init__(self) -> None:
        self.steps, self.recent = 0, [[]]


class Replays(Odd):
    """Learns from what it remembers, wherever that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.replay, self.outputs, self.env = deque(maxlen=5), {"train": [[]]}, Counted()
        self.teacher = [nn.Linear(6, 3)]

    def training_step(self, batch, batch_idx):
        self.replay.append(batch[0])
        self.outputs["train"][0].append(batch_idx)
        self.env.steps += 1
        self.env.recent[0].append(batch_idx)
        with torch.no_grad():
            self.teacher[0].weight.mul_(0.9)
        remembered = self.env.steps + len(self.outputs["train"][0]) + len(self.env.recent[0])
        taught = self.teacher[0](self.replay[0]).square().mean()
        return super().training_step(batch, batch_idx) * (1 + remembered / 10 + taught.detach())


@pytest.mark.parametrize("make", [SynFlow, SNIP, GraSP])
def test_a_run_that_is_scored_and_loses_nothing_is_the_dense_run_bit_for_bit(make, tmp_path):
    ends = []
    for callbacks in ((), (make(1e-9, at_step=5),)):
        torch.manual_seed(0)
        ends.append(fit(tmp_path, *callbacks, module=Replays()).lightning_module)
    dense, scored = ends
    assert hash_of_tensors(dense.state_dict()) == hash_of_tensors(scored.state_dict())
    assert dense.env.steps == scored.env.steps == 12 and len(scored.env.recent[0]) == 12


def test_without_a_batch_scoring_says_so(tmp_path):
    with pytest.raises(LotteryError, match="gave no batch to score with"):
        fitted = fit(tmp_path, module=Odd())
        training_batches(fitted, 0)
