"""What a recipe says at its end: nothing cut off, nothing claimed that chance alone would show."""

import io
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from helpers.children import lines_report
from lightning_lottery.children.records import record
from lightning_lottery.connectivity.stability import stability_of
from lightning_lottery.experiments import recipe_end
from lightning_lottery.experiments.recipe import summarise
from lightning_lottery.experiments.recipe_end import (
    findings,
    table_of_lines,
    table_of_networks,
    tensorboard,
    what_next,
    where_to_look,
)


def rows(stages, n=359, **metrics):
    """Rows of these stages: name to accuracies, one for each seed."""
    made = []
    for stage, values in stages.items():
        for seed, value in enumerate(values):
            about = {"stage": stage, "seed": seed, "n": n}
            made.append(record(**about, metric="sparsity", value=0.8))
            made.append(record(**about, metric="test_acc", value=value))
            made.append(record(**about, metric="test_loss", value=1 - value))
            made += [record(**about, metric=metric, value=number) for metric, number in metrics.items()]
    return made


def shown(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


LONG = {"01-dense": (0.9554, 0.9654, 0.9754), "10-ticket-instability-step-100": (0.9443, 0.9543, 0.9643)}


def test_a_table_of_several_seeds_fits_eighty_characters_and_says_what_its_spread_is_over():
    text = shown(table_of_networks(summarise(rows(LONG)), "quickstart, seeds 0, 1, 2", 80))
    assert "…" not in text and all(len(line) <= 80 for line in text.splitlines())
    assert len([line for line in text.splitlines() if "0.9654 ± 0.0100" in line and "80.0 %" in line]) == 1
    for part in ("10-ticket-instability-step-100", "removed", "test_acc", "test_loss", "standard deviation over"):
        assert part in text


def test_what_does_not_fit_is_named_and_an_accuracy_comes_first():
    summary = summarise(rows(LONG, test_f1=0.5, test_loss_barrier=0.5))
    narrow, wide = (shown(table_of_networks(summary, "", width), width) for width in (70, 120))
    assert "0.9654 ± 0.0100" in narrow and "Also measured: test_loss, test_f1" in narrow and "…" not in narrow
    assert "test_f1" in wide and "Also measured" not in wide
    one = table_of_networks(summarise(rows({"01-dense": (0.5,)})), "", 80)
    assert one.caption is None  # one network has no spread


def test_stages_that_only_validate_show_what_they_have():
    made = [record(stage="a", metric=metric, value=0.5) for metric in ("sparsity", "val_loss")]
    assert "val_loss" in shown(table_of_networks(summarise(made), "", 80))
    made = [record(stage="a", metric="sparsity", value=0.5)]
    assert "50.0 %" in shown(table_of_networks(summarise(made), "", 80))


def test_lines_have_the_verdict_beside_the_barrier_and_its_bounds():
    summary = summarise([record(stage=stage, metric="error_barrier", value=0.11) for stage in ("07-a", "08-sweep/b")])
    verdict = stability_of({0: lines_report(0.1, 0.11, 0.12)})
    text = shown(table_of_lines(summary, {"07-a": verdict}))
    (line,) = [line for line in text.splitlines() if "07-a" in line]
    assert "0.1100" in line and verdict.verdict in line and f"{verdict.low:.4f} to {verdict.high:.4f}" in line
    assert "Stable: below 0.02." in text and "08-sweep/b" in text and "…" not in text
    assert table_of_lines(summarise(rows(LONG)), {}) is None


def test_what_chance_alone_would_show_is_not_told_apart():
    close, apart = ({"a": (0.95, 0.97), "b": (0.95, 0.96), "c": (value,)} for value in (0.94, 0.85))
    (sentence,) = findings(summarise(rows(close)), rows(close), {})
    assert "test_acc: 0.9400 (c) to 0.9600 (a). Of 359 test samples, chance alone is ± 0.011" in sentence
    assert sentence.endswith("by less than 0.031 are not told apart; all lie within that.")
    same = rows({"a": (0.9,), "b": (0.9,)}, n=None)
    assert [*findings(summarise(same), same, {})] == ["test_acc: 0.9000 in every stage."]
    (sentence,) = findings(summarise(rows(apart)), rows(apart), {})
    assert sentence.endswith("further below the best: c.")


@pytest.mark.parametrize("n", [None, 0.5])
def test_without_a_number_of_samples_nothing_is_said_of_chance(n):
    made = rows({"a": (0.9,), "b": (0.8,)}, n=None) if n is None else rows({"a": (0.9,)}) + rows({"b": (0.8,)}, n=7)
    assert [*findings(summarise(made), made, {})] == ["test_acc: 0.8000 (b) to 0.9000 (a)."]


def test_one_stage_a_percentage_and_a_loss_say_nothing_of_accuracy():
    for made in (
        rows({"a": (0.9,)}),
        rows({"a": (90.0,), "b": (95.0,)}),
        [record(stage=stage, metric="test_loss", value=1.0) for stage in "ab"],
    ):
        assert [*findings(summarise(made), made, {})] == []


def test_verdicts_are_gathered_in_one_sentence():
    verdicts = {"07-a": stability_of({0: lines_report(0.1, 0.11, 0.12)}), "08-b": stability_of({0: lines_report(0.1)})}
    assert [*findings({}, [], verdicts)] == ["To SGD noise undecided: 08-b; unstable: 07-a."]


def test_the_next_step_is_more_seeds_where_the_stages_heed_them_and_then_the_page(tmp_path):
    first, *_ = what_next(tmp_path, [3], takes_more_seeds=True)
    assert "--seeds 3,4,5" in first
    assert [*what_next(tmp_path, [0], takes_more_seeds=False)] == [*what_next(tmp_path, [0, 1], takes_more_seeds=True)]
    (tmp_path / "README.md").touch()
    assert [*what_next(tmp_path, [0, 1], takes_more_seeds=True)] == [
        f"What was expected and measured: {tmp_path / 'README.md'}"
    ]


def test_where_the_picture_the_records_and_the_curves_are(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_end, "tensorboard", lambda: "tensorboard")
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/r")
    folder.mkdir(parents=True)
    assert len([*where_to_look(folder)]) == 2  # no picture is promised that is not there
    for name in ("barrier.png", "summary.png"):
        (folder / name).touch()
    assert [*where_to_look(folder)] == [
        "Picture: runs/r/summary.png, barrier.png",
        "Records: runs/r/results.csv, or in Python lightning_lottery.results('runs/r')",
        "Curves:  tensorboard --logdir runs/r",
    ]


def test_tensorboard_is_named_so_that_this_shell_finds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/tensorboard")
    assert tensorboard() == "tensorboard"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    assert tensorboard() == "tensorboard"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tensorboard").touch()
    assert tensorboard() == str(tmp_path / "bin/tensorboard")
    monkeypatch.chdir(tmp_path)
    assert tensorboard() == "bin/tensorboard"
