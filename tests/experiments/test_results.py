"""Everything that was recorded, as one frame: half-done, of an older version, of several recipes, with NaN."""

import json
import re
from pathlib import Path

import pytest

from helpers.children import finished
from lightning_lottery import LotteryError, results
from lightning_lottery.children.child import Child
from lightning_lottery.children.records import COLUMNS, record, write_results


def stage(root, name="01-dense", seed=0, recipe="r", values=(0.5,), **columns):
    """A stage of a recipe that is done, with these test accuracies."""
    labels = {"recipe": recipe, "stage": name, "seed": seed}
    child = Child(root / recipe / f"seed-{seed}" / name, "fit", {"seed_everything": seed}, labels)
    about = {**labels, **columns}
    rows = [record(**about, metric=metric, value=v) for v in values for metric in ("sparsity", "test_acc")]
    finished(child, rows)
    return child


def begun(folder):
    Child(folder, "fit", {"seed_everything": 0}, {}).prepare()


def test_the_documentation_has_every_column_with_what_it_says():
    rows = [f"| {name} | {says} |" for name, says in COLUMNS.items()]
    assert "\n".join(f"    {row}" for row in rows) in results.__doc__


def test_readme_has_every_column_with_what_it_says():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "\n".join(f"| {name} | {says} |" for name, says in COLUMNS.items()) in readme


def test_a_recipe_s_stages_are_all_there_whichever_command_ran_them(tmp_path):
    for seed in (0, 2, 10):
        stage(tmp_path, seed=seed, values=(seed / 10,))
    write_results(tmp_path / "r", [record(stage="01-dense", metric="test_acc", value=1.0, seed=2)])
    frame = results(tmp_path / "r")
    assert frame[frame.metric == "test_acc"].groupby("seed").value.mean().to_dict() == {0: 0.0, 2: 0.2, 10: 1.0}
    assert frame.seed.tolist() == [0, 0, 2, 2, 10, 10] and frame.attrs["missing"] == []
    assert len(results(tmp_path / "r" / "seed-2")) == len(results(tmp_path / "r" / "seed-2" / "01-dense")) == 2


def test_where_only_the_records_were_copied_they_are_read(tmp_path):
    write_results(tmp_path, [record(stage="a", metric="test_acc", value=1.0, recipe="r", version="1")])
    assert len(results(tmp_path)) == len(results(tmp_path / "results.jsonl")) == 1
    assert len(results(tmp_path, str(tmp_path / "results.jsonl"))) == 2


def test_an_experiment_s_records_are_read_and_not_its_children_s_again(tmp_path):
    stage(tmp_path / "seed-1")
    begun(tmp_path / "seed-3")
    write_results(tmp_path, [record(stage="a", metric="test_acc", value=1.0, version="1")])
    with pytest.warns(UserWarning, match=f"^Not done: {tmp_path}/seed-3.$"):
        assert results(tmp_path).value.tolist() == [1.0]


def test_what_is_not_done_is_told_and_the_rest_is_there(tmp_path):
    stage(tmp_path)
    folder = tmp_path / "r" / "seed-0" / "02-noise"
    begun(folder)
    finished(Child(folder / "seed-1", "fit", {}, {}), [record(stage="02-noise", metric="test_acc", value=0.25, seed=1)])
    begun(folder / "seed-2")
    begun(folder / "trial")
    finished(Child(folder / "lines", "lines", {}, {}), [record(stage="path", metric="line/test_acc", value=0.5)])
    with pytest.warns(UserWarning, match=f"Not done: {folder}, {folder}/seed-2.") as warned:
        frame = results(tmp_path)
    assert warned[0].filename == __file__
    assert frame[frame.metric == "test_acc"].value.tolist() == [0.5, 0.25]
    assert frame.attrs["missing"] == [f"Not done: {folder}, {folder}/seed-2."]


def test_nothing_done_yet_is_an_empty_frame_with_the_columns(tmp_path):
    for number in range(7):
        begun(tmp_path / f"seed-{number}")
    with pytest.warns(UserWarning, match="seed-4 and 2 more."):
        assert [*results(tmp_path).columns] == [*COLUMNS]


def test_damaged_records_are_told_and_the_rest_is_there(tmp_path):
    stage(tmp_path)
    (stage(tmp_path, "02-noise").folder / "results.jsonl").write_text("{")
    with pytest.warns(UserWarning, match="The records '.*02-noise/results.jsonl' are damaged"):
        assert len(results(tmp_path)) == 2


def test_a_nan_and_a_stage_without_a_metric_are_told(tmp_path):
    stage(tmp_path, values=(float("nan"), 0.5))
    finished(Child(tmp_path / "r/seed-0/02-bare", "fit", {}, {}), [record(stage="02-bare", metric="sparsity", value=0)])
    with pytest.warns(UserWarning) as warned:
        frame = results(tmp_path)
    assert "NaN, which means leave out: sparsity of 01-dense, test_acc of 01-dense." in str(warned[0].message)
    assert "No metric of a validation or test: 02-bare." in str(warned[0].message)
    assert frame.value.isna().sum() == 2


def test_several_recipes_and_versions_are_told_and_can_be_told_apart(tmp_path):
    stage(tmp_path, recipe="one")
    stage(tmp_path, recipe="two", version="9.0", commit=None, time=None)
    with pytest.warns(UserWarning, match="Of several recipes, .*`recipe` too: one, two. Written by several .*, 9.0."):
        frame = results(tmp_path)
    assert frame[frame.metric == "test_acc"].groupby("recipe").value.mean().to_dict() == {"one": 0.5, "two": 0.5}


def test_a_recipe_of_an_older_version_is_read_and_gets_its_name(tmp_path):
    old = {"stage": "01-dense", "method": "raw", "parent": 0, "seeds": [1, 2], "step": 0, "alpha": 0.5, "sparsity": 0.0}
    child = stage(tmp_path)
    rows = [old | {"metric": "test_acc", "value": 0.5}, old | {"method": "dense", "seeds": [0], "alpha": None}]
    rows[1] |= {"metric": "test_acc", "value": 0.75}
    (child.folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = results(tmp_path / "r")
    assert frame[frame.metric == "test_acc"].groupby("stage").value.mean().to_dict() == {"01-dense": 0.75}
    assert {*frame.recipe} == {"r"} and frame.version.isna().all()


def test_a_run_behind_a_link_is_read_once_and_a_link_to_anything_else_is_not_followed(tmp_path):
    stage(tmp_path / "disk")
    runs, data = tmp_path / "runs", tmp_path / "data"
    for folder in (runs, data / "inner"):
        folder.mkdir(parents=True)
    stage(data / "inner")
    for name, target in {"mine": tmp_path / "disk" / "r", "again": tmp_path / "disk" / "r", "data": data}.items():
        (runs / name).symlink_to(target, target_is_directory=True)
    (runs / "loop").symlink_to(runs, target_is_directory=True)
    assert len(results(runs)) == len(results(runs, runs / "mine")) == 2


def test_what_is_no_folder_and_no_records_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"\0")
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(LotteryError, match="'a.safetensors' is no records: give the folder of a run"):
        results("a.safetensors")
    with pytest.raises(LotteryError, match=rf"--redo {re.escape(tmp_path.name)},"):
        results("a.jsonl")
    with pytest.raises(LotteryError, match="takes folders of runs, .* got 3."):
        results(3)


@pytest.mark.parametrize(("name", "message"), [("none", "There is no folder '.*none'"), ("", "Nothing was run in")])
def test_a_folder_without_a_run_is_refused(tmp_path, name, message):
    with pytest.raises(LotteryError, match=f"{message}.*such as runs/quickstart"):
        results(tmp_path / name)
    with pytest.raises(LotteryError, match="needs the folder of a run"):
        results()
