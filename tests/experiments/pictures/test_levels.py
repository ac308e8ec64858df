import json

import pytest

from helpers.figures import drawn
from helpers.runs import pruned, rows
from lightning_lottery.experiments.pictures.draw import draw_runs


def curves(figure):
    (axes,) = drawn(figure)
    return {text.get_text() for text in axes.texts}, axes


def test_two_rewinding_points_stand_in_one_picture(tmp_path):
    for name in ("early", "late"):
        pruned(tmp_path / name)
    result = draw_runs([f"rewound to {name}={tmp_path / name}" for name in ("early", "late")])
    names, axes = curves(result.figures["levels"])
    assert names == {f"rewound to {name}{kind}" for name in ("early", "late") for kind in ("", " shuffled")}
    ticket = axes.lines[0]
    assert list(ticket.get_xdata()) == pytest.approx([1, 0.8, 0.64, 0.512])
    assert list(ticket.get_ydata()) == pytest.approx([0.9005, 0.8905, 0.8805, 0.8705])
    assert result.notes == [] and list(result.figures) == ["levels"]


def test_folders_of_one_name_are_seeds_of_one_run(tmp_path):
    for seed in (0, 1):
        pruned(tmp_path / f"{seed}", seeds=(seed,), controls=())
    names, axes = curves(draw_runs([f"imp={tmp_path / f'{seed}'}" for seed in (0, 1)]).figures["levels"])
    assert names == {"imp"} and axes.lines[0].get_ydata()[0] == pytest.approx(0.9005)


def test_a_finished_run_says_its_metric_and_down_to_where_it_matches(tmp_path):
    pruned(tmp_path, monitor="val_f1")
    summary = {"monitor": "val_f1", "matches_down_to": 0.8**2, "levels": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    figure = draw_runs([str(tmp_path)]).figures["levels"]
    _, axes = curves(figure)
    assert axes.get_ylabel() == "validation f1, %"
    (ring,) = (line for line in axes.lines if line.get_markersize() == 11)
    assert [*ring.get_xdata()] == pytest.approx([0.64])


def test_half_a_run_is_drawn_as_far_as_it_is_and_says_what_is_missing(tmp_path):
    pruned(tmp_path, levels=1, seeds=(0,), controls=())
    rows(tmp_path / "seed-0" / "level-2", {"metric": "test_loss", "value": 1.0, "density": 0.64})
    (tmp_path / "seed-0" / "level-3").mkdir()
    result = draw_runs([str(tmp_path)])
    _, axes = curves(result.figures["levels"])
    assert list(axes.lines[0].get_xdata()) == pytest.approx([1, 0.8])
    assert result.notes == ["seed-0/level-2 has no test_acc.", "not done yet: seed-0/level-3."]
    title = result.figures["levels"].legends[0].get_title().get_text()
    assert all(note in title for note in result.notes)


def test_records_and_summaries_that_nobody_can_read_are_left_out(tmp_path):
    pruned(tmp_path, levels=2, seeds=(0,), controls=())
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "seed-0" / "level-1" / "results.jsonl").write_text("no record")
    result = draw_runs([str(tmp_path)])
    _, axes = curves(result.figures["levels"])
    assert list(axes.lines[0].get_xdata()) == pytest.approx([1, 0.64])
    assert len(result.notes) == 1 and "level-1/results.jsonl' are damaged" in result.notes[0]
