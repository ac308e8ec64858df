import math

from helpers.children import lines_report
from helpers.figures import drawn
from helpers.runs import analysed, rows
from lightning_lottery.experiments.pictures.draw import draw_runs

HIGH, LOW = (0.25, 0.26, 0.27), (0.001, 0.002, 0.0015)


def test_one_analysis_is_its_own_picture_also_of_checkpoints(tmp_path):
    analysed(tmp_path / "analysis", *HIGH)
    assert list(draw_runs([str(tmp_path / "analysis")]).figures) == ["path"]
    (tmp_path / "path").mkdir()
    lines_report(0.1).save(tmp_path / "path" / "report.json")
    (axes,) = drawn(draw_runs([str(tmp_path / "path")]).figures["path"])
    assert [text.get_text() for text in axes.texts] == ["a - b"]


def test_analyses_at_several_steps_are_small_panels_and_a_curve_over_the_step(tmp_path):
    runs = []
    for network, barriers in (("imp", LOW), ("random", HIGH)):
        for step in (0, 100):
            analysed(tmp_path / f"{network}-{step}", *barriers, step=step)
            runs.append(f"{network}-step-{step}={tmp_path / f'{network}-{step}'}")
    result = draw_runs(runs)
    assert list(result.figures) == ["stability", "over-steps"]
    panels = drawn(result.figures["stability"])
    titles = [axes.get_title(loc="left").split("\n") for axes in panels]
    assert [title for title, _ in titles] == ["imp-step-0", "imp-step-100", "random-step-0", "random-step-100"]
    assert titles[0][1].startswith("stable: 0.15 %") and titles[2][1].startswith("unstable: ")
    above, *_ = drawn(result.figures["over-steps"])
    assert {text.get_text() for text in above.texts} == {"imp", "random", "threshold 2 %"}
    assert [*above.lines[0].get_xdata()] == [0, 100]


def test_what_cannot_be_judged_is_drawn_without_a_verdict_and_said(tmp_path):
    analysed(tmp_path / "nan", math.nan, 0.1, 0.1)
    for number, samples in enumerate((100, 200)):
        analysed(tmp_path / f"{number}", *HIGH, samples=samples)
    rows(tmp_path / "started" / "seed-1")
    result = draw_runs(
        [str(tmp_path / "nan"), f"two={tmp_path / '0'}", f"two={tmp_path / '1'}", str(tmp_path / "started")]
    )
    nan, two = drawn(result.figures["stability"])
    assert two.get_title(loc="left") == "two\nnot judged" and nan.get_title(loc="left").startswith("nan\nundecided")
    assert [note.split(":")[0] for note in result.notes] == ["started", "two"]
    assert "evaluated on 100 and 200 samples" in result.notes[1]
