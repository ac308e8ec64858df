"""What children of each noise share, and what they do not; one change of weights, where it goes and how long it is."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from helpers.factories import Net
from helpers.projects import Batches, Odd, plain_loader, trainer
from helpers.states import same
from lightning_lottery import ExactResume, LotteryError, MaskFreezing, Perturbation, Scope, Ticket
from lightning_lottery.children.noise import (
    NoiseOptions,
    Perturbs,
    callbacks_of,
    check_noise,
    noise_in_words,
    seeds_of_child,
)


class Augmented(Dataset):
    """Samples that draw from torch's global generator."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.rand(1)


class Records(LightningModule):
    """Somebody's module: which samples it saw, what they drew, and which masks its dropout drew."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 4), []

    def training_step(self, batch, batch_idx):
        mask = F.dropout(torch.ones(8), 0.5)
        self.seen.append((batch[0].flatten().tolist(), batch[1].flatten().tolist(), mask.tolist()))
        return (self.layer(batch[0]) * mask[:4]).square().mean()

    def train_dataloader(self):
        return DataLoader(Augmented(), batch_size=8, shuffle=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.001)


def child(folder, noise, seed):
    """What each step of a child saw, and with which weights it began and ended: (samples, draws, masks), weights."""
    built_with, options = seeds_of_child(noise, seed, 1)
    seed_everything(built_with, verbose=False)
    module = Records()
    nn.init.constant_(module.layer.bias, 0.5)
    trainer(folder, ExactResume(), *callbacks_of(options, resumed=False)).fit(module)
    return *map(list, zip(*module.seen, strict=True)), module.state_dict()


@pytest.fixture(autouse=True)
def no_seed(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # set back afterwards, whatever a child sets


SHARED = {  # samples, their draws, dropout's masks
    "seed": (False, False, False),
    "order": (False, True, True),
    "augmentation": (True, False, False),
    Perturbation(0.1): (True, True, True),
    Perturbation(0): (True, True, True),
}


@pytest.mark.parametrize("noise", SHARED, ids=noise_in_words)
def test_children_share_at_every_step_all_but_their_noise(noise, tmp_path):
    one, two, again = child(tmp_path, noise, 1), child(tmp_path, noise, 2), child(tmp_path, noise, 2)
    assert two[:3] == again[:3] and same(two[3], again[3])
    for what, is_shared, a, b in zip(("samples", "draws", "masks"), SHARED[noise], one, two, strict=False):
        assert all((x == y) is is_shared for x, y in zip(a, b, strict=True)), what
    assert same(one[3], two[3]) is (noise == Perturbation(0))


def test_the_first_child_of_any_perturbation_trains_as_the_first_of_the_seed_where_nothing_is_changed(tmp_path):
    assert same(child(tmp_path, Perturbation(0), 7)[3], child(tmp_path, None, 1)[3])


def perturbed(folder, module, perturbation, *callbacks, seed=3, ckpt_path=None, data=None, **arguments):
    """The weights that a fit begins and ends with, which a perturbation alone changes: its one step is of length 0."""
    seen = {}

    class Looks(Perturbs):
        def on_train_start(self, trainer, pl_module):
            seen["before"] = {name: value.clone() for name, value in pl_module.state_dict().items()}
            super().on_train_start(trainer, pl_module)
            seen["after"] = {name: value.clone() for name, value in pl_module.state_dict().items()}

    fitted = trainer(folder, Looks(perturbation, seed), *callbacks, **{"max_steps": 1, **arguments})
    validated = plain_loader() if isinstance(module, Odd) else None
    fitted.fit(module, data or plain_loader(), validated, ckpt_path=ckpt_path)
    return seen["before"], seen["after"], fitted


def moved(before, after):
    return {
        name: (after[name] - before[name]).norm().item()
        for name in before
        if not torch.equal(after[name], before[name])
    }


def test_the_scale_is_that_of_the_module_as_built_whatever_the_checkpoint_holds(tmp_path):
    torch.manual_seed(0)
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(Net(), Batches())
    with torch.no_grad():
        fitted.model.net[0].weight.mul_(100)
    fitted.save_checkpoint(tmp_path / "k.ckpt")
    module = Net()
    expected = 0.1 * math.sqrt(
        sum(float(w.detach().std(correction=0)) ** 2 * w.numel() for w in (module.net[0].weight, module.net[4].weight))
    )
    before, after, _ = perturbed(
        tmp_path, module, Perturbation(0.1), ckpt_path=tmp_path / "k.ckpt", max_steps=2, data=Batches()
    )
    lengths = moved(before, after)
    assert lengths.keys() == {"net.0.weight", "net.4.weight"}  # no bias, no norm
    assert math.hypot(*lengths.values()) == pytest.approx(expected, rel=1e-3)
    assert "on_load_checkpoint" not in vars(module)


class Late(Net):
    """Its layers are there only once the fit is set up."""

    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = Net().net


def test_layers_that_are_made_when_the_fit_is_set_up_have_a_scale_as_well(tmp_path):
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(Late(), Batches())
    for parameter in fitted.model.parameters():
        nn.init.constant_(parameter, 1.0)
    fitted.save_checkpoint(tmp_path / "k.ckpt")
    before, after, _ = perturbed(
        tmp_path, Late(), Perturbation(0.1), ckpt_path=tmp_path / "k.ckpt", max_steps=2, data=Batches()
    )
    assert before["net.0.weight"].std() == 0 and moved(before, after).keys() == {"net.0.weight", "net.4.weight"}


def test_what_a_ticket_removed_stays_zero_and_all_that_it_keeps_is_changed(tmp_path):
    mask = torch.arange(16 * 6).reshape(16, 6) % 3 == 0
    freezing = MaskFreezing(Ticket({"net.0.weight": mask}))
    before, after, fitted = perturbed(tmp_path, Net(), Perturbation(0.5), freezing)
    assert (
        torch.equal(after["net.0.weight"] != 0, mask) and (after["net.0.weight"] != before["net.0.weight"])[mask].all()
    )
    assert torch.equal(fitted.model.net[0].weight != 0, mask)


def test_tied_weights_are_one_and_stay_so_and_what_is_not_trained_is_left(tmp_path):
    module = Odd()
    before, after, _ = perturbed(tmp_path, module, Perturbation(0.1, scope=Scope(include=("tied*", "fixed*"))))
    assert module.tied_a.weight is module.tied_b.weight
    assert moved(before, after).keys() == {"tied_a.weight", "tied_b.weight"}
    scale = float(before["tied_a.weight"].std(correction=0)) * math.sqrt(before["tied_a.weight"].numel())
    assert moved(before, after)["tied_a.weight"] == pytest.approx(0.1 * scale, rel=1e-4)


def test_a_perturbation_along_the_gradient_goes_uphill_along_it(tmp_path):
    whole = plain_loader(32, 32)  # one batch, the first one in any order
    before, after, _ = perturbed(tmp_path, Net(dropout=0.0), Perturbation(0.01, "gradient"), data=whole)
    twin, (x, y), names = Net(dropout=0.0), next(iter(whole)), ("net.0.weight", "net.4.weight")
    twin.load_state_dict(before)
    gradients = torch.autograd.grad(F.cross_entropy(twin.net(x), y), [twin.net[0].weight, twin.net[4].weight])
    change = torch.cat([(after[name] - before[name]).flatten() for name in names])
    assert F.cosine_similarity(change, torch.cat([g.flatten() for g in gradients]), dim=0) > 0.99999
    assert moved(before, after).keys() == {*names}  # batch norm's statistics are as they were


def test_the_gradient_is_that_of_a_batch_which_the_child_s_seed_draws(tmp_path):
    ends = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        loader = plain_loader(shuffle=True)
        ends.append(perturbed(tmp_path, Net(), Perturbation(0.01, "gradient"), seed=seed, data=loader)[1])
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


def test_a_change_too_small_for_the_weights_type_is_refused(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(LotteryError, match="`sigma` 1e-12 is too small to change any weight in bfloat16"):
        perturbed(tmp_path, Odd(), Perturbation(1e-12), precision="bf16-true")


def test_a_gradient_in_manual_optimization_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="steps the optimizers itself: take a Gaussian one"):
        perturbed(tmp_path, Odd(manual=True), Perturbation(0.1, "gradient"))


def test_a_resumed_child_has_its_perturbation_behind_it_and_its_order_before_it():
    assert callbacks_of(NoiseOptions(None, Perturbation(0.1), 2), resumed=True) == []
    assert [type(callback).__name__ for callback in callbacks_of(NoiseOptions(3), resumed=True)] == ["Order"]


@pytest.mark.parametrize("noise", ["sgd", 3, {"sigma": 0.1}])
def test_what_is_no_noise_is_refused(noise):
    with pytest.raises(LotteryError, match="`noise` is"):
        check_noise(noise)
