"""SNIP and GraSP in a fit; what holds for every callback that makes masks: `test_contract.py`."""

from copy import deepcopy

import lightning.pytorch as lightning
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helpers.golden import golden_net
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


class Golden(lightning.LightningModule):
    """A network of the golden vectors, trained on their batches."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.parametrize("per", ["all", "tensor"])
@pytest.mark.parametrize(
    ("key", "mode"), [("conv_init_f64", "train"), ("conv_init_f64", "eval"), ("mlp_init_f64", "eval")]
)
def test_at_the_authors_temperature_masks_are_the_authors(key, mode, per, golden, tmp_path):
    if not (golden / "grasp_t200.pt").exists():
        pytest.skip("the part in tests/golden has no 'grasp_t200.pt': let LOTTERY_GOLDEN name the whole folder")
    data = torch.load(golden / "synflow_snip_grasp.pt", weights_only=False)[key]
    authors = torch.load(golden / "grasp_t200.pt", weights_only=False)[key]["port"][f"{mode}_bs50"]
    net = golden_net(key)
    net.load_state_dict(data["state_dict"])
    samples = TensorDataset(data["batch_x"].double(), data["batch_y"])
    masks = {}
    for temperature in (200, 1):
        callback = GraSP(
            0.9, batches=2, train_mode=mode == "train", temperature=temperature, per=per, scope=Scope(exclude=())
        )
        fit(
            tmp_path,
            callback,
            module=Golden(deepcopy(net)),
            train=DataLoader(samples, 50),
            max_epochs=1,
            limit_val_batches=0,
        )
        masks[temperature] = {name.removeprefix("net."): mask for name, mask in callback.masks.items()}
    expected = authors["masks"]["0.1_global" if per == "all" else "0.1_local"]
    kept = [sum(int(mask.sum()) for mask in each.values()) for each in (masks[200], expected)]
    differ = sum(int((masks[200][name] ^ mask.bool()).sum()) for name, mask in expected.items())
    assert differ == abs(kept[0] - kept[1]) <= len(expected)  # they round up what is kept, in each tensor
    assert sum(int((masks[1][name] ^ mask.bool()).sum()) for name, mask in expected.items()) > 100


def test_a_temperature_that_reaches_no_logits_is_refused(tmp_path):
    class Inner(Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.forward(batch[0]), batch[1])

    class Pair(Plain):
        def forward(self, x):
            return super().forward(x), x

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0])[0], batch[1])

    for module, why in ((Inner(), "it is not called"), (Pair(), "the call of Pair returns tuple")):
        with pytest.raises(LotteryError, match=why):
            fit(tmp_path, GraSP(0.5, temperature=200), module=module)
    with pytest.raises(LotteryError, match="`temperature`"):
        GraSP(0.5, temperature=0)
