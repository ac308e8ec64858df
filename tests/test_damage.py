"""Whatever happens to a file of a finished run: the next command does without it, writes it anew, or names it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from helpers.factories import closures
from helpers.stages import fit, in_this_process
from lightning_lottery import InstabilityAnalysis, InstabilitySweep, IterativePruning, LotteryError
from lightning_lottery.children import processes
from lightning_lottery.children.cli import resolve
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.experiments import recipe, stage_children
from lightning_lottery.experiments.imp_report import ImpReport
from lightning_lottery.experiments.pictures import draw as drawing
from lightning_lottery.experiments.sweep_report import SweepReport

PROJECT = closures()
OUT = Path("out")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "left").touch()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "garbage": lambda path: path.write_bytes(bytes(range(128, 256)) * 8),
    "a folder": folder_instead,
    "a list": lambda path: path.write_text("[1, [2]]"),
    "without its last line": lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1])),
}
"""Each does something to a file."""

EXPERIMENTS = {
    "instability": InstabilityAnalysis(seeds=(1, 2), alphas=(0, 0.5, 1)),
    "sweep": InstabilitySweep(seeds=(1, 2), parents=(0,), steps=(0, 4), alphas=(0, 0.5, 1)),
    "imp": IterativePruning(levels=1),
}


def each_file(folder: Path) -> list[Path]:
    """Every file but locks."""
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]


def one_of_each(folder: Path) -> list[Path]:
    """One file of each name and of each depth of folders."""
    # TensorBoard's files have the time in their names.
    kinds = {(len(path.parts), re.sub(r"\d{5,}.*", "", path.name)): path for path in each_file(folder)}
    return list(kinds.values())


FEW_OR_ALL = pytest.mark.parametrize("choice", [one_of_each, pytest.param(each_file, marks=pytest.mark.torture)])


def outcomes(
    paths: list[Path], whole: Path, damage: str, again: Callable[[], str], redo: Callable[[str], None]
) -> dict[str, str]:
    """What went otherwise than it may, for each damaged file of a finished run.

    Args:
        paths: Of the files, below the run.
        whole: The finished run.
        damage: What is done to the file.
        again: The next command, in a copy of the run; what it found.
        redo: Has a name done again, as the next command advises.
    """
    wrong = {}
    expected = None
    for path in (None, *paths):
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(whole, OUT)
        if path is not None:
            DAMAGES[damage](OUT / path)
        try:
            result = again()
            expected = result if path is None else expected
            if result != expected:
                wrong[str(path)] = f"found something else: {result}"
        except LotteryError as error:
            sentence = str(error)
            names = [str(OUT / path), f"snapshot of step {path.stem[5:]} in '{OUT / path.parent}'"]
            if "\n" in sentence or not any(name in sentence for name in names):
                wrong[str(path)] = f"does not name it in a line: {sentence}"
            if "has changed" not in sentence and (advice := re.search(r"--redo (\S+),", sentence)):
                redo(advice[1])
                if (OUT / path).exists():
                    wrong[str(path)] = f"its advice leaves the file: {sentence}"
        except Exception as error:
            wrong[str(path)] = f"a traceback: {error!r}"
    return wrong


@pytest.fixture
def quickly(monkeypatch, tmp_path):
    """Nothing is trained, and pictures are not drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "draw_recipe", lambda *_: drawing.Drawn())
    for drawn in (PathReport, SweepReport, ImpReport):
        monkeypatch.setattr(drawn, "figures", lambda _: {})
    for module in EXPERIMENTS:
        monkeypatch.setattr(f"lightning_lottery.experiments.{module}.show", lambda *_: None)
        monkeypatch.setattr(f"lightning_lottery.experiments.{module}.train", lambda *_, **__: pytest.fail("it trains"))


@pytest.fixture(scope="session", params=EXPERIMENTS)
def finished(request, tmp_path_factory):
    """An experiment, and the folder in which it was done."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        EXPERIMENTS[request.param].run(PROJECT, out=OUT)
    return EXPERIMENTS[request.param], folder / OUT


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("damage", DAMAGES)
@FEW_OR_ALL
def test_a_damaged_file_of_an_experiment_is_named_or_not_missed(choice, finished, damage, record_property):
    experiment, whole = finished
    paths = choice(whole)
    record_property("campaign", ["damaged files", len(paths), 0])

    def again() -> str:
        return json.dumps(experiment.run(PROJECT, out=OUT).summary())

    def redo(name: str) -> None:
        experiment.plan(PROJECT, out=OUT, redo=[name])

    assert outcomes(paths, whole, damage, again, redo) == {}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of a recipe of one stage; the folder, and the stage's configuration."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(processes, "run_child", in_this_process)
        write_recipe()
        recipe.run_recipe("recipe", out=OUT)
        return folder / OUT, resolve(["fit", "--config", "recipe/1-a.fit.yaml", "--seed_everything", "0"])


def write_recipe() -> None:
    Path("recipe").mkdir()
    Path("recipe/1-a.fit.yaml").write_text(yaml.safe_dump(fit()))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("damage", DAMAGES)
@FEW_OR_ALL
def test_a_damaged_file_of_a_recipe_s_run_is_named_or_not_missed(choice, run, damage, monkeypatch, record_property):
    whole, config = run
    paths = choice(whole)
    record_property("campaign", ["damaged files", len(paths), 0])
    write_recipe()
    monkeypatch.setattr(stage_children, "resolve", lambda *_: config)
    monkeypatch.setattr(processes, "run_child", lambda _: pytest.fail("it trains"))

    def redo(name: str) -> None:
        with pytest.raises(pytest.fail.Exception, match="it trains"):
            recipe.run_recipe("recipe", out=OUT, redo=[name])
        shutil.rmtree(OUT)  # prepared anew

    assert outcomes(paths, whole, damage, lambda: json.dumps(recipe.run_recipe("recipe", out=OUT)), redo) == {}
