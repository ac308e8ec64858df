"""SNIP and GraSP in a fit; what holds for every callback that makes masks: `test_contract.py`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.one_shot import AtStep, Plain, first_batches, net_of
from helpers.projects import Odd, fit
from lightning_lottery import SNIP, GraSP, LotteryError, Scope, SynFlow
from lightning_lottery.functional import grasp, hamming, keep_top, snip


@pytest.mark.parametrize("at_step", [0, 5])
@pytest.mark.parametrize("method", [SNIP, GraSP])
def test_snip_and_grasp_rank_by_the_gradients_of_the_first_batches(method, at_step, tmp_path):
    callback, look, module = method(0.7, at_step=at_step, batches=3), AtStep(at_step), Plain()
    fit(tmp_path, look, callback, module=module)
    pure = {SNIP: snip, GraSP: grasp}[method]
    net = net_of(Plain())
    batches = first_batches(3, epoch=at_step // 4)
    scores = pure(lambda w, batch: F.cross_entropy(net(w, batch[0]), batch[1]), look.weights, batches)
    assert hamming(callback.masks, keep_top(scores, 0.7)) == 0


class Returns(Plain):
    def __init__(self, what) -> None:
        super().__init__()
        self.what = what

    def training_step(self, batch, batch_idx):
        return self.what(super().training_step(batch, batch_idx))


@pytest.mark.parametrize("make", [SNIP, GraSP])
@pytest.mark.parametrize("what", [lambda loss: None, lambda loss: {"other": loss}], ids=["None", "no loss"])
def test_a_training_step_without_a_loss_is_refused(make, what, tmp_path):
    with pytest.raises(LotteryError, match=f"{make.__name__} needs the loss, and `training_step` returned None"):
        fit(tmp_path, make(0.5), module=Returns(what))


@pytest.mark.parametrize("what", [lambda loss: loss * 0, lambda loss: loss.detach()], ids=["zero", "detached"])
@pytest.mark.parametrize("make", [SNIP, GraSP])
def test_gradients_that_are_zero_everywhere_are_refused(make, what, tmp_path):
    with pytest.raises(LotteryError, match=f"{make.__name__}: every score at step 0 is zero"):
        fit(tmp_path, make(0.5), module=Returns(what))


@pytest.mark.parametrize("make", [SNIP, GraSP])
def test_manual_optimization_is_refused_and_synflow_is_offered(make, tmp_path):
    with pytest.raises(LotteryError, match="manual optimization steps the optimizers itself.*or SynFlow"):
        fit(tmp_path, make(0.5), module=Odd(manual=True))
    fit(tmp_path, SynFlow(0.5, per="tensor", iterations=2), module=Odd(manual=True))


def test_a_lazy_layer_outside_the_scope_is_refused_in_a_sentence(tmp_path):
    class Lazy(Plain):
        def __init__(self):
            super().__init__()
            self.late = nn.LazyLinear(3)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    with pytest.raises(LotteryError, match="'late.weight' has no shape yet"):
        fit(tmp_path, SNIP(0.5, scope=Scope(include=("net.*",))), module=Lazy())
