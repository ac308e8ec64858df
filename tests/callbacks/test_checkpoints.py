"""Checkpoints that do not belong to this fit, and arguments that mean nothing, whatever the callback."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from helpers.callbacks import BODY, CALLBACKS, EVERY, STEPS, prunes_as_asked, ticket
from helpers.projects import Batches, Odd, fit, says, trainer
from helpers.states import checkpoint, removed_are_zero
from lightning_lottery import PLATON, Cubic, ExactResume, LotteryError, MagnitudePruning, MaskFreezing, Scope, Snapshots


@EVERY
def test_a_checkpoint_of_a_run_without_the_callback_starts_it_fresh_and_says_so(make, tmp_path, caplog):
    callback, module = make(), Odd()
    fit(tmp_path, callback, module=module, ckpt=checkpoint(tmp_path))
    assert "the checkpoint has no state of it" in caplog.text
    assert callback.step == STEPS
    assert prunes_as_asked(callback)
    assert removed_are_zero(module.state_dict(), callback.masks)


def test_a_checkpoint_of_another_scope_is_refused_and_both_are_named(tmp_path):
    path = checkpoint(tmp_path, PLATON(0.5, interval=2))
    with pytest.raises(LotteryError, match=r"written with scope Scope\(exclude=.*asks for Scope\(include=\('my_mask"):
        fit(tmp_path, PLATON(0.5, interval=2, scope=Scope(include=("my_mask.*",))), ckpt=path)


def test_a_checkpoint_of_another_method_is_refused_and_both_are_named(tmp_path):
    path = checkpoint(tmp_path, MagnitudePruning(0.5, scope=BODY))
    with pytest.raises(LotteryError, match="written with method MagnitudePruning, this fit asks for PLATON"):
        fit(tmp_path, PLATON(0.5, interval=2, scope=BODY), ckpt=path)


def test_a_checkpoint_of_another_width_is_refused_by_name(tmp_path):
    callback = PLATON(0.5, interval=2)
    path = checkpoint(tmp_path, callback)
    saved = torch.load(path, weights_only=True)
    state = saved["callbacks"][callback.state_key]
    state["masks"]["tied_a.weight"] = torch.ones(3, 3, dtype=torch.bool)
    torch.save(saved, path)
    with pytest.raises(LotteryError, match="do not fit this module: tied_a.weight"):
        fit(tmp_path, PLATON(0.5, interval=2), ckpt=path)


@EVERY
def test_a_newer_state_version_is_refused(make, tmp_path):
    callback = make()
    path = checkpoint(tmp_path, callback)
    saved = torch.load(path, weights_only=True)
    saved["callbacks"][callback.state_key]["version"] = 99
    torch.save(saved, path)
    with pytest.raises(LotteryError, match="version 99, this lightning_lottery reads up to 1: upgrade"):
        fit(tmp_path, make(), ckpt=path)


def test_without_saved_state_a_resume_keeps_the_masks_restarts_the_averages_and_warns(tmp_path):
    arguments = {"interval": 2, "begin": 1, "end": 9, "save_state": False}
    path = checkpoint(tmp_path, PLATON(0.7, **arguments))
    saved = torch.load(path, weights_only=True)["callbacks"]["lightning_lottery.pruning"]
    assert "averages" not in saved
    callback, module = PLATON(0.7, **arguments), Odd()
    with says("PLATON resumes at step 6 with its masks, but without its averages"):
        fit(tmp_path, callback, module=module, ckpt=path)
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)
    assert removed_are_zero(module.state_dict(), callback.masks)


@pytest.mark.parametrize("method", [PLATON, MagnitudePruning])
def test_a_longer_fit_keeps_the_schedule_that_it_began_with_and_the_sparsity_it_reached(method, tmp_path):
    def make():
        return method(0.8, interval=2, scope=BODY)

    first = make()
    fit(tmp_path, first, Snapshots([STEPS]))
    path = tmp_path / "snapshots" / f"step={STEPS}.ckpt"
    longer = make()
    look = []

    class Look(Callback):
        lottery_order = 3

        def on_train_batch_end(self, *_):
            look.append(longer.sparsity)

    fit(tmp_path, longer, Look(), ckpt=path, max_epochs=6)
    assert longer.resolved_schedule == first.resolved_schedule
    assert len(look) == STEPS and set(look) == {first.sparsity}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sparsity": 0.9}, r"schedule Cubic\(final=0.5.*asks for Cubic\(final=0.9"),
        ({"interval": 3}, "interval 2, this fit asks for 3"),
        ({"beta1": 0.5}, "beta1 0.85, this fit asks for 0.5"),
    ],
)
def test_a_resume_that_asks_for_something_else_is_refused_and_both_are_named(change, words, tmp_path):
    arguments = {"sparsity": 0.5, "interval": 2}
    path = checkpoint(tmp_path, PLATON(**arguments))
    with pytest.raises(LotteryError, match=words):
        fit(tmp_path, PLATON(**(arguments | change)), ckpt=path)


def test_an_update_that_could_not_be_made_at_the_end_is_made_as_soon_as_it_can(tmp_path):
    arguments = {"sparsity": 0.7, "interval": 4, "begin": 1, "end": 7, "save_state": False}
    path = checkpoint(
        tmp_path, PLATON(**arguments)
    )  # after step 6: the averages begin anew, and step 7 comes too early
    callback = PLATON(**arguments)
    with says("without its averages"):
        fit(tmp_path, callback, ckpt=path)
    assert callback.sparsity == pytest.approx(0.7, abs=2e-3)


def test_a_checkpoint_saved_before_our_hook_is_counted_and_said(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "early.ckpt")

    fit(tmp_path, Saves(), CALLBACKS["MagnitudePruning"]())
    callback = CALLBACKS["MagnitudePruning"]()
    with says("saved between an optimizer step and this callback's hook"):
        fit(tmp_path, callback, ckpt=tmp_path / "early.ckpt")
    assert callback.step == STEPS and callback.sparsity == pytest.approx(0.7, abs=2e-3)


class Versioned(torch.nn.Linear):
    """Reads old checkpoints another way, as torch's own modules do."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *arguments):
        self.loaded_version = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)


def test_masked_checkpoints_keep_the_versions_of_modules(tmp_path):
    class WithVersions(Odd):
        def __init__(self):
            super().__init__()
            self.head = Versioned(12, 3)

    callback, module = MaskFreezing(ticket()), WithVersions()
    fit(tmp_path, callback, module=module).save_checkpoint(tmp_path / "end.ckpt")
    state = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    assert module.head.loaded_version == 2


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


def test_a_checkpoint_of_the_other_package_starts_fresh(tmp_path, caplog):
    theirs = pytest.importorskip("pytorch_lightning")

    path = checkpoint(tmp_path)
    saved = torch.load(path, weights_only=True)
    saved["callbacks"] = {"ModelCheckpoint{'monitor': None}": {}, "pytorch_lightning.callbacks.EarlyStopping": {}}
    saved["pytorch-lightning_version"] = theirs.__version__
    torch.save(saved, path)
    callback = CALLBACKS["PLATON"]()
    fit(tmp_path, callback, ckpt=path)
    assert "the checkpoint has no state of it" in caplog.text and callback.step == STEPS


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Snapshots(5), "list of optimizer steps >= 0, at least one, got 5"),
        (lambda: Snapshots([]), "at least one"),
        (lambda: Snapshots([1.5]), "list of optimizer steps"),
        (lambda: MaskFreezing(3), "a Ticket or the path of one, got 3"),
        (lambda: PLATON(0.5, scope="*.weight"), "`scope` is a Scope"),
        (lambda: PLATON(0.5, name=3), "must be a plain word"),
        (lambda: PLATON(0.5, name="a/b"), "must be a plain word"),
        (lambda: PLATON(0.5, interval=0), "`interval` is a number of optimizer steps >= 1"),
        (lambda: PLATON(0.5, beta1=1.0), r"`beta1` is the decay .* in \[0, 1\)"),
        (lambda: PLATON(1.0), r"must be in \[0, 1\), got 1.0"),
        (lambda: PLATON(Cubic(0.5), begin=3), "has its own begin and end"),
        (lambda: MagnitudePruning(0.5, per="layer"), "'all' or 'tensor'"),
        (lambda: MagnitudePruning(0.5, begin=20, end=10), "begins after its end"),
        (lambda: ExactResume(interval=0), "`interval` is a number of optimizer steps >= 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_when_a_callback_is_built(build, words):
    with pytest.raises(LotteryError, match=words):
        build()


@pytest.mark.parametrize("method", [PLATON, MagnitudePruning])
def test_testing_a_checkpoint_between_two_fits_of_a_trainer_changes_nothing(method, tmp_path):
    class Tested(Odd):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch))

    callback, snapshots, module = method(0.7, interval=2, scope=BODY), Snapshots([6, 14]), Tested()
    with says(r"saved nothing at \[14\]"):  # not yet
        fitted = fit(tmp_path, callback, snapshots, module=module)
    masks = callback.masks
    fitted.test(module, Batches(batches=1), ckpt_path=tmp_path / "snapshots" / "step=6.ckpt", verbose=False)
    assert all(torch.equal(masks[name], mask) for name, mask in callback.masks.items())
    fitted.fit_loop.max_epochs = 4
    fitted.fit(module, Batches(), Batches(batches=1))
    assert callback.step == fitted.global_step == STEPS + 4
    assert (tmp_path / "snapshots" / "step=14.ckpt").exists()


def test_a_checkpoint_of_other_settings_may_be_tested(tmp_path):
    class Tested(Odd):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.loss(batch))

    path = checkpoint(tmp_path, PLATON(0.5, interval=2))
    testing = trainer(tmp_path, PLATON(0.5, interval=3), Snapshots([6]))
    testing.test(Tested(), Batches(batches=1), ckpt_path=path, verbose=False)
