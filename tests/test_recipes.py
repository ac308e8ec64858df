"""Every recipe of the repository, its stages in order, small: with the folder's `tiny.yaml` laid over each."""

import re
from pathlib import Path

import pandas
import pytest
import torch
import yaml

from helpers.image_folders import write_images
from helpers.stages import in_this_process
from lightning_lottery import results
from lightning_lottery.children import processes
from lightning_lottery.experiments import recipe
from lightning_lottery.experiments.stages import stages_of

ROOT = Path(__file__).parents[1] / "recipes"
FOLDERS = sorted({path.parent for path in ROOT.rglob("[0-9]*-*.*.yaml")})


def test_there_are_recipes():
    assert ROOT / "quickstart" in FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_recipe_can_be_run_small(folder):
    assert (folder / "tiny.yaml").is_file(), f"{folder} has no tiny.yaml: a small configuration, and local data"


@pytest.mark.filterwarnings("ignore:.* keeps no weight of:UserWarning")  # networks as small as these lose layers
@pytest.mark.filterwarnings("ignore:.* before these rules can settle:UserWarning")  # fits as short as these end
@pytest.mark.filterwarnings("ignore:.*ADF takes:UserWarning")  # recipes compare all rules
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_the_stages_of_a_recipe_run_in_order(folder, tmp_path, monkeypatch):
    if "sharded" in folder.name and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 has no streams for FSDP2 on a CPU, and fails in its own hooks")
    monkeypatch.setattr(processes, "run_child", in_this_process)
    monkeypatch.chdir(tmp_path)
    if "imagenet" in folder.name:  # the only data that a recipe has no small substitute for
        write_images(tmp_path / "data" / "imagenet", ("train", "val"), count=8)
    summary = recipe.run_recipe(folder, out=tmp_path, overlay=folder / "tiny.yaml")
    ran = [*dict.fromkeys(name.split("/")[0] for name in summary)]  # a stage of several levels has a row for each
    assert ran == [stage.name for stage in stages_of(folder)]
    for stage in ran:
        assert (tmp_path / folder.name / "seed-0" / stage / "done").is_file()
    for metrics in summary.values():
        assert 0 <= metrics["test_acc"]["mean"] <= 1
    frame = results(tmp_path / folder.name)
    for metric in {metric for metrics in summary.values() for metric in metrics}:
        means = {stage: metrics[metric]["mean"] for stage, metrics in summary.items() if metric in metrics}
        assert frame[frame.metric == metric].groupby("stage").value.mean().to_dict() == pytest.approx(means)
    table = pandas.read_csv(tmp_path / folder.name / "results.csv")
    assert [*table.columns] == [*frame.columns]
    # Before pandas 3 its parser may be one unit of the last digit off.
    assert table.value.tolist() == pytest.approx(frame.value.tolist(), rel=1e-15, nan_ok=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_stages_have_numbers_of_two_digits_and_what_two_of_them_train_stands_in_one_file(folder):
    stages = stages_of(folder)
    assert all(re.match(r"\d\d-", stage.name) for stage in stages)
    written = [yaml.safe_load(stage.path.read_text()) for stage in stages]
    for key in ("model", "data"):
        written_out = [repr(content[key]) for content in written if isinstance(content[key], dict)]
        assert len(set(written_out)) == len(written_out), f"stages of {folder.name} repeat `{key}`"
        for name in {content[key] for content in written if isinstance(content[key], str)}:
            assert (folder / name).is_file()


def test_the_table_of_recipes_tells_every_recipe_once_and_measured_ones_first():
    rows = re.findall(r"^\| \[(\w+)\]\(\1/README.md\) \|.*\| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == [folder.name for folder in FOLDERS]
    unmeasured = ["not yet measured" in measured for _, measured in rows]
    assert unmeasured == sorted(unmeasured)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_file_fits_on_a_page(path):
    assert len(path.read_text().splitlines()) <= 50
