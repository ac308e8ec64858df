"""A watcher of units: what it notes, when it fetches, and that it goes on from its state."""

import csv

import pytest
import torch

from helpers.blocks import Blocks
from helpers.states import same
from lightning_lottery import ADF, HammingFIFO, LotteryError, SlopeEquivalence
from lightning_lottery.functional.settling.detector import Settled
from lightning_lottery.functional.settling.watch import Watch
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.watcher import PER, UnitWatcher, check_per, in_order, layers_by_kind

GROUPS = in_order(groups_of(Blocks()))
UNITS = sum(group.size for group in GROUPS.values())
NORMS = {"ADF": ADF(0.9, smoothing=1, window=20, interval=10)}
MASKS = {"HammingFIFO": HammingFIFO(2, 0.9, interval=5)}


def scores(step):
    return torch.rand(UNITS, generator=torch.Generator().manual_seed(step))


def watch(watcher, steps):
    """What an EarlyBird does at each step; the rows that were fetched, and what was judged."""
    fetched = []
    for step in steps:
        if watcher.looks_at(step):
            watcher.note(step, step - 1, scores(step))
        if watcher.is_due(step):
            noted = watcher.take()
            fetched.append(noted)
            watcher.judge(noted)
    return fetched


def test_scores_stand_kind_by_kind_and_layer_by_layer():
    shuffled = dict(reversed(GROUPS.items()))
    assert list(layers_by_kind(in_order(shuffled))) == ["head", "neuron"]
    assert [group.kind for group in in_order(shuffled).values()] == ["head", "head", "neuron", "neuron"]


def test_rules_on_norms_see_every_step_and_rules_on_masks_their_probes_and_the_times_of_draws():
    fetched = watch(UnitWatcher(GROUPS, NORMS, [0.5], PER), range(1, 26))
    assert [noted.steps for noted in fetched] == [list(range(1, 11)), list(range(11, 21))]
    watcher = UnitWatcher(GROUPS, MASKS, [0.5], PER)
    watcher.times = {7}
    assert [noted.steps for noted in watch(watcher, range(1, 13))] == [[5], [7], [10]]


def test_what_is_fetched_is_what_was_noted_under_the_labels_it_was_given_and_a_hundred_rows_at_most():
    rare = {"ADF": ADF(window=20, smoothing=1, interval=130)}
    fetched = watch(UnitWatcher(GROUPS, rare, [0.5], PER), range(1, 131))
    assert [len(noted.steps) for noted in fetched] == [100, 30]
    for noted in fetched:
        assert same(noted.rows, torch.stack([scores(step) for step in noted.steps]))
        assert noted.labels == [step - 1 for step in noted.steps]


def test_nothing_waits_after_it_was_taken():
    watcher = UnitWatcher(GROUPS, MASKS, [0.5], PER)
    assert watcher.take().steps == [] and not watcher.is_due(5)
    watcher.note(5, 4, scores(5))
    assert watcher.take().steps == [5] and watcher.take().steps == []


def test_it_says_what_a_watch_says_of_the_same_scores():
    watcher = UnitWatcher(GROUPS, NORMS | MASKS, [0.25, 0.5], PER, ["neuron"])
    watch(watcher, range(1, 31))
    plain = Watch(layers_by_kind(GROUPS), NORMS | MASKS, [0.25, 0.5], PER, ["neuron"])
    probes = plain.push(range(1, 31), torch.stack([scores(step) for step in range(1, 31)]))
    assert watcher.probes == probes and len(probes) > 8 and {probe.kind for probe in probes} == {"neuron"}
    assert watcher.watch.norms == plain.norms


@pytest.mark.parametrize("point", [3, 10, 14, 20])
def test_it_goes_on_from_its_state_as_if_never_broken_off(point):
    whole, first, second = (UnitWatcher(GROUPS, NORMS | MASKS, [0.5], PER) for _ in range(3))
    watch(whole, range(1, 34))
    watch(first, range(1, point + 1))
    second.load_state_dict(first.state_dict())
    watch(second, range(point + 1, 34))
    assert second.probes == whole.probes and same(second.state_dict(), whole.state_dict())


def test_layers_that_keep_no_unit_are_named_before_any_score_and_after():
    watcher = UnitWatcher(GROUPS, MASKS, [0.5, 0.9], {"head": "tensor", "neuron": "all"})
    (sentence,) = watcher.scarce()
    assert sentence.startswith(": sparsity 0.9 leaves no head of 'body.layers.0.self_attn' and 1 more layers")
    row = torch.arange(float(UNITS))  # the first layer's neurons are all below the second's
    watcher.note(5, 4, row)
    watcher.judge(watcher.take())
    (sentence,) = watcher.shortfalls(0.5, watcher.watch.masks(0.5))
    assert sentence.startswith(": sparsity 0.5 over all layers leaves no neuron of body.layers.0.linear1: one each")
    assert list(watcher.shortfalls(0.25, watcher.watch.masks(0.25))) == []


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_every_norm_every_move_and_every_probe(tmp_path):
    watcher = UnitWatcher(GROUPS, NORMS, [0.5], PER)
    watch(watcher, range(1, 31))
    watcher.write(tmp_path)
    both = ("head-0.5", "neuron-0.5")
    assert [(int(row["step"]), row["series"]) for row in table(tmp_path / "norms.csv")] == [
        (step, series) for step in range(1, 31) for series in both
    ]
    moves = [(int(row["step"]), row["series"], float(row["distance"])) for row in table(tmp_path / "distances.csv")]
    assert moves == sorted((step, name, move) for name, curve in watcher.watch.moves.items() for step, move in curve)
    assert [step for step, *_ in moves] == [20, 20, 30, 30]
    assert [int(row["step"]) for row in table(tmp_path / "probes.csv")] == [20, 20, 30, 30]


def test_figures_show_what_was_watched_said_and_drawn():
    watcher = UnitWatcher(GROUPS, NORMS | MASKS, [0.25, 0.5], PER)
    watch(watcher, range(1, 31))
    figures = watcher.figures({"ADF-head-0.5": 30})
    assert figures.keys() == {"settling", "distances"}
    heads = figures["settling"].axes[::2]
    titles = [axes.get_title(loc="left") for axes in heads]
    assert titles[2:] == ["ADF: p-value; holds below 0.9", "HammingFIFO: largest distance; holds below 0.9", "draws"]
    p_values = [
        (p.verdict.step, p.verdict.p_value) for p in watcher.probes if (p.rule, p.series) == ("ADF", "head-0.5")
    ]
    assert [*zip(*heads[2].lines[1].get_data(), strict=True)] == p_values
    assert [[*line.get_xdata()] for line in heads[-1].lines if len(line.get_xdata())] == [[30]]


def test_the_figure_shows_the_smallest_margins_of_rules_that_have_one_in_the_word_they_were_asked_in(tmp_path):
    short = {"block": 5, "window": 20, "interval": 10}
    rules = NORMS | {"by margin": SlopeEquivalence(0.5, **short), "by change": SlopeEquivalence(change=0.1, **short)}
    watcher = UnitWatcher(GROUPS, rules, [0.5], PER, ["head"])
    watch(watcher, range(1, 41))
    watcher.probes[0] = watcher.probes[0]._replace(verdict=Settled(*watcher.probes[0].verdict[:6]))  # of an old release
    watcher.write(tmp_path)
    axes_of = watcher.figures({})["settling"].axes
    norms, below = axes_of[1], [axes for axes in axes_of if axes.get_title(loc="left").startswith("smallest")]
    assert [axes.get_ylabel().split(",")[0] for axes in below] == ["margin", "change"]
    for axes, word, asked in zip(below, ("margin", "change"), (0.5, 0.1), strict=True):
        verdicts = [p.verdict for p in watcher.probes if p.rule == f"by {word}"]
        smallest, threshold = axes.lines
        pairs = [(v.step, value) for v in verdicts if (value := getattr(v, f"least_{word}")) is not None]
        assert [*zip(*smallest.get_data(), strict=True)] == pairs and 2 <= len(pairs) <= 3
        assert set(threshold.get_ydata()) == {asked} and axes.get_xlim() == norms.get_xlim()
    with open(tmp_path / "probes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    told = {row["rule"] for row in rows if row["least_margin"] and row["least_change"]}
    assert told == {"by margin", "by change"}


@pytest.mark.parametrize("per", ["tensor", {"head": "layer"}, {"heads": "all"}, ["head"]])
def test_a_ranking_of_no_kind_or_by_no_known_word_is_refused(per):
    with pytest.raises(LotteryError, match="`per` gives 'head', 'neuron', 'channel' 'all' or 'tensor', got"):
        check_per(per)
    check_per({"head": "all", "channel": "tensor"})
