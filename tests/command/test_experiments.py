import json
import re
import shlex
from pathlib import Path

import pytest

from helpers.stages import config, fit, in_this_process, mlp_layers
from lightning_lottery import Ticket
from lightning_lottery.command.main import main


@pytest.fixture
def analysable(monkeypatch):
    """A project's YAML with a section for the runner, and children that run in this process."""
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    return config(fit(instability={"alphas": [0.0, 0.5, 1.0], "layer_alphas": [0.5]}))


def test_instability_trains_children_and_judges_them(analysable, here, capsys):
    main(["instability", "--config", analysable, "--seeds", "1,2", "--out", "out", "--instability.threshold", "0.5"])
    shown = capsys.readouterr().out
    assert "the common beginning" in shown and "child of seed 2 (2/2)" in shown and "seed 1 - seed 2" in shown
    assert "one pair gives an estimate, no verdict" in shown
    summary = json.loads((here / "out/summary.json").read_text())
    assert summary["networks"] == ["seed 1", "seed 2"]
    assert {path.name for path in (here / "out").glob("*.png")} == {"path.png", "layers.png"}
    main(["instability", "--config", analysable, "--seeds", "1,2", "--out", "out", "--instability.threshold", "0.5"])
    assert "child of seed 2 (2/2): done before" in capsys.readouterr().out


def test_the_children_of_a_dry_run_are_commands_that_a_cluster_may_run(analysable, here, capsys):
    command = ["instability", "--config", analysable, "--seeds", "1,2", "--out", "out"]
    main([*command, "--dry_run"])
    listed = capsys.readouterr().out.splitlines()
    folders = [line.rpartition(" child ")[2] for line in listed if not line.startswith("#")]
    assert folders == ["out/start", "out/seed-1", "out/seed-2"] and not (here / "out/lines").exists()
    for folder in folders:
        main(["child", folder])
    capsys.readouterr()
    main(command)
    shown = capsys.readouterr().out
    assert shown.count(": done before") == 3 and "Records: out/results.jsonl" in shown
    main([*command, "--dry_run", "--redo", "seed-2"])
    assert (here / "out/seed-1/done").exists() and not (here / "out/seed-2/done").exists()
    assert not (here / "out/lines").exists()


def test_instability_says_what_is_wrong(analysable, refused, here):
    assert "at least two" in refused("instability", "--config", analysable, "--seeds", "1")
    assert "--seeds are numbers" in refused("instability", "--config", analysable, "--seeds", "a,b")
    assert "--instability.thresold" in refused("instability", "--config", analysable, "--instability.thresold", "1")
    assert "There is no checkpoint" in refused("instability", "--config", analysable, "--ckpt_path", "none.ckpt")
    assert not (here / "runs").exists()


def test_a_file_that_names_no_classes_is_analysed_with_those_named_beside_it(here, monkeypatch, capsys):
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    content = fit(model={"lr": 0.1}, data={"fixed": False})  # as a program's own LightningCLI(Net, Data) saves it
    content["trainer"] |= {"callbacks": [], "limit_test_batches": 1.0}
    classes = ["--model", "helpers.factories.Net", "--data", "helpers.factories.Data"]
    command = ["instability", "--config", config(content), *classes, "--seeds", "1,2", "--out", "out"]
    main(command)
    shown = capsys.readouterr().out
    assert "a trial before training" in shown and "seed 1 - seed 2" in shown
    conditions = json.loads((here / "out/seed-1/conditions.json").read_text())
    assert conditions["hparams"]["lr"] == 0.1 and conditions["end_step"] == 12
    main([*command, "--trainer.enable_progress_bar", "true"])  # which is no other training
    assert capsys.readouterr().out.count(": done before") == 4


def test_a_section_for_a_runner_does_not_disturb_a_fit(analysable, here, capsys):
    main(["fit", "--config", analysable, "--trainer.max_steps", "1", "--trainer.logger", "false"])


@pytest.fixture
def prunable(monkeypatch):
    """A project's YAML with a section for iterative pruning, and children that run in this process."""
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    return config(
        fit(
            imp={
                "levels": 1,
                "rewind_step": 2,
                "scope": {"include": [f"{name}*" for name in mlp_layers()]},
                "margin": 0.5,
            }
        )
    )


def test_imp_trains_every_level_and_judges_it(prunable, here, capsys):
    command = ["imp", "--config", prunable, "--seeds", "1,2", "--out", "out", "--imp.controls", "[shuffled]"]
    main(command)
    shown = capsys.readouterr().out
    assert "seed-2/level-1-shuffled (6/6)" in shown and re.search(r"│ 1 +│ 79.69% +│ ", shown)
    summary = json.loads((here / "out/summary.json").read_text())
    assert list(summary["levels"]) == ["level-0", "level-1", "level-1-shuffled"] and summary["seeds"] == [1, 2]
    ticket = Ticket.load(here / "out/seed-2/level-1/ticket.safetensors")
    assert sorted(ticket.masks) == sorted(f"{name}.weight" for name in mlp_layers())
    main(command)
    assert capsys.readouterr().out.count(": done before") == 6


def test_the_levels_of_a_dry_run_are_commands_in_the_order_of_their_dependence(prunable, here, capsys):
    command = ["imp", "--config", prunable, "--out", "out"]
    main([*command, "--dry_run"])
    folders = [line.rpartition(" child ")[2] for line in capsys.readouterr().out.splitlines() if line[0] != "#"]
    assert folders == ["out/seed-0/level-0", "out/seed-0/level-1"] and not list(here.rglob("*.ckpt"))
    for folder in folders:
        main(["child", folder])
    capsys.readouterr()
    main(command)
    assert capsys.readouterr().out.count(": done before") == 2


@pytest.fixture
def sweepable(monkeypatch):
    """A project's YAML with a section for a sweep, and children that run in this process."""
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    content = fit(sweep={"steps": [0, 4], "parents": [3], "seeds": [1, 2], "alphas": [0, 0.5, 1], "threshold": 0.9})
    content["trainer"] |= {"limit_test_batches": 1.0}  # enough for a verdict on networks that do not differ
    return config(content)


def test_sweep_says_from_which_step_on_a_network_is_stable(sweepable, here, capsys):
    command = ["sweep", "--config", sweepable, "--seeds", "1,2,3", "--out", "out", "--sweep.search", "bisect"]
    main(command)
    shown = capsys.readouterr().out
    assert (
        "At most 6 trainings of children, beside the parents' 1" in shown
        and "dense: stable to SGD noise at step 0 and at the evaluated" in shown
    )
    assert re.findall(r"\((\d)/6\)", shown) == ["1", "2", "3", "4", "5", "6"]  # over both steps
    assert json.loads((here / "out/summary.json").read_text())["networks"]["dense"]["step"] == 0
    main(command)
    assert capsys.readouterr().out.count(": done before") == 1 + 2 * 4


def test_the_children_of_a_sweep_s_dry_run_are_those_of_the_steps_it_asks_for_next(sweepable, here, capsys):
    pruner = '{"magnitude": {"class_path": "MagnitudePruning", "init_args": {"sparsity": 0.5}}}'
    command = ["sweep", "--config", sweepable, "--out", "out", "--sweep.pruners", pruner]
    main([*command, "--dry_run"])
    listed = capsys.readouterr().out.splitlines()
    folders = [line.rpartition(" child out/parent-3")[2] for line in listed if line[0] != "#"]
    assert folders[:3] == ["/parent", "/magnitude-step-0/start", "/magnitude-step-4/start"]
    assert len(folders) == 3 + 2 * 4 + 4
    main([*command, "--out", "out of here", "--slurm"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("To submit: bash "))
    script = Path(shlex.split(line)[3])  # as a shell reads what the user pastes
    assert script.is_file() and script.with_name("wave-4.sbatch").is_file()


def test_sweep_says_what_is_wrong(sweepable, refused, here):
    command = ["sweep", "--config", sweepable]
    assert "at least two" in refused(*command, "--seeds", "1")
    assert "needs `steps`" in refused(*command, "--sweep.steps", "[]")
    assert "--sweep.step" in refused(*command, "--sweep.step", "[1]")
    assert "sweep.search" in refused(*command, "--sweep.search", "all")
    assert not (here / "runs").exists()


def test_imp_says_what_is_wrong(prunable, refused, here):
    command = ["imp", "--config", prunable]
    assert "got 1.5" in refused(*command, "--imp.prune_fraction", "1.5")
    assert "either `levels` or a target `sparsity`" in refused(*command, "--imp.sparsity", "0.5")
    assert "--imp.level" in refused(*command, "--imp.level", "1")
    assert "`seeds` are different numbers" in refused(*command, "--seeds", "1,1")
    assert "There is no checkpoint" in refused(*command, "--ckpt_path", "none.ckpt")
    assert not (here / "runs").exists()
