"""The logs of a run that was killed and goes on are the unbroken run's, means over an epoch included."""

import os
import shutil

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassPrecision, MulticlassRecall

from helpers.blocks import Blocks
from helpers.callbacks import CALLBACKS
from helpers.projects import Odd, fit
from lightning_lottery import EarlyBird, ExactResume, HammingFIFO, NetworkSlimming
from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.accumulated import accumulated, put_back_


class Record(DummyLogger):
    """What a logger is told, a list for every step and name, and what of it is on the disk."""

    def __init__(self, seen=()):
        super().__init__()
        self.seen = {key: list(values) for key, values in dict(seen).items()}
        self.on_disk = {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.seen.setdefault((step, name), []).append(float(value))

    def save(self):
        self.on_disk = {key: list(values) for key, values in self.seen.items()}


class LogsAll(Odd):
    """Logs in every way that Lightning has: sums over an epoch, at steps, largest values, metrics, collections."""

    def __init__(self):
        super().__init__()
        self.loss_of_all = MeanMetric()
        self.auroc = MulticlassAUROC(3)  # keeps every prediction
        self.several = MetricCollection({"p": MulticlassPrecision(3), "r": MulticlassRecall(3)})  # with one state
        self.val_accuracy = MulticlassAccuracy(3)

    def training_step(self, batch, batch_idx):
        outputs = self(batch[0])
        loss = super().training_step(batch, batch_idx)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        if batch_idx != 2:
            self.log("often", loss, on_step=False, on_epoch=True, batch_size=batch_idx + 1)
        if batch_idx % 3 == 0:  # loggers get the last value again in the steps between
            self.log("seldom", loss, on_step=True, on_epoch=True, enable_graph=True)
            self.log("seldom, of a step", loss)
        self.loss_of_all.update(loss)
        self.log("metric", self.loss_of_all, on_step=False, on_epoch=True)
        self.auroc.update(outputs.softmax(1), batch[1])
        self.log("auroc", self.auroc, on_step=False, on_epoch=True)
        self.log_dict(self.several(outputs, batch[1]), on_step=True, on_epoch=False)
        return loss

    def on_train_epoch_end(self):
        self.log_dict({f"epoch/{name}": value for name, value in self.several.compute().items()})
        self.several.reset()

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.val_accuracy.update(self(batch[0]), batch[1])
        self.log("val_accuracy", self.val_accuracy)


def slimming_and_early_bird():
    return NetworkSlimming(), EarlyBird([HammingFIFO(2, 0.9, interval=3, min_steps=6)], [0.5])


RUNS = {name: (LogsAll, lambda make=make: (make(),)) for name, make in CALLBACKS.items()}
RUNS["NetworkSlimming and EarlyBird"] = Blocks, slimming_and_early_bird


NEVER = {"limit_val_batches": 0}


def lives(tmp_path, monkeypatch, make, module, **arguments):
    """One unbroken run, and of each of its checkpoints a copy, with what loggers had written when it appeared."""
    log, points, replace = Record(), {}, os.replace

    def keeping(source, target):
        replace(source, target)
        if str(target).endswith("resume.ckpt"):
            step = torch.load(target, weights_only=True)["global_step"]
            points[step] = shutil.copy(target, tmp_path / f"{step}.ckpt"), log.on_disk

    monkeypatch.setattr(os, "replace", keeping)
    fit(tmp_path / "whole", *make(), ExactResume(interval=1), module=module(), logger=log, **arguments)
    monkeypatch.undo()
    assert sorted(points) == list(range(1, 13))
    return log.seen, points


def last(seen):
    return {key: values[-1] for key, values in seen.items()}


@pytest.mark.filterwarnings("ignore:.*(keeps no weight|ended at step|No positive samples|No negative samples)")
@pytest.mark.parametrize(
    ("run", "arguments", "steps"),
    [(run, {}, (3, 8)) for run in RUNS]
    + [("PLATON", {}, (2, 12)), ("SynFlow", {"val_check_interval": 2}, (5, 6)), ("AdSynFlow", NEVER, (4, 5, 8))],
)
def test_the_last_value_of_each_step_and_name_is_the_unbroken_run_s_wherever_it_was_killed(
    run, arguments, steps, tmp_path, monkeypatch
):
    module, make = RUNS[run]
    whole, points = lives(tmp_path, monkeypatch, make, module, **arguments)
    for step in steps:
        path, on_disk = points[step]
        resumed = Record(on_disk)
        fit(tmp_path / "broken", *make(), ExactResume(), module=module(), logger=resumed, ckpt=path, **arguments)
        assert last(resumed.seen) == last(whole), f"killed after step {step}"


@pytest.mark.parametrize("steps", [(6,), (4, 8, 12)], ids=["in an epoch", "at its end"])
def test_nothing_is_logged_twice_of_what_a_checkpoint_came_after(steps, tmp_path, monkeypatch):
    whole, points = lives(tmp_path, monkeypatch, *RUNS["PLATON"][::-1])
    for step in steps:
        path, on_disk = points[step]
        resumed = Record(on_disk)
        fit(tmp_path / "broken", *RUNS["PLATON"][1](), ExactResume(), module=LogsAll(), logger=resumed, ckpt=path)
        assert resumed.seen == whole, f"killed after step {step}"


def test_only_a_checkpoint_that_came_after_its_step_was_logged_keeps_loggers_from_an_epoch_s_end(tmp_path):
    class Saves(Callback):
        def on_validation_end(self, trainer, *_):
            if trainer.global_step == 8:
                trainer.save_checkpoint(tmp_path / "early.ckpt")

    def ends(**arguments):
        log = Record()
        fit(tmp_path, Saves(), ExactResume(interval=1), module=LogsAll(), logger=log, max_epochs=2, **arguments)
        return {name: value for (step, name), value in last(log.seen).items() if step == 7 and "epoch" in name}

    whole = ends()
    for path, expected in ((tmp_path / "early.ckpt", whole), (tmp_path / "resume.ckpt", {})):
        assert ends(ckpt=path) == expected


class LogsSums(Odd):
    """Whose author shows the sum of losses, once he has seen the first epochs."""

    def __init__(self, **arguments):
        super().__init__()
        self.arguments = {"on_epoch": True, "reduce_fx": "sum", **arguments}

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("sum", loss, **self.arguments)
        return loss


def test_a_value_that_is_logged_with_other_arguments_since_goes_on_but_not_by_another_reduction(tmp_path, monkeypatch):
    whole, points = lives(tmp_path, monkeypatch, tuple, LogsSums)
    path, on_disk = points[6]

    def resumed(**arguments):
        log = Record(on_disk)
        fit(tmp_path / "broken", ExactResume(), module=LogsSums(**arguments), logger=log, ckpt=path)
        return last(log.seen)

    assert resumed(prog_bar=True) == last(whole)
    for change in ({"reduce_fx": "max"}, {"on_epoch": False}):
        with pytest.raises(LotteryError, match="with another `on_epoch` or `reduce_fx` than this fit"):
            resumed(**change)


def test_what_is_not_this_fit_s_is_passed_over(tmp_path):
    module = LogsAll()
    trainer = fit(tmp_path, module=module, max_epochs=1)
    saved = accumulated(trainer)
    assert len(saved) == 1
    put_back_(trainer, None)
    put_back_(trainer, [*saved, *saved])  # of two ranks
    put_back_(trainer, [{"logged": [], "metrics": {"gone": {"states": {}, "updates": 3}}}])
    assert not module.auroc.update_called
