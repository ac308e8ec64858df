"""EarlyBird: masks watched live, tickets drawn when they have settled, and what a draw does."""

import csv
import io
import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from helpers import stages
from helpers.blocks import Blocks, Convs
from helpers.loggers import Online
from helpers.processes import run
from helpers.projects import Batches, fit, says, trainer
from helpers.states import KeepEveryResume, ending, same
from lightning_lottery import (
    ADF,
    PLATON,
    EarlyBird,
    ExactResume,
    HammingFIFO,
    LotteryError,
    MannKendall,
    MaskFreezing,
    NetworkSlimming,
    SlopeEquivalence,
    SlopeHAC,
    Ticket,
    shrink,
)
from lightning_lottery.children.child import Child
from lightning_lottery.children.fit import _rows as records_of
from lightning_lottery.command.main import main
from lightning_lottery.functional import count, keep_top, layers_by_units, nuclear_norm, replay
from lightning_lottery.functional.settling.rules import scores_differ
from lightning_lottery.functional.settling.watch import Watch
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import parameter_masks
from lightning_lottery.units.replaying import replay_draws
from lightning_lottery.units.score_log import ScoreLog
from lightning_lottery.units.scores import weight_norms

# Every rule is tried here; that ADF is warned of is tested by itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*ADF takes:UserWarning")

NORMS = {"window": 20, "interval": 10}
RULES = [
    HammingFIFO(2, 0.5, interval=5),
    SlopeHAC(0.2, smoothing=3, **NORMS),
    MannKendall(0.01, smoothing=1, **NORMS),
    ADF(0.9, smoothing=2, **NORMS),
    SlopeEquivalence(10.0, block=5, patience=2, **NORMS),
]
EAGER = [HammingFIFO(2, 0.9, interval=5, min_steps=15)]  # settles at step 15
LONG = {"max_epochs": 10}  # forty steps


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)  # of modules built before `fit` sets its seed


def bird(rules=EAGER, sparsities=(0.5,), **arguments):
    return EarlyBird(list(rules), list(sparsities), **arguments)


class Diary(Callback):
    """The coefficients after every step, noted by somebody else."""

    def __init__(self):
        self.notes = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        slimming = next(c for c in trainer.callbacks if isinstance(c, NetworkSlimming))
        self.notes.append({name: c.detach().clone() for name, c in slimming.coefficients.items()})


def scores_of(coefficients, kind):
    return {name: c.abs() for name, c in coefficients.items() if ("attn" in name) == (kind == "head")}


PER = {"head": "tensor", "neuron": "all"}


# Draws


def test_live_detection_is_detection_replayed_from_the_logged_coefficients(tmp_path):
    diary, callback = Diary(), bird(RULES, (0.25, 0.5))
    fit(tmp_path, NetworkSlimming(), diary, callback, module=Blocks(), **LONG)
    assert len(diary.notes) == 40
    replayed, draws = [], set()
    for kind, per in PER.items():
        for sparsity in (0.25, 0.5):
            by_step = {step: scores_of(note, kind) for step, note in enumerate(diary.notes, start=1)}
            by_step = {step: scores for step, scores in by_step.items() if scores_differ(scores, per)}
            masks = {step: keep_top(scores, sparsity, per=per) for step, scores in by_step.items()}
            norms = {step: nuclear_norm(layers_by_units(mask)).item() for step, mask in masks.items()}
            assert len(norms) >= 39 and callback.norms[f"{kind}-{sparsity:g}"] == list(norms.items())
            for name, rule in callback.rules.items():
                verdicts = replay(rule, (masks if rule.watches == "masks" else norms).items())
                replayed += [(name, kind, sparsity, *map(repr, verdict)) for verdict in verdicts]
                if first := next((v.step for v in verdicts if v.settled), None):
                    draws.add((f"{name}-{kind}-{sparsity:g}", first))
    live = [(probe.rule, probe.kind, probe.sparsity, *map(repr, probe.verdict)) for probe in callback.probes]
    assert sorted(live) == sorted(replayed)
    drawn = {(name, t.provenance["step"]) for name, t in callback.tickets.items() if t.provenance["settled"]}
    assert drawn == draws
    assert len({step for _, step in draws}) > 2


@pytest.mark.pictures
def test_under_a_url_lies_what_a_folder_holds_and_nothing_here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for url in (tmp_path / "run", f"memory://{tmp_path.name}"):
        torch.manual_seed(0)
        fit(url, NetworkSlimming(), bird(), module=Blocks(), **LONG)
    folder, store = tmp_path / "run" / "early_bird", fsspec.filesystem("memory")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    pictures = {f"{name}.{kind}" for name in ("settling", "distances", "coefficients") for kind in ("png", "svg")}
    assert {"first.safetensors", "norms.csv", "probes.csv", "scores.log", *pictures} <= files.keys()
    assert {name: store.cat_file(f"{tmp_path.name}/early_bird/{name}") for name in files} == files
    assert len(store.find(tmp_path.name)) == len(files) and not list((tmp_path / "here").iterdir())


def test_a_ticket_holds_the_masks_of_all_units_at_the_step_of_its_draw_and_says_why(tmp_path):
    diary, callback = Diary(), bird(RULES, (0.25, 0.5))
    fit(tmp_path, NetworkSlimming(), diary, callback, module=Blocks(), **LONG)
    files = {path.stem: Ticket.load(path) for path in (tmp_path / "early_bird").glob("*.safetensors")}
    drawn_first = files.pop("first")
    assert (
        files.keys()
        == callback.tickets.keys()
        == {f"{rule}-{kind}-{sparsity}" for rule in callback.rules for kind in PER for sparsity in (0.25, 0.5)}
    )
    for ticket in files.values():
        at = diary.notes[ticket.provenance["step"] - 1]
        sparsity = ticket.provenance["unit_sparsity"]
        expected = {}
        for kind, per in PER.items():
            expected |= keep_top(scores_of(at, kind), sparsity, per=per)
        assert same(dict(ticket.units), {name: expected[name] for name in ticket.units})
        assert ticket.units.keys() == expected.keys()
        assert same(ticket.distinct, parameter_masks(Blocks(), ticket.units))
        if ticket.provenance["settled"]:
            assert {"rule", "watched", "statistic", "p_value", "lags", "weights", "initial_weights"} <= set(
                ticket.provenance
            )
        else:
            assert ticket.provenance["step"] == 40
    hac = files["SlopeHAC-head-0.5"].provenance
    assert hac["settled"] and hac["lags"] == 2 and hac["p_value"] > 0.2
    first = next(t for t in callback.tickets.values() if t.provenance["settled"])
    assert same(dict(drawn_first.units), dict(first.units)) and drawn_first.provenance == first.provenance
    assert not (tmp_path / "ticket.safetensors").exists()  # the network has no masks


def test_a_ticket_trains_and_shrinks_the_plain_module(tmp_path):
    callback = bird()
    fit(tmp_path, NetworkSlimming(), callback, module=Blocks(), **LONG)
    ticket = Ticket.load(tmp_path / "early_bird" / "HammingFIFO-head-0.5.safetensors")
    module = Blocks()
    fit(tmp_path / "again", MaskFreezing(ticket), module=module)
    small = shrink(module.body, ticket, prefix="body.")
    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(small.eval()(x), module.body.eval()(x))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in module.body.parameters())


def test_baselines_are_drawn_at_their_steps_whatever_the_rules_say(tmp_path):
    diary, callback = Diary(), bird([], at=[3, 0.2, 1.0])
    fit(tmp_path, NetworkSlimming(), diary, callback, module=Blocks(), **LONG)
    assert {name: t.provenance["step"] for name, t in callback.tickets.items()} == {
        "at=3-0.5": 3,
        "at=0.2-0.5": 8,
        "at=1.0-0.5": 40,
    }
    assert same(
        dict(callback.tickets["at=3-0.5"].units),
        {
            **keep_top(scores_of(diary.notes[2], "head"), 0.5, per="tensor"),
            **keep_top(scores_of(diary.notes[2], "neuron"), 0.5),
        },
    )
    assert not (tmp_path / "early_bird" / "first.safetensors").exists()
    with pytest.raises(LotteryError, match="no rule has found settled masks"):
        callback.ticket()


def test_a_random_step_is_drawn_from_the_whole_fit_by_the_seed_alone_and_stays_when_resumed(tmp_path):
    def step_of(folder, seed, *more, **arguments):
        callback = bird([], at=["random"])
        fit(tmp_path / folder, NetworkSlimming(), callback, *more, module=Blocks(), seed=seed, **arguments)
        (ticket,) = callback.tickets.values()
        assert Ticket.load(tmp_path / folder / "early_bird" / "at=random-0.5.safetensors").provenance["seed"] == seed
        return ticket.provenance["step"]

    steps = [step_of(str(seed), seed) for seed in range(7)]
    assert step_of("again", 3) == steps[3]
    assert len(set(steps)) > 3 and all(1 <= step <= 12 for step in steps)
    late = steps.index(max(steps))
    keep = KeepEveryResume(tmp_path / "kept", tmp_path / "points")
    step_of("kept", late, ExactResume(interval=1), keep)
    assert step_of("other", 99, ExactResume(seed=late), ckpt=tmp_path / "points" / "2.ckpt") == steps[late]


def test_a_random_step_without_a_seed_is_refused(tmp_path, monkeypatch):
    fitted = trainer(tmp_path, NetworkSlimming(), bird([], at=["random"]))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    with pytest.raises(LotteryError, match="random step, and this run has no seed: call `seed_everything"):
        fitted.fit(Blocks(), Batches(), Batches(batches=1))


def test_equal_coefficients_draw_nothing_and_no_network_is_emptied(tmp_path):
    callback = bird(RULES, (0.25, 0.5), at=[2])
    with says("draws no 'at=2-0.5': the scores .* are all equal"):
        fit(tmp_path, NetworkSlimming(), callback, module=Blocks("nothing"), **LONG)
    assert callback.tickets == {} and callback.probes == []
    assert all(series == [] for series in callback.norms.values())


def test_ranking_kinds_otherwise_and_watching_one_kind_alone(tmp_path):
    diary = Diary()
    callback = bird(per={"head": "all", "neuron": "tensor"}, watch=["neuron"])
    fit(tmp_path, NetworkSlimming(), diary, callback, module=Blocks(), **LONG)
    assert {probe.kind for probe in callback.probes} == {"neuron"}
    (ticket,) = callback.tickets.values()
    at = diary.notes[ticket.provenance["step"] - 1]
    expected = {**keep_top(scores_of(at, "head"), 0.5), **keep_top(scores_of(at, "neuron"), 0.5, per="tensor")}
    assert same(dict(ticket.units), expected)


def test_negative_coefficients_go_first_only_where_their_sign_counts(tmp_path):
    class Negative(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            slimming = next(c for c in trainer.callbacks if isinstance(c, NetworkSlimming))
            slimming.coefficients["body.layers.0.self_attn"].data.copy_(torch.tensor([-9.0, 1.0, 2.0, 3.0]))

    kept = {}
    for scores in ("coefficients", "signed coefficients"):
        callback = bird([], (0.75,), at=[4], scores=scores)
        fit(tmp_path / scores, NetworkSlimming(), Negative(), callback, module=Blocks())
        kept[scores] = callback.tickets["at=4-0.75"].units["body.layers.0.self_attn"].tolist()
    assert kept == {"coefficients": [True, False, False, False], "signed coefficients": [False, False, False, True]}


@pytest.mark.parametrize("make", [Blocks, Convs])
def test_weights_are_watched_where_there_are_no_coefficients(make, tmp_path):
    class Norms(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4:
                groups = groups_of(pl_module)
                self.norms = dict(zip(groups, weight_norms(pl_module, groups), strict=True))

    norms, callback = Norms(), bird([], at=[4], scores="weights", per={"head": "all"})
    fit(tmp_path, norms, callback, module=make())
    ticket = callback.tickets["at=4-0.5"]
    for kind in (("attn",), ("linear",)) if make is Blocks else (("net",),):
        scores = {name: norm for name, norm in norms.norms.items() if kind[0] in name}
        assert scores and same({name: ticket.units[name] for name in scores}, keep_top(scores, 0.5))


def test_channels_are_drawn_from_the_scales_of_their_batch_norm(tmp_path):
    diary, callback = Diary(), bird()
    fit(tmp_path, NetworkSlimming(), diary, callback, module=Convs(), **LONG)
    ticket = callback.tickets["HammingFIFO-channel-0.5"]
    at = {name: c.abs() for name, c in diary.notes[ticket.provenance["step"] - 1].items()}
    assert same(dict(ticket.units), keep_top(at, 0.5))


# What a draw does


def test_the_first_draw_stops_the_fit(tmp_path):
    callback = bird(action="stop")
    trainer = fit(tmp_path, NetworkSlimming(), callback, module=Blocks(), **LONG)
    assert trainer.global_step == 15
    assert (tmp_path / "early_bird" / "HammingFIFO-head-0.5.safetensors").is_file()
    assert not any("at=" in name for name in callback.tickets)


class Sees(Callback):
    """Whether the removed entries are zero wherever somebody could look."""

    lottery_order = 0

    def __init__(self, callback):
        self.callback, self.looks = callback, 0

    def _look(self, trainer, pl_module, *_):
        for name, mask in self.callback.freezing.masks.items():
            assert not pl_module.get_parameter(name)[~mask].any()
            self.looks += bool((~mask).any())

    on_validation_start = on_train_batch_start = on_fit_end = _look


def test_the_first_draw_prunes_and_the_rest_trains_on(tmp_path):
    callback, module = bird(action="prune"), Blocks()
    sees = Sees(callback)
    trainer = fit(tmp_path, NetworkSlimming(), callback, sees, module=module, **LONG)
    assert trainer.global_step == 40 and sees.looks > 50
    units = callback.ticket().units
    masks = parameter_masks(module, units)
    assert same(callback.freezing.masks, {name: masks[name] for name in callback.freezing.masks}) and len(masks) == 4
    kept, total = count(dict(units))
    assert kept == total / 2
    for name, mask in callback.freezing.masks.items():
        weight = module.get_parameter(name)
        assert not weight[~mask].any() and weight[mask].all()
    assert callback.freezing.sparsity == 0.5
    assert same(dict(Ticket.load(tmp_path / "ticket.safetensors").units), dict(units))
    assert len(callback.tickets) == 1 and max(step for step, _ in callback.norms["head-0.5"]) == 15


def test_a_module_that_units_were_cut_out_of_is_tested_and_saved_as_it_is(tmp_path):
    module, callback = Blocks(), bird(action="shrink")
    fitted = fit(tmp_path, NetworkSlimming(), callback, module=module, **LONG)
    small = {name: value.clone() for name, value in module.state_dict().items()}
    fitted.save_checkpoint(tmp_path / "small.ckpt")
    assert same(torch.load(tmp_path / "small.ckpt", weights_only=True)["state_dict"], small)
    fitted.test(module, Batches(seed=4), verbose=False)
    assert same(module.state_dict(), small)


def test_a_fit_that_was_to_prune_and_could_not_says_so(tmp_path):
    never = [HammingFIFO(2, 0.0, interval=5, patience=7)]
    with says("was to prune at the first draw, and no rule has found settled masks in the 40 steps", times=1):
        fit(tmp_path, NetworkSlimming(), bird(never, action="prune", watch=["neuron"]), module=Blocks(), **LONG)


# Resume, ranks, devices


@pytest.mark.parametrize("action", ["record", "prune", "shrink"])
def test_resumed_after_any_step_equals_the_unbroken_run(action, tmp_path):
    def run(folder, *more, **arguments):
        callback = bird(RULES if action == "record" else EAGER, at=[7], action=action)
        slow = {"max_epochs": 8, "val_check_interval": 1.0}
        trainer = fit(
            folder, NetworkSlimming(), callback, ExactResume(interval=1), *more, module=Blocks(), **slow, **arguments
        )
        files = {p.name: p.read_bytes() for p in (folder / "early_bird").iterdir()}
        files |= {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
        frozen = callback.freezing and callback.freezing.state_dict()
        state = {"norms": callback.norms, "probes": repr(callback.probes), "frozen": frozen}
        return {**ending(trainer, callback), "files": files, **state}

    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    unbroken = run(tmp_path / "whole", keep)
    assert len(unbroken["files"]) >= (6 if action == "record" else 3)
    assert ("ticket.safetensors" in unbroken["files"]) == (action != "record")
    for point in sorted((tmp_path / "points").iterdir(), key=lambda path: int(path.stem))[2::8]:
        shutil.copytree(tmp_path / "whole", tmp_path / point.stem)  # a run goes on in its folder, with what came later
        resumed = run(tmp_path / point.stem, ckpt=point)
        for key in unbroken:
            assert same(resumed[key], unbroken[key]) or resumed[key] == unbroken[key], (key, point.stem)


def test_scores_are_fetched_once_a_probe_and_hundred_steps_at_most(tmp_path, monkeypatch):
    fetched, push = [], Watch.push

    def counted(self, steps, scores):
        fetched.append(list(steps))
        return push(self, steps, scores)

    monkeypatch.setattr(Watch, "push", counted)
    fit(tmp_path, NetworkSlimming(), bird([ADF(**NORMS, smoothing=1)]), module=Blocks(), max_epochs=9)
    assert fetched == [list(range(s, min(s + 10, 37))) for s in range(1, 37, 10)]
    fetched.clear()
    rare = [ADF(window=20, smoothing=1, interval=130)]
    fit(tmp_path, NetworkSlimming(), bird(rare), module=Blocks(), max_epochs=33)
    assert [len(steps) for steps in fetched] == [100, 30, 2]
    fetched.clear()
    fit(tmp_path, NetworkSlimming(), bird([HammingFIFO(2, interval=6)]), module=Blocks(), max_epochs=4)
    assert fetched == [[6], [12]]  # a rule on masks sees its masks alone


RANKS = """
import sys
from pathlib import Path

import torch
from helpers.blocks import Blocks
from lightning.pytorch import seed_everything
from lightning_lottery import NetworkSlimming
from lightning_lottery.files import hash_of_tensors
from lightning_lottery import ADF, EarlyBird, HammingFIFO
from helpers.projects import RankBatches, trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    seed_everything(1, verbose=False)
    rules = [HammingFIFO(2, 0.9, interval=5), ADF(0.9, smoothing=1, window=20, interval=10)]
    callback = EarlyBird(rules, [0.25, 0.5], at=[7])
    two = {"devices": 2, "strategy": "ddp", "max_epochs": 8, "use_distributed_sampler": False}
    trainer(Path(sys.argv[1]), NetworkSlimming(), callback, **two).fit(Blocks(), RankBatches(), RankBatches(batches=1))
    mine = [repr(callback.probes), {n: hash_of_tensors(dict(t.units)) for n, t in callback.tickets.items()}]
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, mine)
    assert everyone[0] == everyone[1] and len(mine[1]) > 5
    sys.stdout.write("ok\\n")
"""


def test_two_ranks_draw_the_same(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(RANKS)
    done = run(sys.executable, str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("ok\n") == 2


def test_somebody_elses_masks_and_a_second_watch_do_not_disturb(tmp_path):
    heads, neurons = bird(watch=["head"], name="heads"), bird([ADF(0.9, smoothing=1, **NORMS)], name="norms")
    fit(tmp_path, NetworkSlimming(), heads, neurons, PLATON(0.5, interval=2, begin=2, end=30), module=Blocks(), **LONG)
    assert (tmp_path / "early_bird-heads" / "norms.csv").is_file() and (tmp_path / "early_bird-norms").is_dir()
    assert not any("slimming" in name for name in Ticket.load(tmp_path / "ticket.safetensors").masks)


def test_platon_and_a_recording_early_bird_train_and_resume_beside_each_other_as_each_does_alone(tmp_path):
    def run(folder, *callbacks, **arguments):
        torch.manual_seed(0)
        trainer = fit(folder, NetworkSlimming(), *callbacks, module=Blocks(), max_epochs=8, **arguments)
        files = {
            p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".safetensors", ".csv")
        }
        states = {callback.state_key: callback.state_dict() for callback in callbacks[:2]}
        return {"weights": trainer.lightning_module.state_dict(), "states": states, "files": files}

    def pair():
        return PLATON(0.5, interval=2, begin=2, end=30), bird(RULES, at=[7])

    keep = KeepEveryResume(tmp_path / "whole", tmp_path / "points")
    whole = run(tmp_path / "whole", *pair(), ExactResume(interval=1), keep)
    alone = run(tmp_path / "alone", pair()[0], ExactResume(interval=1))
    assert same(whole["weights"], alone["weights"])  # it only watches
    names = {str(name) for name in whole["files"]}
    assert names >= {
        "ticket.safetensors",
        "early_bird/first.safetensors",
        "early_bird/norms.csv",
        "early_bird/probes.csv",
    }
    assert whole["files"][Path("ticket.safetensors")] == alone["files"][Path("ticket.safetensors")]
    assert Ticket.load(tmp_path / "whole" / "ticket.safetensors").provenance["method"] == "PLATON"
    for step in (6, 17, 25):
        point = tmp_path / "points" / f"{step}.ckpt"
        shutil.copytree(tmp_path / "whole", tmp_path / str(step))
        assert same(run(tmp_path / str(step), *pair(), ExactResume(), ckpt=point), whole), step


def test_what_a_draw_masks_and_what_platon_masks_are_parted_before_the_first_step(tmp_path):
    pruning, platon = bird(action="prune", name="bird"), PLATON(0.5, interval=2, begin=2, end=30)
    for first, second in ((pruning, platon), (platon, pruning)):
        with pytest.raises(LotteryError, match="both mask 'body.layers.0.linear2.weight': part their scopes"):
            fit(tmp_path, NetworkSlimming(), first, second, module=Blocks(), **LONG)


def test_a_second_fit_of_the_same_trainer_goes_on_watching_and_keeps_what_was_pruned(tmp_path):
    callback, module = bird(action="prune"), Blocks()
    fitted = fit(tmp_path, NetworkSlimming(), callback, module=module, max_epochs=5)
    masks, tickets = callback.freezing.masks, callback.tickets
    assert [type(c).__name__ for c in fitted.callbacks].count("LateFreezing") == 1
    fitted.fit_loop.max_epochs = 8
    fitted.fit(module, Batches(), Batches(batches=1))
    assert callback.clock.step == fitted.global_step == 32
    assert [type(c).__name__ for c in fitted.callbacks].count("LateFreezing") == 1
    assert same(callback.freezing.masks, masks) and callback.tickets.keys() == tickets.keys()
    assert all(not module.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_state_of_an_older_version_or_of_other_settings_is_refused_in_a_sentence(tmp_path):
    callback = bird(at=[3])
    fit(tmp_path, NetworkSlimming(), callback, module=Blocks(), **LONG)
    state = callback.state_dict()
    with pytest.raises(
        LotteryError, match="state of EarlyBird in version 1, .* finish that fit with the one that began"
    ):
        bird(at=[3]).load_state_dict({**state, "version": 1})
    with pytest.raises(LotteryError, match="in version 3, this lightning_lottery reads up to 2: upgrade it"):
        bird(at=[3]).load_state_dict({**state, "version": 3})
    with pytest.raises(LotteryError, match=r"written with at \(3,\), this fit asks for \(4,\)"):
        bird(at=[4]).load_state_dict(state)


def test_state_of_a_release_whose_rules_had_no_change_goes_on_and_its_probes_have_no_smallest_margin(tmp_path):
    rule = SlopeEquivalence(10.0, block=5, patience=1, **NORMS)
    as_then = (
        "{'SlopeEquivalence': SlopeEquivalence(margin=10.0, p=0.05, block=5, seed=0, window=20, interval=10, "
        "min_steps=0, patience=1)}"
    )

    def run(folder, *more, **arguments):
        callback = bird([rule])
        fit(folder, NetworkSlimming(), callback, ExactResume(interval=1), *more, module=Blocks(), **LONG, **arguments)
        return callback

    whole = run(tmp_path / "whole", KeepEveryResume(tmp_path / "whole", tmp_path / "points"))
    point = tmp_path / "points" / "25.ckpt"
    checkpoint = torch.load(point, weights_only=True)
    (state,) = (s for s in checkpoint["callbacks"].values() if isinstance(s, dict) and s.get("method") == "EarlyBird")
    assert state["settings"]["rules"] == as_then and len(state["probes"]) == 2
    for probe in state["probes"]:
        del probe[3][6:]
    for detector in state["watch"]["detectors"]:
        del detector["rule"]["change"]
    torch.save(checkpoint, point)
    resumed = run(tmp_path / "resumed", ckpt=point)
    before, after = resumed.probes[:2], resumed.probes[2:]
    assert after == whole.probes[2:] and len(after) == 4
    assert [p.verdict[:6] for p in before] == [p.verdict[:6] for p in whole.probes[:2]]
    assert {p.verdict[6:] for p in before} == {(None, None)}
    assert resumed.tickets.keys() == whole.tickets.keys()
    with pytest.raises(LotteryError, match=r"written with rules .*patience=1.*asks for .*patience=3.*same callback"):
        fit(tmp_path, NetworkSlimming(), bird([replace(rule, patience=3)]), module=Blocks(), ckpt=point, **LONG)


def test_adf_is_warned_of_once_before_the_first_step_and_no_other_rule_is(tmp_path):
    class Sees(Callback):
        def on_train_start(self, trainer, pl_module):
            self.before = [str(one.message) for one in shown]

    sees, rules = Sees(), [ADF(0.9, smoothing=1, **NORMS), ADF(0.8, smoothing=1, **NORMS)]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        fit(tmp_path, NetworkSlimming(), bird([*EAGER, *rules]), sees, module=Blocks(), **LONG)
    (sentence,) = (text for text in sees.before if "ADF" in text)
    assert sentence.startswith("EarlyBird: ADF takes") and "SlopeEquivalence" in sentence
    assert sum("ADF takes" in str(one.message) for one in shown) == 1
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        others = [rule for rule in RULES if not isinstance(rule, ADF)]
        fit(tmp_path, NetworkSlimming(), bird(others), module=Blocks(), **LONG)
    assert not any("takes" in str(one.message) for one in shown)


# The log of scores


def drawn_live(callback):
    return {n: (t.provenance["step"], t.provenance["settled"], dict(t.units)) for n, t in callback.tickets.items()}


def drawn_again(replayed):
    return {name: (draw.step, draw.settled, draw.units) for name, draw in replayed.draws.items()}


def in_order(draws):
    return dict(sorted(draws.items()))


@pytest.mark.parametrize("scores", ["coefficients", "signed coefficients", "weights"])
def test_a_replay_of_the_logged_scores_draws_what_was_drawn_live_bit_for_bit(scores, tmp_path):
    callback = bird(RULES, (0.25, 0.5), scores=scores)
    slimming = [] if scores == "weights" else [NetworkSlimming()]
    fit(tmp_path, *slimming, callback, module=Blocks(), **LONG)
    replayed = replay_draws(tmp_path)
    assert same(in_order(drawn_again(replayed)), in_order(drawn_live(callback))) and len(replayed.draws) == 20
    assert len({step for step, *_ in drawn_again(replayed).values()}) > 2
    assert replayed.probes == callback.probes and replayed.norms == callback.norms
    assert (replayed.first, replayed.last) == (1, 40)


def test_other_rules_and_sparsities_draw_from_the_log_what_they_draw_live_in_the_same_fit(tmp_path):
    def live(folder, rules, sparsities, **arguments):
        torch.manual_seed(0)
        callback = bird(rules, sparsities, **arguments)
        fit(tmp_path / folder, NetworkSlimming(), callback, module=Blocks(), **LONG)
        return callback

    live("logged", [ADF(0.9, smoothing=1, **NORMS)], (0.75,))
    strict = [
        HammingFIFO(3, 0.1, interval=4),
        SlopeHAC(0.4, smoothing=5, window=30, interval=7),
        MannKendall(**NORMS, smoothing=2),
    ]
    for name, rules, per in (
        ("masks", strict[:1], None),
        ("norms", strict[1:], {"head": "all"}),
        ("all", strict, None),
    ):
        other = live(name, rules, (0.25, 0.5), per=per)
        replayed = replay_draws(tmp_path / "logged", rules, [0.25, 0.5], per=per)
        assert same(in_order(drawn_again(replayed)), in_order(drawn_live(other)))
        assert replayed.probes == other.probes and replayed.norms == other.norms


def test_a_log_ends_where_its_fit_did_and_says_so_once_where_it_may_not_grow(tmp_path, monkeypatch):
    callback = bird([ADF(0.9, smoothing=1, **NORMS)], (0.5,))
    monkeypatch.setattr(ScoreLog.__init__, "__kwdefaults__", {"most": 3000})
    with says("scores.log has reached 0 MiB, and ends before step", times=1):
        fit(tmp_path, NetworkSlimming(), callback, module=Blocks(), **LONG)
    assert replay_draws(tmp_path).last in range(10, 40)
    assert replay_draws(tmp_path).last % 10 == 0


def test_a_fit_resumed_elsewhere_takes_the_log_along_that_lies_beside_its_checkpoint(tmp_path, caplog):
    def run(folder, *more, **arguments):
        torch.manual_seed(0)
        fit(folder, NetworkSlimming(), bird(RULES), ExactResume(interval=1), *more, module=Blocks(), **arguments)
        return (folder / "early_bird" / "scores.log").read_bytes()

    whole = run(tmp_path / "whole", KeepEveryResume(tmp_path / "whole", tmp_path / "points"), **LONG)
    short = tmp_path / "whole" / "checkpoints"
    short.mkdir()
    shutil.copy(tmp_path / "points" / "17.ckpt", short)
    with caplog.at_level("INFO"):
        assert run(tmp_path / "new", ckpt=short / "17.ckpt", **LONG) == whole
        assert "begins anew" not in caplog.text
        run(tmp_path / "lost", ckpt=tmp_path / "points" / "17.ckpt", **LONG)
        assert "scores.log begins anew after step 15: what was logged until then lies neither" in caplog.text
    assert replay_draws(tmp_path / "lost").first == 16


# Records


def logged_keys(tmp_path, *callbacks):
    logger = CSVLogger(tmp_path, name="log", version="")
    fit(tmp_path, NetworkSlimming(), *callbacks, module=Blocks(), logger=logger, **LONG)
    with open(tmp_path / "log" / "metrics.csv") as file:
        return set(next(csv.reader(file)))


def test_who_watches_logs_no_sparsity_and_who_removes_logs_that_of_the_weights_it_masks(tmp_path):
    for action in ("record", "stop"):
        watched = logged_keys(tmp_path / action, bird(action=action))
        assert any(key.startswith("early_bird/norm/") for key in watched)
        assert not any(key.startswith(("sparsity/", "mask/")) for key in watched)
    removed = logged_keys(tmp_path / "prune", bird(action="prune"))
    assert {"sparsity/scope", "sparsity/target", "mask/revived"} <= removed


def test_records_name_who_masks_and_an_early_bird_where_nobody_does(tmp_path):
    child, methods = Child(tmp_path / "stage", "fit", {"seed_everything": 1}), []
    platon = PLATON(0.5, interval=2, begin=2, end=30)
    removing = [[bird(action="prune")], [bird(action="shrink")]]
    for callbacks in ([bird()], *removing, [bird(), platon], [platon], []):
        trainer = fit(tmp_path, NetworkSlimming(), *callbacks, module=Blocks(), **LONG)
        rows = records_of(child, trainer, {})
        methods.append({(row["method"], row["density"]) for row in rows})
    assert methods == [
        {("EarlyBird", 1.0)},
        *[{("EarlyBird", 0.5)}] * 2,
        *[{("PLATON", 0.5)}] * 2,
        {("dense", 1.0)},
    ]


def test_norms_of_every_step_and_verdicts_of_every_probe_are_logged_and_written(tmp_path):
    logger = CSVLogger(tmp_path, name="log", version="")
    callback = bird(RULES)
    fit(tmp_path, NetworkSlimming(), callback, module=Blocks(), logger=logger, **LONG)
    with open(tmp_path / "log" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    logged = {int(row["step"]) + 1: float(n) for row in rows if (n := row["early_bird/norm/neuron-0.5"])}
    assert logged == pytest.approx(dict(callback.norms["neuron-0.5"]))
    for word, rule in (("p_value", "SlopeHAC"), ("p_value", "SlopeEquivalence"), ("statistic", "HammingFIFO")):
        judged = [float(n) for row in rows if (n := row[f"early_bird/{word}/{rule}/head-0.5"])]
        by_probe = [p.verdict for p in callback.probes if (p.rule, p.series) == (rule, "head-0.5")]
        assert judged == pytest.approx([getattr(verdict, word) for verdict in by_probe]) and len(judged) >= 2
    words = {key.split("/")[1] for key in rows[0] if key.startswith("early_bird/")}
    assert words == {"norm", "p_value", "statistic"}  # what else a probe says is in its table
    folder = tmp_path / "log" / "early_bird"
    written = list(csv.reader(io.StringIO((folder / "norms.csv").read_text())))[1:]
    series = {name: [(int(s), float(n)) for s, key, n in written if key == name] for name in callback.norms}
    assert series == callback.norms
    with open(folder / "probes.csv", newline="") as file:
        probes = list(csv.DictReader(file))
    assert len(probes) == len(callback.probes)
    for word in ("least_margin", "least_change"):
        smallest = [float(n) for row in probes if (n := row[word])]
        known = [least for p in callback.probes if (least := getattr(p.verdict, word)) is not None]
        assert smallest == pytest.approx(known) and known
    with open(folder / "draws.csv", newline="") as file:
        draws = {
            row["ticket"]: (row["rule"], row["kind"], int(row["step"]), row["settled"]) for row in csv.DictReader(file)
        }
    assert draws == {
        name: (
            name.removesuffix(f"-{t.provenance['watched']}-0.5"),
            t.provenance["watched"],
            t.provenance["step"],
            str(t.provenance["settled"]),
        )
        for name, t in callback.tickets.items()
    }


class LateHeads(Blocks):
    """Coefficients of heads are alike, and have no mask, until step 7."""

    def on_before_optimizer_step(self, optimizer):
        for name, param in self.named_parameters():
            if self.global_step < 6 and "out_proj.slimming" in name:
                param.grad.zero_()


def test_norms_reach_loggers_in_the_order_of_steps_whichever_series_begins_later(tmp_path):
    online, callback = Online(), bird(RULES)
    fit(tmp_path, NetworkSlimming(), callback, module=LateHeads(), logger=online, **LONG)
    assert {name: series[0][0] for name, series in callback.norms.items()} == {"head-0.5": 7, "neuron-0.5": 1}
    steps = [step for step, values in online.metrics if any("/norm/" in key for key in values)]
    assert steps == sorted(steps) and len(steps) == len(callback.norms["neuron-0.5"])


# Bad input


REFUSED = {
    "nothing to do": (lambda: EarlyBird([], [0.5]), "without a rule"),
    "a rule for a list": (lambda: EarlyBird(ADF(), [0.5]), "`rules` is a list"),
    "a word for a rule": (lambda: EarlyBird(["ADF"], [0.5]), "`rules` is a list"),
    "a rule twice": (lambda: EarlyBird([ADF(), ADF()], [0.5]), "same rule twice"),
    "no sparsity": (lambda: EarlyBird(EAGER, []), "`sparsities`"),
    "a sparsity twice": (lambda: EarlyBird(EAGER, [0.5, 0.5]), "`sparsities`"),
    "a sparsity of one": (lambda: EarlyBird(EAGER, [1.0]), r"\[0, 1\)"),
    "unknown scores": (lambda: bird(scores="gradients"), "`scores` is 'coefficients', .*'gradients'"),
    "unknown action": (lambda: bird(action="cut"), "`action` is 'record', .*'cut'"),
    "unknown kind": (lambda: bird(watch=["heads"]), "`watch`.*'head'"),
    "unknown ranking": (lambda: bird(per={"head": "layer"}), "`per`.*'head': 'layer'"),
    "a ranking for all kinds": (lambda: bird(per="tensor"), "`per`.*'tensor'"),
    "a rule's class": (lambda: EarlyBird(ADF, [0.5]), "`rules` is a list"),
    "a step for a list": (lambda: bird(at=3), "`at` is a list of steps.*3"),
    "a word for a list of steps": (lambda: bird(at="random"), "`at` is a list of steps.*'random'"),
    "an unknown word for a step": (lambda: bird(at=["end"]), "`at` is optimizer steps.*'random', got 'end'"),
    "step zero": (lambda: bird(at=[0]), "`at`"),
    "beyond the fit": (lambda: bird(at=[1.5]), "`at`"),
    "a window shorter than the smoothing": (lambda: bird([ADF(window=20, smoothing=30)]), "shorter than the smoothing"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_mean_is_refused_when_it_is_built(build, message):
    with pytest.raises(LotteryError, match=message):
        build()


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (lambda: [bird()], "this Trainer has no NetworkSlimming: add one to its callbacks, or read scores='weights'"),
        (lambda: [NetworkSlimming(), bird(watch=["channel"])], "to watch 'channel'.*head and neuron only"),
        (
            lambda: [NetworkSlimming(), bird([SlopeHAC(), HammingFIFO()])],
            r"ends at step 12, before these rules can settle: SlopeHAC \(step 500\), HammingFIFO \(step 500\). Train",
        ),
        (
            lambda: [NetworkSlimming(), bird([HammingFIFO(2, interval=5)], at=[13])],
            "draw at step 13, but this fit ends at step 12",
        ),
    ],
)
def test_a_fit_in_which_it_can_do_nothing_is_refused_before_any_step(callbacks, message, tmp_path):
    with pytest.raises(LotteryError, match=message):
        fit(tmp_path, *callbacks(), module=Blocks())


def test_units_of_several_slimmings_are_drawn_as_those_of_one(tmp_path):
    def tickets(*slimmings):
        torch.manual_seed(0)
        callback = bird()
        fit(tmp_path / str(len(slimmings)), *slimmings, callback, module=Blocks(), **LONG)
        return {name: ticket.units for name, ticket in callback.tickets.items()}

    parted = tickets(NetworkSlimming(kinds=["head"]), NetworkSlimming(kinds=["neuron"], name="neurons"))
    assert same(parted, tickets(NetworkSlimming())) and len(parted) == 2


def test_rules_that_come_too_late_are_named_where_others_can_settle(tmp_path):
    with says(r"before these rules can settle: SlopeHAC \(step 500\). Train longer", times=1):
        fit(tmp_path, NetworkSlimming(), bird([*EAGER, SlopeHAC()]), module=Blocks(), **LONG)


def test_a_layer_that_would_be_emptied_keeps_one_unit_and_is_named(tmp_path):
    callback = bird(EAGER, (0.9,))
    with says("sparsity 0.9 leaves no head of 'body.layers.0.self_attn' and 1 more layers: one each is kept", times=1):
        fit(tmp_path, NetworkSlimming(), callback, module=Blocks(), **LONG)
    units = callback.ticket().units
    assert [int(mask.sum()) for name, mask in units.items() if "attn" in name] == [1, 1]
    assert all(mask.any() for mask in units.values())


def test_layers_that_a_ranking_over_all_would_empty_keep_one_unit_and_are_named(tmp_path):
    class Uneven(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            slimming = next(c for c in trainer.callbacks if isinstance(c, NetworkSlimming))
            slimming.coefficients["body.layers.1.linear1"].data.copy_(torch.arange(16.0) / 100)

    callback = bird([], (0.75,), at=[4])
    with says("leaves no neuron of body.layers.1.linear1: one each is kept. Ask for less, or rank neurons in", times=1):
        fit(tmp_path, NetworkSlimming(), Uneven(), callback, module=Blocks())
    units = callback.tickets["at=4-0.75"].units
    assert {n: int(m.sum()) for n, m in units.items() if "linear" in n} == {
        "body.layers.0.linear1": 8,
        "body.layers.1.linear1": 1,
    }


def test_a_kind_whose_scores_tell_nothing_is_left_whole_and_named(tmp_path):
    class Broken(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            slimming = next(c for c in trainer.callbacks if isinstance(c, NetworkSlimming))
            if trainer.global_step == 4:
                slimming.coefficients["body.layers.1.self_attn"].data.fill_(value)

    for value in (torch.nan, 1.0):
        callback = bird([], at=[4])
        with says("at step 4 removes no heads: their scores do not tell those of a layer apart, or are", times=1):
            fit(tmp_path / str(value), NetworkSlimming(), Broken(), callback, module=Blocks())
        assert not any("attn" in name for name in callback.tickets["at=4-0.5"].units)


def test_a_fast_dev_run_writes_nothing(tmp_path):
    fit(tmp_path, NetworkSlimming(), bird(RULES), module=Blocks(), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


# YAML


def test_a_configuration_names_rules_and_ratios(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rules = [
        {"class_path": "HammingFIFO", "init_args": {"length": 2, "interval": 2, "tolerance": 0.9}},
        {"class_path": "lightning_lottery.ADF", "init_args": {"smoothing": 1, "window": 20, "interval": 10}},
    ]
    bird = stages.named("EarlyBird", rules=rules, sparsities=[0.5], at=[0.5, 3], per={"head": "all"})
    content = stages.fit(stages.named("NetworkSlimming", l1=0.001), bird)
    content["trainer"] |= {"max_epochs": 6, "logger": False, "default_root_dir": str(tmp_path)}
    content["trainer"]["callbacks"] = content["trainer"]["callbacks"][2:]
    Path("fit.yaml").write_text(yaml.safe_dump(content))
    main(["fit", "--config", "fit.yaml"])
    names = {path.stem for path in (tmp_path / "early_bird").glob("*.safetensors")}
    assert {"at=0.5-0.5", "at=3-0.5", "HammingFIFO-neuron-0.5", "ADF-neuron-0.5"} <= names
    ticket = Ticket.load(tmp_path / "early_bird" / "at=0.5-0.5.safetensors")
    assert ticket.provenance["step"] == 12
    assert json.dumps(dict(ticket.provenance))
