"""DynamicMask moves as many weights as it may, and no other; the laws of every callback: `test_contract.py`."""

import math
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from helpers.callbacks import BODY, STEPS, scaler
from helpers.projects import Odd, fit, says
from helpers.states import same
from lightning_lottery import DynamicMask, LotteryError, MaskFreezing
from lightning_lottery.functional import count, drop_and_grow, drop_fraction, layer_counts


class Sees(Callback):
    """What there is at each step before masks move: gradients, weights, masks; and afterwards: masks, momentum."""

    lottery_order = 0.5

    def __init__(self, callback):
        self.callback, self.gradients, self.weights, self.before, self.after, self.state = callback, {}, {}, {}, {}, {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        params = self.callback.parameters
        self.gradients[trainer.global_step + 1] = {name: p.grad.abs().clone() for name, p in params.items()}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights[trainer.global_step] = {n: p.detach().clone() for n, p in self.callback.parameters.items()}
        self.before[trainer.global_step] = self.callback.masks

    def on_train_batch_start(self, trainer, pl_module, *_):
        step, (optimizer,) = trainer.global_step, trainer.optimizers
        self.after[step] = self.callback.masks
        self.state[step] = {
            name: {key: value.clone() for key, value in optimizer.state[param].items() if key != "step"}
            for name, param in self.callback.parameters.items()
        }
        for name, param in self.callback.parameters.items():
            assert not param[~self.callback.masks[name]].any()


def seen(tmp_path, optimizer="adamw", **arguments):
    callback = DynamicMask(0.7, interval=2, end=10, drop_fraction=0.5, scope=BODY, **arguments)
    sees = Sees(callback)
    fit(tmp_path, sees, callback, module=Odd(optimizer=optimizer))
    return callback, sees


@pytest.mark.parametrize("layers", ["erk", "uniform"])
def test_every_update_drops_the_smallest_grows_the_steepest_and_keeps_each_layers_count(layers, tmp_path):
    callback, sees = seen(tmp_path, layers=layers)
    counts = layer_counts(layers, {name: param.shape for name, param in sees.weights[1].items()}, 0.7)
    moved = set()
    for step in range(1, STEPS):
        assert {name: count({name: mask})[0] for name, mask in sees.after[step].items()} == counts
        expected = sees.before[step]
        if step in (2, 4, 6, 8):
            magnitudes = {name: weight.abs() for name, weight in sees.weights[step].items()}
            expected = drop_and_grow(magnitudes, sees.gradients[step], expected, drop_fraction(step, 10, 0.5))
        assert same(dict(sees.after[step]), dict(expected)), step
        moved |= {step for name in expected if not torch.equal(expected[name], sees.before[step][name])}
    assert moved == {2, 4, 6, 8}
    assert same(callback.masks, sees.after[STEPS - 1])


@pytest.mark.parametrize("optimizer", ["adamw", "amsgrad", "nesterov"])
@pytest.mark.parametrize("clipped", [True, False], ids=["gradients are masked", "gradients are left alone"])
def test_what_grows_begins_at_zero_without_a_past_and_what_stays_keeps_value_and_state(optimizer, clipped, tmp_path):
    callback = DynamicMask(0.5, interval=2, end=10, drop_fraction=0.9, scope=BODY)
    sees = Sees(callback)
    grown = stayed = 0

    class Looks(Callback):
        lottery_order = 2

        def on_train_batch_end(self, trainer, pl_module, *_):
            nonlocal grown, stayed
            if trainer.global_step not in (2, 4, 6, 8):
                return
            (optimizer,) = trainer.optimizers
            for name, param in callback.parameters.items():
                mask, before = callback.masks[name], sees.before[trainer.global_step][name]
                new, same_place = mask & ~before, mask & before
                grown, stayed = grown + int(new.sum()), stayed + int(same_place.sum())
                assert not param[new].any()
                assert torch.equal(param[same_place], sees.weights[trainer.global_step][name][same_place])
                for key, value in optimizer.state[param].items():
                    if key != "step" and value is not None:
                        assert not value[new].any() and not value[~mask].any()
                        assert value[same_place].any()

    clipping = {"gradient_clip_val": 10.0} if clipped else {}
    fit(tmp_path, sees, callback, Looks(), module=Odd(optimizer=optimizer), **clipping)
    assert grown and stayed


def test_gradients_of_removed_weights_are_looked_at_only_in_the_steps_after_which_they_grow(tmp_path):
    callback, looks = DynamicMask(0.7, interval=3, end=10, scope=BODY), []

    class Looks(Callback):
        lottery_order = 2

        def on_train_batch_end(self, trainer, pl_module, *_):
            assert not callback._growth

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if callback._growth:
                looks.append(trainer.global_step + 1)

    fit(tmp_path, callback, Looks(), module=Odd())
    assert looks == [3, 6, 9]


def test_the_seed_draws_the_first_masks_and_what_grows_at_random_and_is_the_fits_by_default(tmp_path):
    def masks(**arguments):
        """At first and in the end."""
        callback, sees = seen(tmp_path, **arguments)  # a fit under seed 1
        return sees.after[0], callback.masks

    default, explicit, another = (masks(grow="random", **seed) for seed in ({}, {"seed": 1}, {"seed": 2}))
    assert same(default, explicit)
    assert not same(explicit[0], another[0])
    steepest = masks(seed=1)
    assert same(steepest[0], explicit[0]) and not same(steepest[1], explicit[1])


def test_a_step_without_finite_gradients_moves_nothing_and_says_so(tmp_path):
    class Poison(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 3:
                pl_module.tied_a.weight.grad[0, 0] = torch.nan

    callback = DynamicMask(0.7, interval=4, end=6, scope=BODY)
    sees = Sees(callback)
    with says("DynamicMask moves no weight at step 4: gradients are not finite", times=1):
        fit(tmp_path, sees, callback, Poison(), module=Odd(), max_steps=6, max_epochs=-1)
    assert same(sees.after[4], sees.after[3])


def test_a_step_that_a_scaler_skips_is_no_step_and_the_next_one_moves(tmp_path):
    callback = DynamicMask(0.7, interval=2, end=10, scope=BODY)
    sees = Sees(callback)
    fit(tmp_path, sees, callback, module=Odd(), plugins=[scaler(2.0**22)], max_epochs=8)
    assert 10 < callback.step < 8 * 4
    assert any(not same(sees.after[step], sees.before[step]) for step in sees.after if step in sees.before)


def test_a_layer_that_no_gradient_reaches_keeps_its_mask_which_is_said(tmp_path):
    class Unused(Odd):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Linear(12, 12)

    callback = DynamicMask(0.7, interval=4, end=6, scope=BODY)
    with says("no gradient reaches unused.weight at step 4: masks there stay", times=1):
        fit(tmp_path, callback, module=Unused(), max_steps=6, max_epochs=-1)
    assert count(callback.masks)[0] == round(0.3 * count(callback.masks)[1])


def test_its_ticket_trains_alone_and_its_history_says_how_far_masks_moved(tmp_path):
    callback, sees = seen(tmp_path / "a")
    ticket = callback.ticket()
    assert ticket.provenance["method"] == "DynamicMask"
    frozen = MaskFreezing(ticket)
    fit(tmp_path / "b", frozen, module=Odd())
    assert same(frozen.masks, callback.masks)
    rows = (tmp_path / "a" / "pruning.csv").read_text().splitlines()
    assert len(rows) > 4


def test_explanations_say_what_each_layer_keeps_and_what_moves(tmp_path):
    callback, seen_sheets = DynamicMask(0.7, interval=2, end=10, scope=BODY), []

    class Asks(Callback):
        def on_train_start(self, trainer, pl_module):
            seen_sheets.append(callback.explanation(pl_module))

    fit(tmp_path, callback, Asks(), module=Odd())
    sheet = seen_sheets[0].schedule
    assert "70 % is removed at all times; every 2 steps before step 10" in sheet.title
    kept = {name: int(number.replace(",", "")) for name, _, number, _ in sheet.rows}
    assert kept == {name: int(mask.sum()) for name, mask in callback.masks.items()}
    moved = {name: int(number) for name, _, _, number in sheet.rows}
    assert moved == {name: math.floor(drop_fraction(2, 10, 0.3) * number) for name, number in kept.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grow": "steep"}, "`grow` is 'gradient' or 'random'"),
        ({"layers": "er"}, "`layers` is 'erk' or 'uniform'"),
        ({"drop_fraction": 0.0}, "`drop_fraction`"),
        ({"seed": -1}, "`seed`"),
        ({"interval": 0}, "`interval`"),
        ({"sparsity": 1.0}, "`sparsity`"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_built(arguments, message):
    with pytest.raises(LotteryError, match=message):
        DynamicMask(**{"sparsity": 0.7, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 10, "end": 10}, "would move no weight: its first update is at step 10"),
        ({"interval": 2, "end": 13}, "moves weights for the last time at step 13, but this fit ends at step 12"),
    ],
)
def test_a_fit_in_which_nothing_would_move_or_that_ends_before_is_refused(arguments, message, tmp_path):
    with pytest.raises(LotteryError, match=message), warnings.catch_warnings():
        fit(tmp_path, DynamicMask(0.7, scope=BODY, **arguments), module=Odd())
