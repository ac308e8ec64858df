import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from test_instability import STEPS, Data, Net, same

from lightning_lottery import Constant, InstabilitySweep, LotteryError, MagnitudePruning, Ticket
from lightning_lottery.functional.stability import judge_step
from lightning_lottery.runners import engine
from lightning_lottery.runners.children import Child
from lightning_lottery.runners.sweep_report import stable_step
from projects import trainer
from stages import Died

LATER = 1000  # seeds of the second parent's children


def make_pruner():
    return MagnitudePruning(Constant(0.75, begin=0), per="tensor")


class Dies(Callback):
    """Ends the fit of a child, and at a step, that the test names."""

    at: tuple[str, int] | None = None

    def on_train_batch_end(self, trainer, *_):
        if Dies.at == (str(Path(trainer.default_root_dir).name), trainer.global_step):
            raise Died


def sweep(*, module=Net, **settings):
    """A sweep in this process: nobody else can import a closure."""

    def build_trainer(**given):
        return trainer(given["default_root_dir"], Dies(), logger=given["logger"])

    given = {"steps": [0, 4, 8], "parents": [0, 1], "seeds": [1, 2], "alphas": 3}
    return InstabilitySweep(lambda: module(), lambda: Data(), build_trainer, **(given | settings))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two parents of two children at three steps, dense and pruned."""
    out = tmp_path_factory.mktemp("swept")
    return sweep(make_pruners={"magnitude": make_pruner}).run(out=out), out


def rows_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_every_network_is_judged_at_every_step_of_every_parent(swept):
    report, out = swept
    for network in ("dense", "magnitude"):
        barriers = report.barriers(network)
        assert list(barriers) == [0, 4, 8] and all(list(of) == [0, 1] for of in barriers.values())
        assert all(list(pairs) == [(0, 1)] for of in barriers.values() for pairs in of.values())
        assert {step: of.mean for step, of in report.judged(network).items()} == {
            step: judge_step(of).mean for step, of in barriers.items()
        }
    folders = {path.parent.relative_to(out).as_posix() for path in out.rglob("done")}
    assert {f"parent-1/magnitude-step-4/seed-{LATER + 2}", "parent-0/dense-step-8/lines", "parent-1"} <= folders
    assert len(folders) == 2 + 2 * 3 * (3 + 4)


def test_children_begin_with_their_parent_s_snapshot_and_pruned_ones_with_its_largest_weights(swept):
    _, out = swept
    for parent, seed in ((0, 1), (1, LATER + 1)):
        snapshot = torch.load(out / f"parent-{parent}/snapshots/step=4.ckpt", weights_only=True)
        start = torch.load(out / f"parent-{parent}/magnitude-step-4/start/start.ckpt", weights_only=True)
        ticket = Ticket.load(out / f"parent-{parent}/magnitude-step-4/start/ticket.safetensors")
        assert ticket.sparsity == 0.75 and start["global_step"] == snapshot["global_step"] == 4
        for name, mask in ticket.masks.items():
            assert torch.equal(start["state_dict"][name], torch.where(mask, snapshot["state_dict"][name], 0.0))
        conditions = json.loads((out / f"parent-{parent}/dense-step-4/seed-{seed}/conditions.json").read_text())
        assert conditions["start_step"] == 4 and conditions["end_step"] == STEPS


def test_parents_begin_differently_and_their_children_have_different_noise(swept):
    _, out = swept
    begins = [torch.load(out / f"parent-{p}/snapshots/step=0.ckpt", weights_only=True)["state_dict"] for p in (0, 1)]
    assert not same(*begins)
    batches = [
        json.loads((out / f"parent-{parent}/dense-step-0/seed-{seed}/conditions.json").read_text())["batches"]
        for parent, seed in ((0, 1), (0, 2), (1, LATER + 1), (1, LATER + 2))
    ]
    assert len({str(of) for of in batches}) == 4


def test_records_figures_and_curves_hold_what_was_found(swept):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    report, out = swept
    rows = rows_of(out)
    keys = {"stage", "method", "parent", "seeds", "step", "alpha", "sparsity", "metric", "value", "n", "device"}
    assert all(row.keys() == keys for row in rows)
    found = {
        (row["stage"], row["parent"]): row["value"]
        for row in rows
        if row["metric"] == "error_barrier" and row["method"] == "raw"
    }
    assert found["sweep/magnitude-step-8", 1] == report.barriers("magnitude")[8][1][0, 1] and len(found) == 12
    assert {row["sparsity"] for row in rows if row["stage"] == "sweep/magnitude-step-0"} == {0.75}
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["networks"]) == ["dense", "magnitude"]
    assert summary["networks"]["dense"]["steps"]["4"]["mean"] == report.judged("dense")[4].mean
    for name in ("barrier", "lines"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    board = accumulators.EventAccumulator(str(out / "sweep")).Reload()
    assert [event.step for event in board.Scalars("sweep/error_barrier/magnitude/mean")] == [0, 4, 8]
    assert {"barrier", "lines"} <= set(board.Tags()["images"])


def test_a_bisection_trains_only_what_it_asks_for_and_says_beforehand_how_much(tmp_path, capsys):
    steps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    report = sweep(steps=steps, search="bisect", threshold=0.9, parents=[0]).run(out=tmp_path)
    said = capsys.readouterr().out
    assert "At most 12 trainings of children, beside the parents' 1: 2 of each parent at up to 6 of 11 steps" in said
    evaluated = list(report.reports["dense"])
    assert evaluated[0] == 0 and evaluated[-1] == 10 and len(evaluated) < len(steps)
    assert {path.name for path in (tmp_path / "parent-0").glob("dense-step-*")} == {
        f"dense-step-{step}" for step in evaluated
    }


@pytest.mark.parametrize("at", [("parent-1", 9), ("seed-2", 11), ("lines", 2)])
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
        sweep(make_pruners={"magnitude": make_pruner}).run(out=tmp_path)
    sweep(make_pruners={"magnitude": make_pruner}).run(out=tmp_path)
    assert rows_of(tmp_path) == rows_of(swept[1])


def test_what_is_done_is_not_done_again_and_more_steps_only_add_children(tmp_path, monkeypatch):
    done, do_child = [], engine.do_child

    def noted(folder, commands):
        done.append(folder.relative_to(tmp_path).as_posix())
        do_child(folder, commands)

    monkeypatch.setattr(engine, "do_child", noted)
    sweep(parents=[0], snapshots=[]).run(out=tmp_path)
    given = [tmp_path / "parent-0/snapshots"]
    first, done[:] = list(done), []
    sweep(parents=[0]).run(out=tmp_path)
    assert len(first) == 1 + 3 * 3 and all(Child.load(tmp_path / name).is_done for name in done)
    done[:] = []
    stamps = {name: (tmp_path / name / "done").stat().st_mtime_ns for name in first}
    again = sweep(parents=[0]).run(out=tmp_path, redo=["seed-2"])
    changed = {name for name in first if (tmp_path / name / "done").stat().st_mtime_ns != stamps[name]}
    assert changed == {f"parent-0/dense-step-{step}/{name}" for step in (0, 4, 8) for name in ("seed-2", "lines")}
    other = sweep(snapshots=given, steps=[]).run(out=tmp_path / "given")
    assert other.barriers("dense") == again.barriers("dense")  # the same children from folders of snapshots


def test_k_star_reaches_whoever_names_the_sweep(swept, tmp_path):
    report = sweep(steps=[4, 8], parents=[0, 1, 2], threshold=0.99).run(out=tmp_path)
    assert stable_step(tmp_path, "dense") == report.k_star("dense").step == 4
    with pytest.raises(LotteryError, match="has no network 'synflow': it has dense"):
        stable_step(tmp_path, "synflow")
    with pytest.raises(LotteryError, match="found no step from which on 'dense' is stable"):
        stable_step(swept[1], "dense")  # 24 test samples are too few to see a threshold of 0.02
    with pytest.raises(LotteryError, match="There is no finished sweep in"):
        stable_step(tmp_path / "none", "dense")


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
        ({"threshold": 0}, "`threshold` above 0"),
        ({"make_pruners": {"dense": make_pruner}}, "'dense' is the whole one"),
        ({"snapshots": ["none"], "steps": []}, "needs `steps`"),
        ({"beside": {"other": "none"}, "steps": [0, 4], "parents": [0]}, "no finished sweep in 'none'"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(tmp_path, settings, said):
    with pytest.raises(LotteryError, match=said):
        sweep(**settings).run(out=tmp_path)
    assert not list(tmp_path.rglob("last.ckpt"))


def test_a_parent_that_ends_before_a_step_is_refused_before_children_are_trained(tmp_path):
    refusal = pytest.raises(LotteryError, match=r"Parent 0 has no snapshot of step 50 in .*Give earlier `steps`")
    with refusal, pytest.warns(UserWarning, match="Snapshots saved nothing"):
        sweep(steps=[0, 50], parents=[0]).run(out=tmp_path)
    assert not list(tmp_path.rglob("dense-step-*"))
