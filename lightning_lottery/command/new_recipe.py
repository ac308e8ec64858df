"""``lightning-lottery new-recipe``: a recipe of this package, copied to be run and changed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_lottery.checks import did_you_mean
from lightning_lottery.command.help import rows_of
from lightning_lottery.errors import LotteryError

PACKAGE = Path(__file__).parent.parent


def new_recipe(arguments: Sequence[str]) -> None:
    """Copy a recipe, or list those that there are."""
    from lightning_lottery.command.options import words_of  # whoever only asks for the names need not wait for it

    options = words_of("new-recipe", arguments)
    if options.recipe is None:
        rows = [(name, _title_of(folder)) for name, folder in recipes().items()]
        print("\n".join([*rows_of(rows, column=32), "", "lightning-lottery new-recipe NAME copies one."]))  # noqa: T201
        return
    folder = copy_recipe(options.recipe, Path(options.folder or options.recipe))
    print(f"{folder} holds the recipe; {folder / 'README.md'} says what it shows.")  # noqa: T201
    if _has_stages(folder):
        print(f"To run it: lightning-lottery run {folder} --seeds 0 --jobs 2")  # noqa: T201


def recipes() -> dict[str, Path]:
    """Every recipe of this package, and the tutorial, and its folder: in the wheel within it, in a checkout beside it.

    Raises:
        LotteryError: They are not there.
    """
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if (folder / "quickstart").is_dir():
            named = {path.name: path for path in sorted(folder.iterdir())}
            return {name: path for name, path in named.items() if _has_stages(path) or name == "tutorial"}
    raise LotteryError("This installation holds no recipes: install the wheel, or work in a checkout.")


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe into a folder that does not exist yet.

    Args:
        name: Of the recipe.
        folder: Where to.

    Returns:
        The folder.

    Raises:
        LotteryError: No such recipe; something is there already; or it cannot be written.
    """
    known = recipes()
    if name not in known:
        raise LotteryError(f"There is no recipe '{name}'.{did_you_mean(name, known)} There are {', '.join(known)}.")
    if folder.exists():
        raise LotteryError(f"'{folder}' is there already: name another folder, `new-recipe {name} FOLDER`.")
    try:
        shutil.copytree(known[name], folder, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise LotteryError(f"The recipe cannot be written to '{folder}': {error}.") from error
    return folder


def _has_stages(folder: Path) -> bool:
    return any(folder.glob("[0-9]*.*.yaml"))


def _title_of(folder: Path) -> str:
    """The first line of a recipe's page, without its name."""
    page = folder / "README.md"
    first = page.read_text(encoding="utf-8").partition("\n")[0] if page.is_file() else ""
    return first.removeprefix("# ").removeprefix(f"{folder.name}: ")
