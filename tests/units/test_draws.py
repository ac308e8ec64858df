"""Draws: tickets at stated times and by probes, and their state."""

import pytest
import torch
from torch import nn

from helpers.blocks import Blocks
from helpers.models import encoder, half, output, randomised
from helpers.states import same
from lightning_lottery import HammingFIFO, LotteryError
from lightning_lottery.units.draws import Draws, check_what_draws, frame_of, name_of, readers, unit_ticket
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import shrink
from lightning_lottery.units.watcher import PER, UnitWatcher, in_order


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Blocks()


def judged(module, step=5):
    """A watcher whose only probe, at step 5, has found settled masks."""
    watcher = UnitWatcher(in_order(groups_of(module)), {"H": HammingFIFO(2, 0.9, interval=step)}, [0.25, 0.5], PER)
    rows = torch.rand(2, sum(group.size for group in watcher.groups.values()))
    for number, row in enumerate(rows, start=1):
        watcher.note(number * step, number, row)
    return watcher, watcher.judge(watcher.take()).probes


def test_times_are_steps_fractions_or_drawn_by_the_seed_and_stay_drawn(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    draws = Draws("weights")
    draws.plan([3, 0.2, 0.001, 1.0], 40, is_cut_short=False)
    assert draws.times == {3: ["at=3"], 8: ["at=0.2"], 1: ["at=0.001"], 40: ["at=1.0"]}
    draws.plan(["random"], 40, is_cut_short=False)
    (step,) = draws.times
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    draws.plan(["random"], 40, is_cut_short=False)
    assert list(draws.times) == [step] and 1 <= step <= 40


def test_a_time_after_the_end_or_of_an_endless_fit_is_refused_but_not_in_a_fit_that_is_cut_short(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    draws = Draws("weights")
    with pytest.raises(LotteryError, match="draw at step 41, but this fit ends at step 40"):
        draws.plan([41], 40, is_cut_short=False)
    draws.plan([41], 1, is_cut_short=True)
    draws.plan([41], None, is_cut_short=False)
    with pytest.raises(LotteryError, match="draw at 0.2 of a fit whose number of steps nobody knows beforehand"):
        draws.plan([0.2], None, is_cut_short=False)
    with pytest.raises(LotteryError, match="draw at a random step, and this run has no seed"):
        draws.plan(["random"], 40, is_cut_short=False)


def test_a_probe_draws_all_kinds_and_what_no_rule_has_drawn_is_listed(module):
    watcher, probes = judged(module)
    draws = Draws("weights")
    draws.begin(module, watcher)
    assert draws.draw_by(probes[0], module, watcher) == []
    name = name_of(probes[0].rule, probes[0].kind, probes[0].sparsity)
    assert name == "H-head-0.25" and draws.has_settled(name) and list(draws.settled()) == [name]
    ticket = draws.tickets[name]
    assert same(dict(ticket.units), watcher.watch.masks(0.25))
    assert ticket.provenance["initial_weights"] == ticket.provenance["weights"]
    assert ticket.provenance["watched"] == "head" and "holds" not in ticket.provenance
    assert list(draws.never_settled(watcher)) == ["H-neuron-0.25", "H-head-0.5", "H-neuron-0.5"]


def test_a_stated_time_draws_every_sparsity_and_settles_nothing(module):
    watcher, _ = judged(module)
    draws = Draws("weights")
    draws.plan([10, 0.25], 40, is_cut_short=False)
    draws.draw_at_times(module, watcher)
    assert list(draws.tickets) == ["at=10-0.25", "at=10-0.5", "at=0.25-0.25", "at=0.25-0.5"]
    assert draws.settled() == {} and len(draws.never_settled(watcher)) == 4


def test_scores_that_are_all_equal_draw_nothing_and_say_so(module):
    watcher = UnitWatcher(in_order(groups_of(module)), {"H": HammingFIFO(2, interval=5)}, [0.5], PER)
    watcher.note(5, 4, torch.ones(sum(group.size for group in watcher.groups.values())))
    watcher.judge(watcher.take())
    draws = Draws("weights")
    draws.plan([5], 40, is_cut_short=False)
    (sentence,) = draws.draw_at_times(module, watcher)
    assert sentence == " draws no 'at=5-0.5': the scores at step 5 are all equal, or not finite."
    assert draws.tickets == {}


def test_tickets_come_back_from_the_state_with_their_masks(module):
    watcher, probes = judged(module)
    draws, again = Draws("weights"), Draws("weights")
    draws.begin(module, watcher)
    draws.draw_by(probes[-1], module, watcher)
    again.load_state_dict(draws.state_dict(), frame_of(module, watcher.groups))
    assert same(again.state_dict(), draws.state_dict())
    for name, ticket in draws.tickets.items():
        assert same(dict(again.tickets[name].masks), dict(ticket.masks))


@pytest.mark.parametrize(
    ("rules", "sparsities", "at", "message"),
    [
        ([], [0.5], [], "without a rule and without steps"),
        ([HammingFIFO(), HammingFIFO()], [0.5], [], "names the same rule twice"),
        ([], 0.5, [3], "`sparsities` is a list of different fractions"),
        ([], [0.5], [True], "`at` is optimizer steps >= 1"),
    ],
)
def test_what_draws_nothing_or_cannot_be_meant_is_refused(rules, sparsities, at, message):
    with pytest.raises(LotteryError, match=message):
        check_what_draws(rules, sparsities, at)


def test_the_ticket_of_units_masks_the_weights_that_read_them_and_applies_to_a_whole_module():
    torch.manual_seed(0)
    model, inputs = randomised(encoder()), torch.randn(3, 5, 16)
    units = half(groups_of(model))
    ticket = unit_ticket(model, groups_of(model), units, {"step": 3})
    assert ticket.provenance["step"] == 3 and ticket.masks.keys() == readers(model, groups_of(model)).keys()
    small = shrink(model, ticket)
    ticket.apply(model)
    torch.testing.assert_close(output(small, inputs), output(model, inputs))


def test_the_readers_of_units_are_named_once_and_first_where_they_are_tied():
    model = nn.ModuleDict({"a": encoder(), "b": nn.Linear(24, 16)})
    model["b"].weight = model["a"].layers[0].linear2.weight
    groups = groups_of(model)
    expected = {part.parameter for group in groups.values() for part in group.consumers}
    assert readers(model, groups).keys() == expected
    tied = nn.ModuleDict({"b": model["b"], "a": model["a"]})
    assert "b.weight" in readers(tied, groups_of(tied)) and "a.layers.0.linear2.weight" not in readers(tied, groups)
    masks = unit_ticket(tied, groups_of(tied), {"a.layers.0.linear1": torch.arange(24) < 3}, {}).masks
    assert "b.weight" in masks


def test_a_mask_of_no_group_makes_no_ticket():
    model = encoder()
    with pytest.raises(LotteryError, match="no group of units 'nowhere'"):
        unit_ticket(model, groups_of(model), {"nowhere": torch.ones(2).bool()}, {})


def test_the_table_has_a_row_for_each_ticket_with_who_drew_it_when_and_why(module):
    watcher, probes = judged(module)
    draws = Draws("weights")
    draws.plan([10], 40, is_cut_short=False)
    draws.draw_at_times(module, watcher)
    settled = next(probe for probe in probes if probe.verdict.settled)
    draws.draw_by(settled, module, watcher)
    first, second, third = draws.rows()
    assert [(row["ticket"], row["rule"], row["kind"], row["sparsity"]) for row in (first, second)] == [
        ("at=10-0.25", "at=10", "", 0.25),
        ("at=10-0.5", "at=10", "", 0.5),
    ]
    assert (first["step"], first["settled"], first["p_value"]) == (10, False, None)
    assert (third["ticket"], third["rule"], third["kind"]) == (
        name_of(settled.rule, settled.kind, settled.sparsity),
        "H",
        settled.kind,
    )
    assert third["settled"] and third["statistic"] == settled.verdict.statistic
