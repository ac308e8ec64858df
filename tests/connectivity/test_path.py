import json
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helpers.factories import Net
from helpers.golden import kept
from helpers.lines import Judged, Normed, golden_net, line_between, mlp, permuted, quadrants, saved, trained
from helpers.processes import run
from helpers.projects import plain_loader, trainer
from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.connectivity.path import at_most, check_evaluation, path
from lightning_lottery.connectivity.report import PathReport


def test_a_network_against_a_permutation_of_itself_is_equal_at_the_ends_and_worse_between(tmp_path):
    net = trained(0)
    report = line_between(tmp_path, net, permuted(net))
    loss = report.curves["raw"][0, 1]["test_loss"]
    assert loss[0] == pytest.approx(loss[-1], rel=1e-5)
    assert max(loss) > 3 * loss[0]
    measures = report.measures((0, 1))
    assert measures["test_loss_barrier"] == pytest.approx(max(loss) - (loss[0] + loss[-1]) / 2)
    assert measures["test_loss_middle"] == loss[10]


def test_the_module_is_left_as_it_was(tmp_path):
    module = Judged(mlp()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    line_between(tmp_path, trained(0), trained(1), module=module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training and "log" not in module.__dict__
    module.network(torch.randn(2, 6)).sum().backward()


@pytest.mark.parametrize("recalibrate", [0, 10], ids=["raw", "recalibrated too"])
def test_the_golden_curves_come_out_of_a_lightning_module(golden, tmp_path, recalibrate):
    data = torch.load(golden / "interpolation.pt", weights_only=False)
    if recalibrate:
        kept(data, "train_x")
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
        recalibrate=recalibrate,
    )
    kinds = {"raw": ("", "")} | ({"recalibrated": ("_bn_recalibrated", "_recal")} if recalibrate else {})
    assert report.curves.keys() == kinds.keys()
    for kind, (suffix, short) in kinds.items():
        np.testing.assert_allclose(report.curves[kind][0, 1]["test_loss"], pair["loss" + suffix], rtol=1e-10)
        np.testing.assert_allclose(report.curves[kind][0, 1]["test_acc"], pair["acc" + suffix], rtol=1e-12)
        barrier = report.measures((0, 1), kind)["error_barrier"]
        assert barrier == pytest.approx(pair["barrier_error" + short], abs=1e-12)


RANKS = """
import sys, json
from lightning.pytorch import seed_everything
from helpers.projects import plain_loader, trainer
from helpers.states import same
from helpers.lines import Judged, mlp, quadrants
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.connectivity.path import at_most, check_evaluation, path

files, devices = sys.argv[2:4], int(sys.argv[1])
given = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto"}
report = path(Judged(mlp()), quadrants(), files, trainer=trainer(sys.argv[4], **given), soup=True)
sys.stdout.write(json.dumps([report.curves["raw"][0, 1], report.samples, report.summary()["averaging"]]) + "\\n")
"""


def test_two_ranks_find_what_one_finds(tmp_path):

    script = tmp_path / "line.py"
    script.write_text(RANKS)
    files = [str(file) for file in saved(tmp_path, trained(0), trained(1))]
    outputs = [run(sys.executable, str(script), str(devices), *files, str(tmp_path)) for devices in (1, 2)]
    assert all(done.returncode == 0 for done in outputs), outputs[1].stderr[-3000:]
    (one,), two = ([json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")] for done in outputs)
    assert len(two) == 2 and two[0] == two[1]
    assert two[0][1] == one[1] == 61
    gains = [[each["gain"]["low"] for each in result[2]["averages"]] for result in (two[0], one)]
    assert two[0][2]["verdict"] == one[2]["verdict"] and gains[0] == pytest.approx(gains[1], abs=1e-6)
    for name, values in one[0].items():
        np.testing.assert_allclose(two[0][0][name], values, rtol=1e-6)


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
    assert report.curves["raw"][0, 1]["test_acc"][-1] == pytest.approx(expected, abs=1e-6)
    assert "disagreement" in report.distances[0, 1]


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
            middle = report.judging.alphas.index(0.5)
            for name, value in report.midpoint.items():
                assert report.curves["raw"][0, 1][name][middle] == pytest.approx(value, rel=1e-6), name
        rows = {row["metric"]: row["value"] for row in report.rows() if row["metric"].startswith("midpoint/")}
        assert rows == {f"midpoint/{name}": value for name, value in report.midpoint.items()} != {}
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
        middle = report.curves["recalibrated"][0, 1]["test_loss"][report.judging.alphas.index(0.5)]
        assert report.midpoint["test_loss"] == pytest.approx(middle, rel=1e-6)
        assert middle != pytest.approx(report.curves["raw"][0, 1]["test_loss"][10], rel=1e-5)
        (measured,) = trainer(tmp_path).test(Saving.load_from_checkpoint(target), verbose=False)
        assert measured["test_loss"] == pytest.approx(middle, rel=1e-6)

    def test_a_file_of_a_plain_state_gives_a_file_of_a_plain_state(self, tmp_path):
        net = trained(0)
        line_between(tmp_path, net, trained(1), save_midpoint=tmp_path / "soup.pt")
        module = Judged(mlp())
        module.load_state_dict(torch.load(tmp_path / "soup.pt", weights_only=True))

    def test_aligned_networks_are_averaged_in_the_first_s_order(self, tmp_path):
        net = trained(0)
        twin = permuted(net)
        report = line_between(tmp_path, net, twin, twin, save_midpoint=tmp_path / "soup.pt", align=True)
        state = torch.load(tmp_path / "soup.pt", weights_only=True)
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(state[f"network.{name}"], tensor)
        assert report.midpoint["test_loss"] == pytest.approx(report.curves["raw"][0, 1]["test_loss"][-1], rel=1e-5)

    def test_no_network_is_overwritten(self, tmp_path):
        net = trained(0, steps=1)
        with pytest.raises(LotteryError, match="`save_midpoint` would overwrite '.*0.pt', which is one of the net"):
            line_between(tmp_path, net, net, save_midpoint=tmp_path / "../" / tmp_path.name / "0.pt")


class TestRefusals:
    def test_another_submodule(self, tmp_path):
        with pytest.raises(LotteryError, match="Judged has no submodule 'nett'"):
            line_between(tmp_path, trained(0, steps=1), trained(1, steps=1), submodule="nett")

    def test_one_network(self, tmp_path):
        with pytest.raises(LotteryError, match="needs two networks"):
            line_between(tmp_path, trained(0))
        for alone in ("a.ckpt", tmp_path / "a.ckpt"):
            with pytest.raises(LotteryError, match="A line needs two networks, got 1 checkpoint"):
                path(Judged(mlp()), None, alone, trainer=trainer(tmp_path))

    def test_a_module_that_logs_nothing_or_something_else(self, tmp_path):
        nets = trained(0, steps=1), trained(1, steps=1)
        with pytest.raises(LotteryError, match="Judged logs nothing in `test_step`"):
            line_between(tmp_path, *nets, module=Judged(mlp(), silent=True))
        with pytest.raises(LotteryError, match="does not log 'f1'; it logs test_acc, test_loss"):
            line_between(tmp_path, *nets, monitor="f1")

    def test_no_step_to_evaluate_with(self, tmp_path):
        class Mute(LightningModule):
            def __init__(self):
                super().__init__()
                self.network = mlp()

        with pytest.raises(LotteryError, match="has no `test_step` or `validation_step`"):
            line_between(tmp_path, trained(0, steps=1), trained(1, steps=1), module=Mute())


class Counted:
    """A loader that counts the batches it gave."""

    def __init__(self):
        self.count = 0

    def __iter__(self):
        for batch in plain_loader(160):
            self.count += 1
            yield batch


@pytest.mark.parametrize(("right", "loaded"), [(0.5, 1), (0.0, 16)])
def test_a_trial_loads_one_batch_or_some_more_where_nothing_is_right_and_keeps_the_weights(tmp_path, right, loaded):
    class Scored(Net):
        def test_step(self, batch, batch_idx):
            self.log("test_acc", right)

    module, loader, begin = Scored(), Counted(), tmp_path / "begin.ckpt"
    torch.save({"state_dict": Scored().state_dict()}, begin)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_evaluation(module, loader, begin, trainer=trainer(tmp_path), judging=Judging())
    assert loader.count == loaded and same(module.state_dict(), before)


@pytest.mark.parametrize(("value", "is_refused"), [(0.0, False), (-0.1, True)])
def test_a_trial_refuses_a_ratio_of_an_error_below_0_and_takes_one_of_a_batch_without_errors(
    tmp_path, value, is_refused
):
    class Scored(Net):
        def test_step(self, batch, batch_idx):
            self.log("nll", value)

    begin, judging = tmp_path / "begin.ckpt", Judging("nll", "min", threshold_ratio=0.02)
    torch.save({"state_dict": Scored().state_dict()}, begin)
    refusal = pytest.raises(LotteryError, match="that of 'nll' goes down to -0.1") if is_refused else nullcontext()
    with refusal:
        check_evaluation(Scored(), plain_loader(24), begin, trainer=trainer(tmp_path), judging=judging)


def test_a_trial_refuses_a_trainer_that_evaluates_nothing(tmp_path):
    begin = tmp_path / "begin.ckpt"
    torch.save({"state_dict": Net().state_dict()}, begin)
    with pytest.raises(LotteryError, match="the Trainer limits their number to 0"):
        nothing = trainer(tmp_path, limit_test_batches=0)
        check_evaluation(Net(), plain_loader(24), begin, trainer=nothing, judging=Judging())


def test_a_limit_is_lowered_and_never_raised():
    assert [at_most(limit, 4) for limit in (0, 3, 9, 0.0, 0.5, 1.0)] == [0, 3, 4, 0, 4, 4]


def test_the_training_split_is_judged_beside_as_its_loader_would_be_alone(tmp_path):
    class Both(Judged):
        def train_dataloader(self):
            return DataLoader(quadrants().dataset, batch_size=20, shuffle=True)

        def test_dataloader(self):
            return plain_loader()

    files = saved(tmp_path, trained(0), trained(1))
    fitted = trainer(tmp_path, limit_test_batches=1)
    report = path(Both(mlp()), None, files, trainer=fitted, train_split=True)
    alone = path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path))
    test = path(Both(mlp()), None, files, trainer=fitted)
    assert replace(report, train=None, judging=test.judging) == test and fitted.limit_test_batches == 1
    train = report.train
    assert train.samples == alone.samples == 61 and report.samples < 61
    for metric, values in alone.curves["raw"][0, 1].items():
        np.testing.assert_allclose(train.curves["raw"][0, 1][metric], values, rtol=1e-6)
    report.save(tmp_path / "report.json")
    assert PathReport.load(tmp_path / "report.json") == report
    rows = {row["metric"]: (row["value"], row["n"]) for row in report.rows()}
    assert rows["train/error_barrier"] == (train.measures((0, 1))["error_barrier"], 61)
    assert rows["error_barrier"][1] == report.samples and "line/train/test_acc" in rows
    assert "On 61 samples of the training split" in report.sentences()[-1]
    assert report.summary()["train"]["pairs"]["0-1"] == train.measures((0, 1))
    assert [column.header for column in report.table().columns][4] == "on\ntrain"


def test_of_training_batches_as_many_are_taken_as_the_fit_takes(tmp_path):
    class Both(Judged):
        def train_dataloader(self):
            return quadrants()

    files = saved(tmp_path, trained(0), trained(1))
    fitted = trainer(tmp_path, limit_train_batches=1)
    report = path(Both(mlp()), quadrants(), files, trainer=fitted, train_split=True)
    assert report.train.samples == next(iter(quadrants()))[0].shape[0] < report.samples


def test_without_a_training_loader_the_training_split_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="has no `train_dataloader`"):
        path(
            Judged(mlp()),
            quadrants(),
            saved(tmp_path, trained(0), trained(1)),
            trainer=trainer(tmp_path),
            train_split=True,
        )
