"""Checkpoints that do not belong to this fit are refused or start it fresh; those that do are gone on from."""

import copy
import math
import random
from functools import reduce

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from helpers.blocks import Blocks
from helpers.callbacks import BODY, CALLBACKS, EVERY, STEPS, prunes_as_asked
from helpers.projects import Batches, Odd, fit, says, trainer
from helpers.states import checkpoint, removed_are_zero
from lightning_lottery import (
    PLATON,
    EarlyBird,
    ExactResume,
    HammingFIFO,
    LotteryError,
    MagnitudePruning,
    NetworkSlimming,
    Scope,
    Snapshots,
)
from lightning_lottery.hooks.resuming import check_state

STATE = {"version": 1, "method": "PLATON", "settings": {"interval": 2}}


def test_state_of_the_same_callback_passes_and_any_other_is_named():
    check_state(STATE, 1, "PLATON", {"method": "PLATON", "interval": 2})
    check_state(STATE, 2, "PLATON", {"method": "PLATON", "interval": 2})
    with pytest.raises(LotteryError, match="state of PLATON 'a' in version 1, this lightning_lottery reads up to 0"):
        check_state(STATE, 0, "PLATON 'a'", {"method": "PLATON", "interval": 2})
    with pytest.raises(LotteryError, match="written with method PLATON, this fit asks for SynFlow: resume with the"):
        check_state(STATE, 1, "SynFlow", {"method": "SynFlow", "interval": 2})
    with pytest.raises(LotteryError, match="written with interval 2, this fit asks for 3"):
        check_state(STATE, 1, "PLATON", {"method": "PLATON", "interval": 3})


@EVERY
def test_a_checkpoint_of_a_run_without_the_callback_starts_it_fresh_and_says_so(make, tmp_path, caplog):
    callback, module = make(), Odd()
    fit(tmp_path, callback, module=module, ckpt=checkpoint(tmp_path))
    assert "where this fit does" in caplog.text
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


def test_a_checkpoint_of_the_other_package_starts_fresh(tmp_path, caplog):
    theirs = pytest.importorskip("pytorch_lightning")

    path = checkpoint(tmp_path)
    saved = torch.load(path, weights_only=True)
    saved["callbacks"] = {"ModelCheckpoint{'monitor': None}": {}, "pytorch_lightning.callbacks.EarlyStopping": {}}
    saved["pytorch-lightning_version"] = theirs.__version__
    torch.save(saved, path)
    callback = CALLBACKS["PLATON"]()
    fit(tmp_path, callback, ckpt=path)
    assert "where this fit does" in caplog.text and callback.step == STEPS


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


# Damaged and hostile state

HOSTILE = (None, -5, 10**9, 0.5, math.nan, "x", [], {}, [1, "a"], True, torch.tensor([2], dtype=torch.int8))


def with_every_leaf_replaced(state, chance, number):
    """Copies of a state, each with one value in it, a whole branch perhaps, replaced by what cannot be meant."""
    paths, queue = [], [()]
    while queue:
        path = queue.pop()
        value = reduce(lambda branch, key: branch[key], path, state)
        keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        queue += [(*path, key) for key in keys]
        paths += [path] * bool(path)
    for path in chance.choices(paths, k=number):
        copied = copy.deepcopy(state)
        branch = reduce(lambda branch, key: branch[key], path[:-1], copied)
        value = branch[path[-1]]
        mangled = (value.to(torch.int8) * 2, value.flatten()[:1], value * math.nan) if torch.is_tensor(value) else ()
        branch[path[-1]] = chance.choice((*HOSTILE, *mangled))
        yield path, branch[path[-1]], copied


def slimming_and_early_bird():
    return NetworkSlimming(), EarlyBird([HammingFIFO(2, 0.9, interval=2, min_steps=4)], [0.5], action="prune")


SAVING = {name: (Odd, lambda make=make: (make(),)) for name, make in CALLBACKS.items()}
SAVING["NetworkSlimming and EarlyBird"] = Blocks, slimming_and_early_bird


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [6, pytest.param(60, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", SAVING)
def test_state_that_cannot_be_is_refused_in_a_sentence_or_harmless(name, number, tmp_path, record_property):
    record_property("campaign", ["checkpoints' states", number, 0])
    module, make = SAVING[name]
    torch.manual_seed(0)
    fit(tmp_path, *make(), ExactResume(), Snapshots([6]), module=module())
    good = torch.load(tmp_path / "snapshots" / "step=6.ckpt", weights_only=True)
    ours = good["callbacks"] | {"lightning_lottery.logged": good["lightning_lottery.logged"]}
    for path, value, state in with_every_leaf_replaced(ours, random.Random(name), number):
        bad = good | {"lightning_lottery.logged": state.pop("lightning_lottery.logged")}
        bad["callbacks"] = state
        torch.save(bad, tmp_path / "bad.ckpt")
        try:
            fit(tmp_path / "again", *make(), ExactResume(), module=module(), ckpt=tmp_path / "bad.ckpt")
        except LotteryError:
            pass
        except Exception as error:
            raise AssertionError(f"{path} = {value!r}") from error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["clock"].update(step=10**9), "of step 1000000000, and the fit goes on at 6"),
        (lambda state: state["clock"].update(step=-5), "count of optimizer steps"),
        (lambda state: state.update(clock=None), "state of PLATON is not what it writes"),
        (lambda state: state.update(masks={n: m.float() for n, m in state["masks"].items()}), "bool tensors"),
        (lambda state: state.update(masks={n: m.char() * 2 for n, m in state["masks"].items()}), "bool tensors"),
        (lambda state: state.update(target=-1.0), "sparsity is none"),
        (lambda state: state["averages"].update(dict.fromkeys(state["averages"], {})), "averages do not fit"),
        (lambda state: next(iter(state["averages"].values()))["tied_a.weight"].fill_(math.nan), "finite"),
    ],
)
def test_what_cannot_be_is_named(change, words, tmp_path):
    path = checkpoint(tmp_path, PLATON(0.7, interval=2, begin=1, end=9))
    saved = torch.load(path, weights_only=True)
    change(saved["callbacks"][PLATON(0.5).state_key])
    torch.save(saved, path)
    with pytest.raises(LotteryError, match=words):
        fit(tmp_path, PLATON(0.7, interval=2, begin=1, end=9), ckpt=path)
