import json

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helpers.lines import Judged, line_between, mlp, permuted, quadrants, saved, trained
from helpers.models import vgg_like
from helpers.projects import trainer
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.path import path
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.functional.alignment import Coupling, permute
from lightning_lottery.units.tracing import permutable
from lightning_lottery.zoo.networks import resnet, vit


class OfLogits(Judged):
    """Judges also networks that give an output with logits; has training batches."""

    def __init__(self, network: nn.Module, inputs: torch.Tensor | None = None) -> None:
        super().__init__(network)
        self.inputs = inputs

    def test_step(self, batch, batch_idx):
        out = self.network(batch[0])
        out = getattr(out, "logits", out)
        loss = F.cross_entropy(out, batch[1])
        self.log_dict({"test_loss": loss, "test_acc": (out.argmax(1) == batch[1]).float().mean()})

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.inputs.flip(0), torch.zeros(len(self.inputs)).long()), batch_size=16)


def labelled_by(net: nn.Module, inputs: torch.Tensor) -> DataLoader:
    """Inputs with what a network predicts for them: its own error is 0."""
    with torch.no_grad():
        out = net.float().eval()(inputs)
    labels = getattr(out, "logits", out).argmax(1)
    assert len(labels.unique()) > 2
    return DataLoader(TensorDataset(inputs, labels), batch_size=16)


def centred(net: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """A network that predicts several classes: norms are of its inputs, no two alike, and the mean logit is 0."""
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = None
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_()
        net.train()(inputs)
        head.weight.mul_(10)
        out = net.eval()(inputs)
        head.bias.sub_(getattr(out, "logits", out).mean(0))
    return net


def reordered(net: nn.Module) -> dict[str, torch.Tensor]:
    groups, generator = permutable(net).groups, torch.Generator().manual_seed(1)
    couplings = {name: Coupling(group.size, (*group.producers, *group.consumers)) for name, group in groups.items()}
    orders = {name: torch.randperm(coupling.size, generator=generator) for name, coupling in couplings.items()}
    return permute(net.state_dict(), couplings, orders)


NETWORKS = {
    "VGG-like": (vgg_like, (3, 8, 8)),
    "ResNet-20": (lambda: resnet(20), (3, 8, 8)),
    "ViT": (lambda: vit(channels=3), (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_against_a_permutation_of_itself_goes_from_a_high_barrier_to_none(name, tmp_path):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    inputs = torch.randn(48, *shape)
    net = centred(build(), inputs)
    loader = labelled_by(net, inputs)
    twin = build().eval()
    twin.load_state_dict(reordered(net))
    with torch.no_grad():
        before, after = (getattr(out, "logits", out) for out in (net(inputs), twin(inputs)))
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)  # in float32, of logits that are far from 0
    files = saved(tmp_path, net, twin)
    module = OfLogits(build(), inputs)
    report = path(module, loader, files, trainer=trainer(tmp_path, precision="64-true"), align=True, alphas=(0, 0.5, 1))
    assert report.measures((0, 1))["error_barrier"] > 0.2
    assert report.measures((0, 1), "aligned")["error_barrier"] == 0
    assert report.measures((0, 1), "aligned")["test_loss_barrier"] == pytest.approx(0, abs=1e-6)
    assert report.measures((0, 1))["test_loss_barrier"] > 1000 * 1e-6
    assert all(size >= moved for moved, size in report.moved[0, 1].values())
    assert sum(moved for moved, _ in report.moved[0, 1].values()) > 5


def test_a_trained_mlp_against_its_permutation_has_a_barrier_and_aligned_none(tmp_path):
    net = trained(0)
    report = line_between(tmp_path, net, permuted(net), align=True)
    assert report.measures((0, 1))["error_barrier"] > 0.1
    assert report.measures((0, 1), "aligned")["error_barrier"] == pytest.approx(0, abs=1e-6)
    assert report.measures((0, 1), "aligned")["test_loss_barrier"] == pytest.approx(0, abs=1e-6)
    unaligned = line_between(tmp_path, net, permuted(net))
    assert report.curves["raw"] == unaligned.curves["raw"] and report.stability == unaligned.stability
    assert list(unaligned.curves) == ["raw"] and unaligned.moved == {}


def digits_net(seed: int) -> nn.Module:
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.1)
    for _ in range(150):
        batch = torch.randint(1200, (128,))
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch].float() / 16), y[batch]).backward()
        optimizer.step()
    return net


def digits_loader() -> DataLoader:
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(part)[1200:] for part in load_digits(return_X_y=True))
    return DataLoader(TensorDataset(x.float() / 16, y), batch_size=200)


def digits_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def test_the_barrier_between_networks_trained_by_themselves_falls(tmp_path):
    files = saved(tmp_path, *(digits_net(seed) for seed in (0, 1, 2)))
    report = path(Judged(digits_mlp()), digits_loader(), files, trainer=trainer(tmp_path), align=True)
    for pair in report.pairs:
        raw, aligned = report.measures(pair), report.measures(pair, "aligned")
        assert raw["error_barrier"] > 0.1 and aligned["error_barrier"] < 0.2 * raw["error_barrier"]
        assert aligned["test_loss_barrier"] < 0.2 * raw["test_loss_barrier"]
        for end in (0, -1):  # the same functions
            for name in ("test_acc", "test_loss"):
                assert report.curves["aligned"][pair][name][end] == pytest.approx(
                    report.curves["raw"][pair][name][end], rel=1e-4
                )


def test_the_verdict_is_the_raw_barrier_s_and_the_aligned_one_stands_beside_it_everywhere(tmp_path):
    nets = [trained(seed) for seed in (0, 1, 2)]
    raw, report = line_between(tmp_path, *nets), line_between(tmp_path, *nets, align=True)
    assert raw.curves["raw"] == report.curves["raw"] and raw.stability == report.stability
    assert "aligned" not in raw.curves and not raw.moved
    rows = report.rows()
    values = {}
    for row in rows:
        values.setdefault(row["metric"], []).append(row["value"])
    assert len(values["error_barrier"]) == len(values["aligned/error_barrier"]) == 3
    assert len(values["line/aligned/test_acc"]) == len(values["line/test_acc"]) == 3 * 21
    assert values["aligned group network.0/units"] == [32] * 3
    assert all(2 <= value <= 32 for value in values["aligned group network.0/units_moved"])
    report.save(tmp_path / "report.json")
    assert PathReport.load(tmp_path / "report.json") == report
    summary = json.loads(json.dumps(report.summary()))
    assert summary["pairs"]["0-1"]["aligned"]["error_barrier"] == report.measures((0, 1), "aligned")["error_barrier"]
    table = report.table()
    assert [column.header for column in table.columns][3:5] == ["barrier", "aligned"]
    assert "aligned: 2 groups of units" in table.caption
    drawn = [curve for curve in report.figure().axes[0].get_lines() if len(curve.get_xdata()) == 21]
    aligned = np.mean([report.errors(pair, "aligned") for pair in report.pairs], axis=0)
    assert [*drawn[-1].get_ydata()] == pytest.approx(aligned) and len(drawn) == 4  # three pairs beside it


def test_aligned_networks_are_recalibrated_where_the_others_are(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(48, 3, 8, 8)
    net = centred(vgg_like(), inputs)
    loader, twin = labelled_by(net, inputs), vgg_like()
    twin.load_state_dict(reordered(net))
    files = saved(tmp_path, net, twin)
    settings = {"alphas": (0, 0.5, 1), "trainer": trainer(tmp_path, precision="64-true"), "align": True}
    report = path(OfLogits(vgg_like(), inputs), loader, files, recalibrate=2, **settings)
    plain = path(OfLogits(vgg_like(), inputs), loader, files, **settings)
    end = report.curves["recalibrated"][0, 1]["test_loss"][-1]
    assert report.curves["aligned"][0, 1]["test_loss"] == pytest.approx([end] * 3, rel=1e-6)
    assert plain.curves["aligned"][0, 1]["test_loss"] != pytest.approx([end] * 3, rel=1e-3)
    assert report.curves["raw"] == plain.curves["raw"]
    assert "recalibrated as well" in report.table().caption


class Reading(Judged):
    """Its step reads what its network hides."""

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        self.log("first_weight", self.network[0].weight[0, 0])


def test_units_that_the_step_reads_one_by_one_are_left_alone_and_named(tmp_path):
    net = trained(0)
    report = line_between(tmp_path, net, permuted(net), module=Reading(mlp()), align=True)
    assert list(report.moved[0, 1]) == ["network.2"]
    assert report.left == {"network.0": "permuting its units changes what the network computes"}
    assert "not aligned: network.0" in report.table().caption
    assert report.measures((0, 1), "aligned")["test_loss_barrier"] > 0.1
    assert report.summary()["left"] == report.left


class Sorting(nn.Module):
    """A forward in which the order of units counts."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.known = nn.Linear(6, 8), nn.Linear(8, 6), mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.known(self.two(self.one(x).cumsum(1)))


def test_a_structure_that_is_not_recognised_is_named_beside_what_is_aligned(tmp_path):
    report = path(
        Judged(Sorting()), quadrants(), saved(tmp_path, Sorting(), Sorting()), trainer=trainer(tmp_path), align=True
    )
    assert set(report.moved[0, 1]) == {"network.two", "network.known.0", "network.known.2"}
    assert report.left == {"network.one": "its units are in no group"}


def test_tied_weights_are_permuted_under_all_their_names(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.again, self.down = nn.Linear(6, 8), nn.Linear(6, 8, bias=False), nn.Linear(8, 2)
            self.again.weight = self.up.weight

        def forward(self, x):
            return self.down(torch.relu(self.up(x) + self.again(x).tanh()))

    torch.manual_seed(0)
    net, twin = Twice(), Twice()
    with torch.no_grad():
        net.down.weight.mul_(5)
    order = torch.tensor([3, 0, 1, 2, 6, 7, 5, 4])
    state = net.state_dict()
    moved = {name: state[name][order] for name in ("up.weight", "up.bias", "again.weight")}
    twin.load_state_dict({**state, **moved, "down.weight": state["down.weight"][:, order]})
    files = saved(tmp_path, net, twin)
    report = path(Judged(Twice()), quadrants(), files, trainer=trainer(tmp_path), align=True)
    end = report.curves["raw"][0, 1]["test_loss"][-1]
    assert report.measures((0, 1))["test_loss_middle"] != pytest.approx(end, abs=0.01)
    assert report.curves["aligned"][0, 1]["test_loss"] == pytest.approx([end] * 21, abs=1e-6)
    assert report.moved[0, 1] == {"network.up": (8, 8)}


def test_a_compiled_network_is_aligned_under_its_own_names(tmp_path):
    net = trained(0)
    files = saved(tmp_path, *(torch.compile(one) for one in (net, permuted(net))))
    module = Judged(torch.compile(mlp(), backend="eager"))
    report = path(module, quadrants(), files, trainer=trainer(tmp_path), align=True, alphas=(0, 0.5, 1))
    assert report.measures((0, 1))["test_loss_barrier"] > 0.1
    assert report.measures((0, 1), "aligned")["test_loss_barrier"] == pytest.approx(0, abs=1e-6)


def test_the_check_uses_the_data_module_s_own_transfer_and_leaves_no_trace(tmp_path):
    class Packed(LightningDataModule):
        def test_dataloader(self):
            return quadrants()

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0][:, :5], batch[1]]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [F.pad(batch[0], (0, 1)), batch[1]]

    net, module = trained(0), Judged(mlp()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    quiet, files = trainer(tmp_path), saved(tmp_path, net, permuted(net))
    random = []
    for align in (False, True):
        torch.manual_seed(0)
        report = path(module, Packed(), files, trainer=quiet, align=align, alphas=(0, 0.5, 1))
        random.append(torch.get_rng_state())
    assert report.measures((0, 1), "aligned")["test_loss_barrier"] == pytest.approx(0, abs=1e-6)
    assert torch.equal(*random)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training and not any(child._forward_hooks for child in module.modules())


FIRST = torch.rand(32, 6, generator=torch.Generator().manual_seed(0)) < 0.5
"""The mask of a first layer."""


def with_masks(files, masks):
    """Checkpoints of networks that were trained with masks of their first layer."""
    for file, mask in zip(files, masks, strict=True):
        state = torch.load(file)
        state["network.0.weight"] = state["network.0.weight"] * mask
        callbacks = {"lightning_lottery.freezing": {"masks": {"network.0.weight": mask}}}
        torch.save({"state_dict": state, "callbacks": callbacks}, file)
    return files


class TestMasks:
    def test_masks_move_along_so_a_ticket_and_its_permutation_are_one(self, tmp_path):
        net = trained(0)
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0))  # that of `permuted`
        files = with_masks(saved(tmp_path, net, permuted(net)), [FIRST, FIRST[order]])
        report = path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path), align=True, alphas=(0, 0.5, 1))
        shared = report.distances[0, 1]
        assert shared["mask_overlap"] < 0.6 and shared["mask_overlap_aligned"] == 1
        raw, aligned = (report.measures((0, 1), kind)["test_loss_barrier"] for kind in ("raw", "aligned"))
        assert aligned == pytest.approx(0, abs=1e-6) and raw > 0.1
        assert f"masks overlap by {shared['mask_overlap']:.1%}, aligned by 100.0%" in report.table().caption

    def test_without_align_different_masks_are_refused_and_equal_ones_say_nothing(self, tmp_path):
        files = with_masks(saved(tmp_path, trained(0, steps=1), trained(1, steps=1)), [FIRST, FIRST])
        report = path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path), alphas=(0, 1))
        assert "mask_overlap" not in report.distances[0, 1] and "masks overlap" not in report.table().caption


class TestRefusals:
    def test_a_network_without_units_to_permute(self, tmp_path):
        net = nn.Sequential(nn.Linear(6, 2))
        files = saved(tmp_path, net, net)
        with pytest.raises(LotteryError, match=r"Judged has no units that could be aligned: 'network.0' \(its units"):
            path(Judged(net), quadrants(), files, trainer=trainer(tmp_path), align=True)

    def test_an_average_of_networks_of_a_ticket(self, tmp_path):
        files = with_masks(saved(tmp_path, trained(0, steps=1), trained(1, steps=1)), [FIRST, FIRST])
        for asked in ({"soup": True}, {"save_midpoint": tmp_path / "mean.pt"}):
            with pytest.raises(LotteryError, match=r"0.pt' was trained with masks.*Average without `align`"):
                path(Judged(mlp()), quadrants(), files, trainer=trainer(tmp_path), align=True, **asked)

    def test_a_step_that_cannot_be_checked(self, tmp_path):
        class Picky(Judged):
            def test_step(self, batch, batch_idx):
                assert batch[0].dtype == torch.float32, "only float32"
                super().test_step(batch, batch_idx)

        net = trained(0, steps=1)
        with pytest.raises(LotteryError, match="in float64, where the test step of Picky fails: only float32"):
            line_between(tmp_path, net, net, module=Picky(mlp()), align=True)
