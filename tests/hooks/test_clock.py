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
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import IterableDataset

from helpers.callbacks import BODY, CALLBACKS, EVERY, EVERY_FROZEN, ONE_OF_EACH, STEPS, each, prunes_as_asked, ticket
from helpers.projects import Batches, Odd, TwoOptimizers, fit, plain_loader, says, trainer
from helpers.states import removed_are_zero
from lightning_lottery import (
    PLATON,
    SNIP,
    Constant,
    Cubic,
    GraSP,
    LotteryError,
    MagnitudePruning,
    MaskFreezing,
    Scope,
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
    given = module
    if what == "module":
        given = torch.compile(module, backend="eager")
    elif what == "submodule":
        module.my_mask = torch.compile(module.my_mask, backend="eager")
    else:
        module.my_mask.compile(backend="eager")
    callback = make()
    fit(tmp_path, callback, module=given)
    assert callback.masks.keys() == {"my_mask.0.weight", "my_mask.2.weight", "tied_a.weight"}
    assert prunes_as_asked(callback)
    weights = {name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()}
    assert removed_are_zero(weights, callback.masks)
    Ticket.load(tmp_path / "ticket.safetensors").require_fit(Odd())


class BuiltLate(Odd):
    """Has no body before `configure_model`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = None

    def configure_model(self) -> None:
        if self.body is None:
            self.body = nn.Linear(12, 12)

    def forward(self, x):
        return self.head(self.norm(self.body(torch.relu(self.my_mask(x)))))


def test_layers_built_in_configure_model_are_in_scope(tmp_path):
    callback = PLATON(0.5, interval=2, scope=Scope(include=("body.*",)))
    fit(tmp_path, callback, module=BuiltLate())
    assert callback.masks.keys() == {"body.weight"}
    assert callback.sparsity == 0.5


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
    given = {"max_epochs": -1, "max_time": timedelta(seconds=0.3)}
    with pytest.raises(LotteryError, match="no known number"):
        fit(tmp_path, PLATON(0.5), **given)
    with says("PLATON was to reach sparsity 0.5 at step 100000000, but the fit ended"):
        fit(tmp_path, PLATON(0.5, begin=2, end=100_000_000), **given)
    callback = MagnitudePruning(0.5, begin=0, end=2)
    fit(tmp_path, callback, **given)
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
@each({name: CALLBACKS[name] for name in ("PLATON", "MagnitudePruning")})
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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(tmp_path, callback, Stop(), module=module)
    reached = callback.schedule is None or callback.schedule.end <= callback.step
    assert any("was to reach sparsity" in str(one.message) for one in said) != reached
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
        lottery_place = 3

        def on_train_start(self, trainer, pl_module):
            start.update(step=callback.step, sparsity=callback.sparsity)

    pair = [callback, tuner()] if first else [tuner(), callback]
    torch.manual_seed(0)
    fitted = trainer(tmp_path, *pair, AtTheBeginning(), max_epochs=-1, max_steps=STEPS, enable_checkpointing=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*")
        fitted.fit(Tunable())
    at_once = callback.schedule is None or callback.schedule.end == 0
    assert start["step"] == 0 and (start["sparsity"] > 0) == at_once
    assert callback.step == STEPS
    assert prunes_as_asked(callback)


@EVERY
def test_validating_before_and_after_changes_nothing(make, tmp_path):
    callback, module = make(), Odd()
    fitted = trainer(tmp_path, callback)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitted.validate(module, Batches(batches=1), verbose=False)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    fitted.fit(module, Batches(), Batches(batches=1))
    after, masks = {name: value.clone() for name, value in module.state_dict().items()}, callback.masks
    fitted.validate(module, Batches(batches=1), verbose=False)
    assert all(torch.equal(after[name], value) for name, value in module.state_dict().items())
    assert all(torch.equal(masks[name], mask) for name, mask in callback.masks.items())


@EVERY
def test_a_second_fit_on_the_same_trainer_goes_on_and_on_a_new_one_begins_anew(make, tmp_path):
    callback, module = make(), Odd()
    fitted = fit(tmp_path, callback, module=module)
    first = callback.masks
    fitted.fit(module, Batches(), Batches(batches=1))  # its limits are reached: nothing is trained
    assert callback.step == STEPS
    assert all(torch.equal(first[name], mask) for name, mask in callback.masks.items())
    fitted.fit_loop.max_epochs = 4
    with warnings.catch_warnings():
        fitted.fit(module, Batches(), Batches(batches=1))
    assert callback.step == STEPS + 4
    assert removed_are_zero(module.state_dict(), callback.masks)
    fit(tmp_path / "new", callback, module=Odd())
    assert callback.step == STEPS


@EVERY
def test_two_instances_live_in_one_trainer_by_name_and_part(make, tmp_path):
    if make().schedule is None:
        halves = [
            MaskFreezing(Ticket({name: ticket().masks[name]}), name=word)
            for name, word in (("my_mask.0.weight", "one"), ("my_mask.2.weight", "two"))
        ]
    else:
        halves = [make(name="one"), make(name="two")]
        halves[0].scope, halves[1].scope = (Scope(include=(f"my_mask.{i}.*",)) for i in (0, 2))
    logger = CSVLogger(tmp_path, name="", version="")
    module = Odd()
    fitted = fit(tmp_path, *halves, module=module, logger=logger)
    assert len({half.state_key for half in halves}) == 2
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "ticket-one.safetensors",
        "ticket-two.safetensors",
    ]
    assert {"one/sparsity/scope", "two/sparsity/scope"} <= fitted.callback_metrics.keys()
    for half in halves:
        assert len(half.masks) == 1 and removed_are_zero(module.state_dict(), half.masks)


def test_two_callbacks_for_one_file_or_one_weight_are_refused(tmp_path):
    with pytest.raises(LotteryError, match="Two callbacks would both write ticket.safetensors"):
        fit(tmp_path, PLATON(0.5), MaskFreezing(ticket()))
    with pytest.raises(LotteryError, match="PLATON and MaskFreezing 'b' both mask 'my_mask.0.weight'"):
        fit(tmp_path, PLATON(0.5, interval=2), MaskFreezing(ticket(), name="b"))


@pytest.mark.parametrize("order", [0, 1])
def test_snapshots_hold_what_the_callbacks_have_made_wherever_they_stand(order, tmp_path):
    callback, snapshots = CALLBACKS["MagnitudePruning"](), Snapshots([0, 4, 9, 12])
    pair = [callback, snapshots] if order else [snapshots, callback]
    fit(tmp_path, *pair, ModelCheckpoint(dirpath=tmp_path), enable_checkpointing=True)
    for step in snapshots.steps:
        saved = torch.load(tmp_path / "snapshots" / f"step={step}.ckpt", weights_only=True)
        own = saved["callbacks"][callback.state_key]
        assert saved["global_step"] == own["clock"]["step"] == step
        assert removed_are_zero(saved["state_dict"], own["masks"])


def test_snapshots_say_what_they_never_reached(tmp_path):
    with says(r"saved nothing at \[100\]: the fit ended at step 12"):
        fit(tmp_path, Snapshots([1, 100]))


def test_every_value_promised_is_logged_and_the_bar_shows_the_sparsity(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    fitted = fit(tmp_path, CALLBACKS["PLATON"](), RichProgressBar(), logger=logger, enable_progress_bar=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    for key in ("scope", "model", "target", "my_mask.0.weight", "tied_a.weight"):
        values = [event.value for event in events.Scalars(f"sparsity/{key}")]
        assert values[-1] > 0.3
        assert len(values) >= 4
    assert [event.step + 1 for event in events.Scalars("mask/change")] == [2, 4, 6, 8, 9, 10, 12]
    assert max(event.value for event in events.Scalars("mask/regrowth")) > 0
    assert "sparsity/scope" in fitted.progress_bar_metrics


@EVERY_FROZEN
def test_the_audit_of_revived_weights_is_logged_and_is_zero(make, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, make(), logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("mask/revived")
    assert len(events) >= 3 and all(event.value == 0 for event in events)


def test_the_audit_finds_and_names_weights_that_somebody_else_revived(tmp_path):
    class Vandal(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.at = trainer.global_step

        def on_validation_start(self, trainer, pl_module):
            if trainer.global_step == 8:
                with torch.no_grad():
                    pl_module.my_mask[0].weight.fill_(1.0)

    module = Odd()
    with says("removed weights revived in my_mask.0.weight, and zeroed them"):
        fit(tmp_path, Vandal(), MaskFreezing(ticket()), module=module)
    assert removed_are_zero(module.state_dict(), ticket().masks)


def test_a_layer_that_loses_its_last_weight_is_named(tmp_path):
    class Vanishing(Odd):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.my_mask[0].weight.mul_(1e-6)

    with says("keeps no weight of my_mask.0.weight at step 5"):
        fit(tmp_path, MagnitudePruning(Constant(0.7, begin=5), scope=BODY), module=Vanishing())


@pytest.mark.parametrize("make", [CALLBACKS["PLATON"], CALLBACKS["MagnitudePruning"]], ids=["PLATON", "Magnitude"])
def test_a_batch_without_a_loss_is_survived(make, tmp_path):
    class Skips(Odd):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step == 3 else super().training_step(batch, batch_idx)

    callback = make()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*returned `None`")
        fit(tmp_path, callback, module=Skips())
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)


@EVERY_FROZEN
def test_a_loss_infinitely_steep_at_zero_does_not_turn_removed_weights_into_nan(make, tmp_path):
    class Steep(Odd):
        def loss(self, batch):
            return super().loss(batch) + 1e-3 * sum(self.get_parameter(n).abs().sqrt().sum() for n in ticket().distinct)

    callback, module = make(), Steep()
    fit(tmp_path, callback, module=module)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_a_ticket_that_names_a_tied_weight_by_its_other_name_is_frozen(tmp_path):
    mask = ticket().masks["tied_a.weight"]
    callback, module = MaskFreezing(Ticket({"tied_b.weight": mask})), Odd()
    fit(tmp_path, callback, module=module)
    assert callback.masks.keys() == {"tied_a.weight"}
    assert removed_are_zero(module.state_dict(), {"tied_a.weight": mask})
    with pytest.raises(LotteryError, match="one tied weight here, but their masks in the ticket differ"):
        fit(tmp_path, MaskFreezing(Ticket({"tied_a.weight": mask, "tied_b.weight": ~mask})), module=Odd())


def test_lazy_layers_outside_the_scope_do_not_matter(tmp_path):
    class Lazy(Odd):
        def __init__(self):
            super().__init__()
            self.late = nn.LazyLinear(3)

        def forward(self, x):
            return super().forward(x) + self.late(x)

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), 0.1)

    callback = MagnitudePruning(0.5, scope=Scope(include=("head.*",)))
    fit(tmp_path, callback, module=Lazy())
    assert callback.sparsity == 0.5


def test_somebody_elses_callback_may_have_a_place(tmp_path):
    class Seated(Callback):
        place = "top"

    fit(tmp_path, Seated(), CALLBACKS["PLATON"]())


def test_gradients_whose_norm_overflows_are_observed_all_the_same(tmp_path):
    class Loud(Odd):
        def loss(self, batch):
            return super().loss(batch) * 1e22

    callback = CALLBACKS["PLATON"]()
    fit(tmp_path, callback, module=Loud(optimizer="adamw"))
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)


class Updates(CSVLogger):
    """Keeps what is logged, in memory."""

    def __init__(self, folder):
        super().__init__(folder, name="", version="")
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append(dict(metrics))


@pytest.mark.parametrize("dead", [False, True], ids=["distinct scores", "all scores zero"])
@pytest.mark.parametrize("method", [PLATON, MagnitudePruning])
def test_after_every_update_the_density_is_exact_ties_or_not(method, dead, tmp_path):
    class Dead(Odd):
        """All scores are equal: no gradient but zeros, no weight but zeros."""

        def __init__(self):
            super().__init__()
            with torch.no_grad():
                for name in ticket().distinct:
                    self.get_parameter(name).zero_()

        def loss(self, batch):
            return super().loss(batch) * 0

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)

    callback, logger = method(0.83, interval=1, begin=1, end=9, scope=BODY), Updates(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* keeps no weight of")
        fit(tmp_path, callback, module=Dead() if dead else Odd(), logger=logger)
    total = sum(mask.numel() for mask in callback.masks.values())
    updates = [seen for seen in logger.seen if "mask/change" in seen]
    assert len(updates) >= 8 and updates[-1]["sparsity/target"] == 0.83
    for seen in updates:
        kept = round((1 - seen["sparsity/target"]) * total)
        assert seen["sparsity/scope"] == pytest.approx(1 - kept / total, abs=1e-12)


MODES = {
    "best": {"monitor": "val_loss", "save_top_k": 2},
    "every epoch": {"every_n_epochs": 1, "save_top_k": -1},
    "at the end of training epochs": {"every_n_epochs": 1, "save_top_k": -1, "save_on_train_epoch_end": True},
    "by time": {"train_time_interval": timedelta(seconds=0.01), "save_top_k": -1},
    "last": {"save_top_k": 0, "save_last": True},
    "weights only": {"every_n_train_steps": 2, "save_top_k": -1, "save_weights_only": True},
}


@EVERY_FROZEN
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_kind_of_checkpoint_is_zero_where_frozen(make, mode, tmp_path):
    masks = {}

    class Remember(Callback):
        """The masks as they were after each step."""

        lottery_place = 3

        def on_train_batch_end(self, trainer, *_):
            masks[trainer.global_step] = callback.masks

    callback = make()
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", **mode)
    fit(tmp_path, Remember(), callback, saving, enable_checkpointing=True)
    files = list(tmp_path.glob("*.ckpt"))
    assert files
    for file in files:
        saved = torch.load(file, weights_only=True)
        assert removed_are_zero(saved["state_dict"], masks[saved["global_step"]]), file.name


def test_the_log_says_what_is_pruned_and_what_is_not_and_where_the_ticket_is(tmp_path, caplog):
    fit(tmp_path, CALLBACKS["PLATON"]())
    assert "PLATON: 360 of 603 weights in scope, in 3 parameters. Left out: " in caplog.text
    assert "1 excluded by" in caplog.text and "1 frozen" in caplog.text and "2 owned by BatchNorm1d" in caplog.text
    assert f"PLATON: sparsity 0.7000 of the scope; the ticket is '{tmp_path / 'ticket.safetensors'}'" in caplog.text
    fit(tmp_path, MaskFreezing(ticket()))
    assert "MaskFreezing: Ticket(3 parameters" in caplog.text


def test_a_batch_without_a_loss_at_a_windows_end_does_not_stretch_the_window(tmp_path):
    class Skips(Odd):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step == 7 else super().training_step(batch, batch_idx)

    folded = []

    class Watch(Callback):
        lottery_place = 3

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 8:
                folded.extend(callback.state_dict()["averages"]["window"].values())

    callback = PLATON(0.5, interval=4, begin=2, end=12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*returned `None`")
        fit(tmp_path, callback, Watch(), module=Skips())
    assert folded and not any(window.any() for window in folded)
