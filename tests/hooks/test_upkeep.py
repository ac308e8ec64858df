"""Removed weights are zero whenever somebody looks, whoever writes weights or replaces tensors and optimizers."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn

from helpers.projects import Batches, fit, says, trainer
from lightning_lottery import PLATON, SNIP, LotteryError, MagnitudePruning, MaskFreezing, SynFlow, Ticket
from lightning_lottery.hooks.left_out import held_by


class Project(LightningModule):
    """Two layers; remembers the fraction of zeros in each that training batches and validation saw."""

    def __init__(self, wide: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, 3))
        self.seen, self.validated = [], []

    def zeros(self) -> float:
        weights = torch.cat([self.net[i].weight.detach().flatten() for i in (0, 2)])
        return float((weights == 0).float().mean())

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.seen.append(self.zeros())
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.zeros())

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), 0.1, momentum=0.9)


TICKET = Ticket(
    {f"net.{i}.weight": torch.arange(n).view(shape) % 2 == 0 for i, n, shape in ((0, 96, (16, 6)), (2, 48, (3, 16)))}
)
CALLBACKS = {
    "PLATON": lambda: PLATON(0.5, begin=0, end=4, interval=2),
    "MagnitudePruning": lambda: MagnitudePruning(0.5, begin=0, end=4, interval=1),
    "SNIP": lambda: SNIP(0.5),
    "SynFlow": lambda: SynFlow(0.5, iterations=3),
    "MaskFreezing": lambda: MaskFreezing(TICKET),
}
every = pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)


class Assigns(Project):
    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.load_state_dict({k: v.clone() for k, v in self.state_dict().items()}, assign=True)
            self.trainer.strategy.setup_optimizers(self.trainer)


class Rebuilds(Project):
    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.net = copy.deepcopy(self.net)
            self.trainer.strategy.setup_optimizers(self.trainer)


class Renews(Project):
    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.trainer.strategy.setup_optimizers(self.trainer)


class WritesAfterTheStep(Project):
    def optimizer_step(self, epoch, batch_idx, optimizer, closure=None):
        optimizer.step(closure=closure)
        self.net[0].weight.data.add_(1e-3)


class WritesLast(Project):
    def on_train_batch_end(self, *_):
        self.net[0].weight.data.add_(1e-3)


class LoadsAtEpochs(Project):
    def on_train_epoch_start(self):
        self.net[0].weight.data.add_(1e-3)


class ScheduleFree(torch.optim.SGD):
    """The essence: evaluates at a point that is not the one it trains at."""

    def step(self, closure=None):
        result = super().step(closure)
        for param in self.param_groups[0]["params"]:
            self.state[param].setdefault("z", param.detach().clone()).lerp_(param.detach(), 0.1)
        return result

    def eval(self):
        for param in self.param_groups[0]["params"]:
            if "z" in self.state[param]:
                param.data.lerp_(self.state[param]["z"], 0.5)


class Swaps(Project):
    def configure_optimizers(self):
        return ScheduleFree(self.net.parameters(), 0.1)

    def on_validation_epoch_start(self):
        self.optimizers().optimizer.eval()


class SwapsEarlier(Swaps):
    on_validation_epoch_start = LightningModule.on_validation_epoch_start

    def on_validation_model_eval(self):
        super().on_validation_model_eval()
        self.optimizers().optimizer.eval()


PROJECTS = [Assigns, Rebuilds, Renews, WritesAfterTheStep, WritesLast, LoadsAtEpochs, Swaps, SwapsEarlier]


@pytest.mark.filterwarnings(
    "ignore:.* removed weights in .* no longer zero"
)  # they are, and zeroed before anybody sees them
@every
@pytest.mark.parametrize("project", PROJECTS)
def test_masks_are_true_in_every_batch_in_validation_and_at_the_end_whatever_is_replaced_or_written(
    make, project, tmp_path
):
    callback, module = make(), project()
    run = fit(tmp_path, callback, module=module, max_epochs=4)
    assert callback.ticket().sparsity == 0.5 and module.zeros() == 0.5
    assert set(module.seen[5:]) == {0.5}  # from the first batch after the last new mask on
    assert set(module.validated[-3:]) == {0.5}
    assert any(param is module.net[0].weight for param in held_by(run.optimizers))  # what is masked is what trains


class Noise(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        for param in module.net.parameters():
            param.data.add_(1e-3)


@pytest.mark.filterwarnings("ignore:.* removed weights in .* no longer zero")
@every
def test_masks_are_true_whatever_a_user_s_callback_writes(make, tmp_path):
    module = Project()
    fit(tmp_path, make(), Noise(), module=module, max_epochs=4)
    assert set(module.seen[5:]) == {0.5} and module.zeros() == 0.5


class Explodes(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 5:
            raise RuntimeError("out of memory")


class ExplodesTwice(Explodes):
    def on_exception(self, *_):
        raise RuntimeError("out of memory")  # no callback after this one hears of the first


@pytest.mark.parametrize("explosion", [Explodes, ExplodesTwice])
@pytest.mark.parametrize("later", [lambda: [], lambda: [MagnitudePruning(0.25, begin=0, end=4, interval=1)]])
def test_a_fit_that_ended_in_an_exception_does_not_mask_the_next_one(explosion, later, tmp_path):
    class Keeps(Project):
        def __init__(self):
            super().__init__()
            self.__dict__["kept"] = torch.optim.SGD(self.parameters(), 0.1)

        def configure_optimizers(self):
            return self.kept

    module = Keeps()
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, explosion(), SNIP(0.875), module=module)
    for i in (0, 2):
        module.net[i].reset_parameters()
    fit(tmp_path, *later(), module=module)
    assert module.zeros() == (0.25 if later() else 0.0)


@pytest.mark.parametrize("wide", [16, 20])
def test_a_trainer_that_goes_on_with_another_module_is_refused(wide, tmp_path):
    callback = MagnitudePruning(0.5, begin=0, end=4, interval=1)
    one = trainer(tmp_path, callback)
    one.fit(Project(), Batches(), Batches())
    one.fit_loop.max_epochs = 6
    with pytest.raises(LotteryError, match="has fitted another module before"):
        one.fit(Project(wide), Batches(), Batches())


class Unfreezes(BaseFinetuning):
    def __init__(self):
        super().__init__()

    def freeze_before_training(self, module):
        self.freeze(module.net[0])

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.net[0], optimizer)


class TrainsWhatIsFree(Project):
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


def test_weights_unfrozen_later_are_told_of_at_that_moment_and_once(tmp_path):
    callback, module = MagnitudePruning(0.5, begin=0, end=8, interval=1), TrainsWhatIsFree()
    with says("does not prune 'net.0.weight', which is trained from step 4 on .*59% of the model", times=1):
        fit(tmp_path, Unfreezes(), callback, module=module)
    assert list(callback.masks) == ["net.2.weight"] and callback.sparsity == 0.5


class FrozenAtFirst(Project):
    def __init__(self, at_first=False):
        super().__init__()
        self.net[0].requires_grad_(at_first)

    def on_train_epoch_start(self):
        self.net[0].requires_grad_(self.current_epoch > 0)


def test_a_resumed_fit_takes_the_checkpoint_s_scope_whatever_is_frozen_by_then(tmp_path):
    first, resumed = (MagnitudePruning(0.5, begin=0, end=8, interval=1) for _ in "ab")
    with says("does not prune 'net.0.weight', which is trained from step 4 on", times=1):
        fit(tmp_path, first, module=FrozenAtFirst()).save_checkpoint(tmp_path / "end.ckpt")
    fit(tmp_path, resumed, module=FrozenAtFirst(at_first=True), max_epochs=4, ckpt=tmp_path / "end.ckpt")
    assert list(resumed.masks) == ["net.2.weight"] and resumed.step > first.step


class Late(Callback):
    def __init__(self, hook):
        self.hook = hook

    def on_train_start(self, trainer, module):
        self.hook == "on_train_start" and trainer.callbacks.append(SNIP(0.5))

    def on_train_batch_start(self, trainer, module, *_):
        self.hook == "on_train_batch_start" and trainer.callbacks.append(SNIP(0.5))


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_start"])
def test_a_callback_that_comes_when_the_fit_has_begun_is_refused(hook, tmp_path):
    with pytest.raises(LotteryError, match="too late to prepare"):
        fit(tmp_path, Late(hook), module=Project())


class HiddenOptimizer(Project):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.__dict__["hidden"] = torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, batch_idx):
        self.hidden.zero_grad()
        super().training_step(batch, batch_idx).backward()
        self.hidden.step()

    def configure_optimizers(self):
        return None


def test_an_optimizer_that_lightning_does_not_know_is_masked_after_all_the_same(tmp_path):
    module = HiddenOptimizer()
    with says("will run with no optimizer"):
        fit(tmp_path, SynFlow(0.5, iterations=3), module=module)
    assert set(module.seen) == {0.5} and module.zeros() == 0.5
    with says("will run with no optimizer"), pytest.raises(LotteryError, match="Lightning knows no optimizer"):
        fit(tmp_path, MagnitudePruning(0.5, begin=0, end=4), module=HiddenOptimizer())


@pytest.mark.parametrize("to_none", [True, False])
def test_platon_refuses_gradients_that_are_gone_at_the_batch_s_end(to_none, tmp_path):
    class Clears(Project):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure=None):
            optimizer.step(closure=closure)
            optimizer.zero_grad(set_to_none=to_none)

    with pytest.raises(LotteryError, match="finds no gradient at the batch's end"):
        fit(tmp_path, PLATON(0.5, begin=0, end=8, interval=2), module=(module := Clears()))
    assert len(module.seen) == 1


@pytest.mark.filterwarnings("ignore:.training_step. returned .None")
def test_platon_refuses_gradients_that_are_gone_later_on_and_takes_a_batch_without_a_loss(tmp_path):
    class NoLoss(Project):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if self.global_step != 6 else None

    class ClearsLater(Project):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure=None):
            optimizer.step(closure=closure)
            if self.global_step > 6:
                optimizer.zero_grad()

    fit(tmp_path, callback := PLATON(0.5, begin=0, end=8, interval=2), module=NoLoss())
    assert callback.sparsity == 0.5
    with pytest.raises(LotteryError, match="finds no gradient at the batch's end"):
        fit(tmp_path, PLATON(0.5, begin=0, end=8, interval=2), module=(module := ClearsLater()))
    assert len(module.seen) == 8  # in `optimizer_step` the step under way is not counted yet


class BuildsLate(Project):
    """Loaders that are made in the module's own ``on_fit_start``, after that of callbacks."""

    def on_fit_start(self):
        self.loader = Batches()

    def train_dataloader(self):
        return self.loader


@every
def test_loaders_made_in_on_fit_start(make, tmp_path):
    module = BuildsLate()
    callback = PLATON(0.5, interval=2) if make is CALLBACKS["PLATON"] else make()
    trainer(tmp_path, callback).fit(module, val_dataloaders=Batches())
    assert module.zeros() == callback.sparsity == 0.5


def test_scores_that_miss_a_weight_and_a_loader_without_a_batch_are_refused(tmp_path):
    class Misses(MagnitudePruning):
        def scores(self, params, step):
            return {name: param.abs() for name, param in list(params.items())[:1]}

    with pytest.raises(LotteryError, match="for each weight in scope, which 'net.2.weight' is not"):
        fit(tmp_path, Misses(0.5, begin=0, end=4, interval=1), module=Project())
    nothing = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.ones(2, 6)), batch_size=8, drop_last=True
    )
    for callback in (SNIP(0.5), MagnitudePruning(0.5)):
        with says("is zero"), pytest.raises(LotteryError, match="has no batch"):
            fit(tmp_path, callback, module=Project(), train=nothing)
    with says("there is no ticket"):
        fit(tmp_path, MaskFreezing(TICKET), module=Project(), train=nothing)
    assert not (tmp_path / "ticket.safetensors").exists()
