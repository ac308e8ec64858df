import json
from shutil import copytree

import pytest
import torch

from helpers.factories import STEPS, closures
from helpers.stages import Died, Dies
from helpers.states import same
from lightning_lottery import Constant, InstabilitySweep, LotteryError, MagnitudePruning, Ticket
from lightning_lottery.children import engine
from lightning_lottery.children.records import COLUMNS
from lightning_lottery.experiments.sweep_report import stable_step
from lightning_lottery.functional.verdicts import judge

LATER = 1000  # seeds of the second parent's children


def make_pruner():
    return MagnitudePruning(Constant(0.75, begin=0), per="tensor")


PROJECT = closures(Dies)


def sweep(**settings):
    """A sweep in this process: nobody else can import a closure."""
    return InstabilitySweep(
        **({"steps": [0, 4, 8], "parents": [0, 1], "seeds": [1, 2], "alphas": [0, 0.5, 1]} | settings)
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two parents of two children at three steps, dense and pruned."""
    out = tmp_path_factory.mktemp("swept")
    return sweep(pruners={"magnitude": make_pruner}).run(PROJECT, out=out), out


def rows_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_every_network_is_judged_at_every_step_of_every_parent(swept):
    report, out = swept
    for network in ("dense", "magnitude"):
        barriers = report.barriers(network)
        assert list(barriers) == [0, 4, 8] and all(list(by_parent) == [0, 1] for by_parent in barriers.values())
        assert all(list(pairs) == [(0, 1)] for by_parent in barriers.values() for pairs in by_parent.values())
        assert {step: by_parent.mean for step, by_parent in report.judged(network).items()} == {
            step: judge(by_parent).mean for step, by_parent in barriers.items()
        }
    folders = {path.parent.relative_to(out).as_posix() for path in out.rglob("done")}
    assert {f"parent-1/magnitude-step-4/seed-{LATER + 2}", "parent-0/dense-step-8/lines", "parent-1/parent"} <= folders
    assert len(folders) == 2 + 2 * 3 * (3 + 4)


def test_children_begin_with_their_parent_s_snapshot_and_pruned_ones_with_its_largest_weights(swept):
    _, out = swept
    for parent, seed in ((0, 1), (1, LATER + 1)):
        snapshot = torch.load(out / f"parent-{parent}/parent/snapshots/step=4.ckpt", weights_only=True)
        start = torch.load(out / f"parent-{parent}/magnitude-step-4/start/start.ckpt", weights_only=True)
        ticket = Ticket.load(out / f"parent-{parent}/magnitude-step-4/start/ticket.safetensors")
        assert ticket.sparsity == 0.75 and start["global_step"] == snapshot["global_step"] == 4
        for name, mask in ticket.masks.items():
            assert torch.equal(start["state_dict"][name], torch.where(mask, snapshot["state_dict"][name], 0.0))
        conditions = json.loads((out / f"parent-{parent}/dense-step-4/seed-{seed}/conditions.json").read_text())
        assert conditions["start_step"] == 4 and conditions["end_step"] == STEPS


def test_parents_begin_differently_and_their_children_have_different_noise(swept):
    _, out = swept
    begins = [
        torch.load(out / f"parent-{p}/parent/snapshots/step=0.ckpt", weights_only=True)["state_dict"] for p in (0, 1)
    ]
    assert not same(*begins)
    batches = [
        json.loads((out / f"parent-{parent}/dense-step-0/seed-{seed}/conditions.json").read_text())["batches"]
        for parent, seed in ((0, 1), (0, 2), (1, LATER + 1), (1, LATER + 2))
    ]
    assert len({str(hashes) for hashes in batches}) == 4


def test_each_cell_may_have_a_ticket_of_its_own(swept, tmp_path):
    _, out = swept
    paths = {step: f"{out}/parent-{{parent}}/magnitude-step-{step}/start/ticket.safetensors" for step in (0, 4)}
    sweep(steps=[0, 4], tickets={"kept": paths}).run(PROJECT, out=tmp_path)
    hidden = set()
    for parent, seed in ((0, 1), (1, LATER + 1)):
        for step, path in paths.items():
            ticket = Ticket.load(path.format(parent=parent))
            child = tmp_path / f"parent-{parent}/kept-step-{step}/seed-{seed}"
            state = torch.load(child / "last.ckpt", weights_only=True)["state_dict"]
            assert all(not state[name][~mask].any() for name, mask in ticket.masks.items())
            hidden.add(str({name: mask.tolist() for name, mask in ticket.masks.items()}))
    assert len(hidden) == 4, "each cell has a ticket of its own"
    with pytest.raises(LotteryError, match=r"for kept one at the steps \[0, 4\], none at step 2"):
        sweep(steps=[0, 2], tickets={"kept": paths}).run(PROJECT, out=tmp_path / "refused")
    with pytest.raises(LotteryError, match="no ticket '.*parent-7/magnitude-step-0/start/ticket.safetensors'"):
        sweep(steps=[0, 4], parents=[7], tickets={"kept": paths}).run(PROJECT, out=tmp_path / "refused")


def test_records_figures_and_curves_hold_what_was_found(swept):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    report, out = swept
    rows = rows_of(out)
    assert all([*row] == [*COLUMNS] for row in rows)
    recorded = {(row["stage"], row["parent"]): row["value"] for row in rows if row["metric"] == "error_barrier"}
    assert recorded["sweep/magnitude-step-8", 1] == report.barriers("magnitude")[8][1][0, 1] and len(recorded) == 12
    of_cell = [row for row in rows if row["stage"] == "sweep/magnitude-step-0"]
    assert {(row["network"], row["density"]) for row in of_cell} == {("magnitude", 0.25)}
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["networks"]) == ["dense", "magnitude"]
    assert summary["networks"]["dense"]["steps"]["4"]["mean"] == report.judged("dense")[4].mean
    for name in ("barrier", "lines"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    board = accumulators.EventAccumulator(str(out / "sweep")).Reload()
    assert not board.Tags()["scalars"]  # whose smoothing would move where the barrier falls below the threshold
    assert {"barrier", "lines"} <= set(board.Tags()["images"])


def test_a_bisection_trains_only_what_it_asks_for_and_says_beforehand_how_much(tmp_path, capsys):
    steps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    report = sweep(steps=steps, search="bisect", threshold=0.9, parents=[0]).run(PROJECT, out=tmp_path)
    shown = capsys.readouterr().out
    assert "At most 18 trainings of children, beside the parents' 1: 2 of each parent at up to 9 of 11 steps" in shown
    level = report.k_star("dense").level
    assert level > 0.05 and f"each wrong with a probability of at most {100 * level:.0f} %" in shown
    evaluated = list(report.reports["dense"])
    assert evaluated[0] == 0 and evaluated[-1] == 10 and len(evaluated) < len(steps)
    assert {path.name for path in (tmp_path / "parent-0").glob("dense-step-*")} == {
        f"dense-step-{step}" for step in evaluated
    }


@pytest.mark.parametrize("at", [("parent", 9), ("seed-2", 11), ("lines", 2)])
def test_killed_anywhere_and_started_again_it_ends_with_the_unbroken_report(swept, tmp_path, monkeypatch, at):
    with monkeypatch.context() as patch, pytest.raises(Died):
        if at[0] == "lines":
            seen, do_child = [], engine.do_child

            def dying(folder, commands):
                seen.append(folder.name)
                if seen.count("lines") == at[1]:
                    raise Died
                do_child(folder, commands)

            patch.setattr(engine, "do_child", dying)
        else:
            patch.setattr(Dies, "at", at)
        sweep(pruners={"magnitude": make_pruner}).run(PROJECT, out=tmp_path)
    sweep(pruners={"magnitude": make_pruner}).run(PROJECT, out=tmp_path)
    assert rows_of(tmp_path) == rows_of(swept[1])


@pytest.fixture
def stamps(tmp_path):
    """When each child below the folder was done."""
    return lambda: {
        path.parent.relative_to(tmp_path).as_posix(): path.stat().st_mtime_ns for path in tmp_path.rglob("done")
    }


def test_what_is_done_is_not_done_again_and_more_steps_only_add_children(tmp_path, stamps):
    def changed(**settings):
        redo, before = settings.pop("redo", ()), stamps()
        report = sweep(**{"parents": [0], "steps": [0, 8]} | settings).run(PROJECT, out=tmp_path, redo=redo)
        return report, {name for name, stamp in stamps().items() if before.get(name) != stamp}

    first, done = changed()
    assert len(done) == 1 + 2 * 3 and changed()[1] == set()
    more, added = changed(steps=[0, 4, 8])
    assert added == {"parent-0/parent"} | {f"parent-0/dense-step-4/{name}" for name in ("seed-1", "seed-2", "lines")}
    assert {step: more.barriers("dense")[step] for step in (0, 8)} == first.barriers("dense")
    assert changed() == (first, set())  # fewer steps are no other training
    assert changed(redo=["dense-step-8/seed-2"])[1] == {f"parent-0/dense-step-8/{name}" for name in ("seed-2", "lines")}
    assert changed(alphas=[0, 0.25, 0.5, 0.75, 1])[1] == {f"parent-0/dense-step-{step}/lines" for step in (0, 8)}
    with pytest.raises(LotteryError, match="There is no dense-step-9 to do again: there are parent-0/parent, parent-0"):
        changed(redo=["dense-step-9"])


def test_children_may_train_equally_long_after_their_steps_which_is_planned_once_parents_have_ended(tmp_path):
    equal = sweep(parents=[0], steps=[0, 4], remaining="equal")
    assert [[child.folder.name for child in wave] for wave in equal.plan(PROJECT, tmp_path).waves] == [["parent"]]
    equal.run(PROJECT, out=tmp_path)
    children = [json.loads(path.read_text()) for path in tmp_path.glob("parent-0/dense-*/seed-*/conditions.json")]
    assert {(child["start_step"], child["end_step"]) for child in children} == {(0, STEPS - 4), (4, STEPS)}
    with pytest.raises(LotteryError, match="do not say where that is: give `parents`"):
        snapshots = tmp_path / "elsewhere" / "snapshots"
        copytree(tmp_path / "parent-0/parent/snapshots", snapshots)
        sweep(snapshots=[str(snapshots)], steps=[0, 4], remaining="equal").plan(PROJECT, tmp_path / "other")


def test_parents_may_be_folders_of_snapshots(tmp_path):
    trained = sweep(parents=[0]).run(PROJECT, out=tmp_path / "own")
    snapshots = tmp_path / "own/parent-0/parent/snapshots"
    (snapshots / "step=4-v1.ckpt").write_text("of somebody else")
    reused = sweep(snapshots=[snapshots], steps=[]).run(PROJECT, out=tmp_path / "given")
    assert reused.barriers("dense") == trained.barriers("dense")
    with pytest.raises(LotteryError, match="Parent 0 has no snapshot of step 5"):
        sweep(snapshots=[snapshots], steps=[0, 5]).plan(PROJECT, tmp_path)
    weights = torch.load(snapshots / "step=0.ckpt", weights_only=True)["state_dict"]
    torch.save({"state_dict": weights}, snapshots / "step=0.ckpt")
    with pytest.raises(LotteryError, match="step=0.ckpt' holds weights but no optimizer and no loops to go on from"):
        sweep(snapshots=[snapshots], steps=[]).run(PROJECT, out=tmp_path / "weights")


def test_a_child_that_diverged_leaves_its_step_undecided_and_the_others_judged(tmp_path, capsys):
    sweep(parents=[0]).run(PROJECT, out=tmp_path)
    path = tmp_path / "parent-0/dense-step-4/seed-2/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["net.0.weight"][0, 0] = float("nan")
    torch.save(checkpoint, path)
    report = sweep(parents=[0]).run(PROJECT, out=tmp_path, redo=["dense-step-4/lines"])
    judged = report.judged("dense")
    assert judged[4].verdict == "undecided" and "not finite" in judged[4].reason
    assert judged[0].mean >= 0 and judged[8].mean >= 0
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["networks"]["dense"]["steps"]["4"]["mean"] is None


def test_k_star_reaches_whoever_names_the_sweep(tmp_path):
    report = sweep(steps=[4, 8], parents=[0, 1, 2], threshold=0.99).run(PROJECT, out=tmp_path)
    assert stable_step(tmp_path, "dense") == report.k_star("dense").step == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": []}, "needs `steps`"),
        ({"steps": [4]}, "two or more rising steps"),
        ({"steps": [4, 0]}, "two or more rising steps"),
        ({"seeds": [1]}, "at least two"),
        ({"seeds": [1, 1]}, "all different"),
        ({"parents": []}, "`parents` are different seeds"),
        ({"parents": [1, 1]}, "`parents` are different seeds"),
        ({"search": "random"}, "'grid' or 'bisect'"),
        ({"search": "bisect", "precision": -1}, "a ratio >= 0"),
        ({"target": "median"}, "`target` is 'mean' or 'verdict'"),
        ({"threshold": 0}, "`threshold` is the error barrier"),
        ({"margin": 0}, "`margin` is the loss"),
        ({"pruners": {"dense": make_pruner}}, "'dense' is the whole one"),
        ({"snapshots": ["none"], "steps": []}, "needs `steps`"),
        ({"seeds": [1, 1001]}, "would share seeds"),
        ({"tickets": {"platon": "none.safetensors"}}, "There is no ticket 'none.safetensors'"),
        ({"beside": {"other": "none"}, "steps": [0, 4], "parents": [0]}, "no finished sweep in 'none'"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(tmp_path, settings, said):
    with pytest.raises(LotteryError, match=said):
        sweep(**settings).run(PROJECT, out=tmp_path)
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.mark.filterwarnings("ignore:Snapshots saved nothing")
@pytest.mark.parametrize("last", [STEPS, 50])
def test_a_step_at_which_a_parent_ends_or_later_is_refused_before_children_are_trained(tmp_path, last):
    with pytest.raises(LotteryError, match=rf"Parent 0 ends at step {STEPS}: children of step {last} would train no"):
        sweep(steps=[0, last], parents=[0]).run(PROJECT, out=tmp_path)
    assert not list(tmp_path.rglob("dense-step-*"))
