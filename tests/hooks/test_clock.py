"""Whatever loop somebody else wrote: manual steps, several optimizers, compilation, tuners, short and endless fits."""

import warnings
from datetime import timedelta

import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
)
from torch.utils.data import IterableDataset

from helpers.callbacks import CALLBACKS, EVERY, ONE_OF_EACH, STEPS, each, prunes_as_asked, ticket
from helpers.projects import Batches, Odd, TwoOptimizers, fit, plain_loader, says, trainer
from helpers.states import removed_are_zero
from lightning_lottery import (
    PLATON,
    SNIP,
    Cubic,
    ExactResume,
    GraSP,
    LotteryError,
    MagnitudePruning,
    MaskFreezing,
    Snapshots,
    Ticket,
)

NEED_THE_LOSS = {name: make for name, make in CALLBACKS.items() if isinstance(make(), (SNIP, GraSP))}
TAKE_MANUAL_STEPS = {name: make for name, make in CALLBACKS.items() if name not in NEED_THE_LOSS}
TWO_OPTIMIZERS = "manual optimization, several optimizers"
ZERO_LAST = "manual optimization, `zero_grad()` after `step()`"


@pytest.mark.shows(row=TWO_OPTIMIZERS, cell="yes")
@each(TAKE_MANUAL_STEPS)
def test_two_manual_optimizers_count_as_one_step_a_batch(make, tmp_path):
    callback, module = make(), TwoOptimizers()
    fitted = fit(tmp_path, callback, module=module)
    assert fitted.global_step == 2 * STEPS
    assert callback.step == STEPS
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


NEEDS_THE_LOSS = "needs the loss alone, and a `training_step` in manual optimization"


@pytest.mark.shows(row=TWO_OPTIMIZERS, cell="refused")
@each(NEED_THE_LOSS)
def test_what_needs_the_loss_alone_refuses_two_manual_optimizers(make, tmp_path):
    with pytest.raises(LotteryError, match=NEEDS_THE_LOSS):
        fit(tmp_path, make(), module=TwoOptimizers())


@pytest.mark.shows(row=ZERO_LAST, cell="refused")
@each(NEED_THE_LOSS)
def test_what_needs_the_loss_alone_refuses_manual_steps_wherever_gradients_are_zeroed(make, tmp_path):
    with pytest.raises(LotteryError, match=NEEDS_THE_LOSS):
        fit(tmp_path, make(), module=TwoOptimizers(zero_last=True))


def test_fractions_of_a_fit_bounded_by_the_steps_of_several_optimizers_are_refused(tmp_path):
    with pytest.raises(LotteryError, match="no known number of optimizer steps"):
        fit(tmp_path, PLATON(0.5), module=TwoOptimizers(), max_steps=10)


@pytest.mark.parametrize("module", [lambda: Odd(manual=True), TwoOptimizers], ids=["one", "two"])
def test_manual_optimization_prunes(module, tmp_path):
    callback = CALLBACKS["PLATON"]()
    fit(tmp_path, callback, module=module())
    assert callback.step == STEPS and callback.sparsity == pytest.approx(0.7, abs=2e-3)


@pytest.mark.shows(row=ZERO_LAST, cell="refused")
@each({name: make for name, make in CALLBACKS.items() if name.startswith("PLATON")})
def test_platon_refuses_gradients_that_are_gone_after_the_step(make, tmp_path):
    with pytest.raises(LotteryError, match=r"zero_grad\(\)` before `backward\(\)`"):
        fit(tmp_path, make(), module=TwoOptimizers(zero_last=True))


@pytest.mark.shows(row=ZERO_LAST, cell="yes")
@each({name: make for name, make in TAKE_MANUAL_STEPS.items() if not name.startswith("PLATON")})
def test_a_frozen_mask_does_not_need_gradients_after_the_step(make, tmp_path):
    callback, module = make(), TwoOptimizers(zero_last=True)
    fit(tmp_path, callback, module=module)
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


@pytest.mark.shows(row="`torch.compile` of the module or of submodules", cell="yes")
@pytest.mark.parametrize("what", ["module", "submodule", "submodule in place"])
@ONE_OF_EACH
def test_compiled_modules_keep_plain_names(what, make, tmp_path):
    torch.manual_seed(0)
    module = Odd()
    fitted = module
    if what == "module":
        fitted = torch.compile(module, backend="eager")
    elif what == "submodule":
        module.my_mask = torch.compile(module.my_mask, backend="eager")
    else:
        module.my_mask.compile(backend="eager")
    callback = make()
    fit(tmp_path, callback, module=fitted)
    assert callback.masks.keys() == {"my_mask.0.weight", "my_mask.2.weight", "tied_a.weight"}
    assert prunes_as_asked(callback)
    weights = {name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()}
    assert removed_are_zero(weights, callback.masks)
    Ticket.load(tmp_path / "ticket.safetensors").require_fit(Odd())


@EVERY
def test_fast_dev_run_runs_and_writes_nothing(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = make()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was to reach sparsity")
        fit(tmp_path, callback, fast_dev_run=True)  # whose one step may lie before the callback's
    with warnings.catch_warnings():
        fit(tmp_path, PLATON(0.5) if isinstance(callback, PLATON) else MagnitudePruning(0.5), fast_dev_run=True)
    assert not list(tmp_path.rglob("*.safetensors"))


class Endless(IterableDataset):
    def __iter__(self):
        yield from ((x, y) for batch in Batches(batches=1000) for x, y in zip(*batch, strict=True))


def test_an_iterable_loader_needs_steps_not_fractions(tmp_path):
    loader = torch.utils.data.DataLoader(Endless(), batch_size=8)
    with pytest.raises(LotteryError, match="set `max_steps`"):
        fit(tmp_path, PLATON(0.5), train=loader, max_epochs=1)
    callback = PLATON(0.5, interval=2)
    fit(tmp_path, callback, train=loader, max_steps=STEPS, max_epochs=-1)
    assert callback.resolved_schedule == Cubic(0.5, begin=1, end=8)
    assert callback.sparsity == pytest.approx(0.5, abs=2e-3)


def test_a_fit_bounded_by_time_alone_takes_steps_and_warns_where_they_are_not_reached(tmp_path):
    limits = {"max_epochs": -1, "max_time": timedelta(seconds=0.3)}
    with pytest.raises(LotteryError, match="no known number"):
        fit(tmp_path, PLATON(0.5), **limits)
    with says("PLATON was to reach sparsity 0.5 at step 100000000, but the fit ended"):
        fit(tmp_path, PLATON(0.5, begin=2, end=100_000_000), **limits)
    callback = MagnitudePruning(0.5, begin=0, end=2)
    fit(tmp_path, callback, **limits)
    assert callback.sparsity == pytest.approx(0.5, abs=2e-3)


def test_a_changing_accumulation_has_no_known_steps(tmp_path):
    changing = GradientAccumulationScheduler({0: 1, 1: 2})
    with pytest.raises(LotteryError, match="no known number"):
        fit(tmp_path, PLATON(0.5), changing)
    callback = PLATON(0.5, interval=2, begin=0, end=6)
    fit(tmp_path, callback, GradientAccumulationScheduler({0: 1, 1: 2}))
    assert callback.step == 8 and callback.sparsity == pytest.approx(0.5, abs=2e-3)


class Stop(Callback):
    def __init__(self, after: int = 6) -> None:
        self.after = after

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.after


ENDLESS = "iterable loaders, `max_time`, changing accumulation"
LOOPS = {  # nobody knows their number of optimizer steps before they end
    "iterable loader": lambda: ([], {"train": torch.utils.data.DataLoader(Endless(), batch_size=8), "max_epochs": 1}),
    "max_time": lambda: ([], {"max_time": timedelta(minutes=9), "max_epochs": -1}),
    "changing accumulation": lambda: ([GradientAccumulationScheduler({0: 1, 1: 2})], {"max_epochs": 6}),
}
every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


def prunes_in(loop, callback, folder):
    """Whether a fit that is stopped after twelve steps of this loop prunes as asked."""
    beside, arguments = loop()
    module = Odd()
    fit(folder, callback, *beside, Stop(STEPS), module=module, **arguments)
    return (
        callback.step == STEPS and prunes_as_asked(callback) and removed_are_zero(module.state_dict(), callback.masks)
    )


@every_loop
@pytest.mark.shows(row=ENDLESS, cell="steps as int")
@each({name: CALLBACKS[name] for name in ("PLATON", "MagnitudePruning", "DynamicMask")})
def test_a_gradual_schedule_takes_steps_not_fractions_where_the_end_is_not_known(make, loop, tmp_path):
    assert prunes_in(loop, make(), tmp_path)
    with pytest.raises(LotteryError, match="no known number|set `max_steps`"):
        prunes_in(loop, type(make())(0.7), tmp_path)


@every_loop
@pytest.mark.shows(row=ENDLESS, cell="yes")
@each({name: CALLBACKS[name] for name in ("SynFlow", "AdSynFlow", "SNIP", "GraSP", "MaskFreezing")})
def test_pruning_at_a_step_needs_no_known_end(make, loop, tmp_path):
    assert prunes_in(loop, make(), tmp_path)


@EVERY
def test_a_fit_that_is_stopped_early_says_so_and_leaves_its_mask_true(make, tmp_path):
    callback, module = make(), Odd()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, callback, Stop(), module=module)
    reached = callback.schedule is None or callback.schedule(callback.step) == callback.schedule.final
    assert any("was to reach sparsity" in str(one.message) for one in caught) != reached
    assert removed_are_zero(module.state_dict(), callback.masks)
    assert Ticket.load(tmp_path / "ticket.safetensors").hamming(callback.ticket()) == 0


class Tunable(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 1e-3, 2

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def train_dataloader(self):
        return plain_loader(size=self.batch_size)

    def val_dataloader(self):
        return plain_loader(n=8)


@pytest.mark.parametrize(
    "tuner",
    [
        lambda: LearningRateFinder(num_training_steps=8),
        lambda: BatchSizeFinder(mode="power", max_trials=2, steps_per_trial=2),
    ],
    ids=["learning rate", "batch size"],
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.shows(row="learning-rate finder, batch-size finder", cell="yes")
@EVERY
def test_tuners_do_not_prune(make, tuner, first, tmp_path):
    callback = make()
    start = {}

    class AtTheBeginning(Callback):
        lottery_order = 3

        def on_train_start(self, trainer, pl_module):
            start.update(step=callback.step, sparsity=callback.sparsity)

    pair = [callback, tuner()] if first else [tuner(), callback]
    torch.manual_seed(0)
    fitted = trainer(tmp_path, *pair, AtTheBeginning(), max_epochs=-1, max_steps=STEPS, enable_checkpointing=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*")
        fitted.fit(Tunable())
    at_once = callback.schedule is None or callback.schedule(0) > 0
    assert start["step"] == 0 and (start["sparsity"] > 0) == at_once
    assert callback.step == STEPS
    assert prunes_as_asked(callback)


def test_a_trainer_of_the_other_package_is_told_the_fix(tmp_path):
    theirs = pytest.importorskip("pytorch_lightning")

    class Module(theirs.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 3)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    for callback in (PLATON(0.5), Snapshots([0]), ExactResume(), MaskFreezing(ticket())):
        their_trainer = theirs.Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=tmp_path, **quiet
        )
        with pytest.raises(LotteryError, match="this Trainer is of the package `pytorch_lightning`: import"):
            their_trainer.fit(Module(), Batches())
