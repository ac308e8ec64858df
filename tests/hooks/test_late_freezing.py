"""Masks that another callback installs in the middle of a fit."""

import warnings
from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from helpers.projects import Batches, Odd, fit
from helpers.projects import trainer as make_trainer
from helpers.states import KeepEveryResume, ending, removed_are_zero, same
from lightning_lottery import ExactResume, LotteryError, Ticket
from lightning_lottery.hooks.late_freezing import LateFreezing

NAME = "my_mask.0.weight"
TICKET = Ticket({NAME: torch.arange(72).view(12, 6) % 3 == 0})


class Finder(Callback):
    """Finds its ticket at step 5."""

    def __init__(self, name=None):
        self.freezing = LateFreezing("Finder", lambda module: {NAME: module.get_parameter(NAME)}, name=name)
        self.sparsities, self.steps = [], []

    def setup(self, trainer, pl_module, stage):
        self.freezing.join(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 5:
            self.freezing.install(TICKET, 0.7)

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.sparsities.append(self.freezing.sparsity)
        assert removed_are_zero(pl_module.state_dict(), self.freezing.masks)


def test_everything_is_kept_until_a_ticket_is_installed_and_its_masks_hold_from_that_step_on(tmp_path):
    finder, module = Finder(), Odd()
    fit(tmp_path, finder, module=module)
    assert finder.sparsities[:5] == [0.0] * 5 and len(finder.sparsities) == 12
    assert all(a == b for a, b in pairwise(finder.sparsities[5:])) and finder.sparsities[5] == TICKET.sparsity
    assert same(finder.freezing.masks, dict(TICKET.masks)) and finder.freezing.step == 12
    assert not module.get_parameter(NAME)[~TICKET.masks[NAME]].any()
    assert Ticket.load(tmp_path / "ticket.safetensors").hamming(TICKET) == 0


def test_without_a_ticket_nothing_is_masked_and_no_file_is_written(tmp_path):
    finder = Finder()
    finder.on_train_batch_end = lambda *_: None
    fit(tmp_path, finder)
    assert finder.freezing.sparsity == 0.0 and list(tmp_path.iterdir()) == []
    with pytest.raises(LotteryError, match="Finder has installed no ticket"):
        finder.freezing.ticket()


def test_masks_that_were_installed_resume_after_any_step(tmp_path):
    def run(folder, *more, **arguments):
        torch.manual_seed(0)
        finder = Finder()
        return ending(fit(folder, finder, ExactResume(interval=1), *more, module=Odd(), **arguments), finder.freezing)

    whole = run(tmp_path / "whole", KeepEveryResume(tmp_path / "whole", tmp_path / "points"))
    for step in (3, 5, 6, 11):
        assert same(run(tmp_path / str(step), ckpt=tmp_path / "points" / f"{step}.ckpt"), whole), step


def test_it_stands_in_the_callbacks_once_and_what_cannot_be_frozen_is_refused_before_the_first_step(tmp_path):
    finder = Finder()
    trainer = fit(tmp_path, finder)
    trainer.fit_loop.max_epochs = 4
    finder.setup(trainer, trainer.lightning_module, "fit")
    assert trainer.callbacks.count(finder.freezing) == 1
    with pytest.raises(LotteryError, match="Finder cannot freeze weights under LBFGS"):
        fit(tmp_path, Finder(), module=Odd(optimizer="lbfgs"))


def test_who_tests_a_checkpoint_is_not_asked_for_a_callback_that_nobody_builds(tmp_path):
    fit(tmp_path, Finder()).save_checkpoint(tmp_path / "end.ckpt")
    finder, module = Finder(), Odd()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(tmp_path, finder).validate(module, Batches(seed=4), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    asked = [str(warning.message) for warning in caught if "callbacks used to create the checkpoint" in str(warning)]
    assert asked == [] and not finder.freezing.masks  # nothing goes on from there
    assert not module.get_parameter(NAME)[~TICKET.masks[NAME]].any()
