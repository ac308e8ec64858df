"""What every runner finds out before its first child trains, and that a trial leaves nothing behind."""

import warnings
from io import StringIO

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from rich.console import Console
from torch import nn

from helpers.factories import Data, Net, closures, make_data, make_trainer, predicted, weights
from helpers.projects import plain_loader
from helpers.states import same
from lightning_lottery import (
    FactoryProject,
    InstabilityAnalysis,
    InstabilitySweep,
    IterativePruning,
    LotteryError,
    Perturbation,
    Scope,
)
from lightning_lottery.children import engine
from lightning_lottery.children.child import Child
from lightning_lottery.children.options import RecordsTrialOptions
from lightning_lottery.children.reading import TRIAL
from lightning_lottery.experiments.trial import try_before, try_out

RUNNERS = {
    "instability": lambda **settings: InstabilityAnalysis(alphas=[0, 1], **settings),
    "sweep": lambda **settings: InstabilitySweep(steps=[0, 4], parents=[0], seeds=[1, 2], alphas=[0, 1], **settings),
    "imp": lambda **settings: IterativePruning(levels=1, seeds=(1,), **settings),
}
EVERY = pytest.mark.parametrize("runner", RUNNERS)
LINES = pytest.mark.parametrize("runner", ["instability", "sweep"])


class Trained(Callback):
    """Counts the batches that anything was trained on."""

    batches = 0

    def on_train_batch_start(self, *_):
        Trained.batches += 1


@pytest.fixture(autouse=True)
def nothing_trained(monkeypatch):
    monkeypatch.setattr(Trained, "batches", 0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def refused(tmp_path):
    """Runs a runner, expects a refusal before anything was trained, and gives its sentence."""

    def run(runner, module=Net, data=Data, **settings):
        with pytest.raises(LotteryError) as refusal:
            RUNNERS[runner](**settings).run(closures(Trained, module=module, data=data), out=tmp_path)
        assert Trained.batches == 0 and [path.name for path in tmp_path.iterdir()] == [TRIAL]
        return str(refusal.value)

    return run


class OnlyTrains(Net):
    test_step = LightningModule.test_step  # not overridden


class Silent(Net):
    def test_step(self, batch, batch_idx):
        pass


class InPercent(Net):
    """No sample of its first batch is right."""

    def test_step(self, batch, batch_idx):
        self.log("test_acc", 0.0 if batch_idx == 0 else 12.5)


class Layer(nn.Linear):
    """Of a class that torch does not load unasked."""


class ForLoaders(Net):
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        super().test_step(batch, batch_idx)


class TwoLoaders(Data):
    def test_dataloader(self):
        return [plain_loader(24), plain_loader(24)]


@EVERY
def test_a_module_that_nothing_evaluates_is_refused(refused, runner):
    assert "OnlyTrains has no `test_step` or `validation_step` to evaluate with" in refused(runner, module=OnlyTrains)
    assert "logs nothing" in refused(runner, module=Silent)


@EVERY
def test_a_metric_that_is_not_logged_is_refused_with_those_that_are(refused, runner):
    told = refused(runner, monitor="test_accuracy")
    assert told == "The module does not log 'test_accuracy'; it logs test_acc, test_loss."


@EVERY
def test_a_metric_in_percent_is_refused_also_where_the_first_batch_has_none(refused, runner):
    assert "must be a fraction in [0, 1]" in refused(runner, module=InPercent)


@EVERY
def test_two_loaders_are_refused(refused, runner):
    # Lightning itself takes two, and logs the metric once for each, by another name.
    told = refused(runner, module=ForLoaders, data=TwoLoaders)
    assert "one test loader, found 2 loaders" in told or "it logs test_acc/dataloader_idx_0," in told


@EVERY
def test_a_module_that_is_not_built_in_the_child_keeps_its_own_words(refused, runner):
    def build():
        raise LotteryError("The width is not a number.")

    assert refused(runner, module=build) == "The width is not a number."


@EVERY
def test_checkpoints_that_would_not_load_are_refused(refused, runner):
    class SavesItself(Net):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["net"] = self.net

    assert "start.ckpt' does not load as a checkpoint" in refused(runner, module=SavesItself)


def test_a_validation_that_needs_its_fit_is_not_tried_and_the_metric_is_found_in_it(tmp_path, caplog):
    class AsksItsOptimizer(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_rate", self.optimizers().param_groups[0]["lr"])

    class Validated(Data):
        val_dataloader = Data.test_dataloader

    project = closures(module=AsksItsOptimizer, data=Validated)
    with caplog.at_level("INFO"):
        report = RUNNERS["imp"](monitor="val_rate", mode="min").run(project, out=tmp_path)
    assert "Validation is not tried, as outside of a fit it raises" in caplog.text
    assert len(report["level-1"].values) == 1


def test_a_test_of_what_training_leaves_in_module_or_data_is_not_tried(tmp_path, caplog):
    class Shifted(Net):
        def on_train_epoch_end(self):
            self.shift = 0.5

        def test_step(self, batch, batch_idx):
            super().test_step([batch[0] + self.shift, batch[1]], batch_idx)

    class SplitInFit(Data):
        def setup(self, stage):
            if stage == "fit":
                self.samples = 24

        def test_dataloader(self):
            return plain_loader(self.samples)

    for name, parts in {"module": {"module": Shifted}, "data": {"data": SplitInFit}}.items():
        caplog.clear()
        with caplog.at_level("INFO"):
            report = RUNNERS["imp"]().run(closures(**parts), out=tmp_path / name)
        assert "The test is not tried, as outside of a fit it raises AttributeError" in caplog.text
        assert len(report["level-1"].values) == 1


@EVERY
def test_a_metric_that_one_batch_does_not_define_is_tried_on_several(tmp_path, runner):
    class OfAll(Net):
        def __init__(self):
            super().__init__()
            self.right = []

        def on_test_epoch_start(self):
            self.right = []

        def test_step(self, batch, batch_idx):
            self.right.append(self.net(batch[0]).argmax(1) == batch[1])

        def on_test_epoch_end(self):
            if len(self.right) < 2:
                raise ValueError("Needs two batches.")
            self.log("test_acc", torch.cat(self.right).float().mean())

    project = closures(Trained, module=OfAll)
    with pytest.raises(LotteryError, match="it logs test_acc"):
        RUNNERS[runner](monitor="test_accuracy").run(project, out=tmp_path)
    assert Trained.batches == 0
    RUNNERS[runner]().run(project, out=tmp_path)


@EVERY
def test_hyperparameters_that_hold_a_module_are_no_hindrance(tmp_path, runner):
    class Wraps(Net):
        def __init__(self, layer):
            super().__init__()
            self.save_hyperparameters(logger=False)
            self.net[4] = layer

    project = closures(module=lambda: Wraps(Layer(16, 3)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute 'layer' is an instance of `nn.Module`")
        RUNNERS[runner]().run(project, out=tmp_path)
    saved = [torch.load(path, weights_only=True) for path in tmp_path.rglob("*.ckpt")]
    assert len(saved) >= 3 and all("layer" not in each["hyper_parameters"] for each in saved)
    assert saved[0]["hyper_parameters"]["lr"] == 0.05


@LINES
def test_layers_that_only_a_fit_has_are_refused(refused, runner):
    class BuiltInFit(Net):
        def setup(self, stage):
            if stage == "fit" and len(self.net) == 5:
                self.net.append(nn.Linear(3, 3))

    assert "is of another model than BuiltInFit: net.5.bias, net.5.weight" in refused(runner, module=BuiltInFit)


def test_training_batches_and_a_function_of_predictions_are_tried_as_well(refused, tmp_path):
    def predict(module, batch):
        raise LotteryError("There is no such class.")

    assert refused("instability", predict=predict) == "There is no such class."
    RUNNERS["instability"](predict=predicted, recalibrate=1).run(closures(Trained), out=tmp_path)
    assert Trained.batches > 0


@EVERY
def test_what_is_right_is_trained_and_no_trial_is_left(tmp_path, runner, monkeypatch):
    done = []
    do_child = engine.do_child
    monkeypatch.setattr(engine, "do_child", lambda f, c: (done.append(f.name), do_child(f, c)))
    project = closures(Trained)
    RUNNERS[runner]().run(project, out=tmp_path)
    assert done.pop(0) == TRIAL and TRIAL not in done and not list(tmp_path.rglob(TRIAL))
    done.clear()
    RUNNERS[runner]().run(project, out=tmp_path)
    assert TRIAL not in done  # all are done: there is nothing to try


def test_what_a_trial_that_failed_has_left_is_neither_in_its_way_nor_in_the_experiment_s(refused, tmp_path):
    refused("instability", monitor="test_accuracy")
    stage = Child(tmp_path, "instability", {})  # the recipe's stage whose folder this is
    assert not stage.is_started
    RUNNERS["instability"]().run(closures(Trained), out=tmp_path)
    assert not (tmp_path / TRIAL).exists() and stage.is_started


def test_children_are_those_that_they_were_without_a_trial(tmp_path, monkeypatch):
    project = closures(Trained)
    RUNNERS["instability"]().run(project, out=tmp_path / "tried")
    monkeypatch.setattr("lightning_lottery.experiments.instability.try_before", lambda *_: None)
    RUNNERS["instability"]().run(project, out=tmp_path / "not")
    for seed in (1, 2):
        assert same(weights(tmp_path / f"tried/seed-{seed}"), weights(tmp_path / f"not/seed-{seed}"))


def test_of_the_snapshots_given_a_sweep_tries_the_first(tmp_path):
    RUNNERS["sweep"]().run(closures(), out=tmp_path / "made")
    snapshots = str(tmp_path / "made/parent-0/parent/snapshots")

    class Wider(Net):
        def __init__(self):
            super().__init__()
            self.more = nn.Linear(3, 3)

    sweep = InstabilitySweep(snapshots=[snapshots], seeds=[1, 2], alphas=[0, 1])
    with pytest.raises(RuntimeError, match="more.weight"):  # Lightning's own words, before anything is trained
        sweep.run(closures(Trained, module=Wider), out=tmp_path / "out")
    assert Trained.batches == 0 and [path.name for path in (tmp_path / "out").iterdir()] == [TRIAL]


def test_in_a_process_of_its_own_a_trial_is_refused_in_its_own_sentence(tmp_path):
    project = FactoryProject(Net, make_data, make_trainer)
    console, options = Console(file=StringIO()), RecordsTrialOptions("test_accuracy", "max")
    waiting = [Child(tmp_path / "seed-1", "fit", {})]
    told = "a trial before training failed: The module does not log 'test_accuracy'; it logs test_acc, test_loss. What"
    for jobs in (1, 2):
        with pytest.raises(LotteryError, match=told):
            try_before(waiting, project, tmp_path, None, options, engine.engine_of(jobs), console)


def test_a_trial_gives_no_records(tmp_path):
    child = Child(
        tmp_path, TRIAL, {"ckpt_path": None, "seed_everything": 0}, {}, RecordsTrialOptions("test_acc", "max")
    )
    assert try_out(child, "", closures(Trained)) == [] and Trained.batches == 0
    assert torch.load(tmp_path / "start.ckpt", weights_only=True)["global_step"] == 0


@LINES
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise": "order"}, "order and augmentation cannot be told apart"),  # of a loader that draws both together
        ({"noise": Perturbation(0.1, scope=Scope(include=("head*",)))}, "matches none of"),
    ],
)
def test_a_noise_that_cannot_be_made_is_refused(refused, runner, settings, says):
    assert says in refused(runner, **settings)


class TwoViews(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["one"], batch_idx)


class Views(Data):
    def train_dataloader(self):
        return {"one": plain_loader(), "two": plain_loader()}


@LINES
def test_training_batches_that_are_not_evaluated_as_test_batches_are(refused, runner):
    said = refused(runner, module=TwoViews, data=Views, train_split=True)
    assert said == "Evaluation needs one train loader, found 2 loaders."
