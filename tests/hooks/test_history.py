"""What a pruned fit remembers for its picture: bounded, exact, and the same after a resume."""

import math
import random

import pytest
import torch

from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.hooks.history import Curve, History


def curve(values):
    made = Curve()
    for step, value in enumerate(values, start=1):
        made.add(step, value)
    return made


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 1001, 5000, 13_000])
def test_a_curve_has_a_thousand_points_at_most_and_each_is_the_mean_of_as_many_values(length):
    chance = random.Random(length)
    values = [chance.random() for _ in range(length)]
    made = curve(values)
    many = made.per_point
    assert len(made.points) <= 1000 and (length < 1000 or len(made.points) >= 500)
    parts = [values[i : i + many] for i in range(0, length, many)]
    assert [value for _, value in made.points] == pytest.approx([sum(part) / len(part) for part in parts])
    assert [step for step, _ in made.points] == [min(length, i + many) for i in range(0, length, many)]


def history(steps, layers=3, interval=7, every=2):
    """Of so many steps, with an update at every so many of them."""
    made = History()
    go_on(made, range(1, steps + 1), layers, interval, every)
    return made


def go_on(made, steps, layers=3, interval=7, every=2):
    for step in steps:
        made.see(step, {"loss": torch.tensor(1 / step)}, interval)
        if step % every == 0:
            counts = [(100 - (step + layer) % 90, 100) for layer in range(layers)]
            made.update(step, min(1.0, step / 2000), counts, 1 / step)


@pytest.mark.parametrize("steps", [10, 999, 1003, 1998, 2000, 2002, 4100])
def test_updates_are_evenly_spaced_but_for_the_last_which_is_always_there(steps):
    made = history(steps)
    noted = [update.step for update in made.updates]
    gap = noted[1] - noted[0]
    assert noted[-1] == steps - steps % 2 and len(noted) <= 500
    assert noted[:-1] == [noted[0] + gap * i for i in range(len(noted) - 1)] and noted[-1] - noted[-2] <= gap
    assert made.updates[-1].layers.tolist() == pytest.approx([(noted[-1] + layer) % 90 / 100 for layer in range(3)])


def test_an_update_of_the_same_step_takes_the_place_of_the_one_before():
    made = History()
    made.update(0, 0.0, [(4, 4)], None)
    made.update(0, 0.5, [(2, 4)], 0.5)
    made.update(3, 0.5, [(1, 4)], 0.25)
    assert [(u.step, u.target, u.sparsity) for u in made.updates] == [(0, 0.5, 0.5), (3, 0.5, 0.75)]
    assert made.change.points == [(0, 0.5), (3, 0.25)]


@pytest.mark.parametrize("point", [1, 5, 6, 500, 1501, 2003])
def test_it_goes_on_from_its_state_as_if_never_broken_off_whenever_it_asked_the_device(point):
    whole, first, second = history(2100), history(point), History()
    second.load_state_dict(first.state_dict(), 3)
    assert same(second.state_dict(), first.state_dict())
    go_on(second, range(point + 1, 2101), interval=50)
    assert same(second.state_dict(), whole.state_dict())
    names = ["a", "b", "c"]
    assert second.rows(names) == whole.rows(names)


def test_its_state_is_small_and_loads_as_plain_values(tmp_path):
    made = history(20_000, layers=73, every=10)
    torch.save(made.state_dict(), tmp_path / "state")
    assert (tmp_path / "state").stat().st_size < 200_000
    again = History()
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True), 73)


def test_losses_wait_on_their_device_and_are_asked_for_together(monkeypatch):
    asked, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: asked.append(len(tensors)) or stack(tensors))
    made = History()
    for step in range(1, 251):
        made.see(step, {"loss": torch.tensor(1.0)}, 1000)
    assert asked == [100, 100] and len(made.loss.points) == 200
    made.fetch(), made.fetch()
    assert asked == [100, 100, 50] and len(made.loss.points) == 250


def test_a_loss_is_copied_taken_from_where_it_may_be_and_nothing_else_is_taken_for_one():
    made, reused = History(), torch.tensor(1.0)
    for step, outputs in enumerate([reused, {"loss": 2.0}, None, {}, {"loss": torch.ones(3)}, "no", 3], start=1):
        made.see(step, outputs, 100)
        reused.fill_(9.0)
    made.see(8, {"loss": torch.tensor([4.0], dtype=torch.bfloat16)}, 1)
    assert made.loss.points == [(1, 1.0), (2, 2.0), (7, 3.0), (8, 4.0)]


def test_one_that_is_not_kept_notes_nothing_and_takes_nothing_over():
    made, kept = History(is_kept=False), history(20)
    go_on(made, range(1, 20))
    made.load_state_dict(kept.state_dict(), 3)
    assert same(made.state_dict(), History().state_dict()) and made.rows([]) == []


def test_rows_hold_what_is_known_of_each_step_in_order():
    made = History()
    made.update(0, 0.0, [(4, 4), (0, 0)], None)
    made.see(1, torch.tensor(2.0), 1)
    made.see(2, torch.tensor(math.nan), 1)
    made.update(2, 0.5, [(2, 4), (0, 0)], 0.5)
    first, second, third = made.rows(["a", "b"])
    assert first == {"step": 0, "target": 0.0, "sparsity": 0.0, "removed of a": 0.0, "removed of b": 0.0}
    assert second == {"step": 1, "loss": 2.0}
    assert third["removed of a"] == third["change"] == third["target"] == 0.5 and math.isnan(third["loss"])


DAMAGES = {
    "other layers": lambda state: state.update(layers=torch.zeros(len(state["steps"]), 2)),
    "fewer rows": lambda state: state.update(removed=state["removed"][1:]),
    "steps that do not rise": lambda state: state.update(steps=state["steps"].flip(0)),
    "fractions beyond 1": lambda state: state["layers"].fill_(1.5),
    "no fractions": lambda state: state["removed"].fill_(math.nan),
    "no stride": lambda state: state.update(stride=0),
    "a curve of other values": lambda state: state["loss"].update(means=state["loss"]["means"][1:]),
    "a curve of no points": lambda state: state["loss"].update(per_point=3),
    "more than a point": lambda state: state["loss"].update(rest=[1.0, 5, 9]),
    "a matrix for a row": lambda state: state["change"].update(steps=torch.zeros(2, 2)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_state_that_is_no_history_of_these_layers_is_refused(damage):
    state = history(20).state_dict()
    damage(state)
    with pytest.raises(LotteryError, match="The checkpoint's (history|curve)"):
        History().load_state_dict(state, 3)
