import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from helpers.processes import run
from helpers.projects import plain_loader, trainer
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.batches import Batches
from lightning_lottery.connectivity.path import ALPHAS, path


class Judged(LightningModule):
    """Wraps any network; logs a test loss and a test accuracy."""

    def __init__(self, network: nn.Module, percent: bool = False, silent: bool = False) -> None:
        super().__init__()
        self.network, self.percent, self.silent = network, percent, silent

    def test_step(self, batch, batch_idx):
        out = self.network(batch[0])
        if not self.silent:
            right = (out.argmax(1) == batch[1]).to(out.dtype).mean()
            self.log_dict(
                {"test_loss": F.cross_entropy(out, batch[1]), "test_acc": right * (100 if self.percent else 1)}
            )


def quadrants(n: int = 61, batch_size: int = 8) -> DataLoader:
    """Labels that no line separates."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long()), batch_size=batch_size)


def mlp(wide: int = 32) -> nn.Module:
    return nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 2))


def trained(seed: int, build=mlp, steps: int = 300) -> nn.Module:
    torch.manual_seed(seed)
    net = build()
    x, y = (torch.cat(parts) for parts in zip(*quadrants(), strict=True))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def permuted(net: nn.Module) -> nn.Module:
    """The same function with its hidden units in another order."""
    copy = mlp()
    copy.load_state_dict(net.state_dict())
    for one, two in ((0, 2), (2, 4)):
        order = torch.randperm(32, generator=torch.Generator().manual_seed(one))
        with torch.no_grad():
            copy[one].weight.copy_(copy[one].weight[order])
            copy[one].bias.copy_(copy[one].bias[order])
            copy[two].weight.copy_(copy[two].weight[:, order])
    return copy


def saved(folder: Path, *nets: nn.Module) -> list[Path]:
    files = [folder / f"{number}.pt" for number in range(len(nets))]
    for file, net in zip(files, nets, strict=True):
        torch.save({f"network.{name}": value for name, value in net.state_dict().items()}, file)
    return files


def line(folder: Path, *nets: nn.Module, loader=None, module=None, **given):
    data = quadrants() if loader is None else loader
    module = module or Judged(type(nets[0])() if not isinstance(nets[0], nn.Sequential) else mlp())
    return path(module, data, saved(folder, *nets), trainer=trainer(folder), **given)


def test_a_network_against_itself_has_barrier_exactly_zero_at_every_place(tmp_path):
    net = trained(0)
    report = line(tmp_path, net, net)
    for name, values in report.curves[0, 1].items():
        assert len(values) == len(ALPHAS) == 21 and len(set(values)) == 1, name
    assert report.measures((0, 1))["error_barrier"] == 0
    assert report.between[0, 1] == {"l2": 0.0, "cosine": pytest.approx(0, abs=1e-12)}


def test_a_network_against_a_permutation_of_itself_is_equal_at_the_ends_and_worse_between(tmp_path):
    net = trained(0)
    report = line(tmp_path, net, permuted(net))
    loss = report.curves[0, 1]["test_loss"]
    assert loss[0] == pytest.approx(loss[-1], rel=1e-5)
    assert max(loss) > 3 * loss[0]
    found = report.measures((0, 1))
    assert found["test_loss_barrier"] == pytest.approx(max(loss) - (loss[0] + loss[-1]) / 2)
    assert found["test_loss_middle"] == loss[10]


def test_logistic_regression_has_no_excess_loss(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(6, 2))

    nets = [trained(seed, build, steps=20) for seed in (0, 1)]
    report = path(Judged(build()), quadrants(), saved(tmp_path, *nets), trainer=trainer(tmp_path))
    assert report.measures((0, 1))["test_loss_excess"] == pytest.approx(0, abs=1e-7)
    assert report.measures((0, 1))["test_loss_barrier"] > 0


def test_metrics_are_averages_over_samples_and_batches_are_loaded_once(tmp_path):
    loads = []

    class Counting(DataLoader):
        def __iter__(self):
            loads.append(1)
            return super().__iter__()

    data = quadrants().dataset
    nets = [trained(seed) for seed in (0, 1, 2)]
    report = line(tmp_path, *nets, loader=Counting(data, batch_size=8))
    assert len(loads) == 1 and report.samples == 61 and len(report.curves) == 3
    x, y = data.tensors
    for number, net in enumerate(nets):
        pair, end = ((number, 2), -1) if number < 2 else ((0, 2), 0)
        exact = F.cross_entropy(net(x).double(), y).item()
        assert report.curves[pair]["test_loss"][end] == pytest.approx(exact, rel=1e-3)  # a batch at a time, in float32


def test_what_does_not_fit_in_memory_is_streamed_with_the_same_result(tmp_path):
    nets = trained(0), trained(1)
    assert line(tmp_path, *nets, memory=10).curves == line(tmp_path, *nets).curves


def test_the_module_is_left_as_it_was(tmp_path):
    module = Judged(mlp()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    line(tmp_path, trained(0), trained(1), module=module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training and "log" not in module.__dict__
    module.network(torch.randn(2, 6)).sum().backward()


def test_three_networks_give_three_pairs_and_a_verdict_and_two_give_none(tmp_path):
    report = line(tmp_path, *(trained(seed) for seed in (0, 1, 2)))
    assert sorted(report.curves) == [(0, 1), (0, 2), (1, 2)]
    assert report.stability.standard_error is not None
    assert line(tmp_path, trained(0), trained(1)).stability.reason == "one pair gives an estimate, no verdict"
    rows = report.rows()
    assert {"stage", "method", "parent", "seeds", "alpha", "metric", "value", "n"} <= rows[0].keys()
    assert sum(row["metric"] == "error_barrier" for row in rows) == 3


def test_predictions_of_two_networks_are_compared(tmp_path):
    nets = trained(0), trained(1)
    x = quadrants().dataset.tensors[0]
    expected = (nets[0](x).argmax(1) != nets[1](x).argmax(1)).double().mean().item()
    report = line(tmp_path, *nets, predict=lambda module, batch: module.network(batch[0]).argmax(1))
    assert report.between[0, 1]["disagreement"] == pytest.approx(expected)


def test_the_golden_curves_come_out_of_a_lightning_module(golden, tmp_path):
    from functional.test_connectivity import golden_net

    data = torch.load(golden / "interpolation.pt", weights_only=False)
    pair = data["different_init"]
    for number in (1, 2):
        state = {f"network.{name}": value for name, value in pair[f"sd{number}"].items()}
        torch.save({"state_dict": state}, tmp_path / f"{number}.ckpt")

    class WithTraining(Judged):
        def train_dataloader(self):
            return DataLoader(TensorDataset(data["train_x"], data["train_y"]), batch_size=64)

        def test_dataloader(self):
            return DataLoader(TensorDataset(data["test_x"], data["test_y"]), batch_size=100)

    report = path(
        WithTraining(golden_net()),
        None,
        [tmp_path / "1.ckpt", tmp_path / "2.ckpt"],
        trainer=trainer(tmp_path, precision="64-true"),
        recalibrate=10,
    )
    for curves, suffix in ((report.curves, ""), (report.recalibrated, "_bn_recalibrated")):
        np.testing.assert_allclose(curves[0, 1]["test_loss"], pair["loss" + suffix], rtol=1e-10)
        np.testing.assert_allclose(curves[0, 1]["test_acc"], pair["acc" + suffix], rtol=1e-12)
    assert report.measures((0, 1))["error_barrier"] == pytest.approx(pair["barrier_error"], abs=1e-12)
    again = report.measures((0, 1), recalibrated=True)
    assert again["error_barrier"] == pytest.approx(pair["barrier_error_recal"], abs=1e-12)


RANKS = """
import sys, json
from lightning.pytorch import seed_everything
from helpers.projects import trainer
from connectivity.test_path import Judged, mlp, quadrants
from lightning_lottery.connectivity.path import path

files, devices = sys.argv[2:4], int(sys.argv[1])
given = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
report = path(Judged(mlp()), quadrants(), files, trainer=trainer(sys.argv[4], **given))
sys.stdout.write(json.dumps([report.curves[0, 1], report.samples]) + "\\n")
"""


def test_two_ranks_find_what_one_finds(tmp_path):
    import json

    script = tmp_path / "line.py"
    script.write_text(RANKS)
    files = [str(file) for file in saved(tmp_path, trained(0), trained(1))]
    outputs = [run(sys.executable, str(script), str(devices), *files, str(tmp_path)) for devices in (1, 2)]
    assert all(done.returncode == 0 for done in outputs), outputs[1].stderr[-3000:]
    (one,), two = ([json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")] for done in outputs)
    assert len(two) == 2 and two[0] == two[1]
    assert two[0][1] == one[1] == 61
    for name, values in one[0].items():
        np.testing.assert_allclose(two[0][0][name], values, rtol=1e-6)


class Normed(Judged):
    """Batch norm, and the accuracy logged both as a mean and as a torchmetrics object."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)))
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        self.accuracy(self.network(batch[0]), batch[1])
        self.log("test_metric", self.accuracy)

    def train_dataloader(self):
        return quadrants(32)

    def test_dataloader(self):
        return quadrants(61)


def test_metric_objects_forget_the_batches_that_recalibrated(tmp_path):
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(tmp_path / f"{seed}.ckpt")
        torch.save({"state_dict": Normed().state_dict()}, files[-1])
    module = Normed()
    module.network[1].eval()
    report = path(module, None, files, trainer=trainer(tmp_path), recalibrate=4, predict=lambda m, b: m.network(b[0]))
    for curves in (report.curves, report.recalibrated):
        assert curves[0, 1]["test_metric"] == pytest.approx(curves[0, 1]["test_acc"], abs=1e-6)
    assert report.recalibrated[0, 1]["test_loss"] != report.curves[0, 1]["test_loss"]
    assert not module.network[1].training and module.network[0].training
    assert any(row["method"] == "recalibrated" and row["metric"] == "error_barrier" for row in report.rows())
    with pytest.raises(LotteryError, match="has no `train_dataloader` to take batches from"):
        network = Normed().network
        files = saved(tmp_path, network, network)
        path(Judged(network), quadrants(), files, trainer=trainer(tmp_path), recalibrate=4)


def test_limited_batches_are_what_is_counted(tmp_path):
    files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
    report = path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path, limit_test_batches=2))
    assert report.samples == 16


class Record(NamedTuple):
    x: torch.Tensor
    names: list[str]


def test_ranks_have_a_part_of_every_batch_and_what_has_an_entry_a_sample_is_cut_alike():
    rows = [Record(torch.arange(n), [str(i) for i in range(n)]) for n in (129, 64, 3)]
    shares = [list(Batches(rows, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[len(part.x) for part in share] for share in shares] == [[64, 32, 1], [65, 32, 2]]
    for part in (part for share in shares for part in share):
        assert list(map(str, part.x.tolist())) == part.names


def test_masks_of_one_ticket_are_equal_whoever_held_them(tmp_path):
    files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
    for role, file in zip(("pruning", "freezing.mine"), files, strict=True):
        masks = {"network.0.weight": torch.ones(32, 6, dtype=torch.bool)}
        torch.save({"state_dict": torch.load(file), "callbacks": {f"lightning_lottery.{role}": {"masks": masks}}}, file)
    path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path))


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
    places = (0, 0.5, 1)
    report = path(
        Tied(), None, files, trainer=trainer(tmp_path), monitor="test_loss", mode="min", threshold=0.1,
        alphas=places, layer_alphas=places,
    )  # fmt: skip
    whole = report.curves[0, 1]["test_loss"]
    for host in (0, 1):
        assert report.layers[0, 1]["mid", host, "cumulative"]["test_loss"] == pytest.approx(whole, rel=1e-6)
        assert len(set(report.layers[0, 1]["emb", host, "single"]["test_loss"])) == 3
    one, other = (dict(Tied(tied=False).named_parameters()) for _ in files)
    for own, file in ((one, files[0]), (other, files[1])):
        state = torch.load(file)["state_dict"]
        own.update({name: state[name] for name in ("emb.weight", "mid.weight", "mid.bias")})
    squares = [(one[name] - other[name]).square().sum().item() for name in ("emb.weight", "mid.weight", "mid.bias")]
    assert report.between[0, 1]["l2"] == pytest.approx(sum(squares) ** 0.5, rel=1e-5)


def test_a_data_module_s_own_hooks_around_a_batch_are_used(tmp_path):
    class Scaled(LightningDataModule):
        def test_dataloader(self):
            return quadrants()

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [0.3 * batch[0], batch[1]]

    net = trained(0)
    files = saved(tmp_path, net, trained(1))
    report = path(
        Judged(mlp()), Scaled(), files, trainer=trainer(tmp_path), predict=lambda m, b: m.network(b[0]).argmax(1)
    )
    x, y = quadrants().dataset.tensors
    expected = (net(0.3 * x).argmax(1) == y).double().mean().item()
    assert report.curves[0, 1]["test_acc"][-1] == pytest.approx(expected, abs=1e-6)
    assert "disagreement" in report.between[0, 1]


def test_a_metric_that_is_no_mean_is_left_out(tmp_path):
    class Summed(Judged):
        def test_step(self, batch, batch_idx):
            super().test_step(batch, batch_idx)
            self.log("seen", 1.0, reduce_fx="sum")

    assert "seen" not in line(tmp_path, trained(0), trained(1), module=Summed(mlp())).curves[0, 1]


def test_a_small_last_batch_is_shared_by_the_ranks_with_the_one_before_it():
    loader = DataLoader(TensorDataset(torch.arange(61)), batch_size=20)
    shares = [list(Batches(loader, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 3
    everything = torch.cat([batch[0] for share in shares for batch in share])
    assert sorted(everything.tolist()) == list(range(61))
    with pytest.raises(LotteryError, match=r"tensors of a batch begin with \[3, 4\] entries"):
        list(Batches([[[torch.zeros(3, 2, 2)] * 4, torch.zeros(4)]], rank=0, world_size=2))


class Saving(Normed):
    """Has hyper-parameters, and something beside tensors in its state."""

    def __init__(self, wide: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network[0] = nn.Linear(6, wide)
        self.network[1], self.network[4] = nn.BatchNorm1d(wide), nn.Linear(wide, 2)

    def get_extra_state(self):
        return "extra"

    def set_extra_state(self, state):
        assert state == "extra"

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class TestMidpoint:
    """The mean of all networks, as a checkpoint."""

    @pytest.fixture
    def files(self, tmp_path):
        files = []
        for seed in (0, 1, 2):
            torch.manual_seed(seed)
            fitted = trainer(tmp_path, max_epochs=seed + 1)
            fitted.fit(Saving(wide=10))
            files.append(tmp_path / f"{seed}.ckpt")
            fitted.save_checkpoint(files[-1])
        return files

    @pytest.mark.parametrize("count", [2, 3])
    def test_it_loads_as_the_networks_do_and_is_their_mean(self, files, tmp_path, count):
        target = tmp_path / "new/soup.ckpt"
        report = path(Saving(wide=10), None, files[:count], trainer=trainer(tmp_path), save_midpoint=target)
        states = [Saving.load_from_checkpoint(file).state_dict() for file in files[:count]]
        module = Saving.load_from_checkpoint(target)
        assert module.hparams["wide"] == 10
        for name, tensor in module.state_dict().items():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                mean = torch.stack([state[name] for state in states]).double().mean(0)
                torch.testing.assert_close(tensor.double(), mean, rtol=1e-7, atol=1e-8)
            else:
                assert tensor == states[0][name]
        assert module.state_dict()["network.1.num_batches_tracked"] == 4  # the first's one epoch
        (measured,) = trainer(tmp_path).test(module, verbose=False)
        assert measured["test_loss"] == pytest.approx(report.midpoint["test_loss"], rel=1e-6)
        if count == 2:
            middle = report.alphas.index(0.5)
            for name, value in report.midpoint.items():
                assert report.curves[0, 1][name][middle] == pytest.approx(value, rel=1e-6), name
        rows = [row for row in report.rows() if row["method"] == "midpoint"]
        assert {row["metric"]: row["value"] for row in rows} == report.midpoint and len(rows[0]["seeds"]) == count
        assert report.summary()["midpoint"] == report.midpoint

    def test_it_has_nothing_to_go_on_training_from(self, files, tmp_path):
        target = tmp_path / "soup.ckpt"
        path(Saving(wide=10), None, files, trainer=trainer(tmp_path), save_midpoint=target, alphas=(0, 1))
        loaded, first = torch.load(target, weights_only=True), torch.load(files[0], weights_only=True)
        assert first.keys() - loaded.keys() == {"optimizer_states", "lr_schedulers", "callbacks"}
        assert loaded["state_dict"]["_extra_state"] == "extra"

    def test_its_batch_norm_is_recalibrated_where_that_is_asked(self, files, tmp_path):
        target = tmp_path / "soup.ckpt"
        quiet = trainer(tmp_path)
        report = path(Saving(wide=10), None, files[:2], trainer=quiet, save_midpoint=target, recalibrate=4)
        middle = report.recalibrated[0, 1]["test_loss"][report.alphas.index(0.5)]
        assert report.midpoint["test_loss"] == pytest.approx(middle, rel=1e-6)
        assert middle != pytest.approx(report.curves[0, 1]["test_loss"][10], rel=1e-5)
        (measured,) = trainer(tmp_path).test(Saving.load_from_checkpoint(target), verbose=False)
        assert measured["test_loss"] == pytest.approx(middle, rel=1e-6)

    def test_a_file_of_a_plain_state_gives_a_file_of_a_plain_state(self, tmp_path):
        net = trained(0)
        line(tmp_path, net, trained(1), save_midpoint=tmp_path / "soup.pt")
        module = Judged(mlp())
        module.load_state_dict(torch.load(tmp_path / "soup.pt", weights_only=True))

    def test_aligned_networks_are_averaged_in_the_first_s_order(self, tmp_path):
        net = trained(0)
        other = permuted(net)
        report = line(tmp_path, net, other, other, save_midpoint=tmp_path / "soup.pt", align=True)
        state = torch.load(tmp_path / "soup.pt", weights_only=True)
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(state[f"network.{name}"], tensor)
        assert report.midpoint["test_loss"] == pytest.approx(report.curves[0, 1]["test_loss"][-1], rel=1e-5)

    def test_no_network_is_overwritten(self, tmp_path):
        net = trained(0, steps=1)
        with pytest.raises(LotteryError, match="`save_midpoint` would overwrite '.*0.pt', which is one of the net"):
            line(tmp_path, net, net, save_midpoint=tmp_path / "../" / tmp_path.name / "0.pt")


class TestRefusals:
    def test_another_mode_or_threshold_or_submodule(self, tmp_path):
        nets = trained(0, steps=1), trained(1, steps=1)
        for odd in ({"mode": "maximum"}, {"threshold": -3}):
            with pytest.raises(LotteryError, match="`mode` is 'max' or 'min' and `threshold` above 0"):
                line(tmp_path, *nets, **odd)
        with pytest.raises(LotteryError, match="Judged has no submodule 'nett'"):
            line(tmp_path, *nets, submodule="nett")

    def test_places_of_layers_outside_the_line(self, tmp_path):
        with pytest.raises(LotteryError, match=r"`layer_alphas` are places in \[0, 1\], got \[2\]"):
            line(tmp_path, trained(0, steps=1), trained(1, steps=1), layer_alphas=[2])

    def test_one_network(self, tmp_path):
        with pytest.raises(LotteryError, match="needs two networks"):
            line(tmp_path, trained(0))

    def test_another_model(self, tmp_path):
        files = [*saved(tmp_path, trained(0, steps=1)), tmp_path / "other.pt"]
        torch.save({"conv.weight": torch.ones(3)}, files[1])
        with pytest.raises(LotteryError, match=r"other.pt' is of another model than Judged: conv.weight"):
            path(Judged(mlp()), plain_loader(), files, trainer=trainer(tmp_path))

    def test_no_file_and_no_checkpoint(self, tmp_path):
        (file,) = saved(tmp_path, trained(0, steps=1))
        with pytest.raises(LotteryError, match="There is no checkpoint"):
            path(Judged(mlp()), plain_loader(), [file, tmp_path / "none"], trainer=trainer(tmp_path))
        (tmp_path / "text").write_text("no checkpoint")
        with pytest.raises(LotteryError, match="does not load as a checkpoint"):
            path(Judged(mlp()), plain_loader(), [file, tmp_path / "text"], trainer=trainer(tmp_path))

    def test_nan(self, tmp_path):
        net = trained(0, steps=1)
        with torch.no_grad():
            net[2].weight[0, 0] = torch.nan
        with pytest.raises(LotteryError, match=r"NaN or infinite weights in network.2.weight"):
            line(tmp_path, net, net)

    def test_a_module_that_logs_nothing_or_something_else(self, tmp_path):
        nets = trained(0, steps=1), trained(1, steps=1)
        with pytest.raises(LotteryError, match="Judged logs nothing in `test_step`"):
            line(tmp_path, *nets, module=Judged(mlp(), silent=True))
        with pytest.raises(LotteryError, match="does not log 'f1'; it logs test_acc, test_loss"):
            line(tmp_path, *nets, monitor="f1")

    def test_percent(self, tmp_path):
        with pytest.raises(LotteryError, match="must be a fraction"):
            line(tmp_path, trained(0), trained(1), module=Judged(mlp(), percent=True))

    def test_different_masks(self, tmp_path):
        files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
        for number, file in enumerate(files):
            mask = torch.ones(32, 6, dtype=torch.bool)
            mask[0, 0] = bool(number)
            callbacks = {"lightning_lottery.freezing": {"masks": {"network.0.weight": mask}}}
            torch.save({"state_dict": torch.load(file), "callbacks": callbacks}, file)
        with pytest.raises(LotteryError, match="trained with different masks"):
            path(Judged(mlp()), plain_loader(), files, trainer=trainer(tmp_path))

    def test_no_step_to_evaluate_with(self, tmp_path):
        class Mute(LightningModule):
            def __init__(self):
                super().__init__()
                self.network = mlp()

        with pytest.raises(LotteryError, match="has no `test_step` or `validation_step`"):
            line(tmp_path, trained(0, steps=1), trained(1, steps=1), module=Mute())


def test_a_data_module_may_ask_its_trainer(tmp_path):
    class Asking(LightningDataModule):
        def test_dataloader(self):
            return plain_loader(size=8 // self.trainer.world_size)

    files = saved(tmp_path, trained(0, steps=1), trained(1, steps=1))
    assert path(Judged(mlp()), Asking(), files, trainer=trainer(tmp_path)).samples == 32


def test_single_layers_are_interpolated_in_either_host_as_the_golden_ones(golden, tmp_path):
    from functional.test_connectivity import golden_net

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
    for unit, (layer, kind) in ours.items():
        for host, way in ((0, -1), (1, 1)):  # theirs run away from the host
            expected = pair["layerwise"][f"{unit}_into_m{host + 1}"]
            curve = report.layers[0, 1][layer, host, kind]
            np.testing.assert_allclose(curve["test_loss"][::way], expected[:, 0], rtol=1e-8)
            np.testing.assert_allclose(curve["test_acc"][::way], expected[:, 1], rtol=1e-12)
    found = report.layer_barriers((0, 1), "cumulative")["network.1"]
    middles = [pair["layerwise_mid_barrier_error"][f"conv1_into_m{number}"] for number in (1, 2)]
    assert found["middle"] == pytest.approx(np.mean(middles), abs=1e-12)
    highest = min(pair["layerwise"][f"conv1_into_m{number}"][:, 1].min() for number in (1, 2))
    ends = 1 - (pair["acc"][0] + pair["acc"][-1]) / 2
    assert found["sup"] == pytest.approx(1 - highest - ends, abs=1e-12)
    assert found["sup"] > found["middle"] > 0
