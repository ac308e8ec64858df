import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helpers.lines import Judged, Normed, golden_net, line_between, mlp, quadrants, saved, trained
from helpers.projects import trainer
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.judging import ALPHAS
from lightning_lottery.connectivity.path import path
from lightning_lottery.connectivity.report import Layer


def test_a_network_against_itself_has_barrier_exactly_zero_at_every_place(tmp_path):
    net = trained(0)
    report = line_between(tmp_path, net, net)
    for name, values in report.curves["raw"][0, 1].items():
        assert len(values) == len(ALPHAS) == 21 and len(set(values)) == 1, name
    assert report.measures((0, 1))["error_barrier"] == 0
    assert report.distances[0, 1] == {"l2": 0.0, "cosine": pytest.approx(0, abs=1e-12)}


def test_logistic_regression_has_no_excess_loss(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(6, 2))

    nets = [trained(seed, build, steps=20) for seed in (0, 1)]
    report = path(Judged(build()), quadrants(), saved(tmp_path, *nets), trainer=trainer(tmp_path))
    assert report.measures((0, 1))["test_loss_excess"] == pytest.approx(0, abs=1e-7)
    assert report.measures((0, 1))["test_loss_barrier"] > 0


def test_predictions_of_two_networks_are_compared(tmp_path):
    nets = trained(0), trained(1)
    x = quadrants().dataset.tensors[0]
    expected = (nets[0](x).argmax(1) != nets[1](x).argmax(1)).double().mean().item()
    report = line_between(tmp_path, *nets, predict=lambda module, batch: module.network(batch[0]).argmax(1))
    assert report.distances[0, 1]["disagreement"] == pytest.approx(expected)


def test_metric_objects_forget_the_batches_that_recalibrated(tmp_path):
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(tmp_path / f"{seed}.ckpt")
        torch.save({"state_dict": Normed().state_dict()}, files[-1])
    module = Normed()
    module.network[1].eval()
    report = path(module, None, files, trainer=trainer(tmp_path), recalibrate=4, predict=lambda m, b: m.network(b[0]))
    for curves in (report.curves["raw"], report.curves["recalibrated"]):
        assert curves[0, 1]["test_metric"] == pytest.approx(curves[0, 1]["test_acc"], abs=1e-6)
    assert report.curves["recalibrated"][0, 1]["test_loss"] != report.curves["raw"][0, 1]["test_loss"]
    assert not module.network[1].training and module.network[0].training
    assert any(row["metric"] == "recalibrated/error_barrier" for row in report.rows())
    with pytest.raises(LotteryError, match="has no `train_dataloader` to take batches from"):
        network = Normed().network
        files = saved(tmp_path, network, network)
        path(Judged(network), quadrants(), files, trainer=trainer(tmp_path), recalibrate=4)


class Complex(Judged):
    """Rotary frequencies as a complex buffer, and a complex weight."""

    def __init__(self, network, phase: float) -> None:
        super().__init__(network)
        self.register_buffer("freqs_cis", torch.polar(torch.ones(4), torch.arange(4.0)))
        self.mixing = nn.Parameter(torch.full((2,), complex(0, phase)))

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        self.log("test_imaginary", self.mixing.imag.mean())


def test_complex_buffers_stay_and_complex_weights_lie_on_the_line(tmp_path):
    files = []
    for phase in (0.0, 1.0):
        files.append(tmp_path / f"{phase}.pt")
        torch.save(Complex(mlp(), phase).state_dict(), files[-1])
    report = path(Complex(mlp(), 5.0), quadrants(), files, trainer=trainer(tmp_path), alphas=(0, 0.25, 1))
    assert report.curves["raw"][0, 1]["test_imaginary"] == [1.0, 0.75, 0.0]


class Tied(LightningModule):
    """An embedding that the output shares, as language models have."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.emb = nn.Embedding(5, 4)
        self.mid = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        if tied:
            self.head.weight = self.emb.weight

    def test_step(self, batch, batch_idx):
        out = self.head(torch.relu(self.mid(self.emb(batch[0]))))
        self.log("test_loss", F.cross_entropy(out, batch[1]))

    def test_dataloader(self):
        x = torch.arange(20) % 5
        return DataLoader(TensorDataset(x, (x + 1) % 5), batch_size=10)


def test_tied_weights_move_together_in_layers_and_count_once_in_distances(tmp_path):
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(tmp_path / f"{seed}.ckpt")
        torch.save({"state_dict": Tied().state_dict()}, files[-1])
    alphas = (0, 0.5, 1)
    report = path(
        Tied(), None, files, trainer=trainer(tmp_path), monitor="test_loss", mode="min", threshold=0.1,
        alphas=alphas, layer_alphas=alphas,
    )  # fmt: skip
    whole = report.curves["raw"][0, 1]["test_loss"]
    for host in (0, 1):
        assert report.curves[Layer("mid", host, "cumulative")][0, 1]["test_loss"] == pytest.approx(whole, rel=1e-6)
        assert len(set(report.curves[Layer("emb", host, "single")][0, 1]["test_loss"])) == 3
    first, second = (dict(Tied(tied=False).named_parameters()) for _ in files)
    for weights, file in ((first, files[0]), (second, files[1])):
        state = torch.load(file)["state_dict"]
        weights.update({name: state[name] for name in ("emb.weight", "mid.weight", "mid.bias")})
    squares = [(first[name] - second[name]).square().sum().item() for name in ("emb.weight", "mid.weight", "mid.bias")]
    assert report.distances[0, 1]["l2"] == pytest.approx(sum(squares) ** 0.5, rel=1e-5)


def test_single_layers_are_interpolated_in_either_host_as_the_golden_ones(golden, tmp_path):
    data = torch.load(golden / "interpolation.pt", weights_only=False)
    pair = data["different_init"]
    files = []
    for number in (1, 2):
        files.append(tmp_path / f"{number}.ckpt")
        torch.save({f"network.{name}": value for name, value in pair[f"sd{number}"].items()}, files[-1])
    loader = DataLoader(TensorDataset(data["test_x"], data["test_y"]), batch_size=100)
    quiet = trainer(tmp_path, precision="64-true")
    report = path(Judged(golden_net()), loader, files, trainer=quiet, alphas=(0, 1), layer_alphas=ALPHAS)
    ours = {"conv1": ("network.1", "cumulative"), "fc": ("network.9", "single")}  # theirs: a norm with its convolution
    for unit, (layer, extent) in ours.items():
        for host, way in ((0, -1), (1, 1)):  # theirs run away from the host
            expected = pair["layerwise"][f"{unit}_into_m{host + 1}"]
            curve = report.curves[Layer(layer, host, extent)][0, 1]
            np.testing.assert_allclose(curve["test_loss"][::way], expected[:, 0], rtol=1e-8)
            np.testing.assert_allclose(curve["test_acc"][::way], expected[:, 1], rtol=1e-12)
    barrier = report.layer_barriers((0, 1), "cumulative")["network.1"]
    middles = [pair["layerwise_mid_barrier_error"][f"conv1_into_m{number}"] for number in (1, 2)]
    assert barrier["middle"] == pytest.approx(np.mean(middles), abs=1e-12)
    highest = min(pair["layerwise"][f"conv1_into_m{number}"][:, 1].min() for number in (1, 2))
    ends = 1 - (pair["acc"][0] + pair["acc"][-1]) / 2
    assert barrier["sup"] == pytest.approx(1 - highest - ends, abs=1e-12)
    assert barrier["sup"] > barrier["middle"] > 0


class TestRefusals:
    def test_percent(self, tmp_path):
        with pytest.raises(LotteryError, match="must be a fraction"):
            line_between(tmp_path, trained(0), trained(1), module=Judged(mlp(), percent=True))
