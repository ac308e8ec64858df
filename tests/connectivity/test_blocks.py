import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassF1Score

from helpers.lines import Judged, line_between, mlp, quadrants, saved, trained
from helpers.projects import trainer
from lightning_lottery.connectivity.blocks import blocks_of
from lightning_lottery.connectivity.path import path
from lightning_lottery.hooks.means import MOST_BLOCKS, ByBatch

SIZES = [8] * 7 + [5]


def in_batches_of(size, **options):
    return DataLoader(quadrants().dataset, batch_size=size, **options)


def between(tmp_path, size=8, **options):
    return line_between(tmp_path, trained(0), trained(1), loader=in_batches_of(size), **options)


def mean_of(blocks, place):
    weights = np.array(blocks.weights)
    return float(np.array(blocks.values[0, 1][place]) @ weights / weights.sum())


def test_batches_are_blocks_whose_mean_is_the_metric_at_every_place(tmp_path):
    report = between(tmp_path)
    assert list(report.blocks.weights) == SIZES and report.networks_alone == ""
    for place, value in enumerate(report.curves["raw"][0, 1]["test_acc"]):
        assert mean_of(report.blocks, place) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("size", [61, 40, 20])
def test_larger_batches_are_cut_and_every_metric_stays_what_it_was(size, tmp_path):
    whole, cut = between(tmp_path), between(tmp_path, size)
    assert len(cut.blocks.weights) >= 8 and sum(cut.blocks.weights) == 61
    for name, values in whole.curves["raw"][0, 1].items():
        assert cut.curves["raw"][0, 1][name] == pytest.approx(values, rel=1e-5, abs=1e-7)


class WithMetric(Judged):
    """Logs a metric object, as most projects do."""

    def __init__(self, metric, how="forward"):
        super().__init__(mlp())
        self.metric, self.how = metric, how

    def test_step(self, batch, batch_idx):
        x, y = batch
        outputs = self.network(x)
        outputs = outputs.softmax(1)[:, 1] if isinstance(self.metric, BinaryAUROC) else outputs
        self.metric.update(outputs, y) if self.how == "update" else self.metric(outputs, y)
        self.log("test_acc", self.metric)


@pytest.mark.parametrize("how", ["forward", "update"])
def test_a_metric_object_of_sums_has_the_blocks_of_what_it_computes(how, tmp_path):
    plain = between(tmp_path)
    report = between(tmp_path, module=WithMetric(MulticlassAccuracy(2, average="micro"), how))
    assert list(report.blocks.weights) == SIZES
    assert np.array(report.blocks.values[0, 1]) == pytest.approx(np.array(plain.blocks.values[0, 1]))
    assert report.stability.verdict == plain.stability.verdict


@pytest.mark.parametrize("metric", [MulticlassF1Score(2, average="macro"), BinaryAUROC()])
def test_a_metric_that_is_no_mean_over_batches_is_judged_by_networks_alone_and_that_is_said(metric, tmp_path):
    report = line_between(tmp_path, *map(trained, (0, 1, 2)), module=WithMetric(metric), loader=in_batches_of(8))
    assert report.blocks is None and report.stability.test_standard_error is None
    assert report.networks_alone in ("the metric is no mean over batches", "the metric was not logged batch by batch")
    if report.stability.low is not None:
        assert (
            f"Networks alone are judged, on these samples and no others: {report.networks_alone}." in report.sentences()
        )


class AtTheEnd(Judged):
    def test_step(self, batch, batch_idx):
        self.right = [*getattr(self, "right", []), (self.network(batch[0]).argmax(1) == batch[1]).float()]

    def on_test_epoch_end(self):
        self.log("test_acc", torch.cat(self.right).mean())
        self.right = []


class OfTheBatch(Judged):
    """A loss that compares the samples of a batch with each other: of two halves it is another one."""

    def test_step(self, batch, batch_idx):
        outputs = self.network(batch[0])
        self.log("test_acc", (outputs @ outputs.T).softmax(1).diagonal().mean())


def test_what_is_logged_at_the_end_of_all_batches_has_no_blocks(tmp_path):
    report = between(tmp_path, module=AtTheEnd(mlp()))
    assert report.blocks is None and report.networks_alone == "the metric was not logged batch by batch"


def test_batches_that_a_metric_hangs_on_are_not_cut(tmp_path):
    report = between(tmp_path, 20, module=OfTheBatch(mlp()))
    assert report.blocks is None and report.networks_alone == "there are 4 batches, and 8 are needed"
    assert list(between(tmp_path, 8, module=OfTheBatch(mlp())).blocks.weights) == SIZES


class Refuses(Judged):
    def test_step(self, batch, batch_idx):
        assert len(batch[0]) in (41, 20), "another size than its author has seen"
        super().test_step(batch, batch_idx)


def test_a_step_that_fails_on_fewer_samples_keeps_its_batches(tmp_path):
    assert between(tmp_path, 41, module=Refuses(mlp())).networks_alone == "there are 2 batches, and 8 are needed"


def test_one_sample_a_batch_is_joined_to_blocks(tmp_path):
    report = between(tmp_path, 1)
    assert len(report.blocks.weights) == MOST_BLOCKS and sum(report.blocks.weights) == 61
    assert mean_of(report.blocks, 10) == pytest.approx(report.curves["raw"][0, 1]["test_acc"][10])


def test_batches_that_the_trainer_limits_stay_as_they_are(tmp_path):
    data = TensorDataset(*(tensor[:20] for tensor in quadrants().dataset.tensors))
    files = saved(tmp_path, trained(0), trained(1))
    limited = path(Judged(mlp()), in_batches_of(20), files, trainer=trainer(tmp_path, limit_test_batches=1))
    alone = line_between(tmp_path, trained(0), trained(1), loader=DataLoader(data, batch_size=20))
    assert limited.samples == 20 and limited.networks_alone == "there are 1 batches, and 8 are needed"
    assert limited.curves["raw"][0, 1]["test_acc"] == pytest.approx(alone.curves["raw"][0, 1]["test_acc"])


def test_other_weights_from_place_to_place_are_no_blocks():
    one, other = (ByBatch(np.zeros(8), np.full(8, weight)) for weight in (1.0, 2.0))
    blocks, reason = blocks_of({(0, 1): [one, other]}, {(0, 1): [0.0, 0.0]})
    assert blocks is None and "other batch sizes" in reason
