"""What a sweep's report says, of lines whose barriers are chosen here."""

import json
import math
from dataclasses import replace

import pytest
from matplotlib.text import Text

from helpers.children import lines_report
from helpers.figures import drawn
from lightning_lottery import LotteryError
from lightning_lottery.experiments.report import write
from lightning_lottery.experiments.sweep_report import SweepReport, draw_sweeps, stable_step, summary_in
from lightning_lottery.functional.verdicts import judge

HIGH, LOW = (0.25, 0.26, 0.27), (0.001, 0.002, 0.0015)
"""Barriers of three children that are far above the threshold of 0.02, and far below."""


def dense(*barriers, **settings):
    """A sweep of the dense network, one parent: its barriers at steps 0, 4, 8."""
    reports = {
        step: {0: lines_report(*at_step, **settings)} for step, at_step in zip((0, 4, 8), barriers, strict=False)
    }
    return SweepReport(0.02, {"dense": reports})


FALLS = dense(HIGH, HIGH, LOW)
NEVER = dense(HIGH, HIGH, HIGH)


def with_pruned(margin=0.01):
    """Two parents at three steps; the pruned network errs as much as the dense one, and 0.05 more at step 0."""
    barriers = {0: 0.25, 4: 0.125, 8: 0.0}
    reports = {
        name: {
            step: {parent: lines_report(barrier + parent / 16, error=0.125 + more * (step == 0)) for parent in (0, 1)}
            for step, barrier in barriers.items()
        }
        for name, more in (("dense", 0.0), ("magnitude", 0.05))
    }
    return SweepReport(0.02, reports, margin)


def test_a_pruned_network_matches_where_its_children_err_no_more_than_the_dense_ones_and_the_margin():
    for margin in (0.01, 1.0):
        report = with_pruned(margin)
        points = report.matching("magnitude")
        assert list(points) == [(step, parent) for step in (0, 4, 8) for parent in (0, 1)]
        for (step, parent), (barrier, is_match) in points.items():
            whole, pruned = (report.reports[name][step][parent] for name in ("dense", "magnitude"))
            errors = [[lines.errors((0, 1))[end] for end in (0, -1)] for lines in (whole, pruned)]
            assert is_match == (sum(errors[1]) / 2 <= sum(errors[0]) / 2 + margin)
            assert is_match == (step > 0 or margin == 1.0)
            assert barrier == whole.measures((0, 1))["error_barrier"]
    with pytest.raises(LotteryError, match="of 6 all of them match"):
        report.roc("magnitude")
    summary = report.summary()["networks"]
    assert (
        "all of them match" in summary["magnitude"]["matching"]["no_threshold"] and "matching" not in summary["dense"]
    )


def test_the_barrier_that_tells_matching_networks_best_lies_between_those_of_both_kinds():
    roc = with_pruned().roc("magnitude")
    assert roc.auc == 1 and 0.125 + 1 / 16 < roc.best < 0.25
    (sentence,) = [sentence for sentence in with_pruned().sentences() if "match the dense network" in sentence]
    assert sentence == (
        "magnitude: 4 of 6 match the dense network from the same snapshot within 0.01 (area under the ROC curve of the "
        "barrier over all steps 1.00: confounded with the step)."
    )


def test_a_match_needs_the_dense_network_at_that_step_a_finite_barrier_and_a_share_of_samples():
    pruned = {step: {0: lines_report(0.0)} for step in (0, 4, 8)}
    whole = {0: {0: lines_report(0.0)}, 8: {0: lines_report(math.inf)}}
    assert list(SweepReport(0.02, {"dense": whole, "pruned": pruned}).matching("pruned")) == [(0, 0)]
    losses = {0: {0: lines_report(0.0, monitor="test_loss")}}
    assert SweepReport(0.02, {"dense": losses, "pruned": losses}).matching("pruned") == {}


def test_a_step_is_judged_by_the_barriers_of_all_its_parents_or_of_one():
    report = SweepReport(0.02, {"dense": {3: {5: lines_report(*HIGH), 6: lines_report(*LOW)}}})
    barriers = report.barriers("dense")[3]
    assert list(barriers) == [5, 6] and list(barriers[5].values()) == pytest.approx(HIGH)
    assert report.judged("dense")[3] == judge(barriers, 0.02, samples=100_000)
    assert report.judged("dense", 6)[3] == judge({6: barriers[6]}, 0.02, samples=100_000)
    assert [report.judged("dense", parent)[3].verdict for parent in (5, 6)] == ["unstable", "stable"]


def test_k_star_is_the_step_from_which_on_all_are_stable_and_beyond_the_last_there_is_none():
    assert FALLS.k_star("dense").step == 8
    assert FALLS.sentences()[0].startswith(
        "dense: stable at step 8, the last evaluated one. The mean barrier falls below 0.02 at step "
    )
    never = NEVER.k_star("dense")
    assert (never.step, never.estimate, never.high) == (None, math.inf, math.inf)
    assert NEVER.sentences()[0].startswith("dense: not shown stable at step 8: the lower bound")
    assert NEVER.sentences()[0].endswith(
        "beyond the last step (bounds, each wrong with a probability of at most 5 %: at step 8, beyond the last step); "
        "of single parents, 0: beyond the last step."
    )
    assert "falls below 0.02 at or before step 0" in dense(LOW, LOW).sentences()[0]


def test_what_is_stable_names_the_steps_that_were_looked_at_and_how_far_they_are_apart():
    reports = {step: {0: lines_report(*(HIGH if step < 400 else LOW))} for step in (0, 100, 400, 800, 3200)}
    (sentence, *_) = SweepReport(0.02, {"dense": reports}).sentences()
    assert sentence.startswith(
        "dense: stable at step 400 and at the evaluated steps above it (800, 3200; largest gap a factor 4). "
    )
    values = SweepReport(0.02, {"dense": reports}).summary()["networks"]["dense"]
    assert (values["step"], values["evaluated_above"], values["largest_gap"]) == (400, [800, 3200], 4.0)


def test_a_search_s_level_is_that_of_k_star_and_of_its_bounds():
    report = SweepReport(0.02, FALLS.reports, level=0.226)
    assert "(bounds, each wrong with a probability of at most 23 %: " in report.sentences()[0]
    assert report.summary()["networks"]["dense"]["level"] == report.k_star("dense", 0).level == 0.226
    assert FALLS.summary()["networks"]["dense"]["level"] == 0.05


def test_steps_that_speak_against_each_other_are_named():
    sentences = [sentence for sentence in dense(LOW, HIGH, LOW).sentences() if " but " in sentence]
    assert sentences == [
        "dense: step 0 is stable, but step 4 after it is unstable.",
        "dense: step 4 is unstable, but step 0 before it is stable.",
    ]


def test_a_summary_holds_plain_values_and_none_for_what_is_not_finite():
    for report in (dense(LOW, HIGH, LOW), NEVER, dense(HIGH, (math.nan, 0.1, 0.1), LOW)):
        summary = report.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["networks"]["dense"]["steps"]["4"]["mean"] is None
    assert summary["networks"]["dense"]["steps"]["4"]["by_parent"] == {"0": None}
    never = NEVER.summary()["networks"]["dense"]
    assert (never["step"], never["estimate"], never["low"], never["high"]) == (None, None, 8.0, None)
    assert never["parents"]["0"]["step"] is None


def test_recalibrated_barriers_stand_beside_and_are_not_judged():
    report = dense(HIGH, LOW, recalibrated=(0.5, 0.5, 0.5))
    steps = report.summary()["networks"]["dense"]["steps"]
    assert {values["recalibrated"] for values in steps.values()} == {0.5}
    assert list(report.barriers("dense", recalibrated=True)[4][0].values()) == [0.5] * 3
    assert report.judged("dense") == dense(HIGH, LOW).judged("dense")
    assert "recalibrated" not in FALLS.summary()["networks"]["dense"]["steps"]["8"]


def test_recalibrated_barriers_are_in_the_unit_of_the_raw_ones_where_a_ratio_is_judged():
    lines = lines_report(0.25, 0.25, 0.25, recalibrated=(0.5, 0.5, 0.5))
    lines = replace(lines, judging=replace(lines.judging, threshold_ratio=0.1))
    report = SweepReport(0.1, {"dense": {0: {0: lines}}})
    (values,) = report.summary()["networks"]["dense"]["steps"].values()
    assert "falls below 0.1 of the ends' mean error" in report.sentences()[0]
    assert (values["mean"], values["recalibrated"]) == (2.0, 4.0)


def test_lines_are_means_over_parents_and_pairs_above_their_ends():
    report = SweepReport(0.02, {"dense": {2: {0: lines_report(0.5), 1: lines_report(0.25, error=0.25)}}})
    assert report.lines("dense") == {2: [0.0, 0.375, 0.0]}


def test_the_table_has_a_row_for_each_network_and_step():
    table = with_pruned().table()
    networks, steps, verdicts = (list(table.columns[number].cells) for number in (0, 1, 6))
    assert networks == ["dense"] * 3 + ["magnitude"] * 3 and steps == ["0", "4", "8"] * 2
    assert verdicts[0] == with_pruned().judged("dense")[0].verdict
    assert list(dense((0.25,)).table().columns[4].cells) == [""]  # one pair has no bounds


def test_another_sweep_is_drawn_beside_this_one():
    report = SweepReport(0.02, FALLS.reports, beside={"before": NEVER.summary()})
    above, rows, _ = report.figure().axes
    assert {"dense", "before dense"} < {text.get_text() for text in above.texts}
    assert [text.get_text() for text in rows.texts] == ["k* = 8", "none by 8"]
    assert list(report.figures()) == ["barrier", "lines"]


def test_a_written_sweep_says_its_k_star_or_why_there_is_none(tmp_path):
    write(FALLS, tmp_path / "falls", run="sweep")
    write(NEVER, tmp_path / "never", run="sweep")
    assert stable_step(tmp_path / "falls", "dense") == 8
    assert summary_in(tmp_path / "falls") == FALLS.summary()
    with pytest.raises(LotteryError, match="has no network 'synflow': it has dense"):
        stable_step(tmp_path / "falls", "synflow")
    with pytest.raises(LotteryError, match="found no step from which on 'dense' is stable"):
        stable_step(tmp_path / "never", "dense")
    with pytest.raises(LotteryError, match="There is no finished sweep in"):
        stable_step(tmp_path / "none", "dense")
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(LotteryError, match="There is no finished sweep in"):
        summary_in(tmp_path)


def test_the_summary_says_what_was_judged_and_each_parent_s_error_for_pictures_of_several_sweeps():
    summary = with_pruned().summary()
    assert (summary["monitor"], summary["mode"], summary["is_ratio"]) == ("test_acc", "max", False)
    step = summary["networks"]["magnitude"]["steps"]["0"]
    assert step["errors"] == pytest.approx({"0": 0.175, "1": 0.175}) and step["error"] == pytest.approx(0.175)
    loss = dense(HIGH, LOW, monitor="test_loss").summary()
    assert loss["networks"]["dense"]["steps"]["0"]["errors"] == {"0": None}


def test_sweeps_of_different_metrics_are_drawn_with_a_note_and_those_of_an_older_version_as_they_are():
    old = {name: value for name, value in FALLS.summary().items() if name in ("threshold", "networks")}
    figure = draw_sweeps({"old": old, "loss": dense(HIGH, LOW, monitor="test_loss").summary()})
    above, *_ = figure.axes
    assert above.get_ylabel() == "barrier of the test error or test loss, %"
    assert "different metrics: test_acc, test_loss" in figure.legends[0].get_title().get_text().replace("\n", " ")


def under_data_order(*barriers):
    """A sweep whose children differ in the order of the data, judged on the training split too."""
    sweep = dense(*barriers)
    reports = {
        step: {
            parent: replace(report, train=lines_report(0.29, 0.31, 0.3)).of_children(
                "data order", is_null_control=False
            )
            for parent, report in at.items()
        }
        for step, at in sweep.reports["dense"].items()
    }
    return replace(sweep, reports={"dense": reports})


def test_a_sweep_says_to_which_noise_and_what_the_training_split_says():
    falls, never = under_data_order(HIGH, HIGH, LOW), under_data_order(HIGH, HIGH, HIGH)
    assert falls.sentences()[0].startswith("dense: stable to data order at step 8, the last evaluated one")
    assert never.sentences()[0].startswith("dense: not shown stable to data order at step 8: ")
    assert "children differ by data order" in falls.table().title and falls.summary()["noise"] == "data order"
    assert "on the training split the mean barrier is 0.3000 at step 0 (unstable), 0.3000" in falls.sentences()[-1]
    assert falls.summary()["networks"]["dense"]["steps"]["8"]["train"]["mean"] == pytest.approx(0.3)
    (column,) = [column for column in falls.table().columns if column.header == "on train"]
    assert [*column.cells] == ["0.3000"] * 3 and "on train" not in str(FALLS.table().columns)


@pytest.mark.pictures
def test_pictures_of_sweeps_say_their_noise_or_that_it_differs():
    falls = under_data_order(HIGH, HIGH, LOW).summary()
    for noise in (
        "data order",
        "a Gaussian perturbation of 50 % of the weights by 0.01 times the initialisation's scale",
    ):
        figure = draw_sweeps({"": {**falls, "noise": noise}})
        above, *_ = drawn(figure)
        assert f"children differ by {noise}" in above.get_ylabel().replace("\n", " ")
        assert above.yaxis.label.get_window_extent().height <= above.get_window_extent().height
    both = draw_sweeps({"": falls, "all": {**falls, "noise": "SGD noise"}})
    texts = " ".join(text.get_text() for text in both.findobj(Text))
    assert "differ by different noise: SGD noise, data order" in texts.replace("\n", " ")


def test_a_parent_whose_children_all_err_alike_is_named_and_no_other():
    report = SweepReport(0.02, {"dense": {0: {0: lines_report(0.0, error=0.9), 1: lines_report(0.1, error=0.05)}}})
    (said,) = [sentence for sentence in report.sentences() if "learnt nothing" in sentence]
    assert said.startswith("dense: step 0, children of parent 0. All networks and all places between have the same err")
