import copy
import math
from functools import cache

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from scipy.stats import t
from torch.utils.data import DataLoader, TensorDataset

from helpers.lines import Judged, line_between, mlp, permuted, quadrants, saved, trained
from helpers.projects import trainer
from lightning_lottery import PathReport
from lightning_lottery.connectivity.path import path
from lightning_lottery.connectivity.soups import Measured, greedy
from lightning_lottery.functional.matching import Matching

SAMPLES = 240


@cache
def network(seed: int, steps: int = 300):
    return trained(seed, steps=steps)


def near(net, seed: int, scale: float = 1e-3):
    """A network in the same basin."""
    copied, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in copied.parameters():
            param += scale * torch.randn(param.shape, generator=generator)
    return copied


def stranger():
    """A worse network in another basin."""
    return near(network(1), 0, 0.3)


def judged(folder, *nets, **settings):
    settings = {"alphas": (0, 1), "soup": True, "loader": quadrants(SAMPLES, 16), **settings}
    return line_between(folder, *nets, **settings)


def right(net, loader=None):
    """For each sample whether a network is right."""
    x, y = (loader or quadrants(SAMPLES, 16)).dataset.tensors
    return (net(x).argmax(1) == y).double()


def mean_of(*nets):
    mean = copy.deepcopy(nets[0])
    states = [net.state_dict() for net in nets]
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    return mean


def test_copies_of_a_network_may_be_averaged_and_gain_nothing(tmp_path):
    net = network(0)
    report = judged(tmp_path, net, net, net, save_midpoint=tmp_path / "soup.pt")
    assert report.averaging.verdict == "may be averaged" and "All 3 networks may be averaged." in report.sentences()
    (average,) = report.averaging.averages
    assert average.gain.mean == 0 and average.gain.low < 0 < average.gain.high < 0.02
    state = torch.load(tmp_path / "soup.pt", weights_only=True)
    assert all(torch.equal(state[f"network.{name}"], value) for name, value in net.state_dict().items())
    assert report.midpoint["test_acc"] == pytest.approx(average.value)


def test_the_gain_and_its_bounds_are_those_of_a_paired_comparison_in_batches(tmp_path):
    nets = network(0), near(network(0), 1, 0.1)
    report = judged(tmp_path, *nets)
    accuracies = [right(net).mean().item() for net in nets]
    best = int(np.argmax(accuracies))
    batches = (right(mean_of(*nets)) - right(nets[best])).view(-1, 16).mean(1).numpy()
    assert report.averaging.best == best and batches.any()
    gain, count = report.averaging.averages[0].gain, len(batches)
    reach = t.ppf(0.95, count - 1) * batches.std(ddof=1) / math.sqrt(count)
    assert gain.mean == pytest.approx(batches.mean(), abs=1e-6)
    assert (gain.low, gain.high) == pytest.approx((batches.mean() - reach, batches.mean() + reach), abs=1e-6)


def test_a_network_and_its_permutation_may_be_averaged_in_one_order_of_units_alone(tmp_path):
    nets = network(0), permuted(network(0))
    report = judged(tmp_path, *nets, save_midpoint=tmp_path / "none.pt")
    assert report.averaging.averages[0].gain.verdict == "worse"
    assert report.averaging.verdict in ("only these layers", "not")
    aligned = judged(tmp_path, *nets, align=True)
    assert aligned.averaging.verdict == "may be averaged" and aligned.averaging.averages[0].gain.mean == 0


def test_a_greedy_soup_leaves_out_what_lies_elsewhere(tmp_path):
    nets = stranger(), network(0), near(network(0), 1), near(network(0), 2)
    report = judged(tmp_path, *nets, save_midpoint=tmp_path / "soup.pt")
    mean, soup = report.averaging.averages
    assert mean.gain.verdict == "worse" and mean.networks == (0, 1, 2, 3)
    assert soup.networks == (1, 2, 3) and report.averaging.verdict == "only these networks"
    state = torch.load(tmp_path / "soup.pt", weights_only=True)
    for name, value in mean_of(*nets[1:]).state_dict().items():
        torch.testing.assert_close(state[f"network.{name}"], value)
    assert report.midpoint["test_acc"] == pytest.approx(soup.value) == pytest.approx(right(mean_of(*nets[1:])).mean())
    assert "1.pt, " in next(s for s in report.sentences() if s.startswith("Only these networks may be averaged"))


def test_only_these_layers_are_the_mean_and_all_else_is_the_best_network_s(tmp_path):
    """The networks differ in their first layer by an order of its units, which the second does not follow."""
    net = network(0)
    twin = near(net, 1)
    with torch.no_grad():
        twin[0].weight.copy_(twin[0].weight.flip(0))
    report = judged(tmp_path, net, twin, save_midpoint=tmp_path / "soup.pt")
    assert report.averaging.verdict == "only these layers" and report.averaging.best == 0
    mean, layers = report.averaging.averages
    assert mean.gain.verdict == "worse" and layers.layers == ("network.2", "network.4") and layers.networks == (0, 1)
    state, states = torch.load(tmp_path / "soup.pt", weights_only=True), (net.state_dict(), twin.state_dict())
    for name in states[0]:
        expected = states[0][name] if name.startswith("0.") else (states[0][name] + states[1][name]) / 2
        torch.testing.assert_close(state[f"network.{name}"], expected)


def test_where_nothing_may_be_averaged_nothing_is_written(tmp_path):
    net, last = network(0), copy.deepcopy(network(0))
    with torch.no_grad():  # no layer can be mixed: the last one's mean is 0
        for layer in (0, 2, 4):
            last[layer].weight.neg_(), last[layer].bias.neg_()
    report = judged(tmp_path, net, last, save_midpoint=tmp_path / "none.pt")
    assert report.averaging.verdict == "not" and report.averaging.fit is None
    assert not (tmp_path / "none.pt").exists() and not report.midpoint
    assert "They may not be averaged." in report.sentences()


class Data(LightningDataModule):
    """Validates on a loader of its own."""

    def __init__(self, validation):
        super().__init__()
        self.validation = validation

    def val_dataloader(self):
        return self.validation

    def test_dataloader(self):
        return quadrants(SAMPLES, 16)


def flipped(n: int = 128):
    x, y = quadrants(n).dataset.tensors
    return DataLoader(TensorDataset(x + 0.01, 1 - y), batch_size=16)


class TestValidation:
    def test_the_best_network_is_chosen_on_validation_samples_and_averages_are_judged_on_others(self, tmp_path):
        nets = network(0), network(0, steps=20)  # the first is better, and on validation worse
        report = judged(tmp_path, *nets, loader=Data(flipped()))
        assert right(nets[0]).mean() > right(nets[1]).mean()
        assert report.averaging.best == 1 and report.averaging.chosen_on == 128 and report.samples == SAMPLES
        gain = right(mean_of(*nets)).mean() - right(nets[1]).mean()
        assert report.averaging.averages[0].gain.mean == pytest.approx(gain.item(), abs=1e-6)
        assert report.sentences()[-1].endswith("128 validation samples; averages are judged on 240 others.")

    def test_a_project_that_validates_on_its_test_set_is_told_so(self, tmp_path):
        nets = network(0), network(0, steps=20)
        report = judged(tmp_path, *nets, loader=Data(quadrants(SAMPLES, 48)))  # in other batches
        assert report.averaging.best == 0 and report.averaging.chosen_on == 0
        assert "the 240 samples that all are judged by, which favours it" in report.sentences()[-1]

    def test_a_soup_is_chosen_on_validation_samples(self, tmp_path):
        """By them the stranger is the best, with which it begins; by the test samples it is left out."""
        nets = stranger(), network(0), near(network(0), 1)
        report = judged(tmp_path, *nets, loader=Data(flipped()))
        assert report.averaging.best == 0 and 0 in report.averaging.averages[1].networks


class Falling:
    """Samples on which whatever is added loses 0.015, and a loss of less than 0.02 is none."""

    def measure(self, numbers):
        return [Measured(1 - 0.015 * len(numbers), None)]

    def error(self, measured):
        return 1 - measured.value

    def judge(self, measured, reference):
        verdict = "matching" if measured.value > reference.value - 0.02 else "worse"
        return Matching(measured.value - reference.value, None, None, 0.02, verdict, "")


def test_losses_below_the_threshold_do_not_add_up():
    assert greedy([5, 3, 4], [], list, Falling(), Measured(1.0, None)) == [5]


def test_a_diverged_network_is_in_no_average(tmp_path):
    broken = copy.deepcopy(network(0))
    broken[0].weight.data[0, 0] = math.nan
    nets = broken, network(0), near(network(0), 1)
    report = judged(tmp_path, *nets, allow_diverged=True, save_midpoint=tmp_path / "soup.pt")
    mean, soup = report.averaging.averages
    assert math.isnan(mean.value) and mean.gain.verdict == "undecided" and "not finite" in mean.gain.reason
    assert soup.networks == (1, 2) and report.averaging.verdict == "only these networks"


def test_a_loss_is_judged_by_its_threshold_ratio_and_gains_where_it_falls(tmp_path):
    nets = network(0, steps=60), near(network(0, steps=60), 1, 0.05)
    settings = {"monitor": "test_loss", "mode": "min", "threshold_ratio": 0.1}
    report = judged(tmp_path, *nets, **settings)
    x, y = quadrants(SAMPLES, 16).dataset.tensors
    losses = [torch.nn.functional.cross_entropy(net(x), y).item() for net in (*nets, mean_of(*nets))]
    gain = report.averaging.averages[0].gain
    assert gain.mean == pytest.approx(min(losses[:2]) - losses[2], abs=1e-5)
    assert gain.margin == pytest.approx(0.1 * min(losses[:2]), rel=1e-5)


def test_without_blocks_of_samples_it_is_undecided_and_says_why(tmp_path):
    net = network(0)
    report = path(
        Judged(mlp()),
        quadrants(SAMPLES, 16),
        saved(tmp_path, net, net),
        trainer=trainer(tmp_path, limit_test_batches=4),
        alphas=(0, 1),
        soup=True,
    )
    assert report.averaging.verdict == "undecided"
    assert "without bounds: there are 4 batches, and 8 are needed." in " ".join(report.sentences())


def test_it_is_in_records_and_summary_and_read_back_as_it_was_saved(tmp_path):
    report = judged(tmp_path, network(0), near(network(0), 1, 0.1))
    average = report.averaging.averages[0]
    rows = {row["metric"]: row["value"] for row in report.rows()}
    assert rows["mean/gain"] == average.gain.mean and rows["mean/gain_low"] == average.gain.low
    summary = report.summary()["averaging"]
    assert summary["verdict"] == report.averaging.verdict and summary["averages"][0]["gain"]["low"] == average.gain.low
    report.save(tmp_path / "report.json")
    assert PathReport.load(tmp_path / "report.json").averaging == report.averaging
