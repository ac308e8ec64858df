"""Fits in folders, done or half done: their curves, where they were pruned, their draws, and what came of these."""

import json

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from helpers.figures import drawn as axes_of
from lightning_lottery import HammingFIFO, Ticket
from lightning_lottery.experiments.pictures.fits import draw_early_birds, draw_fits, metric_of, pruned_in
from lightning_lottery.experiments.pictures.folders import Drawn, Part, kind_in
from lightning_lottery.files import write_table
from lightning_lottery.functional.settling.detector import described
from lightning_lottery.units.score_log import FILE, ScoreLog


def fit(folder, values, *, metric="val_acc", pruned=(), done=True):
    """A fit with a CSV logger: a value after each ten steps; masks as (step, sparsity)."""
    rows = [{"step": 10 * n - 1, "epoch": n, metric: value} for n, value in enumerate(values, start=1)]
    write_table(folder / "metrics.csv", rows, "metrics", columns=("step",))
    if pruned:
        table = [{"step": step, "sparsity": sparsity} for step, sparsity in pruned]
        write_table(folder / "pruning.csv", [*table, {"step": 99, "loss": 0.1}], "history", columns=("step", "loss"))
    (folder / "child.json").write_text("{}")
    if done:
        (folder / "done").touch()
    return folder


def parts(*folders):
    return [Part("fit", folder.name, folder) for folder in folders]


def words_of(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_curves_of_fits_lie_in_one_picture_marked_where_each_was_pruned(tmp_path):
    dense = fit(tmp_path / "dense", [0.5, 0.7, 0.9])
    once = fit(tmp_path / "synflow", [0.4, 0.6, 0.8], pruned=[(0, 0.7)])
    slowly = fit(tmp_path / "platon", [0.5, 0.6, 0.85], pruned=[(0, 0.0), (10, 0.3), (20, 0.7), (30, 0.7)])
    assert [pruned_in(folder) for folder in (dense, once, slowly)] == [None, (0, 0), (10, 20)]
    assert {kind_in(folder) for folder in (dense, once, slowly)} == {"fit"}
    result = Drawn()
    draw_fits(parts(dense, once, slowly), result)
    assert {*result.figures} == {"training"} and result.notes == []
    (axes,) = axes_of(result.figures["training"])
    assert axes.get_ylabel() == "validation accuracy, %" and words_of(axes.figure) == {"dense", "synflow", "platon"}
    curves = [line for line in axes.lines if line.get_linewidth() == 1.2]
    assert [*curves[0].get_xdata()] == [10, 20, 30] and [*curves[2].get_ydata()] == [0.5, 0.6, 0.85]
    assert [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "v"] == [0.0, 10.0]


def test_curves_come_from_tensorboard_as_well_and_runs_of_one_name_are_several(tmp_path):
    folder = tmp_path / "seed-1"
    with SummaryWriter(folder) as writer:
        for step, value in ((9, 0.3), (19, 0.6), (19, 0.7)):
            writer.add_scalar("val_acc", value, step)
        writer.add_scalar("sparsity/scope", 0.5, 3)
    assert kind_in(folder) == "fit"
    result = Drawn()
    draw_fits([Part("fit", "dense", folder), Part("fit", "dense", fit(tmp_path / "seed-2", [0.5, 0.7]))], result)
    (axes,) = result.figures["training"].axes
    first, second = axes.lines
    assert [*first.get_xdata()] == [10, 20] and [*first.get_ydata()] == pytest.approx([0.3, 0.7])
    assert first.get_color() == second.get_color() and words_of(axes.figure) == {"dense"}


def test_a_file_of_tensorboard_s_that_cannot_be_read_is_said(tmp_path):
    for name, content in {"garbage": b"garbage" * 100, "empty": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.out.tfevents.1").write_bytes(content)
    result = Drawn()
    draw_fits(parts(tmp_path / "garbage", tmp_path / "empty"), result)
    says = "TensorBoard's file in '{}' holds nothing that can be read."
    assert result.notes == [f"{name}: {says.format(tmp_path / name)}" for name in ("garbage", "empty")]


def test_what_is_half_done_without_the_metric_or_not_a_number_is_said_and_the_rest_drawn(tmp_path):
    half = fit(tmp_path / "half", [0.5, "nan", 0.7], done=False)
    loss = fit(tmp_path / "loss", [1.0], metric="val_loss")
    empty = fit(tmp_path / "empty", [])
    result = Drawn()
    draw_fits(parts(half, loss, empty), result)
    (axes,) = result.figures["training"].axes
    assert [*axes.lines[0].get_xdata()] == [10, 30]
    assert result.notes == [
        "half: not done yet; drawn until step 30.",
        "loss has no validation accuracy yet.",
        "empty has no validation accuracy yet.",
    ]
    nothing = Drawn()
    draw_fits(parts(empty), nothing)
    assert nothing.figures == {}
    assert metric_of([]) is None and metric_of([["train_loss"], ["val_loss"]]) == "val_loss"


def drew(folder, *rows):
    columns = ("ticket", "rule", "kind", "sparsity", "step", "settled")
    table = [dict(zip(columns, ("t", *row), strict=True)) for row in rows]
    write_table(folder / "early_bird" / "draws.csv", table, "draws", columns=columns)
    (folder / "child.json").write_text("{}")
    return folder


def test_draws_of_several_fits_are_seen_by_rule_and_of_one_that_has_not_ended_as_far_as_its_log_goes(tmp_path):
    one = drew(
        tmp_path / "one", ("H", "head", 0.5, 20, True), ("S", "head", 0.5, 90, False), ("at=0.2", "", 0.5, 9, False)
    )
    log = ScoreLog(
        {
            "scores": "weights",
            "layers": {"head": {"a": 4}},
            "per": {"head": "all"},
            "watch": ["head"],
            "rules": {"H": described(HammingFIFO(2, 0.5, interval=5))},
            "sparsities": [0.5],
        }
    )
    log.begin(tmp_path / "two" / "early_bird" / FILE)
    log.append([5, 10, 15], torch.tensor([[4.0, 3, 2, 1]] * 3))
    broken = tmp_path / "three" / "early_bird" / FILE
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"nothing")
    result = Drawn()
    draw_fits(parts(one, tmp_path / "two", tmp_path / "three"), result)
    assert {*result.figures} == {"draws"}
    (axes,) = axes_of(result.figures["draws"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["H", "S"]
    assert sorted(float(x) for line in axes.lines for x in line.get_xdata()) == [10, 20]
    assert [text.get_text() for text in axes.texts] == ["never settled"]
    assert result.notes[0] == "two: not done yet; draws until step 15." and result.notes[1].startswith("three: '")


def retrained(folder, rule, step, sparsity, value):
    """A stage that trained the ticket of a draw, or without a rule a dense one."""
    folder.mkdir(parents=True)
    method = "MaskFreezing" if rule else "dense"
    row = {
        "stage": folder.name,
        "seed": 0,
        "method": method,
        "density": 1 - sparsity,
        "metric": "test_acc",
        "value": value,
    }
    (folder / "child.json").write_text("{}")
    if value is not None:
        (folder / "results.jsonl").write_text(json.dumps(row) + "\n")
    if rule:
        found_by = {"method": "EarlyBird", "rule": rule, "step": step, "unit_sparsity": sparsity}
        Ticket({"w": torch.tensor([True, False])}, provenance={"found_by": found_by}).save(
            folder / "ticket.safetensors"
        )


def test_a_recipes_accuracies_over_the_step_of_drawing_are_found_by_what_its_stages_trained(tmp_path):
    for seed in (0, 1):
        run = tmp_path / f"seed-{seed}"
        drew(run / "01-slimming", ("H", "head", 0.5, 20 + seed, True))
        retrained(run / "02-dense", "", 0, 0.0, 0.9 + seed / 100)
        retrained(run / "03-early", "at=0.01", 3, 0.5, 0.8 + seed / 100)
        retrained(run / "04-late", "at=1.0", 680, 0.5, 0.85)
        retrained(run / "05-hamming", "HammingFIFO(length=5)", 20 + seed, 0.5, 0.86)
        retrained(run / "06-random", "at=random", 300, 0.75, 0.7)
    retrained(tmp_path / "seed-1" / "07-later", "at=0.5", 340, 0.5, None)
    (tmp_path / "seed-0" / "08-broken").mkdir()
    (tmp_path / "seed-0" / "08-broken" / "child.json").write_text("{}")
    (tmp_path / "seed-0" / "08-broken" / "ticket.safetensors").write_bytes(b"no ticket")
    result = Drawn()
    draw_early_birds([Part("recipe", "", tmp_path)], result)
    assert {*result.figures} == {"draws", "over-draws"}
    half, most = axes_of(result.figures["over-draws"])
    assert [axes.get_title("left") for axes in (half, most)] == ["50 % removed", "75 % removed"]
    assert [*half.lines[0].get_xdata()] == [3, 680] and [*half.lines[0].get_ydata()] == pytest.approx([0.805, 0.85])
    assert {text.get_text() for text in half.figure.legends[0].get_texts()} == {"HammingFIFO", "a random step"}
    assert any([*line.get_xdata()] == [20, 21] for line in half.lines)
    assert any([*map(float, line.get_ydata())] == pytest.approx([0.905, 0.905]) for line in half.lines)
    assert "Not done yet: seed-1/07-later." in result.notes and any("08-broken" in note for note in result.notes)
    only = Drawn()
    draw_early_birds([Part("recipe", "", tmp_path, (1,))], only)
    assert [*only.figures["over-draws"].axes[0].lines[0].get_ydata()] == pytest.approx([0.81, 0.85])


def test_a_recipe_without_early_birds_has_none_of_these_pictures(tmp_path):
    retrained(tmp_path / "seed-0" / "01-dense", "", 0, 0.0, 0.9)
    result = Drawn()
    draw_early_birds([Part("recipe", "", tmp_path)], result)
    assert result.figures == {} and result.notes == []


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"kind,step,sparsity,settled\nhead,1,0.5,True\n", b"kind,rule\nhead," + b"x" * 200_000]
)
def test_a_damaged_table_is_said_and_the_rest_drawn(tmp_path, content):
    folder = fit(tmp_path / "a", [0.5, 0.7])
    (folder / "early_bird").mkdir()
    (folder / "early_bird" / "draws.csv").write_bytes(content)
    (folder / "pruning.csv").write_bytes(content)
    drawn = Drawn()
    draw_fits([Part("fit", "a", folder)], drawn)
    assert drawn.figures.keys() == {"training"}
    assert len([note for note in drawn.notes if "pruning.csv" in note]) == (b"settled" not in content)


def test_an_accuracy_is_one_whatever_it_is_called_in_full():
    assert metric_of([["train_loss", "val_loss", "val_accuracy"]]) == "val_accuracy"
