import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from helpers.lines import Judged, line_between, mlp, quadrants, trained
from helpers.projects import trainer
from lightning_lottery.hooks.means import MOST_BLOCKS, ByBatch, Means


def test_a_batch_weighs_as_many_samples_as_it_has_or_says_and_what_is_logged_after_it_all_so_far(tmp_path):
    means = Means()
    for size, value in ((3, 1.0), (1, 5.0)):
        means.begin_batch(size)
        means.log("loss", torch.tensor(value))
        means.log("own_size", value, batch_size=1)
        means.end_batch()
    means.log("at_the_end", 2.0)
    assert means.samples == 4
    assert means.compute(trainer(tmp_path)) == {"loss": 2.0, "own_size": 3.0, "at_the_end": 2.0}


def test_a_metric_object_computes_itself_and_is_reset(tmp_path):
    means, metric = Means(), MeanMetric()
    metric.update(torch.tensor([1.0, 2.0, 6.0]))
    means.log("metric", metric)
    assert means.compute(trainer(tmp_path)) == {"metric": pytest.approx(3.0)}
    assert metric.update_count == 0


def test_metrics_are_averages_over_samples_and_batches_are_loaded_once(tmp_path):
    loads = []

    class Counting(DataLoader):
        def __iter__(self):
            loads.append(1)
            return super().__iter__()

    data = quadrants().dataset
    nets = [trained(seed) for seed in (0, 1, 2)]
    report = line_between(tmp_path, *nets, loader=Counting(data, batch_size=8))
    assert len(loads) == 1 and report.samples == 61 and len(report.pairs) == 3
    x, y = data.tensors
    for number, net in enumerate(nets):
        pair, end = ((number, 2), -1) if number < 2 else ((0, 2), 0)
        exact = F.cross_entropy(net(x).double(), y).item()
        assert report.curves["raw"][pair]["test_loss"][end] == pytest.approx(
            exact, rel=1e-3
        )  # a batch at a time, in float32


def test_a_metric_that_is_no_mean_is_left_out(tmp_path):
    class Summed(Judged):
        def test_step(self, batch, batch_idx):
            super().test_step(batch, batch_idx)
            self.log("seen", 1.0, reduce_fx="sum")

    assert "seen" not in line_between(tmp_path, trained(0), trained(1), module=Summed(mlp())).curves["raw"][0, 1]


def test_batches_are_joined_to_blocks_whose_mean_is_the_same_and_few_stay_as_they_are():
    values, weights = np.arange(130.0), np.arange(1.0, 131)
    joined = ByBatch(values, weights).joined()
    assert len(joined.values) == MOST_BLOCKS and joined.weights.sum() == weights.sum()
    assert joined.averages_to(values @ weights / weights.sum())
    assert joined.values[0] == pytest.approx((0 * 1 + 1 * 2) / 3)  # 130 batches in 60 blocks: 2 or 3 in each
    few = ByBatch(values[:7], weights[:7]).joined()
    assert few.values == pytest.approx(values[:7]) and few.weights.tolist() == weights[:7].tolist()


def test_a_metric_averages_to_what_float32_says_of_its_mean_and_to_nothing_else():
    metric = ByBatch(np.array([0.5, 1.0]), np.array([3.0, 1.0]))
    assert metric.averages_to(float(np.float32(0.625))) and not metric.averages_to(0.75)
    assert not metric.averages_to(float("nan"))


def test_batches_of_one_size_count_in_full_and_one_that_holds_nearly_all_alone():
    zeros = np.zeros(4)
    assert ByBatch(zeros, np.full(4, 7.0)).equal_batches() == pytest.approx(4)
    assert ByBatch(zeros, np.array([1e6, 1, 1, 1])).equal_batches() == pytest.approx(1, abs=1e-5)
