import json
import math
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy

from helpers.processes import run
from helpers.projects import plain_loader, trainer
from lightning_lottery.children.by_batch import FILE, LogsByBatch, read_by_batch
from lightning_lottery.errors import LotteryError


class OnlyWhole(Metric):
    """Is defined for five batches or more."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self):
        self.total += 1

    def compute(self):
        if self.total < 5:
            raise ValueError("not of so few")
        return self.total


class Logs(LightningModule):
    """A module without weights that matter, whose test logs what it is given."""

    def __init__(self, log=None) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 2)
        self.accuracy, self.auroc = MulticlassAccuracy(2, average="micro"), BinaryAUROC()
        self.picky, self.logs = OnlyWhole(), log

    def test_step(self, batch, batch_idx):
        self.logs(self, batch, batch_idx)


def kept_in(folder, log, loader=None, **arguments):
    """What was kept, and what Lightning averaged."""
    torch.manual_seed(0)
    logs, module = LogsByBatch(), Logs(log)
    runner = trainer(folder, logs, **arguments)
    with logs.listening(module):
        runner.test(module, loader or plain_loader(26, 4), verbose=False)
    logs.write(folder)
    return read_by_batch(folder), {name: float(value) for name, value in runner.callback_metrics.items()}


def right(module, batch):
    return (module.linear(batch[0]).argmax(1) == batch[1]).float()


def test_every_batch_has_its_mean_and_its_size_and_together_they_are_lightning_s_average(tmp_path):
    seen = []

    def log(module, batch, _):
        seen.append(right(module, batch))
        module.log("test_acc", seen[-1].mean())
        module.log_dict({"test_wrong": 1 - seen[-1].mean()}, on_step=True, on_epoch=True, batch_size=len(batch[1]))

    kept, averages = kept_in(tmp_path, log)
    accuracy = kept["test_acc"]
    assert accuracy.weights.tolist() == [4.0] * 6 + [2.0]
    assert accuracy.values.tolist() == pytest.approx([each.mean().item() for each in seen])
    assert accuracy.averages_to(averages["test_acc"]) and kept["test_wrong"].averages_to(averages["test_wrong"])
    assert not accuracy.averages_to(averages["test_acc"] + 0.01)


def test_a_metric_object_of_sums_is_kept_batch_by_batch_and_is_as_it_was(tmp_path):
    def log(module, batch, _):
        module.accuracy(module.linear(batch[0]), batch[1])
        module.log("test_acc", module.accuracy)
        module.log("test_auroc", module.auroc)
        module.auroc.update(module.linear(batch[0])[:, 1].sigmoid(), batch[1])

    kept, averages = kept_in(tmp_path, log)
    assert kept["test_acc"].averages_to(averages["test_acc"]) and len(kept["test_acc"].values) == 7
    assert "test_auroc" not in kept and 0 <= averages["test_auroc"] <= 1


@pytest.mark.parametrize(
    "log",
    [
        lambda module, batch, index: index != 3 and module.log("odd", 1.0),  # not in every batch
        lambda module, batch, index: index and module.log("odd", 1.0),  # not in the first
        lambda module, batch, index: module.log("odd", 1.0, reduce_fx="sum"),
        lambda module, batch, index: (module.picky.update(), module.log("odd", module.picky)),
    ],
)
def test_what_is_no_mean_of_every_batch_is_left_out_and_stays_lightning_s(tmp_path, log):
    def both(module, batch, index):
        module.log("test_acc", right(module, batch).mean())
        log(module, batch, index)

    kept, averages = kept_in(tmp_path, both)
    assert list(kept) == ["test_acc"] and averages["test_acc"] == pytest.approx(
        float(kept["test_acc"].values @ kept["test_acc"].weights / 26)
    )


def test_what_is_logged_after_the_batches_is_left_out(tmp_path):
    class AtTheEnd(Logs):
        def on_test_epoch_end(self):
            self.log("late", 1.0)

    logs, module = LogsByBatch(), AtTheEnd(lambda *_: None)
    with logs.listening(module):
        trainer(tmp_path, logs).test(module, plain_loader(), verbose=False)
    logs.write(tmp_path)
    assert read_by_batch(tmp_path) == {} and "log" not in vars(module)


def test_batches_without_a_tensor_are_weighed_by_what_the_step_says(tmp_path):
    loader = DataLoader(["ab", "c", "defg"] * 3, batch_size=2, collate_fn=list)

    def log(module, batch, _):
        module.log("test_length", float(np.mean([len(text) for text in batch])), batch_size=len(batch))

    kept, averages = kept_in(tmp_path, log, loader)
    assert kept["test_length"].weights.tolist() == [2, 2, 2, 2, 1]
    assert kept["test_length"].averages_to(averages["test_length"])


def test_many_batches_are_joined_and_the_mean_stays(tmp_path):
    kept, averages = kept_in(
        tmp_path, lambda module, batch, _: module.log("acc", right(module, batch).mean()), plain_loader(500, 3)
    )
    assert len(kept["acc"].values) == 60 and kept["acc"].weights.sum() == 500
    assert kept["acc"].averages_to(averages["acc"])


def test_a_diverged_metric_is_kept_as_it_is(tmp_path):
    kept, _ = kept_in(tmp_path, lambda module, batch, index: module.log("loss", math.nan if index == 2 else 1.0))
    assert np.isnan(kept["loss"].values).tolist() == [False, False, True, False, False, False, False]


def test_nothing_is_evaluated_for_it(tmp_path):
    forwards = []

    def log(module, batch, _):
        forwards.append(right(module, batch))
        module.log("acc", forwards[-1].mean())

    kept_in(tmp_path, log)
    assert len(forwards) == 7


def test_where_nothing_was_tested_there_is_no_file(tmp_path):
    LogsByBatch().write(tmp_path)
    assert read_by_batch(tmp_path) is None and not list(tmp_path.iterdir())


GOOD = {"values": [0.5, 0.25], "weights": [4.0, 2.0]}


def test_a_record_is_read_as_it_was_written(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"acc": GOOD}))
    read = read_by_batch(tmp_path)["acc"]
    assert (read.values.tolist(), read.weights.tolist()) == ([0.5, 0.25], [4.0, 2.0])


@pytest.mark.parametrize(
    "damage",
    [
        {**GOOD, "values": [0.5]},
        {**GOOD, "weights": [4.0, 0.0]},
        {**GOOD, "weights": [4.0, math.inf]},
        {**GOOD, "weights": [4.0, math.nan]},
        {**GOOD, "values": ["a", "b"]},
        {**GOOD, "values": [10**400, 0.5]},
        {**GOOD, "values": {"0": 0.5, "1": 0.5}},
        {"values": [], "weights": []},
        {"values": [0.5, 0.25]},
        [0.5],
        None,
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, damage):
    (tmp_path / FILE).write_text(json.dumps({"acc": damage}))
    with pytest.raises(LotteryError, match=rf"record of the test's batches '.*{FILE}' is damaged: .*'acc' is none"):
        read_by_batch(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ud800".encode("utf-8", "surrogatepass")])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    (tmp_path / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LotteryError, match=FILE):
        read_by_batch(tmp_path)


RANKS = """
import sys
from pathlib import Path
import torch
from lightning.pytorch import LightningModule
from helpers.projects import plain_loader, trainer
from lightning_lottery.children.by_batch import LogsByBatch

class Counts(LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 2)

    def test_step(self, batch, batch_idx):
        self.log("all", batch[0].sum(1).mean(), sync_dist=True)
        if self.global_rank == 0:
            self.log("first", 1.0, rank_zero_only=True)

logs, module = LogsByBatch(), Counts()
runner = trainer(sys.argv[1], logs, devices=2, strategy="ddp")
with logs.listening(module):
    runner.test(module, plain_loader(40, 2), verbose=False)
assert list(logs.by_batch) == ["all"], logs.by_batch
values, weights = logs.by_batch["all"]
assert weights.tolist() == [4.0] * 10
assert abs(values.mean() - float(plain_loader(40).dataset.tensors[0].sum(1).mean())) < 1e-6
assert logs.by_batch["all"].averages_to(float(runner.callback_metrics["all"]))
sys.stdout.write("ok\\n")
"""


def test_two_ranks_keep_the_batches_of_both_and_leave_out_what_one_of_them_did_not_log(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    done = run(sys.executable, str(script), str(tmp_path))
    assert done.returncode == 0 and done.stdout.count("ok") == 2, done.stderr[-3000:]
