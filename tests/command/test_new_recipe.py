import shutil
import sys

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there

from helpers.processes import run
from lightning_lottery import LotteryError
from lightning_lottery.command.main import main
from lightning_lottery.command.new_recipe import PACKAGE, copy_recipe, recipes
from lightning_lottery.experiments.stages import stages_of


def test_a_recipe_is_copied_whole_and_its_stages_are_found(here, capsys):
    main(["new-recipe", "quickstart"])
    assert "lightning-lottery run quickstart --seeds 0" in capsys.readouterr().out
    here_too = {path.name for path in (here / "quickstart").iterdir()}
    assert here_too == {path.name for path in recipes()["quickstart"].iterdir()}
    assert [stage.name for stage in stages_of(here / "quickstart")][:2] == ["01-dense", "02-platon"]


def test_the_tutorial_is_copied_too_and_is_nothing_to_run(here, capsys):
    main(["new-recipe", "tutorial"])
    assert "lightning-lottery run" not in capsys.readouterr().out
    assert {"README.md", "project.py"} <= {path.name for path in (here / "tutorial").iterdir()}


def test_it_goes_where_it_is_told_to_and_never_over_something(here):
    assert copy_recipe("imp_lenet_digits", here / "a/b") == here / "a/b"
    with pytest.raises(LotteryError, match="is there already"):
        copy_recipe("imp_lenet_digits", here / "a/b")
    (here / "file").touch()
    with pytest.raises(LotteryError, match="cannot be written"):
        copy_recipe("imp_lenet_digits", here / "file/b")


def test_without_a_name_every_recipe_is_listed_with_its_title(capsys):
    main(["new-recipe"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in recipes()) and len(recipes()) > 15
    assert max(map(len, shown.splitlines())) < 80 and "rewinding points and its" in shown


def test_a_name_that_is_none_is_refused_with_what_was_meant(refused):
    assert "There is no recipe 'quikstart'. Did you mean 'quickstart'?" in refused("new-recipe", "quikstart")


def test_recipes_travel_in_the_wheel_and_are_copied_where_there_is_no_checkout(here, monkeypatch):
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    forced = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    shutil.copytree(PACKAGE, here / "site/lightning_lottery", ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in forced.items():
        shutil.copytree(PACKAGE.parent / source, here / "site" / target)
    (here / "site/lightning_lottery/recipes/quickstart/README.md").write_text("# of the wheel")
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    command = (sys.executable, "-m", "lightning_lottery", "new-recipe", "quickstart")
    process = run(*command, PYTHONPATH=str(here / "site"))
    assert process.returncode == 0, process.stderr[-2000:]
    assert (here / "work/quickstart/README.md").read_text() == "# of the wheel"


def test_an_installation_without_recipes_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_lottery.command.new_recipe.PACKAGE", tmp_path / "lightning_lottery")
    with pytest.raises(LotteryError, match="holds no recipes"):
        recipes()
