import csv
import json
import os
import shutil
import statistics
from pathlib import Path

import pytest
import torch
import yaml

from helpers import stages
from helpers.stages import Died, fit, freezing, in_this_process, named, platon, write
from lightning_lottery import LotteryError, Ticket
from lightning_lottery.children import processes
from lightning_lottery.children.records import COLUMNS
from lightning_lottery.experiments import recipe
from lightning_lottery.files import hash_of_tensors

RECIPE = {
    "1-dense.fit": fit(named("Snapshots", steps=[0])),
    "2-platon.fit": fit(platon()),
    "3-ticket.fit": fit(freezing("2-platon"), ckpt_path=f"{stages.RUN}/1-dense/snapshots/step=0.ckpt"),
    "4-again.fit": fit(freezing("3-ticket")),
    "5-check.test": {**fit(), "ckpt_path": f"{stages.RUN}/4-again/last.ckpt"},
}
NAMES = [name.partition(".")[0] for name in RECIPE]
FOLDER = Path("runs/recipe/seed-0")
REAL_RUN_CHILD = processes.run_child


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The recipe, run once for all tests."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(processes, "run_child", in_this_process)
        recipe.run_recipe(write(folder / "recipe", RECIPE))
    return folder


@pytest.fixture
def finished(once, tmp_path, monkeypatch):
    """A copy of the finished run, in the working directory."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ran(monkeypatch):
    """The names of the stages that were run, in this process."""
    names = []

    def run_child(child):
        names.append(child.folder.name)
        return in_this_process(child)

    monkeypatch.setattr(processes, "run_child", run_child)
    return names


@pytest.fixture
def started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda content: write(tmp_path / "recipe", content)


def change(stage, **trainer):
    path = Path(f"recipe/{stage}.yaml")
    content = yaml.safe_load(path.read_text())
    content["trainer"] |= trainer
    path.write_text(yaml.safe_dump(content))


def traces(folder):
    """All that a stage leaves for others, to the bit."""
    weights = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    ticket = Ticket.load(folder / "ticket.safetensors")
    return {
        "weights": hash_of_tensors(weights),
        "ticket": (hash_of_tensors(ticket.masks), dict(ticket.provenance)),
        "results": (folder / "results.jsonl").read_text(),
    }


def forget(name):
    """As if the recipe ended with this stage, and that had not run yet; what it left the first time."""
    unbroken = traces(FOLDER / name)
    for later in NAMES[NAMES.index(name) + 1 :]:
        next(Path("recipe").glob(f"{later}.*")).unlink()
    shutil.rmtree(FOLDER / name)
    return unbroken


def test_every_stage_runs_once_in_order_and_sees_the_files_of_those_before(finished):
    for name in NAMES:
        assert (FOLDER / name / "done").is_file()
        assert not (FOLDER / name / "resume.ckpt").exists()
    pruned, trained = (Ticket.load(FOLDER / name / "ticket.safetensors") for name in ("2-platon", "3-ticket"))
    assert pruned.hamming(trained) == 0
    assert pruned.sparsity == 0.5
    assert json.loads((FOLDER / "3-ticket/child.json").read_text())["fingerprint"]["inputs"].keys() == {
        f"{FOLDER}/1-dense/snapshots/step=0.ckpt",
        f"{FOLDER}/2-platon/ticket.safetensors",
    }
    tested = [json.loads(line) for line in (FOLDER / "5-check/results.jsonl").read_text().splitlines()]
    again = [json.loads(line) for line in (FOLDER / "4-again/results.jsonl").read_text().splitlines()]
    values = {row["metric"]: row["value"] for row in again}
    assert {row["metric"]: row["value"] for row in tested} == {
        k: 0.0 if k == "sparsity" else v for k, v in values.items() if "val" not in k
    }


def test_what_is_done_is_not_run_again(finished, ran, capsys):
    before = json.loads(Path("runs/recipe/summary.json").read_text())
    assert recipe.run_recipe("recipe") == before
    assert ran == []
    assert capsys.readouterr().out.count("done before") == len(NAMES)


def test_a_changed_stage_is_refused_with_the_difference_before_anything_runs(finished, ran):
    change("4-again.fit", max_epochs=4, gradient_clip_val=0.5)
    with pytest.raises(LotteryError) as refusal:
        recipe.run_recipe("recipe", seeds=[1, 0])
    assert ran == []
    for part in (
        "4-again",
        "trainer.max_epochs was 3, is 4",
        "trainer.gradient_clip_val was None, is 0.5",
        "--redo 4-again",
    ):
        assert part in str(refusal.value)


def test_all_changed_stages_are_named_together(finished, ran):
    change("1-dense.fit", max_epochs=4)
    change("2-platon.fit", max_epochs=4)
    with pytest.raises(LotteryError, match="--redo 1-dense --redo 2-platon$"):
        recipe.run_recipe("recipe")


def test_an_overlay_is_a_change_too(finished, ran):
    Path("overlay.yaml").write_text("trainer: {max_epochs: 1}")
    with pytest.raises(LotteryError, match="trainer.max_epochs was 3, is 1"):
        recipe.run_recipe("recipe", overlay="overlay.yaml")


@pytest.mark.parametrize(
    ("redone", "run"),
    [
        ("2-platon", ["2-platon", "3-ticket", "4-again", "5-check"]),
        ("5-check", ["5-check"]),
    ],
)
def test_redo_runs_the_stage_and_what_depends_on_its_files_and_nothing_else(finished, ran, redone, run):
    before = {name: (FOLDER / name / "results.jsonl").read_text() for name in NAMES}
    recipe.run_recipe("recipe", redo=[redone])
    assert ran == run
    assert {name: (FOLDER / name / "results.jsonl").read_text() for name in NAMES} == before


def test_a_changed_stage_runs_once_it_is_to_be_redone(finished, ran):
    change("4-again.fit", max_epochs=1)
    recipe.run_recipe("recipe", redo=["4-again"])
    assert ran == ["4-again", "5-check"]
    assert torch.load(FOLDER / "4-again/last.ckpt", weights_only=True)["global_step"] == 4


def test_a_changed_input_file_is_refused(finished, ran):
    path = FOLDER / "2-platon/ticket.safetensors"
    Ticket.load(path).shuffled(1).save(path)
    with pytest.raises(LotteryError, match=f"the file {path} has changed.*--redo 3-ticket"):
        recipe.run_recipe("recipe")
    assert ran == []


def test_a_file_that_no_stage_wrote_is_missed_before_the_stage_runs(started, ran):
    folder = started({"1-dense.fit": fit(), "2-ticket.fit": fit(freezing("1-dense"))})
    with pytest.raises(LotteryError, match="1-dense/ticket.safetensors' does not exist; no earlier stage wrote it"):
        recipe.run_recipe(folder)
    assert ran == ["1-dense"]


@pytest.mark.parametrize(
    ("name", "step"),  # nothing saved yet; within an epoch; at its end; after the last step
    [("2-platon", 1), ("2-platon", 7), ("3-ticket", 4), ("3-ticket", stages.STEPS)],
)
def test_a_stage_that_died_goes_on_as_if_it_had_not(finished, ran, monkeypatch, name, step):
    unbroken = forget(name)
    monkeypatch.setenv("DIES_AT", str(step))
    with pytest.raises(Died):
        recipe.run_recipe("recipe")
    assert not (FOLDER / name / "done").exists()
    assert (FOLDER / name / "resume.ckpt").exists() == (step > 2)
    monkeypatch.delenv("DIES_AT")
    recipe.run_recipe("recipe")
    assert ran == [name, name]
    assert traces(FOLDER / name) == unbroken


def test_a_process_killed_in_the_middle_goes_on_as_if_it_had_not(finished, ran, monkeypatch, capfd):
    unbroken = forget("3-ticket")
    with monkeypatch.context() as patch:
        patch.setattr(processes, "run_child", REAL_RUN_CHILD)
        tests = str(Path(stages.__file__).parents[1])
        for name, value in {"DIES_AT": "7", "DIES_BY": "SIGKILL", "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        with pytest.raises(LotteryError, match=r"3-ticket \(3/3\) was ended by SIGKILL: the same command goes on"):
            recipe.run_recipe("recipe")
    assert "Warning" not in capfd.readouterr().err
    assert (FOLDER / "3-ticket/resume.ckpt").exists()
    recipe.run_recipe("recipe")
    assert ran == ["3-ticket"]
    assert traces(FOLDER / "3-ticket") == unbroken


def test_a_stage_in_which_nothing_was_trained_may_be_changed(started, ran, capsys):
    folder = started({"1-platon.fit": fit(platon(sparsity=1.8))})
    with pytest.raises(
        LotteryError, match=r"failed: `sparsity` is the fraction removed, in \[0, 1\), got 1.8. What is done stays."
    ):
        recipe.run_recipe(folder)
    assert "`sparsity` is the fraction removed, in [0, 1), got 1.8." in capsys.readouterr().err
    write(folder, {"1-platon.fit": fit(platon())})
    recipe.run_recipe(folder)
    assert ran == ["1-platon", "1-platon"]


def test_what_ran_before_a_failure_stays_done(started, ran):
    folder = started({"1-dense.fit": fit(), "2-platon.fit": fit(platon(end=9000))})
    for _ in range(2):
        with pytest.raises(LotteryError, match=r"2-platon \(2/2\) failed: PLATON: .* What is done stays"):
            recipe.run_recipe(folder)
    assert ran == ["1-dense", "2-platon", "2-platon"]
    assert not Path("runs/recipe/summary.json").exists()


def test_an_interrupted_run_says_how_to_go_on(finished, monkeypatch, capsys):
    def run_child(child):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "run_child", run_child)
    with pytest.raises(KeyboardInterrupt):
        recipe.run_recipe("recipe", redo=["5-check"])
    assert "5-check (5/5): interrupted. The same command goes on from here." in capsys.readouterr().out


def test_all_stages_are_parsed_before_the_first_one_runs(started, ran):
    folder = started({"1-dense.fit": fit(), "2-platon.fit": fit(named("PLATON", sparsty=0.5))})
    with pytest.raises(LotteryError, match=r"2-platon.fit.yaml: .*Option 'sparsty' is not accepted"):
        recipe.run_recipe(folder)
    assert ran == []
    assert not Path("runs").exists()


def test_rows_have_the_schema_of_the_records(finished):
    rows = [json.loads(line) for line in Path("runs/recipe/results.jsonl").read_text().splitlines()]
    assert rows == [
        json.loads(line) for name in NAMES for line in (FOLDER / name / "results.jsonl").read_text().splitlines()
    ]
    for row in rows:
        assert list(row) == list(COLUMNS)
        assert (row["recipe"], row["seed"], row["device"]) == ("recipe", 0, "cpu") and isinstance(row["value"], float)
    fits = [row for row in rows if row["stage"] != "5-check"]
    assert {row["step"] for row in fits} == {stages.STEPS}
    assert {(row["stage"], row["network"], row["method"], row["density"]) for row in fits} == {
        ("1-dense", "dense", "dense", 1.0),
        ("2-platon", "pruned", "PLATON", 0.5),
        ("3-ticket", "ticket", "MaskFreezing", 0.5),
        ("4-again", "ticket", "MaskFreezing", 0.5),
    }
    with open("runs/recipe/results.csv") as file:
        assert [row["value"] for row in csv.DictReader(file)] == [str(row["value"]) for row in rows]
    assert [row["metric"] for row in rows if row["stage"] == "1-dense"] == [
        *("sparsity", "test_acc", "test_loss", "val_acc", "val_loss")
    ]


def test_the_summary_over_seeds_has_mean_and_standard_deviation(started, ran, capsys):
    folder = started({"1-dense.fit": fit()})
    summary = recipe.run_recipe(folder, seeds=[3, 5])
    assert ran == ["1-dense", "1-dense"]
    rows = [json.loads(line) for line in Path("runs/recipe/results.jsonl").read_text().splitlines()]
    losses = {row["seed"]: row["value"] for row in rows if row["metric"] == "test_loss"}
    assert losses.keys() == {3, 5} and losses[3] != losses[5]
    summarised = summary["1-dense"]["test_loss"]
    assert summarised["values"] == [losses[3], losses[5]] and summarised["n"] == 2
    assert summarised["mean"] == pytest.approx((losses[3] + losses[5]) / 2, abs=1e-12)
    assert summarised["sd"] == pytest.approx(abs(losses[3] - losses[5]) / 2**0.5, abs=1e-12)
    assert json.loads(Path("runs/recipe/summary.json").read_text()) == summary
    out = capsys.readouterr().out
    assert f"{summarised['mean']:.4f} ± {summarised['sd']:.4f}" in out
    assert statistics.fmean(losses.values()) != losses[3]


def test_one_seed_has_no_standard_deviation(finished):
    summary = json.loads(Path("runs/recipe/summary.json").read_text())
    assert summary["1-dense"]["test_acc"]["sd"] is None


def test_a_script_of_the_recipe_runs_last_in_the_folder_of_the_run(finished, capsys):
    script = Path("recipe") / "at_the_end.py"
    script.write_text("import pathlib; pathlib.Path('seen.png').write_text(str(len(open('results.csv').readlines())))")
    recipe.run_recipe("recipe")
    rows = len(Path("runs/recipe/results.csv").read_text().splitlines())
    assert Path("runs/recipe/seen.png").read_text() == str(rows)
    assert "seen.png" in capsys.readouterr().out  # named among the pictures
    script.write_text("raise SystemExit(3)")
    with pytest.raises(LotteryError, match="at_the_end.py' ended with exit code 3; every stage is done"):
        recipe.run_recipe("recipe")


def test_the_environment_is_left_as_it_was(finished, ran, monkeypatch):
    monkeypatch.setenv("LOTTERY_RUN", "mine")
    before = dict(os.environ)
    recipe.run_recipe("recipe")
    assert dict(os.environ) == before


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_are_different_numbers(finished, seeds):
    with pytest.raises(LotteryError, match="different numbers, at least one"):
        recipe.run_recipe("recipe", seeds)


def test_a_stage_that_does_not_exist_cannot_be_redone(finished):
    with pytest.raises(LotteryError, match="no 2-plato to do again: there are 1-dense, 2-platon"):
        recipe.run_recipe("recipe", redo=["2-plato"])
    assert (FOLDER / "2-platon/done").exists()


def instability(**section):
    return fit(ckpt_path=f"{stages.RUN}/1-dense/snapshots/step=0.ckpt", instability={"alphas": [0, 0.5, 1], **section})


STABLE = {
    "1-dense.fit": fit(named("Snapshots", steps=[0])),
    "2-platon.fit": fit(platon()),
    "3-stable.instability": instability(seeds=[1, 2]),
    "4-ticket.instability": instability(ticket=f"{stages.RUN}/2-platon/ticket.safetensors"),
}


def test_a_stage_may_be_an_analysis_which_goes_on_where_it_was_killed_and_is_refused_when_changed(
    started, ran, monkeypatch, capsys
):
    folder = started(STABLE)
    summary = recipe.run_recipe(folder)
    children = ["seed-1", "seed-2", "lines"]
    assert ran == ["1-dense", "2-platon", "3-stable", "trial", *children, "4-ticket", "trial", *children]
    assert summary["3-stable"]["error_barrier"]["n"] == 1 and summary["3-stable"]["test_acc"]["n"] == 2
    assert summary["3-stable"]["sparsity"]["mean"] == 0 < summary["4-ticket"]["sparsity"]["mean"]
    shown = " ".join(capsys.readouterr().out.split())  # a title may wrap
    assert "Error barrier on the lines between children" in shown and "summary.png, stability.png" in shown
    assert {path.stem for path in Path("runs/recipe").glob("*.svg")} == {"summary", "stability"}
    rows = [json.loads(line) for line in Path("runs/recipe/results.jsonl").read_text().splitlines()]
    assert {(row["parent"], row["stage"]) for row in rows if row["alpha"] is not None} == {
        (0, "3-stable"),
        (0, "4-ticket"),
    }
    unbroken = (FOLDER / "4-ticket/results.jsonl").read_text()
    shutil.rmtree(FOLDER / "4-ticket")
    ran.clear()
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setenv("DIES_AT", "7")
        recipe.run_recipe(folder)
    assert ran == ["4-ticket", "trial", "seed-1"]
    ran.clear()
    recipe.run_recipe(folder)
    assert ran == ["4-ticket", "trial", *children]
    assert (FOLDER / "4-ticket/results.jsonl").read_text() == unbroken
    write(folder, {"3-stable.instability": instability(seeds=[1, 2], threshold=0.05)})
    ran.clear()
    recipe.run_recipe(folder)
    assert ran == ["3-stable", "lines"]  # its section changed: judged anew, nothing trained again
    changed = instability(seeds=[1, 2])
    changed["trainer"]["max_epochs"] = 4
    write(folder, {"3-stable.instability": changed})
    with pytest.raises(LotteryError, match="3-stable: trainer.max_epochs was 3, is 4"):
        recipe.run_recipe(folder)


def when_stable(threshold):
    """A sweep, and a fit that saves at the step that it finds."""
    sweep = {"steps": [4, 8], "parents": [3], "seeds": [1, 2, 3], "alphas": [0, 0.5, 1], "threshold": threshold}
    snapshots = named("Snapshots", steps=["${stable_step:1-when}"])
    when = fit(sweep=sweep)
    when["trainer"]["limit_test_batches"] = 1.0  # children this small may not differ on a single batch
    return {"1-when.sweep": when, "2-once-stable.fit": fit(snapshots)}


def test_the_step_from_which_on_a_network_is_stable_reaches_later_stages(started, ran):
    started(when_stable(0.9))
    recipe.run_recipe("recipe")
    assert [path.name for path in (FOLDER / "2-once-stable/snapshots").iterdir()] == ["step=4.ckpt"]
    assert ran[0] == "1-when" and ran[-1] == "2-once-stable"
    ran.clear()
    recipe.run_recipe("recipe")
    assert ran == []


def test_without_a_step_from_which_on_a_network_is_stable_the_stage_that_names_it_is_refused(started, ran):
    started(when_stable(1e-9))
    with pytest.raises(LotteryError, match=r"2-once-stable.fit.yaml: The sweep in .*1-when' found no step from which"):
        recipe.run_recipe("recipe")
    assert (FOLDER / "1-when/done").is_file() and "2-once-stable" not in ran
    ran.clear()
    started(when_stable(0.9))
    recipe.run_recipe("recipe")  # what only judges changed: nothing is trained again
    assert ran == ["1-when", "lines", "lines", "2-once-stable"]
    assert [path.name for path in (FOLDER / "2-once-stable/snapshots").iterdir()] == ["step=4.ckpt"]
    content = when_stable(1e-9)
    content["2-once-stable.fit"]["trainer"]["max_epocs"] = 3
    started(content)
    ran.clear()
    with pytest.raises(LotteryError, match="max_epocs"):
        recipe.run_recipe("recipe", out="other")
    assert ran == []  # the rest of its configuration is checked before anything runs


def test_a_recipe_s_seeds_that_a_stage_does_not_heed_are_refused(started, ran):
    started(when_stable(0.9))
    with pytest.raises(LotteryError, match="'1-when' names the seeds that it trains.*the same 2 times"):
        recipe.run_recipe("recipe", seeds=(0, 1))
    assert ran == []


def test_what_is_done_again_takes_along_the_stages_that_name_the_step_it_finds(started, ran):
    started(when_stable(0.9))
    recipe.run_recipe("recipe")
    ran.clear()
    recipe.run_recipe("recipe", redo=["1-when"])
    assert (
        ran[0] == "1-when" and ran[-1] == "2-once-stable" and len(ran) == 2 + 1 + 1 + 2 * 4
    )  # stages, trial, parent, children and lines
