"""Files that are whole or not there: tables and figures."""

import csv

import pytest
from matplotlib.figure import Figure

from lightning_lottery import LotteryError
from lightning_lottery.files import write_image, write_table


def test_a_table_has_a_column_for_every_key_and_lists_in_one_cell(tmp_path):
    rows = [{"seeds": [1, 2], "name": 'a "b", c'}, {"name": "d", "loss": 0.1}, {"seeds": (), "loss": None}]
    write_table(tmp_path / "t.csv", rows, "records")
    with open(tmp_path / "t.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [
        {"seeds": "1 2", "name": 'a "b", c', "loss": ""},
        {"seeds": "", "name": "d", "loss": "0.1"},
        {"seeds": "", "name": "", "loss": ""},
    ]


def test_a_table_without_rows_still_has_its_header(tmp_path):
    write_table(tmp_path / "t.csv", [], "norms", columns=("step", "norm"))
    assert (tmp_path / "t.csv").read_text().splitlines() == ["step,norm"]


def test_columns_that_are_named_come_first(tmp_path):
    write_table(tmp_path / "t.csv", [{"b": 1, "a": 2}], "norms", columns=("a",))
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b", "2,1"]


def test_what_cannot_be_written_is_refused_by_its_name_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (lambda path: write_table(path, [], "norms"), lambda path: write_image(path, Figure())):
        with pytest.raises(LotteryError, match="The (norms|figure) '.*' could not be written"):
            write(tmp_path / "file" / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
