"""What iterative pruning's report says, of records that are written by hand."""

import json

import pytest

from lightning_lottery import LotteryError
from lightning_lottery.experiments.imp_report import ImpReport, row_of

VALUES = {
    "level-0": (0.9, 0.91, 0.92),
    "level-1": (0.9, 0.909, 0.921),
    "level-1-shuffled": (0.8, 0.81, 0.825),
    "level-2": (0.5, 0.7, 0.9),
}
SPARSITY = {"level-0": 0.0, "level-1": 0.25, "level-1-shuffled": 0.25, "level-2": 0.5}


def records(values=VALUES, metric="test_acc"):
    """Each level's rows of each seed, the judged one last."""
    return {
        name: [
            [
                {"metric": "sparsity", "value": SPARSITY[name], "sparsity": SPARSITY[name]},
                {"metric": metric, "value": value, "sparsity": SPARSITY[name]},
            ]
            for value in values[name]
        ]
        for name in values
    }


REPORT = ImpReport.of_records(records(), (1, 2, 3), "test_acc", "max", 0.01)


def test_levels_are_judged_beside_the_dense_network_and_a_control_beside_its_ticket():
    references = {result.name: result.reference for result in REPORT.results}
    assert references == {"level-0": None, "level-1": "level-0", "level-1-shuffled": "level-1", "level-2": "level-0"}
    assert REPORT["level-0"].matching is None
    verdicts = [REPORT[name].matching.verdict for name in list(VALUES)[1:]]
    assert verdicts == ["matching", "worse", "undecided"]
    differences = [a - b for a, b in zip(VALUES["level-1-shuffled"], VALUES["level-1"], strict=True)]
    assert REPORT["level-1-shuffled"].matching.mean == pytest.approx(sum(differences) / 3)
    assert [result.density for result in REPORT.results] == [1.0, 0.75, 0.75, 0.5]


def test_a_loss_matches_when_it_is_low():
    losses = {"level-0": (0.5, 0.6), "level-1": (0.2, 0.3), "level-2": (0.9, 1.0)}
    report = ImpReport.of_records(records(losses, "loss"), (0, 1), "loss", "min", 0.1)
    assert [report[f"level-{n}"].matching.verdict for n in (1, 2)] == ["matching", "worse"]
    assert report["level-1"].matching.mean == pytest.approx(0.3)


def test_one_seed_gives_values_and_no_verdict():
    report = ImpReport.of_records({name: rows[:1] for name, rows in records().items()}, (1,), "test_acc", "max", 0.01)
    assert report["level-2"].mean == 0.5 and report["level-2"].sd is None
    assert {result.matching.verdict for result in report.results[1:]} == {"undecided"}
    assert list(report.table().columns[3].cells) == ["", "+0.0000", "-0.1000", "-0.4000"]


def test_every_record_of_every_child_is_kept_and_the_summary_is_plain():
    assert len(REPORT.rows()) == 4 * 3 * 2
    summary = REPORT.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert list(summary["levels"]) == list(VALUES)
    assert summary["levels"]["level-2"]["values"] == list(VALUES["level-2"])
    assert summary["levels"]["level-2"]["sd"] == pytest.approx(0.2)


def test_curves_of_tickets_begin_with_the_dense_network_and_those_of_controls_at_their_level():
    points = {}
    for name, value, level in REPORT.scalars():
        points.setdefault(name, []).append((level, value))
    assert points["levels/test_acc/ticket/seed-2"] == [(0, 0.91), (1, 0.909), (2, 0.7)]
    assert points["levels/test_acc/shuffled/seed-3"] == [(1, 0.825)]
    assert points["levels/density/ticket"] == [(0, 1.0), (1, 0.75), (2, 0.5)]


def test_the_table_has_a_row_for_each_level_and_a_control_is_called_by_its_kind():
    table = REPORT.table()
    assert list(table.columns[0].cells) == ["0", "1", "shuffled", "2"]
    assert list(table.columns[4].cells) == ["", "matching", "worse", "undecided"]
    assert REPORT.sentences() == [] and list(REPORT.figures()) == ["levels"]


def test_a_metric_that_no_child_recorded_is_refused_by_what_it_did_record():
    rows = records()["level-1"][0]
    assert row_of(rows, "test_acc")["value"] == 0.9
    with pytest.raises(LotteryError, match="does not log 'f1', it logs sparsity, test_acc: name one of these"):
        row_of(rows, "f1")
