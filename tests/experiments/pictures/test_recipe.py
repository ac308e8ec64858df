import math

import pytest

from helpers.figures import drawn
from helpers.runs import analysed, pruned, rows
from lightning_lottery.experiments.pictures.draw import draw_recipe, draw_runs


@pytest.fixture
def recipe(tmp_path):
    """Two seeds of three stages, an analysis among them."""
    for seed in (0, 1):
        for stage, value in (("01-dense", 0.9), ("02-platon", 0.8)):
            row = {"stage": stage, "metric": "test_acc", "value": value + seed / 100, "seed": seed, "n": 100}
            rows(tmp_path / f"seed-{seed}" / stage, row, {**row, "metric": "test_loss", "value": 5.0})
        analysis = analysed(tmp_path / f"seed-{seed}" / "03-step-0", 0.25, 0.26, 0.27)
        row = {"stage": "03-step-0", "seed": None, "child_a": 1, "child_b": 2, "parent": seed, "value": 0.5}
        rows(analysis, {**row, "alpha": 0.5, "metric": "line/test_acc"}, {**row, "metric": "error_barrier"})
    return tmp_path


def test_a_recipe_has_a_picture_of_its_stages_and_one_of_its_lines(recipe):
    result = draw_runs([str(recipe)])
    assert list(result.figures) == ["stability", "summary"] and result.notes == []
    accuracy, barrier = drawn(result.figures["summary"])
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["01-dense", "02-platon", "03-step-0"]
    assert (accuracy.get_xlabel(), barrier.get_xlabel()) == ("test accuracy, %", "error barrier, %")
    dots = [line.get_xydata().tolist() for line in accuracy.lines if line.get_marker() == "o"]
    assert dots == [[[0.9, 0], [0.91, 0]], [[0.8, 1], [pytest.approx(0.81), 1]]]
    words = [text.get_text() for text in result.figures["summary"].legends[0].get_texts()]
    assert words[2:] == [
        "bounds of the mean, one-sided 95 % each: over runs, never narrower than so few test samples allow",
        "bounds of the mean barrier, one-sided 95 % each",
        "threshold, 2 %",
    ]
    (panel,) = drawn(result.figures["stability"])
    assert panel.get_title(loc="left").startswith("03-step-0\nunstable: 26.00 %")


@pytest.mark.parametrize("others", [0, 1])
def test_more_levels_than_a_picture_holds_are_left_to_their_own(others, tmp_path):
    for number in range(31):
        row = {"stage": f"01-imp/level-{number}", "metric": "test_acc", "value": 0.9, "seed": 0, "n": 100}
        rows(tmp_path / "seed-0" / f"{number:02}-imp", row)
    if others:
        row = {"stage": "32-dense", "metric": "test_acc", "value": 0.9, "seed": 0, "n": 100}
        rows(tmp_path / "seed-0" / "32-dense", row)
    result = draw_recipe(tmp_path, [0])
    assert ("summary" in result.figures) == bool(others)
    if others:
        (accuracy,) = drawn(result.figures["summary"])
        assert [label.get_text() for label in accuracy.get_yticklabels()] == ["32-dense"]
    assert "Levels and steps of experiments are left to their own pictures." in result.notes


@pytest.mark.parametrize(
    ("values", "samples", "reach"),
    [
        ([0.9], 100, 1.645 * 0.03),  # of one seed that of its test set
        ([0.9, 0.9, 0.9], 100, 1.645 * 0.03),  # no spread is no certainty
        ([0.85, 0.9, 0.95], 100, 2.92 * 0.05 / 3**0.5),
        ([0.85, 0.9, 0.95], None, 2.92 * 0.05 / 3**0.5),
        ([0.9], None, None),
    ],
)
def test_an_interval_is_over_runs_and_never_narrower_than_the_test_set_allows(values, samples, reach, tmp_path):
    for seed, value in enumerate(values):
        row = {"stage": "01-a", "metric": "test_acc", "value": value, "seed": seed, "n": samples}
        rows(tmp_path / f"seed-{seed}" / "01-a", row)
    (accuracy,) = drawn(draw_recipe(tmp_path, range(3)).figures["summary"])
    bars = [line.get_xdata() for line in accuracy.lines if line.get_marker() == "|"]
    assert [high - low for low, high in bars] == ([] if reach is None else [pytest.approx(2 * reach, rel=1e-3)])


def test_half_a_recipe_is_drawn_as_far_as_it_is_and_says_what_is_missing(recipe):
    (recipe / "seed-1" / "02-platon" / "done").unlink()
    rows(recipe / "seed-0" / "01-dense", {"stage": "01-dense", "metric": "test_acc", "value": math.nan})
    result = draw_runs([str(recipe)])
    assert result.notes == ["Not done yet: seed-1/02-platon."]
    title = result.figures["summary"].legends[0].get_title().get_text()
    assert "seed-1/02-platon" in title and "test accuracy is not finite in 1 of 2 runs" in title
    (recipe / "seed-1" / "03-step-0" / "lines" / "report.json").write_text("{")
    (recipe / "seed-1" / "01-dense" / "results.jsonl").write_text("")
    notes = " ".join(draw_runs([str(recipe)]).notes)
    assert "no report of lines" in notes and "01-dense/results.jsonl' are damaged" in notes


def test_many_levels_are_left_to_a_picture_of_their_own(recipe):
    for seed in (0, 1):
        folder = recipe / f"seed-{seed}" / "04-imp"
        pruned(folder, 1, seeds=(seed,))
        levels = [{"stage": f"04-imp/level-{n}", "metric": "test_acc", "value": 0.9} for n in range(40)]
        rows(folder, *levels)
    result = draw_runs([str(recipe)])
    assert list(result.figures) == ["stability", "summary", "levels"]
    accuracy, _ = drawn(result.figures["summary"])
    assert len(accuracy.get_yticklabels()) == 3
    assert result.notes == ["Levels and steps of experiments are left to their own pictures."]


def test_several_recipes_have_pictures_of_their_own_by_name(recipe, tmp_path):
    result = draw_runs([f"first={recipe}", f"again!={recipe}/../{recipe.name}"])
    assert {*result.figures} == {"first-stability", "first-summary", "again--stability", "again--summary"}
