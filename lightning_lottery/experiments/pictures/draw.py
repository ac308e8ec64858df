"""The pictures of runs: those of a kind together."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_lottery.experiments.pictures.fits import draw_early_birds, draw_fits
from lightning_lottery.experiments.pictures.folders import Drawn, Part, damaged_in, parts_of
from lightning_lottery.experiments.pictures.levels import draw_pruned
from lightning_lottery.experiments.pictures.lines import draw_lines
from lightning_lottery.experiments.pictures.recipe import draw_recipes
from lightning_lottery.experiments.pictures.sweeps import draw_swept

DRAWERS: dict[str, tuple[Callable[[Sequence[Part], Drawn], None], ...]] = {
    "recipe": (draw_recipes, draw_early_birds),
    "lines": (draw_lines,),
    "sweep": (draw_swept,),
    "imp": (draw_pruned,),
    "fit": (draw_fits,),
}
"""Kind of a run to what draws all of the kind together."""


def draw_runs(runs: Sequence[str]) -> Drawn:
    """The pictures of one run or several: those of a kind together, one picture for each kind.

    Iterative pruning: accuracy against density (``levels``). Sweeps: barriers over steps with k* (``barrier``).
    Instability analyses, and lines between checkpoints: the lines (``path``), of several in small panels
    (``stability``), and their barriers where they began at different steps (``over-steps``). A recipe: what every
    stage reached (``summary``), the lines of its analyses, and its iterative pruning and sweeps; of early birds when
    rules drew in each seed (``draws``), and what networks reached over the step of drawing (``over-draws``). Fits, also
    stages of a recipe: a metric through training, marked where networks were pruned (``training``), and the draws.

    Args:
        runs: Folders, each also as ``NAME=FOLDER``, by which it is called in the pictures; folders of one name are one
            run, as those of several seeds are.

    Raises:
        LotteryError: A folder that is not there or holds no run.
    """
    return _draw(parts_of(runs))


def draw_recipe(folder: Path, seeds: Sequence[int]) -> Drawn:
    """The pictures of a recipe's runs of some seeds; none where nothing is done.

    Args:
        folder: That holds a folder for each seed.
        seeds: Which of them are drawn.
    """
    wanted = {f"seed-{seed}" for seed in seeds}
    parts = [part for part in parts_of([str(folder)]) if part.kind == "recipe" or part.folder.parent.name in wanted]
    return _draw([part._replace(seeds=tuple(seeds)) for part in parts])


def _draw(parts: Sequence[Part]) -> Drawn:
    drawn = Drawn(notes=[note for part in parts for note in damaged_in(part.folder)])
    for kind, drawers in DRAWERS.items():
        if alike := [part for part in parts if part.kind == kind]:
            for draw in drawers:
                draw(alike, drawn)
    drawn.notes = list(dict.fromkeys(drawn.notes))  # several pictures may lack the same
    return drawn
