"""The one schema of records: what is written, what is read back, and what older versions wrote."""

import json
import subprocess
from datetime import datetime, timedelta, timezone

import pytest

from lightning_lottery import LotteryError
from lightning_lottery.children import records
from lightning_lottery.children.records import (
    COLUMNS,
    STAMP,
    commit_here,
    current,
    is_accuracy,
    is_of_whole_network,
    is_row,
    now,
    read_rows,
    record,
    stamped,
    write_results,
)

ROW = stamped([record(stage="1-a", method="dense", seed=0, density=1.0, metric="acc", value=0.5)], None)[0]
ADVICE = r"To run it again, and what depends on it: --redo \w+, or the stage's name where a recipe runs it"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


def test_a_record_has_every_column_in_order_and_no_other():
    assert [*ROW] == [*COLUMNS] and ROW["alpha"] is ROW["parent"] is None
    with pytest.raises(TypeError, match="no column seeds, sparsity"):
        record(seeds=[1], sparsity=0.5)


def test_the_stamp_is_put_on_once(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    (row,) = stamped([record(stage="1-a", metric="acc", value=0.5)], "abc")
    assert (row["commit"], row["time"]) == ("abc", "1970-01-01T00:00:00+00:00") and row["version"]
    assert stamped([row], "later") == [row]


@pytest.mark.parametrize("fixed", [None, "", "yesterday"])
def test_the_time_is_now_in_utc_unless_it_is_fixed(fixed, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH") if fixed is None else monkeypatch.setenv("SOURCE_DATE_EPOCH", fixed)
    since = datetime.now(timezone.utc) - datetime.fromisoformat(now())
    assert timedelta(0) <= since < timedelta(minutes=5)


def test_the_commit_is_the_working_directory_s_and_none_without_a_repository_a_commit_or_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_here() is None
    subprocess.run(["git", "init", "--quiet", "."], check=True)
    assert commit_here() is None
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    assert len(commit_here()) == 40
    monkeypatch.setenv("PATH", "")
    assert commit_here() is None


def test_the_table_has_the_columns_of_the_records_also_where_there_are_none(tmp_path):
    for rows in ([], [ROW]):
        write_results(tmp_path, rows)
        lines = (tmp_path / "results.csv").read_text().splitlines()
        assert lines[0] == ",".join(COLUMNS) and len(lines) == 1 + len(rows)
    assert read_rows(tmp_path / "results.jsonl") == [ROW]


@pytest.mark.parametrize(
    ("metric", "is_whole"),
    [
        *((name, True) for name in ("test_acc", "error_barrier", "recalibrated/error_barrier", "layer_loss")),
        *((name, False) for name in ("line/test_acc", "line/aligned/test_acc", "single layer a.b/error_barrier_sup")),
    ],
)
def test_points_and_layers_are_not_of_whole_networks(metric, is_whole):
    assert is_of_whole_network(record(metric=metric)) == is_whole


@pytest.mark.parametrize(
    "change",
    [
        *({"value": value} for value in (None, "0.5", True, [0.5])),
        *({"density": value} for value in ("0", False)),
        *({"seed": value} for value in ([0], {})),
        *({"stage": 1}, {"metric": None}, {"method": []}, {"parent": {}}, {"alpha": "0"}, {"child_a": [1]}),
        *({"recipe": 3}, {"time": 3}, {"level": "1"}, {"n": "many"}),
    ],
)
def test_a_record_with_another_type_of_value_is_refused(path, change):
    whole = json.dumps(ROW)
    path.write_text(f"{whole}\n{json.dumps({**ROW, 'value': float('nan'), 'child_a': 'a.ckpt', 'alpha': 0.5})}\n")
    assert read_rows(path)[0] == ROW
    path.write_text(f"{whole}\n{json.dumps(ROW | change)}\n")
    with pytest.raises(LotteryError, match=f"^The records '{path}' are damaged: line 2 is no record.*{ADVICE}"):
        read_rows(path)


@pytest.mark.parametrize("key", ["stage", "metric", "value", "density", "seed"])
def test_a_record_that_lacks_what_tables_rely_on_is_none(key):
    assert is_row(ROW) and not is_row({name: value for name, value in ROW.items() if name != key})


@pytest.mark.parametrize("text", ["", "\n", '{"stage": "1-', "[]\n", "7\n"])
def test_records_that_are_none_are_refused(path, text):
    path.write_text(text)
    with pytest.raises(LotteryError, match=f"^The records '{path}' are damaged: .*{ADVICE}"):
        read_rows(path)


OLD = {"stage": "s", "method": "dense", "parent": 7, "seeds": [3], "step": 9, "alpha": None, "sparsity": 0.25}
OLD |= {"metric": "test_acc", "value": 0.5, "n": 8, "device": "cpu"}
"""A record as version 0.1.0 wrote it."""


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"network": "dense", "method": "dense"}),
        ({"method": "MaskFreezing", "sparsity": None}, {"network": "ticket", "density": None}),
        ({"method": "PLATON"}, {"network": "pruned", "method": "PLATON"}),
        (
            {"stage": "imp/level-2-shuffled", "method": "IterativePruning shuffled"},
            {"network": "shuffled", "level": 2, "method": "IterativePruning shuffled"},
        ),
        ({"stage": "sweep/synflow-step-10", "method": "MaskFreezing"}, {"network": "synflow", "level": None}),
        (
            {"method": "raw", "seeds": [1, 2], "alpha": 0.5},
            {"metric": "line/test_acc", "seed": None, "child_a": 1, "child_b": 2, "method": None, "network": None},
        ),
        ({"method": "aligned", "seeds": [1, 2], "alpha": 0.5}, {"metric": "line/aligned/test_acc", "seed": None}),
        ({"method": "raw", "seeds": ["a", "b"], "metric": "l2"}, {"metric": "l2", "seed": None, "child_b": "b"}),
        ({"method": "recalibrated", "seeds": [1, 2], "metric": "e"}, {"metric": "recalibrated/e", "seed": None}),
        ({"method": "midpoint", "seeds": [1, 2, 3]}, {"metric": "midpoint/test_acc", "seed": None, "child_a": None}),
        ({"method": "single layer a", "seeds": [1, 2], "metric": "e"}, {"metric": "single layer a/e", "seed": None}),
    ],
)
def test_what_an_older_version_wrote_is_read_in_today_s_columns(path, before, now):
    path.write_text(json.dumps(OLD | before) + "\n")
    (row,) = read_rows(path)
    assert [*row] == [*COLUMNS]
    assert {name: row[name] for name in now} == now
    assert (row["parent"], row["step"], row["n"], row["value"]) == (7, 9, 8, 0.5)
    if "density" not in now:
        assert row["density"] == 0.75
    assert [row[name] for name in STAMP] == [None] * 3 and stamped([row], "abc") == [row]  # nobody knows any more


@pytest.mark.parametrize("change", [{"seeds": 0}, {"seeds": "0"}, {"seeds": [[0]]}, {"seeds": None}, {"sparsity": "0"}])
def test_a_damaged_record_of_an_older_version_is_no_record(path, change):
    assert not is_row(current(OLD | change)) and is_row(current(OLD))


def test_what_every_row_of_an_older_child_says_is_read_in_today_s_columns():
    assert records.labels_of({"stage": "a", "seeds": [3], "parent": 1}) == {"stage": "a", "seed": 3, "parent": 1}
    assert records.labels_of({"stage": "a", "seed": 3}) == {"stage": "a", "seed": 3}


@pytest.mark.parametrize(("name", "value"), [("value", 10**400), ("n", 10**30), ("seed", 2**64), ("step", -(2**63))])
def test_a_number_that_no_table_holds_is_in_no_record(name, value):
    assert is_row(ROW | {name: 2**62}) and not is_row(ROW | {name: value})


@pytest.mark.parametrize(("metric", "is_one"), [("test_acc", 1), ("test/accuracy", 1), ("test_loss", 0), ("macc", 0)])
def test_an_accuracy_is_known_by_its_name(metric, is_one):
    assert is_accuracy(metric) == bool(is_one)
