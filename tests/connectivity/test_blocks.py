import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import R2Score
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassF1Score

from helpers.lines import Judged, line_between, mlp, quadrants, saved, trained
from helpers.projects import trainer
from lightning_lottery.connectivity.batches import Batches
from lightning_lottery.connectivity.blocks import _parts_for, blocks_of, cut_into_blocks
from lightning_lottery.connectivity.path import path
from lightning_lottery.hooks.means import MOST_BLOCKS, ByBatch
from lightning_lottery.hooks.private import BatchesOfMetric

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


def test_once_a_metric_is_seen_to_be_no_mean_over_batches_no_more_of_them_are_asked_for(tmp_path, monkeypatch):
    asked, of_batch = [], BatchesOfMetric.of_batch
    monkeypatch.setattr(BatchesOfMetric, "of_batch", lambda self: asked.append(1) or of_batch(self))
    ends = (trained(seed, steps=3) for seed in (0, 1))  # of networks without an error any metric is a mean: of ones
    module = WithMetric(MulticlassF1Score(2, average="macro"), "update")
    report = line_between(tmp_path, *ends, module=module, loader=in_batches_of(8))
    assert report.networks_alone == "the metric is no mean over batches"
    assert len(asked) == len(SIZES)


@pytest.mark.parametrize("metric", [MulticlassF1Score(2, average="macro"), BinaryAUROC()])
def test_a_metric_that_is_no_mean_over_batches_is_judged_by_networks_alone_and_that_is_said(metric, tmp_path):
    report = line_between(tmp_path, *map(trained, (0, 1, 2)), module=WithMetric(metric), loader=in_batches_of(8))
    assert report.blocks is None and report.stability.test_standard_error is None
    assert report.networks_alone in ("the metric is no mean over batches", "the metric was not logged batch by batch")
    if report.stability.low is not None:
        assert (
            f"Networks alone are judged, on these samples and no others: {report.networks_alone}." in report.sentences()
        )


class OneAtATime(Judged):
    """Logs a metric that is not defined for a single sample, and only updates it."""

    def __init__(self):
        super().__init__(mlp())
        self.metric = R2Score()

    def test_step(self, batch, batch_idx):
        self.metric.update(self.network(batch[0])[:, 1], batch[1].float())
        self.log("test_acc", self.metric)


def test_a_metric_that_fails_on_one_batch_alone_is_judged_by_networks_alone(tmp_path):
    report = between(tmp_path, 1, module=OneAtATime())
    assert report.blocks is None and report.networks_alone == "the metric was not logged batch by batch"


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


class AllRight(Judged):
    """1 where all samples of a batch are right: 0 on both halves and on the whole of most batches, and no mean."""

    def test_step(self, batch, batch_idx):
        self.log("test_acc", float((self.network(batch[0]).argmax(1) == batch[1]).all()))


def test_a_metric_that_is_the_same_on_all_samples_tried_is_not_taken_for_a_mean(tmp_path):
    report = between(tmp_path, 20, module=AllRight(mlp()))
    assert report.networks_alone == "there are 4 batches, and 8 are needed"
    limited = path(
        AllRight(mlp()), in_batches_of(20), list(report.names), trainer=trainer(tmp_path, limit_test_batches=1)
    )
    assert limited.samples == 20


def test_a_loader_that_gives_its_batches_once_is_cut_as_well(tmp_path):
    batches = iter(list(in_batches_of(20)))
    once = line_between(tmp_path, trained(0), trained(1), loader=batches)
    assert once.blocks == between(tmp_path, 20).blocks and once.blocks is not None


class Draws(Judged):
    def test_step(self, batch, batch_idx):
        torch.rand(1)
        super().test_step(batch, batch_idx)


def test_what_is_tried_leaves_random_numbers_as_they_were(tmp_path):
    batches, module = Batches(list(in_batches_of(20))), Draws(mlp())
    before = torch.get_rng_state()
    cut_into_blocks(batches, module, trainer(tmp_path), "test", None, "test_acc")
    assert len(batches) == 10 and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("size", "parts"), [(47, 1), (48, 12), (3, 1)])
def test_ranks_whose_shares_differ_by_a_sample_cut_alike(size, parts):
    ranks = [Batches([torch.zeros(size, 2)], rank=rank, world_size=2) for rank in (0, 1)]
    assert [_parts_for(batches) for batches in ranks] == [parts, parts]
    for batches in ranks:
        batches.cut(parts)
    assert len({len(batches) for batches in ranks}) == 1 and sum(map(sum, (b.sizes for b in ranks))) == size


def test_batches_that_do_not_fit_in_memory_are_cut_one_by_one():
    batches = Batches([torch.arange(20.0)] * 2, memory=0)
    batches.cut(3)
    assert batches.kept is None and batches.sizes == [6, 7, 7] * 2
    assert torch.equal(torch.cat(list(batches)), torch.arange(20.0).repeat(2))


class OfTheBatchBeside(OfTheBatch):
    def test_step(self, batch, batch_idx):
        self.log("test_contrast", (self.network(batch[0]) @ self.network(batch[0]).T).softmax(1).diagonal().mean())
        Judged.test_step(self, batch, batch_idx)


def test_a_metric_beside_the_judged_one_stays_what_it_was_as_well(tmp_path):
    report = between(tmp_path, 20, module=OfTheBatchBeside(mlp()))
    assert report.networks_alone == "there are 4 batches, and 8 are needed"


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


def test_a_place_that_diverged_is_named_as_such_and_not_taken_for_a_metric_of_another_kind():
    points = [ByBatch(np.full(8, value), np.ones(8)) for value in (0.1, np.nan, 0.1)]
    assert blocks_of({(0, 1): points}, {(0, 1): [0.1, np.nan, 0.1]}) == (None, "the metric is not finite everywhere")
    assert blocks_of({(0, 1): []}, {(0, 1): [np.nan] * 3}) == (None, "the metric is not finite everywhere")


def test_batches_of_which_one_holds_nearly_all_samples_say_nothing_of_other_samples():
    """The variance between them would be a fifth of what it is."""
    point = ByBatch(np.zeros(11), np.array([900.0, *[10.0] * 10]))
    blocks, reason = blocks_of({(0, 1): [point, point]}, {(0, 1): [0.0, 0.0]})
    assert blocks is None and reason == "a few of the batches hold most of the samples"
    last = ByBatch(np.zeros(8), np.array([*[100.0] * 7, 1.0]))
    assert blocks_of({(0, 1): [last, last]}, {(0, 1): [0.0, 0.0]})[0] is not None
