"""What a notebook shows: plain calls and tables in HTML."""

import copy
import pickle

import pytest
import torch
from rich.table import Table
from rich.text import Text

from lightning_lottery import (
    PLATON,
    Constant,
    EarlyBird,
    HammingFIFO,
    InstabilityAnalysis,
    InstabilitySweep,
    IterativePruning,
    MaskFreezing,
    NetworkSlimming,
    Scope,
    Snapshots,
    SynFlow,
    Ticket,
)
from lightning_lottery.notebook import call_of, html_of, html_of_table

TICKET = Ticket({"net.weight": torch.tensor([[True, False], [False, False]])}, provenance={"method": "PLATON"})


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (PLATON(0.8), "PLATON(sparsity=0.8)"),
        (PLATON(sparsity=0.8, beta1=0.85, name="a"), "PLATON(sparsity=0.8, name='a')"),
        (PLATON(Constant(0.5, begin=3)), "PLATON(sparsity=Constant(final=0.5, begin=3))"),
        (SynFlow(0.5, at_step=10), "SynFlow(sparsity=0.5, at_step=10)"),
        (NetworkSlimming(), "NetworkSlimming()"),
        (Snapshots([0, 5]), "Snapshots(steps=[0, 5])"),
        (MaskFreezing(TICKET), "MaskFreezing(ticket=Ticket(1 parameters, sparsity 0.7500, PLATON))"),
        (EarlyBird([], [0.5], at=[3]), "EarlyBird(rules=[], sparsities=[0.5], at=[3])"),
        (InstabilityAnalysis(), "InstabilityAnalysis()"),
        (InstabilityAnalysis(seeds=(1, 2, 3), threshold=0.02), "InstabilityAnalysis(seeds=(1, 2, 3))"),
        (InstabilitySweep(steps=(0, 5), pruners={}), "InstabilitySweep(steps=(0, 5))"),
        (IterativePruning(levels=3), "IterativePruning(levels=3)"),
    ],
)
def test_callbacks_and_experiments_show_as_they_would_be_written(shown, text):
    assert repr(shown) == text


def test_a_copy_shows_as_what_it_was_copied_from():
    callback = PLATON(0.8, scope=Scope(include=("a.*",)))
    assert repr(copy.deepcopy(callback)) == repr(pickle.loads(pickle.dumps(callback))) == repr(callback)
    assert "include=('a.*',)" in repr(callback)


def test_what_was_made_otherwise_has_a_call_all_the_same():
    assert call_of(PLATON, (), {"sparsty": 0.5}) == "PLATON(...)"
    assert repr(PLATON.__new__(PLATON)) == "PLATON(...)"
    rules = [HammingFIFO()]
    assert repr(EarlyBird(rules, [0.5])).startswith("EarlyBird(rules=[HammingFIFO(")


def test_a_table_keeps_every_cell_and_markup_is_no_text():
    table = Table("name", "[i]value[/i]", title="a [b]title[/b] <1>", caption="note")
    table.add_row("[bold]x & y[/bold]", Text("0.5"))
    html = html_of_table(table, ["It is <so>."])
    for part in ("a title &lt;1&gt;", ">name<", ">value<", ">x &amp; y<", ">0.5<", "<p>note</p>", "It is &lt;so&gt;."):
        assert part in html
    assert "[bold]" not in html and "<so>" not in html


@pytest.mark.parametrize(("text", "side"), [("0.5", "right"), ("-0.1 to 1", "right"), ("dense", "left"), ("", "left")])
def test_numbers_stand_to_the_right(text, side):
    assert f'<td style="text-align:{side}">{text}</td>' in html_of("", ["a"], [[text]])


def test_a_ticket_shows_its_layers():
    html = TICKET._repr_html_()
    for part in ("Ticket of PLATON", "net.weight", "2 × 2", ">1<", ">4<", "75.0%"):
        assert part in html


def test_a_ticket_of_units_shows_them():
    html = Ticket({}, units={"layers.0.heads": torch.tensor([True, False])})._repr_html_()
    assert "layers.0.heads" in html and "50.0%" in html
