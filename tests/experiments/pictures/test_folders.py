from pathlib import Path

import pytest

from helpers.runs import analysed, pruned, rows
from helpers.sweeps import sweep
from lightning_lottery import LotteryError
from lightning_lottery.experiments.pictures.folders import kind_in, load_lines, load_rows, parts_of


def test_a_folder_is_known_by_what_lies_in_it(tmp_path):
    pruned(tmp_path / "imp", 1)
    sweep(tmp_path / "sweep", parents=(0,))
    analysed(tmp_path / "analysis", 0.1)
    rows(tmp_path / "started" / "seed-1")  # an analysis whose lines are not judged
    rows(tmp_path / "recipe" / "seed-0" / "01-dense")
    (tmp_path / "empty").mkdir()
    kinds = {path.name: kind_in(path) for path in tmp_path.iterdir()}
    assert kinds == {
        "imp": "imp",
        "sweep": "sweep",
        "analysis": "lines",
        "started": "lines",
        "recipe": "recipe",
        "empty": None,
    }


def test_a_recipe_s_experiments_are_parts_of_their_own(tmp_path):
    for seed in (0, 1):
        rows(tmp_path / f"seed-{seed}" / "01-dense")
        pruned(tmp_path / f"seed-{seed}" / "02-imp", 1)
    parts = parts_of([str(tmp_path)])
    assert [(part.kind, part.name) for part in parts] == [("recipe", ""), ("imp", "02-imp"), ("imp", "02-imp")]
    assert [part.prefix for part in parts[:2]] == ["", "02-imp: "]


def test_runs_are_called_as_said_or_by_as_much_of_their_path_as_tells_them_apart(tmp_path, monkeypatch):
    for name in ("a/imp", "b/imp", "c=1"):
        pruned(tmp_path / name, 0)
    monkeypatch.chdir(tmp_path)
    assert [part.name for part in parts_of(["a/imp", "b/imp"])] == ["a/imp", "b/imp"]
    assert [part.name for part in parts_of(["a/imp", "c=1"])] == ["imp", "c=1"]
    assert [part.name for part in parts_of(["late=a/imp", "late=b/imp", "c=1"])] == ["late", "late", "c=1"]
    assert [(part.name, part.folder) for part in parts_of(["a/imp"])] == [("", Path("a/imp"))]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="There is no folder '.*none'"):
        parts_of([str(tmp_path / "none")])
    with pytest.raises(LotteryError, match="' holds no run: a run is a folder that `imp`, `sweep`, "):
        parts_of([str(tmp_path)])


def test_damaged_reports_and_records_become_notes(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    notes = []
    assert load_lines(tmp_path / "report.json", notes) is None
    assert load_rows(tmp_path / "report.json", notes) == []
    assert "is no report of lines between networks" in notes[0] and "are damaged" in notes[1]
