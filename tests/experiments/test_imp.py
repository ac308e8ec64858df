import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging

from helpers import stages
from helpers.boards import Board
from helpers.factories import STEPS, Data, Net, closures
from helpers.processes import run
from helpers.projects import plain_loader, says
from helpers.stages import Died, Dies
from helpers.states import same
from lightning_lottery import (
    EarlyBird,
    ExactResume,
    HammingFIFO,
    IterativePruning,
    LotteryError,
    MagnitudePruning,
    Scope,
    Snapshots,
    Ticket,
)
from lightning_lottery.children import engine, processes
from lightning_lottery.children.records import COLUMNS
from lightning_lottery.experiments import imp, recipe
from lightning_lottery.functional.dynamic import layer_counts
from lightning_lottery.functional.masks import count

SIZES = {"net.0.weight": 96, "net.4.weight": 48}


class Starts(Callback):
    """Writes down what a fit begins with: weights, buffers, momentum, learning rate, step."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        path = Path(trainer.default_root_dir) / "began.pt"
        if not path.exists():
            (optimizer,) = trainer.optimizers
            momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
            beginning = {"step": trainer.global_step, "lr": optimizer.param_groups[0]["lr"], "momentum": momentum}
            torch.save({**beginning, "weights": pl_module.state_dict()}, path)


class Pruning:
    """Iterative pruning in this process: nobody else can import a closure."""

    def __init__(self, *callbacks, module=Net, **settings):
        settings = {"prune_fraction": 0.3, "scope": Scope(), "seeds": (1,), **settings}
        if "sparsity" not in settings:
            settings = {"levels": 3, **settings}
        self.experiment = IterativePruning(**settings)
        self.project = closures(Starts, *callbacks, module=module)

    def run(self, *arguments, **options):
        return self.experiment.run(self.project, *arguments, **options)


pruning = Pruning


def checkpoint(path):
    return torch.load(path, weights_only=True)


def began(folder):
    return torch.load(folder / "began.pt", weights_only=True)


def end(folder):
    return checkpoint(folder / "last.ckpt")["state_dict"]


def masked(weights, ticket):
    return {
        name: torch.where(ticket.masks[name], value, 0.0) if name in ticket.masks else value
        for name, value in weights.items()
    }


def ticket(folder):
    return Ticket.load(folder / "ticket.safetensors")


@pytest.fixture(autouse=True)
def no_seed(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Three levels rewound to step 5, two seeds, with their controls; trained once for many tests."""
    out = tmp_path_factory.mktemp("pruned")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        report = pruning(rewind_step=5, controls=["shuffled", "reinitialised"], margin=0.5, seeds=(1, 2)).run(
            None, out=out
        )
    return report, out


LEVELS = [(seed, level) for seed in (1, 2) for level in (1, 2, 3)]


@pytest.mark.parametrize(("seed", "level"), LEVELS)
def test_every_level_begins_with_the_snapshot_s_weights_and_buffers_bit_for_bit_where_kept(pruned, seed, level):
    folder = pruned[1] / f"seed-{seed}"
    snapshot = checkpoint(folder / "level-0/snapshots/step=5.ckpt")
    start = began(folder / f"level-{level}")
    assert same(start["weights"], masked(snapshot["state_dict"], ticket(folder / f"level-{level}")))
    assert start["step"] == snapshot["global_step"] == 5
    assert start["lr"] == snapshot["optimizer_states"][0]["param_groups"][0]["lr"] == 0.025
    assert start["momentum"] == [] and snapshot["optimizer_states"][0]["state"]  # fresh, though there was some


@pytest.mark.parametrize(("seed", "level"), LEVELS)
def test_every_level_removes_the_exact_count_of_the_smallest_weights_that_the_one_before_ended_with(
    pruned, seed, level
):
    folder = pruned[1] / f"seed-{seed}"
    before, after = ticket(folder / f"level-{level - 1}").masks, ticket(folder / f"level-{level}").masks
    kept = count(before)[0]
    assert {name: mask.numel() for name, mask in after.items()} == SIZES
    assert count(after)[0] == kept - round(0.3 * kept)
    weights = end(folder / f"level-{level - 1}")
    gone = torch.cat([weights[name][before[name] & ~after[name]].abs() for name in after])
    left = torch.cat([weights[name][after[name]].abs() for name in after])
    assert not any((after[name] & ~before[name]).any() for name in after) and gone.max() < left.min()
    for name, mask in after.items():
        assert (end(folder / f"level-{level}")[name][~mask] == 0).all()


def test_a_ticket_says_where_it_came_from(pruned):
    loaded = ticket(pruned[1] / "seed-1/level-2")
    assert loaded.provenance["found_by"] == {
        "method": "IterativePruning",
        "scope": "Scope()",
        "level": 2,
        "prune_fraction": 0.3,
        "per": "all",
    }
    assert ticket(pruned[1] / "seed-1/level-0").sparsity == 0


def test_the_shuffled_control_keeps_as_many_in_each_layer_from_the_same_start(pruned):
    folder = pruned[1] / "seed-1"
    level, control = ticket(folder / "level-2"), ticket(folder / "level-2-shuffled")
    assert control.table() == level.table() and control.hamming(level) > 0.1
    start, snapshot = began(folder / "level-2-shuffled"), checkpoint(folder / "level-0/snapshots/step=5.ckpt")
    assert same(start["weights"], masked(snapshot["state_dict"], control))
    assert start["step"] == 5 and start["momentum"] == []


def test_the_reinitialised_control_trains_the_ticket_s_masks_from_step_0_in_a_network_of_another_seed(pruned):
    folder = pruned[1] / "seed-1"
    level, control = ticket(folder / "level-2"), ticket(folder / "level-2-reinitialised")
    assert level.hamming(control) == 0
    torch.manual_seed(1 + imp.REINITIALISED)
    start = began(folder / "level-2-reinitialised")
    assert same(start["weights"], masked(Net().state_dict(), level)) and start["step"] == 0
    rows = json.loads((folder / "level-2-reinitialised/results.jsonl").read_text().splitlines()[0])
    assert (rows["seed"], rows["network"], rows["level"]) == (1, "reinitialised", 2)


def test_learning_rate_rewinding_keeps_the_weights_and_rewinds_the_schedule(tmp_path):
    pruning(rewind_step=5, rewind="learning_rate").run(None, out=tmp_path)
    folder = tmp_path / "seed-1"
    snapshot = checkpoint(folder / "level-0/snapshots/step=5.ckpt")
    for level in (1, 2, 3):
        start, before = began(folder / f"level-{level}"), end(folder / f"level-{level - 1}")
        assert same(start["weights"], masked(before, ticket(folder / f"level-{level}")))
        assert (start["step"], start["lr"], start["momentum"]) == (5, 0.025, [])
        last = checkpoint(folder / f"level-{level}/last.ckpt")
        assert last["global_step"] == STEPS
        assert last["lr_schedulers"] == checkpoint(folder / "level-0/last.ckpt")["lr_schedulers"]
        assert not same(before, snapshot["state_dict"])


def test_the_optimizer_s_state_is_that_of_the_snapshot_where_it_is_asked_for(tmp_path):
    pruning(rewind_step=5, optimizer="restored", levels=2).run(None, out=tmp_path)
    folder = tmp_path / "seed-1"
    states = checkpoint(folder / "level-0/snapshots/step=5.ckpt")["optimizer_states"][0]["state"]
    for level in (1, 2):
        masks = ticket(folder / f"level-{level}").masks
        names = [name for name, _ in Net().named_parameters()]
        for number, buffer in enumerate(began(folder / f"level-{level}")["momentum"]):
            momentum = states[number]["momentum_buffer"]
            mask = masks.get(names[number])
            assert torch.equal(buffer, momentum if mask is None else torch.where(mask, momentum, 0.0))


@pytest.mark.parametrize("rewind", ["weights", "learning_rate"])
def test_averaged_copies_begin_where_the_level_does(tmp_path, rewind):
    copies = []

    class Averaging(WeightAveraging):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            copies.append({name: value.clone() for name, value in self._average_model.module.state_dict().items()})

    pruning(Averaging, rewind_step=0 if rewind == "weights" else 5, rewind=rewind, levels=2).run(None, out=tmp_path)
    folder = tmp_path / "seed-1"
    for level in (1, 2):
        assert same(copies[level], began(folder / f"level-{level}")["weights"])


def test_from_step_0_every_level_begins_with_the_initialisation_and_a_target_says_how_many_levels(tmp_path):
    report = pruning(sparsity=0.5).run(None, out=tmp_path)
    folder = tmp_path / "seed-1"
    torch.manual_seed(1)
    initial = Net().state_dict()
    assert [result.name for result in report.results] == ["level-0", "level-1", "level-2"]  # 0.7 * 0.7 < 0.5
    assert report["level-2"].density == pytest.approx(71 / 144) and count(ticket(folder / "level-2").masks)[0] == 71
    for level in (0, 1, 2):
        start = began(folder / f"level-{level}")
        assert same(start["weights"], masked(initial, ticket(folder / f"level-{level}"))) and start["step"] == 0


def test_per_tensor_every_layer_loses_its_own_fraction(tmp_path):
    pruning(per="tensor", levels=2).run(None, out=tmp_path)
    kept = [{row.name: row.kept for row in ticket(tmp_path / f"seed-1/level-{level}").table()} for level in (1, 2)]
    assert kept[0] == {name: n - round(0.3 * n) for name, n in SIZES.items()}
    assert kept[1] == {name: n - round(0.3 * n) for name, n in kept[0].items()}


def test_a_checkpoint_is_where_level_0_begins_and_may_be_what_levels_rewind_to(pruned, tmp_path):
    begin = pruned[1] / "seed-1/level-0/snapshots/step=5.ckpt"
    pruning(rewind_step=5, levels=1, seeds=(1, 2)).run(begin, out=tmp_path / "same")
    pruning(rewind_step=7, levels=1).run(begin, out=tmp_path / "later")
    weights = checkpoint(begin)["state_dict"]
    assert same(end(tmp_path / "same/seed-1/level-0"), end(pruned[1] / "seed-1/level-0"))
    for seed in (1, 2):
        folder = tmp_path / f"same/seed-{seed}"
        assert same(began(folder / "level-0")["weights"], weights)
        assert same(began(folder / "level-1")["weights"], masked(weights, ticket(folder / "level-1")))
    assert began(tmp_path / "later/seed-1/level-1")["step"] == 7


def test_a_project_s_own_snapshots_are_taken_as_well(tmp_path):
    pruning(lambda: Snapshots([2]), rewind_step=5, levels=1).run(None, out=tmp_path)
    taken = sorted(path.name for path in (tmp_path / "seed-1/level-0/snapshots").iterdir())
    assert taken == ["step=2.ckpt", "step=5.ckpt"]


def test_every_level_is_judged_beside_the_dense_network_and_controls_beside_their_ticket(pruned):
    report, out = pruned
    names = [result.name for result in report.results]
    assert names == ["level-0", *(f"level-{n}{c}" for n in (1, 2, 3) for c in ("", "-shuffled", "-reinitialised"))]
    assert report["level-0"].matching is None
    assert report["level-3"].reference == "level-0" and report["level-3-shuffled"].reference == "level-3"
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert all([*row] == [*COLUMNS] for row in rows)
    by_seed = {(row["stage"], row["seed"]): row["value"] for row in rows if row["metric"] == "test_acc" and row["step"]}
    for name, better, worse in (("level-2", "level-2", "level-0"), ("level-2-shuffled", "level-2", "level-2-shuffled")):
        differences = [by_seed[f"imp/{better}", seed] - by_seed[f"imp/{worse}", seed] for seed in (1, 2)]
        verdict = report[name].matching or report[name].superiority
        assert verdict.mean == pytest.approx(sum(differences) / 2)
        assert report[name].values == tuple(by_seed[f"imp/{name}", seed] for seed in (1, 2))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["levels"]["level-3"]["density"] == report["level-3"].density == pytest.approx(50 / 144)
    assert summary["levels"]["level-3"]["matching"]["verdict"] in ("matching", "worse", "undecided")
    assert summary["seeds_alone"] == report.seeds_alone == "the test has 3 batches, and 8 are needed"
    table = (out / "results.csv").read_text().splitlines()
    assert len(table) == len(rows) + 1 and table[0] == ",".join(COLUMNS)
    assert (out / "levels.png").read_bytes().startswith(b"\x89PNG")


class InManyBatches(Data):
    def test_dataloader(self):
        return plain_loader(24, 2)


@pytest.fixture(scope="module")
def in_batches(tmp_path_factory):
    """One level and its control, two seeds, tested in twelve batches."""
    out = tmp_path_factory.mktemp("in_batches")
    project = closures(data=InManyBatches)
    judged = {"monitor": "test_loss", "mode": "min", "margin": 0.5}
    experiment = IterativePruning(
        levels=1, seeds=(1, 2), controls=["shuffled", "effective", "erk"], scope=Scope(), **judged
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        return experiment, project, out, experiment.run(project, out=out)


def test_a_test_in_enough_batches_is_judged_on_its_samples_too(in_batches):
    _, _, out, report = in_batches
    assert report.seeds_alone == ""
    matching = report["level-1"].matching
    tested = {
        (name, seed): json.loads((out / f"seed-{seed}/{name}/by_batch.json").read_text())["test_loss"]["values"]
        for name in ("level-0", "level-1")
        for seed in (1, 2)
    }
    mean = np.mean([np.subtract(tested["level-0", seed], tested["level-1", seed]) for seed in (1, 2)], axis=0)
    assert report["level-1-erk"].reference == "level-1" and report["level-1-erk"].superiority is not None
    tickets = [ticket(out / f"seed-1/level-1{kind}") for kind in ("", "-erk")]
    shapes = {name: mask.shape for name, mask in tickets[0].masks.items()}
    assert count(tickets[0].masks) == count(tickets[1].masks)
    assert {n: count({n: m})[0] for n, m in tickets[1].masks.items()} == layer_counts(
        "erk", shapes, tickets[0].sparsity
    )
    on_paths = ticket(out / "seed-1/level-1-effective")
    assert on_paths.table() == tickets[0].table() and on_paths.hamming(tickets[0]) > 0
    assert report["level-1-effective"].superiority is not None
    assert len(mean) == 12 and matching.mean == pytest.approx(mean.mean(), rel=1e-4)
    assert matching.test_standard_error == pytest.approx(mean.std(ddof=1) / 12**0.5, rel=1e-4)


def test_a_child_of_an_earlier_version_is_judged_by_its_seed_alone_and_a_damaged_record_is_named(in_batches):
    experiment, project, out, whole = in_batches
    path = out / "seed-2/level-1/by_batch.json"
    kept = path.read_text()
    path.unlink()
    report = experiment.run(project, out=out)
    assert report.seeds_alone.startswith("level-1 of seed 2 kept no values batch by batch")
    assert report["level-1"].matching.test_standard_error is None
    path.write_text('{"test_acc": {"values": [0.5], "weights": [1.0, 1.0]}}')
    with pytest.raises(LotteryError, match=r"by_batch.json' is damaged: its 'test_acc' is none\. .*--redo level-1"):
        experiment.run(project, out=out)
    path.write_text(kept)
    assert experiment.run(project, out=out) == whole


def test_tensorboard_has_the_figure_the_verdict_and_a_row_for_each_level_and_control(pruned):
    report, out = pruned
    board = Board(out / "levels")
    assert board.images == ["levels"] and board.curves == {}
    assert report.sentences()[0] in board.texts("verdict")[0]
    rows = {name: Board(out / "seed-1" / name).settings for name in ("level-0", "level-2", "level-2-shuffled")}
    assert [row["ticket"] for row in rows.values()] == [
        "none",
        "level 2",
        "shuffled level 2",
    ]
    assert [row["sparsity"] for row in rows.values()] == pytest.approx([1 - report[name].density for name in rows])


@pytest.mark.parametrize(
    ("at", "rewind"),
    [
        ("seed-1/level-0", "weights"),
        ("seed-2/level-1", "weights"),
        ("between", "weights"),
        ("seed-1/level-2", "learning_rate"),
    ],
)
def test_killed_anywhere_and_started_again_it_ends_as_the_unbroken_run(tmp_path, monkeypatch, at, rewind):
    def run(out):
        settings = {"rewind_step": 5, "rewind": rewind, "levels": 2}
        return pruning(Dies, lambda: ExactResume(interval=2), **settings, seeds=(1, 2)).run(None, out=out)

    unbroken = run(tmp_path / "unbroken")
    out = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Died):
        if at == "between":
            do_child = engine.do_child

            def dying(folder, commands):
                if str(folder).endswith("seed-1/level-2"):
                    raise Died
                do_child(folder, commands)

            patch.setattr(engine, "do_child", dying)
        else:
            patch.setattr(Dies, "at", (at, 9))
        run(out)
    assert len(list(out.glob("*/*/done"))) < 6
    assert run(out) == unbroken
    assert (out / "results.jsonl").read_text() == (tmp_path / "unbroken/results.jsonl").read_text()
    for seed in (1, 2):
        for level in (0, 1, 2):
            folders = [root / f"seed-{seed}/level-{level}" for root in (out, tmp_path / "unbroken")]
            assert same(*map(end, folders))


def test_what_is_done_is_not_done_again_and_more_levels_or_seeds_only_add_children(tmp_path, monkeypatch):
    done = []
    do_child = engine.do_child

    def noted(folder, commands):
        if not (folder / "done").exists():
            done.append(f"{folder.parent.name}/{folder.name}")
        do_child(folder, commands)

    monkeypatch.setattr(engine, "do_child", noted)
    pruning(levels=1).run(None, out=tmp_path)
    trial = f"{tmp_path.name}/trial"
    assert done == [trial, "seed-1/level-0", "seed-1/level-1"]
    done.clear()
    pruning(levels=2).run(None, out=tmp_path)
    assert done == ["seed-1/level-2"]
    done.clear()
    pruning(levels=2, seeds=(1, 2)).run(None, out=tmp_path)
    assert done == [trial, *(f"seed-2/level-{n}" for n in (0, 1, 2))]
    done.clear()
    pruning(levels=2, seeds=(1, 2)).run(None, out=tmp_path, redo=["level-1"])
    assert done == ["seed-1/level-1", "seed-2/level-1", "seed-1/level-2", "seed-2/level-2"]
    with pytest.raises(LotteryError, match=r"level-1' was made from something else: .*prune_fraction was 0.3, is 0.4"):
        pruning(levels=2, prune_fraction=0.4).run(None, out=tmp_path)


def test_a_stage_of_a_recipe_goes_on_at_the_level_where_it_was_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = {"seeds": [3, 4], "levels": 1, "scope": {"include": [f"{name}*" for name in stages.mlp_layers()]}}
    folder = stages.write(tmp_path / "recipe", {"1-imp.imp": stages.fit(imp=section)})
    ran: list[str] = []

    def run_child(child, dies=""):
        ran.append(f"{child.folder.parent.name}/{child.folder.name}")
        if ran[-1] == dies:
            raise Died
        return stages.in_this_process(child)

    monkeypatch.setattr(processes, "run_child", lambda child: run_child(child, dies="seed-4/level-1"))
    with pytest.raises(Died):
        recipe.run_recipe(folder)
    assert ran == [
        "seed-0/1-imp",
        "1-imp/trial",
        "seed-3/level-0",
        "seed-4/level-0",
        "seed-3/level-1",
        "seed-4/level-1",
    ]
    ran.clear()
    monkeypatch.setattr(processes, "run_child", run_child)
    summary = recipe.run_recipe(folder)
    assert ran == ["seed-0/1-imp", "seed-4/level-1"]
    assert list(summary) == ["1-imp/level-0", "1-imp/level-1"]
    assert summary["1-imp/level-1"]["test_acc"]["n"] == 2 and summary["1-imp/level-1"]["sparsity"]["mean"] > 0.19
    ran.clear()
    recipe.run_recipe(folder)
    assert ran == []
    stages.write(folder, {"1-imp.imp": stages.fit(imp={**section, "prune_fraction": 0.5})})
    with pytest.raises(LotteryError, match="1-imp .* failed"):
        recipe.run_recipe(folder)
    assert "options.prune.prune_fraction was 0.2, is 0.5" in capsys.readouterr().err


class Stops(Callback):
    """An early stop."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 6


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prune_fraction": 0}, r"`prune_fraction` is the fraction of what remains .* in \(0, 1\), got 0"),
            ({"prune_fraction": 1.0}, r"`prune_fraction` is the fraction of what remains"),
            ({"sparsity": 1.0}, r"`sparsity` to prune to by levels is in \(0, 1\), got 1.0: 1 is never reached"),
            ({"levels": 2, "sparsity": 0.5}, "either `levels` or a target `sparsity`"),
            ({"levels": None}, "either `levels` or a target `sparsity`"),
            ({"levels": 0}, "`levels` is how many levels are pruned, >= 1, got 0"),
            ({"rewind_step": -1}, "`rewind_step` is an optimizer step >= 0, got -1"),
            ({"rewind_step": 0.5}, "`rewind_step` is an optimizer step >= 0, got 0.5"),
            ({"rewind": "lr"}, "`rewind` is 'weights' or 'learning_rate', got 'lr'"),
            ({"optimizer": "old"}, "`optimizer` is 'fresh' or 'restored', got 'old'"),
            ({"per": "layer"}, "`per` is 'all' or 'tensor', got 'layer'"),
            ({"mode": "up"}, "`mode` is 'max' or 'min', got 'up'"),
            ({"margin": 0}, "`margin` is the loss that still counts as a match"),
            (
                {"controls": ["random"]},
                "`controls` are 'shuffled', 'effective', 'reinitialised', 'erk', 'uniform', got 'random'",
            ),
            ({"rewind": "learning_rate", "optimizer": "restored"}, "belongs to others: take optimizer='fresh'"),
            ({"rewind": "learning_rate", "controls": ["shuffled"]}, "they need rewind='weights'"),
        ],
    )
    def test_settings_that_mean_nothing(self, options, message):
        with pytest.raises(LotteryError, match=message):
            pruning(**options)

    @pytest.mark.parametrize("seeds", [(), (1, 1)])
    def test_no_seed_or_one_twice(self, tmp_path, seeds):
        with pytest.raises(LotteryError, match="`seeds` are different numbers, at least one"):
            pruning(seeds=seeds)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("step", [STEPS, 5000])
    def test_a_step_past_the_end_before_anything_is_trained(self, tmp_path, step):
        with pytest.raises(LotteryError, match=f"`rewind_step` {step} is past the end: this fit ends at step {STEPS}"):
            pruning(rewind_step=step).run(None, out=tmp_path)
        assert not (tmp_path / "seed-1/level-0/began.pt").exists()

    def test_a_step_that_an_early_stop_never_reached(self, tmp_path):
        with says("Snapshots saved nothing at"), pytest.raises(LotteryError, match="level 0 ended before that step"):
            pruning(Stops, rewind_step=10).run(None, out=tmp_path)

    def test_a_step_before_the_checkpoint_that_everything_begins_with(self, pruned, tmp_path):
        begin = pruned[1] / "seed-1/level-0/snapshots/step=5.ckpt"
        with pytest.raises(LotteryError, match="`rewind_step` 0 lies before '.*', which begins at step 5"):
            pruning().run(begin, out=tmp_path)
        with pytest.raises(LotteryError, match="There is no checkpoint"):
            pruning().run(tmp_path / "none.ckpt", out=tmp_path)

    def test_a_level_that_would_remove_nothing(self, tmp_path):
        with pytest.raises(LotteryError, match="Level 1: `prune_fraction` 0.001 removes none of the 144 entries"):
            pruning(prune_fraction=0.001).run(None, out=tmp_path)

    def test_a_metric_that_is_not_logged_before_level_0_and_where_that_cannot_be_tried_after_it(
        self, tmp_path, monkeypatch
    ):
        with pytest.raises(LotteryError, match="does not log 'f1'; it logs test_acc, test_loss"):
            pruning(monitor="f1").run(None, out=tmp_path)
        assert not (tmp_path / "seed-1").exists()
        monkeypatch.setattr(imp, "try_before", lambda *_: None)
        with pytest.raises(LotteryError, match="does not log 'f1', it logs sparsity, test_acc, test_loss"):
            pruning(monitor="f1").run(None, out=tmp_path)
        assert (tmp_path / "seed-1/level-0").exists() and not (tmp_path / "seed-1/level-1").exists()

    def test_a_scope_that_matches_nothing_and_a_project_that_prunes_by_itself(self, tmp_path):
        with pytest.raises(LotteryError, match="matches none of the 6 parameters"):
            pruning(scope=Scope(include=("none.*",))).run(None, out=tmp_path)
        with pytest.raises(LotteryError, match="masks by itself: leave out MagnitudePruning"):
            pruning(lambda: MagnitudePruning(0.5)).run(None, out=tmp_path)
        with pytest.raises(LotteryError, match="masks by itself: leave out EarlyBird"):
            pruning(lambda: EarlyBird([HammingFIFO()], [0.5], action="prune", name="bird")).run(
                None, out=tmp_path / "removing"
            )

    def test_several_processes_for_closures(self, tmp_path):
        with pytest.raises(LotteryError, match="functions at the top of a file"):
            pruning(seeds=(1, 2)).run(None, jobs=2, out=tmp_path)


RANKS = """
import sys
from pathlib import Path
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning_lottery import IterativePruning, Scope
from lightning_lottery.callbacks import MaskCallback
from lightning_lottery.children.fit import train
from helpers.projects import plain_loader, trainer
from helpers.factories import Net
from lightning_lottery.children.factories import FactoryProject

torch.set_num_threads(1)

class Shuffled(LightningDataModule):
    def train_dataloader(self):
        return plain_loader(n=64, shuffle=True)
    def test_dataloader(self):
        return plain_loader(n=61)

class OfRank(Callback):
    lottery_order = 3

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not hasattr(self, "began"):
            (masking,) = [callback for callback in trainer.callbacks if isinstance(callback, MaskCallback)]
            weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
            masks = {name: mask.clone() for name, mask in masking.masks.items()}
            self.began = {"weights": weights, "masks": masks, "step": trainer.global_step, "batch": batch[0]}

    def on_train_end(self, trainer, pl_module):
        ended = dict(pl_module.named_parameters())
        path = Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.pt"
        torch.save({**self.began, "ended": {name: value.detach() for name, value in ended.items()}}, path)

def make_trainer(**given):
    two = {"devices": 2, "strategy": "ddp"}
    return trainer(given["default_root_dir"], OfRank(), logger=given["logger"], **two)

options = {"prune_fraction": 0.3, "levels": 2, "rewind_step": 5, "scope": Scope(), "controls": ["shuffled"]}
pruning = IterativePruning(seeds=(1,), **options)
for child in pruning.plan(FactoryProject(Net, Shuffled, make_trainer), sys.argv[1]).children:
    child.folder.mkdir(parents=True, exist_ok=True)
    train(child, "", child.project)
sys.stdout.write("ok\\n")
"""


def test_on_two_ranks_every_level_has_the_same_masks_and_rewound_weights_on_both_and_the_exact_count(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    done = run(sys.executable, str(script), str(tmp_path))
    assert done.returncode == 0 and done.stdout.count("ok") == 2, done.stderr[-3000:]
    folder = tmp_path / "seed-1"
    snapshot = checkpoint(folder / "level-0/snapshots/step=5.ckpt")["state_dict"]
    kept = sum(SIZES.values())
    for name in ("level-1", "level-1-shuffled", "level-2", "level-2-shuffled"):
        one, second = (torch.load(folder / name / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
        loaded = ticket(folder / name)
        assert same(one["masks"], loaded.masks) and same(second["masks"], loaded.masks)
        assert same(one["weights"], masked(snapshot, loaded)) and same(second["weights"], one["weights"])
        assert one["step"] == second["step"] == 5 and not torch.equal(one["batch"], second["batch"])
        assert same(one["ended"], second["ended"]) and not same(one["ended"], one["weights"])
        kept = kept if name.endswith("shuffled") else kept - round(0.3 * kept)
        assert count(loaded.masks)[0] == kept
        assert all((one["ended"][name_of_weight][~mask] == 0).all() for name_of_weight, mask in loaded.masks.items())
