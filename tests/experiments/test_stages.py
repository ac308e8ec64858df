import re

import pytest

from helpers.stages import write
from lightning_lottery import LotteryError
from lightning_lottery.experiments.stages import stages_of


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no stage: stages are files such as 01-dense.fit.yaml"),
        (
            ["tiny.yaml", "network.yml", "README.md", ".1-a.fit.yaml", "1-a.fit.yaml~", "1-a.fit.bak"],
            "has no stage",
        ),
        (["1-a.fit.yaml", "01-b.fit.yaml"], "'(1-a|01-b).fit.yaml' and '(1-a|01-b).fit.yaml' .* have the same number"),
        (["1-a.train.yaml"], "asks for the subcommand 'train'; there are fit, validate, test, predict"),
    ],
)
def test_a_folder_that_is_no_recipe_is_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(LotteryError, match=message):
        stages_of(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("2-b.fit.yml", "2-b.fit.YAML", "3-c.v2.fit.yaml", "4-d e.fit.yaml", "5_f.fit.yaml", "6-.fit.yaml"),
        *("7-g+h.fit.yaml", "8.fit.yaml", "9-i.yaml", "dense.fit.yaml", "b.instability.yml", "²-a.fit.yaml"),
    ],
)
def test_a_file_that_looks_like_a_stage_and_is_none_is_refused_by_name(tmp_path, name):
    for file in ("1-a.fit.yaml", name):
        (tmp_path / file).write_text("")
    with pytest.raises(LotteryError, match=re.escape(f"'{tmp_path / name}' looks like a stage and is none: ")):
        stages_of(tmp_path)


def test_a_stage_that_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "1-a.fit.yaml"
    path.write_bytes(bytes(range(128, 255)))
    with pytest.raises(LotteryError, match=f"^The stage '{path}' is no text in UTF-8: invalid start byte at byte 0"):
        stages_of(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(LotteryError, match=f"^The stage '{path}' cannot be read: Is a directory"):
        stages_of(tmp_path)


def test_stages_come_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, {f"{number}-stage.fit": {} for number in (10, 9, 1, 2)})
    assert [stage.name for stage in stages_of(tmp_path)] == ["1-stage", "2-stage", "9-stage", "10-stage"]
