"""What is read from folders of finished sweeps and iterative pruning, whose barriers and errors are chosen here."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.children import in_blocks, lines_report
from helpers.sweeps import STEPS, cell, imp, sweep
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.experiments.prediction import predict_tickets


def test_points_join_each_ticket_with_the_barrier_of_children_that_it_does_not_share(tmp_path):
    report = predict_tickets(str(sweep(tmp_path)))
    assert [(p.method, p.parent, p.step) for p in report.points[:3]] == [("synflow", 0, step) for step in STEPS]
    of_two = report.points[6]
    assert (of_two.parent, of_two.dense, of_two.pruned) == (
        2,
        3 / 64,
        3 / 32,
    )  # not 0.5, of the pairs with the third child
    assert of_two.deficit == pytest.approx(0.02) and of_two.error == 0.125
    said = report.predictions["synflow"]["dense"]
    assert (said.rho, said.parents, said.steps) == (1.0, 5, 3) and said.p == pytest.approx(1 / 120)
    assert "a lower barrier of the dense network's children goes with a better ticket" in report.sentences()[0]


def test_of_many_tests_each_has_to_show_itself_among_all(tmp_path):
    whole = predict_tickets(str(sweep(tmp_path)))
    said = whole.predictions["synflow"]["dense"]
    one, more = replace(said, p=0.02), replace(said, p=0.5)
    methods = {"a": {"dense": one, "pruned": more}, "b": {"dense": "none"}, "c": {"dense": replace(more, parents=3)}}
    points = [replace(point, method=method) for point in whole.points for method in "abcd"]
    report = replace(whole, points=points, predictions=methods)
    assert report.adjusted() == {("a", "dense"): 0.04, ("a", "pruned"): 0.5}
    assert [sentence.count("children goes with") for sentence in report.sentences()[:2]] == [1, 0]
    report = replace(report, predictions={**methods, "d": {"dense": more}})
    assert report.summary()["predictions"]["a"]["dense"]["p_adjusted"] == pytest.approx(0.06)
    assert "was not shown to go with a better ticket" in report.sentences()[0]
    assert "p 0.02, by Holm over 3 tests 0.06" in report.sentences()[0]


def test_everything_is_written_and_the_figure_is_there(tmp_path):
    report = predict_tickets(str(sweep(tmp_path / "sweep")))
    report.write(tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "points.csv").read_text().splitlines()))
    assert len(rows) == 15 and {"method", "parent", "step", "dense", "pruned", "deficit", "matches"} <= rows[0].keys()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["predictions"]["synflow"]["dense"]["rho"] == 1.0
    assert (tmp_path / "out" / "prediction.png").stat().st_size > 10_000


def test_tickets_that_trained_less_after_later_steps_are_said_to(tmp_path):
    sentences = predict_tickets(str(sweep(tmp_path / "common"))).sentences()
    assert any(
        "synflow: tickets of later steps trained less (30 steps after step 0, 10 after 20)" in s for s in sentences
    )
    for parent in range(5):
        for step in STEPS:
            for network in ("dense", "synflow"):
                cell(tmp_path / "equal", network, parent, step, 0.1 + parent, 0.1 + parent / 50, end=step + 10)
    assert not any("trained less" in s for s in predict_tickets(str(tmp_path / "equal")).sentences())


def test_levels_of_iterative_pruning_are_joined_on_parent_and_step(tmp_path):
    report = predict_tickets(str(sweep(tmp_path / "sweep")), [imp(tmp_path / "imp"), imp(tmp_path / "later", 20)])
    points = [point for point in report.points if point.method == "imp level 1"]
    assert [(p.parent, p.step) for p in points] == [(s, k) for k in (10, 20) for s in range(5)]
    assert points[3].deficit == pytest.approx(0.03) and points[3].pruned is None and points[3].dense == 4 / 64
    assert report.predictions["imp level 1"]["dense"].rho == 1.0 and "pruned" not in report.predictions["imp level 1"]


def test_folders_that_do_not_belong_together_are_refused(tmp_path):
    folder = str(sweep(tmp_path / "sweep"))
    with pytest.raises(LotteryError, match=r"seeds \[7\], the sweep the parents \[0, 1, 2, 3, 4\]: they have none"):
        predict_tickets(folder, [imp(tmp_path / "others", seeds=(7,))])
    with pytest.raises(LotteryError, match="began with other weights"):
        predict_tickets(folder, [imp(tmp_path / "strangers", weights="another's")])
    with pytest.raises(LotteryError, match="rewound to step 15, at which the sweep has no dense network"):
        predict_tickets(folder, [imp(tmp_path / "between", step=15)])
    with pytest.raises(LotteryError, match="There is no finished sweep"):
        predict_tickets(str(tmp_path / "nowhere"))
    with pytest.raises(LotteryError, match="Give the sweep a seed more"):
        predict_tickets(folder, deficit_children=2)


def test_a_sweep_of_several_test_sets_is_refused(tmp_path):
    folder = sweep(tmp_path)
    other = folder / "parent-1" / "dense-step-0" / "lines" / "report.json"
    lines_report(0.1, 0.1, 0.1, samples=7).save(other)
    with pytest.raises(LotteryError, match="different metrics or test sets"):
        predict_tickets(str(folder))


def test_iterative_pruning_that_was_tested_on_other_samples_is_refused(tmp_path):
    pruned = Path(imp(tmp_path / "imp"))
    rows = pruned / "seed-3" / "level-1" / "results.jsonl"
    rows.write_text(json.dumps(json.loads(rows.read_text()) | {"n": 7}) + "\n")
    with pytest.raises(LotteryError, match="level-1' was tested on 7 samples, the sweep's networks on 100000"):
        predict_tickets(str(sweep(tmp_path / "sweep")), [str(pruned)])


def test_the_noise_floor_is_in_the_barriers_units_where_a_ratio_was_judged(tmp_path):
    folder, floors = sweep(tmp_path), []
    for ratio in (None, 0.1):
        for path in folder.glob("parent-*/dense-*/lines/report.json"):
            judged = in_blocks(PathReport.load(path))
            replace(judged, judging=replace(judged.judging, threshold_ratio=ratio)).save(path)
        floors.append(predict_tickets(str(folder)).noise_floor)
    assert floors[0] == pytest.approx(floors[1]) and floors[0] > 0


@pytest.mark.parametrize("barrier", [float("nan"), float("inf")])
def test_a_step_at_which_a_child_diverged_is_left_out(barrier, tmp_path):
    folder = sweep(tmp_path)
    lines_report(barrier, 0.5, 0.5).save(folder / "parent-1" / "dense-step-0" / "lines" / "report.json")
    report = predict_tickets(str(folder))
    assert report.predictions["synflow"]["dense"].steps == 2
    assert "1 of 3 steps are left out: a parent has no ticket or no number there." in report.sentences()[0]


def test_few_parents_only_describe_and_two_cannot_be_compared(tmp_path):
    few = predict_tickets(str(sweep(tmp_path / "three", parents=(0, 1, 2))))
    assert "With 3 parents this only describes them." in few.sentences()[0]
    two = predict_tickets(str(sweep(tmp_path / "two", parents=(0, 1))))
    assert "three are the least" in two.sentences()[0]
