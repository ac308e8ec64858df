"""The probe tells what a step did to the loss from what masks did, and leaves the fit as it was."""

import pandas
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn

from helpers.callbacks import BODY, CALLBACKS
from helpers.projects import Batches, Odd, fit
from helpers.states import same
from lightning_lottery import PLATON, LossProbe, LotteryError, MagnitudePruning
from lightning_lottery.functional import Constant


@pytest.mark.parametrize("name", ["PLATON", "MagnitudePruning once", "DynamicMask"])
def test_a_fit_with_the_probe_is_the_fit_without_it(name, tmp_path):
    modules = []
    for folder, probes in (("with", [LossProbe(begin=0, batches=2, sharpness_every=6)]), ("without", [])):
        torch.manual_seed(0)
        modules.append(Odd())
        fit(tmp_path / folder, CALLBACKS[name](), *probes, module=modules[-1])
    assert same(modules[0].state_dict(), modules[1].state_dict())


def test_where_masks_change_the_loss_changes_and_nowhere_else_by_them(tmp_path):
    probe = LossProbe(begin=0)
    fit(tmp_path, MagnitudePruning(Constant(0.7, begin=5), scope=BODY), probe)
    assert [row.step for row in probe.rows] == [*range(1, 13)]
    changed = [row for row in probe.rows if row.mask_change]
    assert [row.step for row in changed] == [5] and changed[0].mask_change == pytest.approx(0.7, abs=0.01)
    assert changed[0].loss != changed[0].loss_before_masks
    assert all(
        row.loss == pytest.approx(row.loss_before_masks, abs=1e-6) for row in probe.rows if row is not changed[0]
    )
    table = pandas.read_csv(tmp_path / "probe.csv")
    assert table.loss.tolist() == pytest.approx([row.loss for row in probe.rows])
    assert (tmp_path / "probe.png").is_file()


class Bowl(LightningModule):
    """Two weights on a quadratic: curvatures 10 and 1."""

    def __init__(self, optimizer):
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.layer.weight)
        self.make = optimizer

    def training_step(self, batch, batch_idx):
        return (self.layer.weight**2 * torch.tensor([[5.0, 0.5]])).sum()

    validation_step = training_step

    def configure_optimizers(self):
        return self.make(self.parameters())


def test_the_sharpness_is_that_of_what_the_optimizer_does_and_of_kept_weights(tmp_path):
    def sharpness(optimizer, *callbacks):
        probe = LossProbe(begin=0, sharpness_every=12)
        fit(tmp_path, *callbacks, probe, module=Bowl(optimizer))
        *others, last = [row.sharpness for row in probe.rows]
        assert set(others) == {None}
        return last

    assert sharpness(lambda params: torch.optim.SGD(params, lr=0.01)) == pytest.approx(10 * 0.01 / 2)
    # Of the two weights the steeper one is removed: it shrinks faster.
    pruner = MagnitudePruning(Constant(0.5, begin=3))
    assert sharpness(lambda params: torch.optim.SGD(params, lr=0.01), pruner) == pytest.approx(1 * 0.01 / 2)

    # A group of another learning rate counts by that, not by the first one's.
    def by_groups(params):
        return torch.optim.SGD(
            [{"params": [nn.Parameter(torch.ones(1))]}, {"params": list(params), "lr": 0.02}], lr=0.01
        )

    assert sharpness(by_groups) == pytest.approx(10 * 0.02 / 2)
    seen = {}

    class Look(Callback):
        def on_train_end(self, trainer, pl_module):
            seen.update(trainer.optimizers[0].state[pl_module.layer.weight])

    measured = sharpness(lambda params: torch.optim.Adam(params, lr=0.01, betas=(0.9, 0.9)), Look())
    divided = (seen["exp_avg_sq"] / (1 - 0.9**12)).sqrt() + 1e-8
    assert measured == pytest.approx(float((torch.tensor([[10.0, 1.0]]) / divided).max()) * 0.01 / 2, rel=0.01)


def test_means_are_of_all_steps_but_those_on_other_batches(tmp_path):
    probe = LossProbe(begin=6)
    fit(tmp_path, PLATON(0.7, interval=2, begin=1, end=9), probe)
    assert [row.step for row in probe.rows] == [*range(6, 13)]
    steps = [abs(b.loss_before_masks - a.loss) for a, b in zip(probe.rows, probe.rows[1:], strict=False)]
    masks = [abs(row.loss - row.loss_before_masks) for row in probe.rows]
    assert probe.means["step"] == pytest.approx(sum(steps) / 6) and probe.means["masks"] == pytest.approx(
        sum(masks) / 7
    )
    assert "sharpness" not in probe.means and max(masks) > 0
    again = LossProbe(begin=6)
    again.load_state_dict(probe.state_dict())
    assert again.rows == probe.rows and again._fresh == [0, 7]


def test_it_goes_on_from_a_checkpoint_and_logs_its_means_in_the_test(tmp_path):
    from lightning_lottery import Snapshots

    class Tested(Odd):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch))

    fit(tmp_path, Snapshots([8]), LossProbe(begin=0), module=Tested())
    probe = LossProbe(begin=0)
    trainer = fit(tmp_path / "again", probe, module=Tested(), ckpt=tmp_path / "snapshots" / "step=8.ckpt")
    # The row of the step after which it was saved was measured when the next batch began.
    assert [row.step for row in probe.rows] == [*range(1, 8), *range(9, 13)]
    (logged,) = trainer.test(Tested(), Batches(), verbose=False)
    assert logged["test_probe_step"] == pytest.approx(probe.means["step"])


def test_what_it_cannot_do_is_refused(tmp_path):
    for arguments in ({"batches": 0}, {"sharpness_every": -1}, {"begin": 1.5}):
        with pytest.raises(LotteryError):
            LossProbe(**arguments)
    with pytest.raises(LotteryError, match="manual optimization"):
        fit(tmp_path, LossProbe(), module=Odd(manual=True))
