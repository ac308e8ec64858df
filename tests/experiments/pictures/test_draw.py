from helpers.runs import SPECIFICATION, analysed, pruned
from helpers.sweeps import sweep
from lightning_lottery.experiments.pictures.draw import DRAWERS, draw_recipe, draw_runs
from lightning_lottery.files import write_image


def test_runs_of_several_kinds_have_a_picture_for_each_kind_written_in_both_formats(tmp_path):
    pruned(tmp_path / "imp", 1)
    sweep(tmp_path / "sweep", parents=(0,))
    analysed(tmp_path / "lines", 0.1)
    result = draw_runs([str(tmp_path / name) for name in ("imp", "sweep", "lines")])
    assert {*result.figures} == {"levels", "barrier", "path"} and len(DRAWERS) == 5
    for name, figure in result.figures.items():
        write_image(tmp_path / "out", name, figure)
    assert (tmp_path / "out" / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png", ".svg"}


def test_of_a_recipe_only_the_seeds_that_are_asked_for_are_drawn(tmp_path):
    for seed in (0, 1):
        pruned(tmp_path / f"seed-{seed}" / "01-imp", 1, seeds=(seed,), controls=())
        (tmp_path / f"seed-{seed}" / "01-imp" / "child.json").write_text(SPECIFICATION)
    (axes,) = draw_recipe(tmp_path, [1]).figures["levels"].axes
    assert axes.lines[0].get_ydata()[0] == 0.901
