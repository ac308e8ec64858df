"""Every report is written and shown in one way."""

import csv
import json
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from lightning_lottery.children.records import record
from lightning_lottery.experiments.report import show, write

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

    def scalars(self):
        yield from (("acc", 0.25, 1), ("acc", 0.5, 2))

    def table(self):
        table = Table("name")
        table.add_row("only")
        return table

    def sentences(self):
        return ["It is one half.", "No more is known."]


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_everything_that_a_report_holds_is_written_and_a_second_time_replaces_the_first(tmp_path):
    for _ in range(2):
        write(Small(), tmp_path, run="curves")
        assert [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()] == [ROW]
        assert json.loads((tmp_path / "summary.json").read_text()) == {"mean": 0.5}
        assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
        assert curves(tmp_path / "curves") == {"acc": [(1, 0.25), (2, 0.5)]}
    with open(tmp_path / "results.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["metric"], row["value"]) == ("test_acc", "0.5")


@pytest.mark.parametrize("value", [1, 0.5, True, "sgd", None, [1, 2], {"lr": 0.1}])
def test_hyper_parameters_of_any_kind_stand_beside_the_outcome(value, tmp_path):
    write(
        Small(), tmp_path, run="curves", rows=[ROW, {**ROW, "value": 1.0}], hparams={"one": value}, outcome={"k": 3.0}
    )
    assert curves(tmp_path / "curves")["k"][0][1] == 3.0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_the_table_comes_first_then_what_follows_then_where_the_files_are(tmp_path):
    out = StringIO()
    show(Small(), tmp_path, Console(file=out, width=400))
    text = out.getvalue()
    parts = ["only", "It is one half.", "No more is known.", f"Records: {tmp_path / 'results.jsonl'}. Curves:"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
