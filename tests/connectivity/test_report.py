import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text

from helpers.children import lines_report
from helpers.lines import line_between, quadrants, trained
from lightning_lottery import LotteryError
from lightning_lottery.children.records import COLUMNS, STAMP
from lightning_lottery.connectivity.report import Layer, PathReport

SAVED = Path(__file__).with_name("report.json")
"""Of three networks with single layers, aligned, and their mean."""


def test_three_networks_give_three_pairs_and_a_verdict_on_their_parent_and_two_one_on_themselves(tmp_path):
    report = line_between(tmp_path, *(trained(seed) for seed in (0, 1, 2)))
    assert report.pairs == [(0, 1), (0, 2), (1, 2)]
    assert report.stability.about == "children of this parent" and report.stability.standard_error is not None
    two = line_between(tmp_path, trained(0), trained(1))
    assert two.stability.about == "these two networks" and two.stability.standard_error > 0
    assert two.stability == two.stability_of_pair((0, 1))
    assert two.stability.low == pytest.approx(report.stability_of_pair((0, 1)).low)
    assert "Of other networks it says nothing" in " ".join(two.sentences())
    siblings = two.of_children("SGD noise", is_null_control=False)
    assert "Of other children it says nothing" in " ".join(siblings.sentences())
    assert "about networks made as these were" in report.sentences()[0]
    rows = report.rows()
    assert {*rows[0]} == {*COLUMNS} - {*STAMP}
    assert sum(row["metric"] == "error_barrier" for row in rows) == 3


def test_a_report_is_read_back_as_it_was_saved(tmp_path):
    report = PathReport.load(SAVED)
    assert report.names == ("seed 0", "seed 1", "seed 2") and report.judging.alphas == (0.0, 0.5, 1.0)
    layers = {(kind.host, kind.extent) for kind in report.curves if isinstance(kind, Layer)}
    assert layers == {(host, extent) for host in (0, 1) for extent in ("single", "cumulative")}
    assert report.pairs == [(0, 1), (0, 2), (1, 2)] and all(set(c) == set(report.pairs) for c in report.curves.values())
    report.save(tmp_path / "again.json")
    assert PathReport.load(tmp_path / "again.json") == report
    assert "an older version" in report.networks_alone  # which kept no blocks


def test_blocks_are_read_back_as_they_were_saved(tmp_path):
    report = line_between(tmp_path, trained(0), trained(1))
    assert report.blocks is not None
    report.save(tmp_path / "report.json")
    loaded = PathReport.load(tmp_path / "report.json")
    assert loaded.stability == report.stability and loaded.blocks.weights == list(report.blocks.weights)
    content = json.loads((tmp_path / "report.json").read_text())
    for damage in ({"weights": [1.0], "values": content["blocks"]["values"]}, {"weights": 3}, {"values": []}):
        (tmp_path / "report.json").write_text(json.dumps(content | {"blocks": damage}))
        with pytest.raises(LotteryError, match="is no report of lines between networks"):
            PathReport.load(tmp_path / "report.json")


WITHOUT_JUDGING = '{"names": ["a", "b"], "alphas": [0.0, 1.0], "monitor": "test_acc", "curves": []}'
"""As written when each kind of line had its own field."""


def test_what_is_no_report_is_refused_in_a_sentence(tmp_path):
    for number, text in enumerate(("{", "[]", WITHOUT_JUDGING, '{"judging": {"monitors": 3}}')):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        with pytest.raises(
            LotteryError, match=rf"'.*{number}.json' is no report of lines between networks .*judge them"
        ):
            PathReport.load(file)


def test_a_null_control_is_undecided_whatever_its_barriers_are(tmp_path):
    report = PathReport.load(SAVED)
    control = replace(report, is_null_control=True)
    assert control.stability.verdict == "undecided" and "null control" in control.stability.reason
    assert control.stability.mean == report.stability.mean and not report.is_null_control
    control.save(tmp_path / "report.json")
    assert PathReport.load(tmp_path / "report.json").stability == control.stability


def test_records_hold_every_point_of_every_kind_of_line_and_every_measure_of_every_pair():
    report = PathReport.load(SAVED)
    rows = report.rows(seeds=(4, 5, 6), stage="here", step=3)
    points = [row for row in rows if row["alpha"] is not None]
    assert len(points) == sum(
        len(values) for curves in report.curves.values() for curve in curves.values() for values in curve.values()
    )
    kinds = ("", "aligned/", "single layer network.0 in host 0/", "cumulative layer network.4 in host 1/")
    assert {f"line/{kind}test_acc" for kind in kinds} <= {row["metric"] for row in points}
    assert all((row["alpha"] is not None) == row["metric"].startswith("line/") for row in rows)
    assert {row["alpha"] for row in points if "layer" in row["metric"]} == {0.5}
    ends = {(row["child_a"], row["child_b"]) for row in rows if not row["metric"].startswith("midpoint/")}
    assert ends == {(4, 5), (4, 6), (5, 6)} and {row["seed"] for row in rows} == {None}
    assert {(row["stage"], row["step"]) for row in rows} == {("here", 3)}
    for kind, metric in (("raw", "error_barrier"), ("aligned", "aligned/error_barrier")):
        barriers = {(row["child_a"], row["child_b"]): row["value"] for row in rows if row["metric"] == metric}
        assert barriers[4, 6] == report.measures((0, 2), kind)["error_barrier"] and len(barriers) == 3


def test_figures_are_the_lines_and_a_bar_for_each_layer_where_layers_were_interpolated():
    report = PathReport.load(SAVED)
    assert list(report.figures()) == ["path", "layers"]
    whole = {kind: curves for kind, curves in report.curves.items() if not isinstance(kind, Layer)}
    assert list(replace(report, curves=whole).figures()) == ["path"]


def test_the_main_figure_names_pairs_by_their_networks_and_says_the_verdict():
    report = replace(lines_report(0.25, 0.26, 0.27), names=("seed 3", "seed 7", "seed 11"))
    figure = report.figure()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["seeds 3 - 7", "seeds 3 - 11", "seeds 7 - 11"]
    assert axes.get_ylabel() == "test error, %"
    assert re.fullmatch(r"unstable: mean barrier 26.00 % \(2\d.\d\d to 2\d.\d\d\)", figure.get_suptitle())
    long = replace(report, names=("runs/a/last.ckpt", "runs/b/epoch=3.ckpt", "c"))
    assert [long.name_of(pair) for pair in long.pairs] == ["0 - 1", "0 - 2", "1 - 2"]
    assert replace(report, names=("a", "b", "c")).name_of((0, 2)) == "a - c"
    saved = replace(report, names=tuple(f"runs/x/seed-{seed}/last.ckpt" for seed in (3, 7, 11)))
    assert [saved.name_of(pair) for pair in saved.pairs] == [report.name_of(pair) for pair in report.pairs]


def test_rises_are_above_the_mean_of_each_pair_s_ends_in_the_verdict_s_unit():
    report = lines_report(0.25, 0.5, 0.0)
    assert report.rises() == {"a - b": [0, 0.25, 0], "a - c": [0, 0.5, 0], "b - c": [0, 0, 0]}
    ratio = replace(report, judging=replace(report.judging, threshold_ratio=0.5))
    assert ratio.rises()["a - b"] == [0, 2, 0]  # of an error of 0.125


def test_the_figure_of_a_loss_is_in_its_units_and_of_one_pair_has_no_bounds():
    figure = lines_report(0.25, monitor="test_loss").figure()
    assert figure.axes[0].get_ylabel() == "test loss" and figure.get_suptitle() == "undecided: mean barrier 0.25"


@pytest.mark.parametrize("change", [{"samples": 2**64}, {"midpoint": {"test_acc": 10**400}}])
def test_numbers_that_no_float_holds_are_damage(change, tmp_path):
    lines_report(0.1).save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(content | change))
    with pytest.raises(LotteryError, match="is no report of lines between networks"):
        PathReport.load(tmp_path / "report.json")


def test_a_monitor_that_is_no_share_of_samples_is_judged_whatever_its_sign():
    report = lines_report(0.1, 0.11, 0.105, error=-3.0, monitor="energy")
    report = replace(report, judging=replace(report.judging, mode="min"))
    curves = {
        pair: {"energy": [-3.0, -3.0 + height, -3.0]} for pair, height in zip(report.pairs, BARRIERS, strict=True)
    }
    report = replace(report, curves={"raw": curves})
    assert report.error_of_ends is None and report.stability.verdict == "unstable"
    assert report.stability.typical is None


BARRIERS = (0.1, 0.11, 0.105)


def test_where_the_ends_alone_differ_the_report_says_so():
    report = lines_report(0.1)
    line = {"test_acc": [0.9, 0.85, 0.8]}
    sloped = replace(report, curves={"raw": {(0, 1): line}})
    assert sloped.measures((0, 1))["error_barrier"] == pytest.approx(0.05)
    assert any(
        line.startswith("a and b: one is worse than the other, and the error goes straight")
        for line in sloped.sentences()
    )
    assert not any("goes straight" in sentence for sentence in report.sentences())


def test_networks_that_learnt_nothing_are_not_called_stable_without_a_word(tmp_path):
    dead = [trained(seed, steps=0) for seed in (0, 1)]
    for net in dead:
        torch.nn.init.zeros_(net[-1].weight)
        torch.nn.init.zeros_(net[-1].bias)
    report = line_between(tmp_path, *dead, loader=quadrants(1000, 500))
    assert report.stability.verdict == "stable" and report.constant_error > 0.4
    assert any("so have networks that learnt nothing" in sentence for sentence in report.sentences())
    # Nothing is wrong; something changes along a line; all are one network, as in the null control.
    same = {pair: {**between, "l2": 0.0} for pair, between in report.distances.items()}
    others = (lines_report(0.0, error=0.0), lines_report(0.0, 0.0, 0.001), replace(report, distances=same))
    for other in others:
        assert other.constant_error is None and not any("learnt nothing" in line for line in other.sentences())


@pytest.mark.parametrize(
    ("barriers", "verdict"),
    [((0.001, 0.002, 0.0015), "stable to data order"), ((0.25, 0.26, 0.27), "unstable to data order")],
)
def test_children_s_verdict_says_to_which_noise(barriers, verdict):
    report = lines_report(*barriers).of_children("data order", is_null_control=False)
    assert report.sentences()[0].startswith(f"{verdict}: mean error barrier")
    assert f"{verdict}, mean error barrier" in repr(report) and report.summary()["noise"] == "data order"
    assert "children differ by data order" in report.table().title
    undecided = lines_report(*barriers).of_children("data order", is_null_control=True)
    assert undecided.sentences()[0].startswith("undecided whether stable to data order: ")


@pytest.mark.pictures
def test_the_picture_says_to_which_noise_and_has_the_training_split():
    report = replace(lines_report(0.25, 0.26, 0.27), train=lines_report(0.01, 0.02, 0.03))
    figure = report.of_children("data order", is_null_control=False).figure()
    assert figure.get_suptitle().startswith("unstable to data order: mean barrier")
    assert "on the training split, mean" in " ".join(text.get_text() for text in figure.findobj(Text))
