"""What iterative pruning's report says, of records that are written by hand."""

import json
import math

import numpy as np
import pytest

from helpers.figures import drawn
from lightning_lottery import LotteryError
from lightning_lottery.children.records import record
from lightning_lottery.experiments.imp_report import ImpReport, row_of
from lightning_lottery.hooks.means import ByBatch

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
                record(metric="sparsity", value=SPARSITY[name], density=1 - SPARSITY[name]),
                record(metric=metric, value=value, density=1 - SPARSITY[name]),
            ]
            for value in values[name]
        ]
        for name in values
    }


REPORT = ImpReport.of_records(records(), (1, 2, 3), "test_acc", "max", 0.01)


def test_levels_are_judged_beside_the_dense_network_and_the_ticket_beside_its_control():
    references = {result.name: result.reference for result in REPORT.results}
    assert references == {"level-0": None, "level-1": "level-0", "level-1-shuffled": "level-1", "level-2": "level-0"}
    assert REPORT["level-0"].matching is REPORT["level-0"].superiority is None
    assert [REPORT[f"level-{n}"].matching.verdict for n in (1, 2)] == ["matching", "undecided"]
    control = REPORT["level-1-shuffled"]
    differences = [a - b for a, b in zip(VALUES["level-1"], VALUES["level-1-shuffled"], strict=True)]
    assert control.matching is None and control.superiority.superior
    assert control.superiority.mean == pytest.approx(sum(differences) / 3)
    assert [result.density for result in REPORT.results] == [1.0, 0.75, 0.75, 0.5]


def test_a_loss_matches_when_it_is_low():
    losses = {"level-0": (0.5, 0.6), "level-1": (0.2, 0.302), "level-2": (0.9, 1.002)}
    report = ImpReport.of_records(records(losses, "loss"), (0, 1), "loss", "min", 0.1)
    assert [report[f"level-{n}"].matching.verdict for n in (1, 2)] == ["matching", "worse"]
    assert report["level-1"].matching.mean == pytest.approx(0.299)


def test_one_seed_gives_values_and_no_verdict():
    report = ImpReport.of_records({name: rows[:1] for name, rows in records().items()}, (1,), "test_acc", "max", 0.01)
    assert report["level-2"].mean == 0.5 and report["level-2"].sd is None
    assert [report[f"level-{n}"].matching.verdict for n in (1, 2)] == ["undecided", "undecided"]
    assert not report["level-1-shuffled"].superiority.superior and report.matches_down_to is None
    assert list(report.table().columns[3].cells) == ["", "+0.0000", "+0.1000", "-0.4000"]
    assert report.sentences()[1] == (
        "level-1: one seed gives an estimate, no verdict, so nothing says how likely a true match is found."
    )


def test_every_record_of_every_child_is_kept_and_the_summary_is_plain():
    assert len(REPORT.rows()) == 4 * 3 * 2
    summary = REPORT.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert list(summary["levels"]) == list(VALUES)
    assert summary["levels"]["level-2"]["values"] == list(VALUES["level-2"])
    assert summary["levels"]["level-2"]["sd"] == pytest.approx(0.2)


def test_the_table_has_a_row_for_each_level_and_a_control_is_called_by_its_kind():
    table = REPORT.table()
    assert list(table.columns[0].cells) == ["0", "1", "shuffled", "2"]
    assert list(table.columns[4].cells) == ["", "matching", "superior", "undecided"]
    p = REPORT["level-1-shuffled"].superiority.adjusted
    assert list(table.columns[3].cells)[2] == f"+0.0983, p {p:.3g}"
    assert "its ticket minus it" in table.caption


def test_the_last_level_that_matches_is_marked_in_the_picture():
    (axes,) = drawn(REPORT.figure())
    assert {text.get_text() for text in axes.texts} == {"ticket", "shuffled"}
    (ring,) = (line for line in axes.lines if line.get_markersize() == 11)
    assert [*ring.get_xdata()] == [0.75] and list(REPORT.figures()) == ["levels"]


def test_sentences_say_down_to_which_density_it_matches_the_power_and_which_controls_are_beaten():
    matches, power, controls, alone = REPORT.sentences()
    assert matches.startswith("test_acc matches down to density 0.75 (margin 0.01;")
    level = REPORT["level-2"].matching
    assert power == (
        f"level-2 is undecided: with these 3 seeds a true match is found with probability {level.power:.2f} there; "
        "not even 1000 seeds would reach 80 % on this test set, the variance staying as it is."
    )
    assert controls == "The ticket is superior to level-1-shuffled (one-sided, p by Holm over 1 control)."
    assert alone.startswith("Seeds alone are judged, on these test samples and no others: level-0 of seed 1 kept no")


def test_what_is_below_the_first_level_that_fails_counts_no_more():
    better = {**VALUES, "level-1": (0.5, 0.7, 0.9), "level-2": (0.9, 0.909, 0.921)}
    report = report_of(better)
    assert report["level-2"].matching.verdict == "matching"
    assert report.matches_down_to is None and report.summary()["matches_down_to"] is None
    assert report.sentences()[0].startswith("test_acc matches at no level")
    assert "level-1 is undecided" in report.sentences()[1]


def test_where_every_level_matches_the_power_of_the_last_is_said():
    report = report_of({**VALUES, "level-2": (0.9, 0.909, 0.921)})
    assert report.matches_down_to == 0.5 and report.sentences()[1] == (
        "level-2 is matching: with these 3 seeds a true match is found with probability 1.00 there; 2 seeds for 80 %, "
        "the variance staying as it is."
    )


def by_batch(values=VALUES, batches=10, spread=0.02):
    """What each child kept: batches whose mean is its value."""
    random = np.random.default_rng(0)

    def kept(value):
        noise = spread * random.normal(size=batches)
        return {"test_acc": ByBatch(value + noise - noise.mean(), np.full(batches, 36.0))}

    return {name: [kept(value) for value in of_seeds] for name, of_seeds in values.items()}


def report_of(values=VALUES, tested=None, seeds=(1, 2, 3)):
    return ImpReport.of_records(records(values), seeds, "test_acc", "max", 0.01, tested)


def test_where_all_children_kept_their_batches_samples_are_judged_as_well():
    report = report_of(tested=by_batch())
    assert report.seeds_alone == "" and len(report.sentences()) == 3
    for name in ("level-1", "level-2"):
        assert report[name].matching.test_standard_error > 0
        assert report[name].matching.standard_error >= report[name].matching.test_standard_error
        assert report[name].matching.mean == pytest.approx(REPORT[name].matching.mean)
    assert report["level-1-shuffled"].superiority.p != REPORT["level-1-shuffled"].superiority.p


def test_one_seed_whose_batches_are_kept_has_verdicts_about_its_networks():
    one = {name: (of_seeds[0],) for name, of_seeds in VALUES.items()}
    report = report_of(one, by_batch(one, spread=0.001), seeds=(1,))
    assert report["level-1"].matching.verdict == "matching" and report["level-2"].matching.verdict == "worse"
    assert report["level-1-shuffled"].superiority.superior and report.matches_down_to == 0.75
    assert report.sentences()[-1] == "This is about the networks of this seed; of other seeds it says nothing."
    assert "with this seed a true match is found with probability 1.00 there, the variance" in report.sentences()[1]


def test_a_level_that_diverged_leaves_the_others_their_samples():
    values = {**VALUES, "level-2": (0.5, math.nan, 0.9)}
    report = report_of(values, by_batch(values))
    assert report.seeds_alone == "" and report.matches_down_to == 0.75
    assert (report["level-2"].matching.verdict, report["level-2"].matching.reason) == (
        "undecided",
        "a value is not finite",
    )


def test_a_loss_in_blocks_is_better_when_low():
    losses = {"level-0": (0.5, 0.6), "level-1": (0.2, 0.32), "level-1-shuffled": (0.9, 1.1)}
    kept = {name: [{"loss": each["test_acc"]} for each in seeds] for name, seeds in by_batch(losses).items()}
    report = ImpReport.of_records(records(losses, "loss"), (0, 1), "loss", "min", 0.1, kept)
    assert report["level-1"].matching.verdict == "matching" and report["level-1"].matching.mean > 0.28
    assert report["level-1-shuffled"].superiority.mean == pytest.approx(0.74)


def test_a_seed_that_is_missing_is_refused():
    missing = records()
    missing["level-1"] = missing["level-1"][:2]
    with pytest.raises(LotteryError, match="level-1 has 2 children for 3 seeds"):
        ImpReport.of_records(missing, (1, 2, 3), "test_acc", "max", 0.01)


def test_a_metric_that_no_child_recorded_is_refused_by_what_it_did_record():
    rows = records()["level-1"][0]
    assert row_of(rows, "test_acc")["value"] == 0.9
    with pytest.raises(LotteryError, match="does not log 'f1', it logs sparsity, test_acc: name one of these"):
        row_of(rows, "f1")
