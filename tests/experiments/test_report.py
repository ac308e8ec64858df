"""Every report is written and shown in one way."""

import csv
import json
from io import StringIO

from rich.console import Console
from rich.table import Table

from helpers.boards import Board
from lightning_lottery.children.records import record
from lightning_lottery.experiments.report import BoardRow, show, write
from lightning_lottery.hooks.boards import Settings

ROW = record(stage="a", metric="test_acc", value=0.5, density=1.0, seed=0)


class Small:
    """A report of one number."""

    def rows(self):
        return [ROW]

    def summary(self):
        return {"mean": 0.5}

    def figures(self):
        from matplotlib.figure import Figure

        return {"line": Figure()}

    def table(self):
        table = Table("name")
        table.add_row("only")
        return table

    def sentences(self):
        return ["It is one half.", "No more is known."]


def test_everything_that_a_report_holds_is_written_and_a_second_time_replaces_the_first(tmp_path):
    for _ in range(2):
        write(Small(), tmp_path, run="board")
        assert [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()] == [ROW]
        assert json.loads((tmp_path / "summary.json").read_text()) == {"mean": 0.5}
        assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
        board = Board(tmp_path / "board")
        assert board.texts("verdict") == ["It is one half.\n\nNo more is known."]
        assert board.images == ["line"] and len(board.read.Images("line")) == 1 and board.curves == {}
    with open(tmp_path / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["metric"], row["value"]) == ("test_acc", "0.5")


def test_a_row_in_the_table_of_runs_stands_beside_the_outcome(tmp_path):
    settings = Settings("dense", 0.0, 100, "none", "0")
    rows = [ROW, {**ROW, "value": 1.0}]
    write(Small(), tmp_path, run="board", rows=rows, row=BoardRow(settings, ["test_acc"], {"k": 3.0}))
    board = Board(tmp_path / "board")
    assert board.curves == {"k": [(100, 3.0)]} and board.settings == settings._asdict()
    assert board.columns[1] == ["test_acc", "k", "path/error_barrier"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_the_table_comes_first_then_what_follows_then_where_the_files_are(tmp_path):
    out = StringIO()
    show(Small(), tmp_path, Console(file=out, width=400))
    text = out.getvalue()
    parts = ["only", "It is one half.", "No more is known.", f"Records: {tmp_path / 'results.jsonl'}. Curves:"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
