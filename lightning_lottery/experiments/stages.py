"""The numbered stages of a recipe folder, read from the names of its files; nothing slow is imported for it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import read_text

STAGES = ("fit", "validate", "test", "predict", "instability", "sweep", "imp")
"""Subcommands that a stage may ask for: Lightning's, and experiments that read a section of the YAML."""


@dataclass(frozen=True)
class Stage:
    """One file of a recipe, ``02-platon.fit.yaml``: its number, its name ``02-platon``, and its subcommand."""

    path: Path
    number: int
    name: str
    command: str

    def waits_for(self, overlays: Sequence[Path]) -> set[str]:
        """The stages that must be done before its configuration is known: it names the step k* that they find.

        Raises:
            LotteryError: A file cannot be read, or is no text.
        """
        texts = [read_text(path, "stage") for path in (self.path, *overlays)]
        lines = [line.partition("#")[0] for text in texts for line in text.splitlines()]
        return {name for line in lines for name in re.findall(r"\$\{stable_step:([\w-]+)", line)}


def stages_of(recipe: Path) -> list[Stage]:
    """The stages of a recipe folder in the order of their numbers.

    Raises:
        LotteryError: No such folder, no stage in it, a file that looks like a stage and is none or cannot be read, a
            number twice, or a subcommand that does not exist.
    """
    if not recipe.is_dir():
        raise LotteryError(f"There is no recipe folder '{recipe}'.")
    stages = [_stage_of(path) for path in sorted(recipe.iterdir()) if _looks_like_one(path.name)]
    stages.sort(key=lambda stage: stage.number)
    if not stages:
        raise LotteryError(f"'{recipe}' has no stage: stages are files such as 01-dense.fit.yaml, 02-platon.fit.yaml.")
    for one, next_one in zip(stages, stages[1:], strict=False):
        if one.number == next_one.number:
            raise LotteryError(f"'{one.path.name}' and '{next_one.path.name}' of '{recipe}' have the same number.")
    for stage in stages:
        stage.waits_for(())  # reads it: what is no text is refused before anything slow is imported
    return stages


def _looks_like_one(name: str) -> bool:
    """Whether whoever wrote a YAML file of this name means a stage: it begins with a number, or says a subcommand."""
    stem, _, ending = name.rpartition(".")
    words = stem.lower().split(".")
    # What begins with a dot an editor or a file system left there.
    is_meant = name[0].isdigit() or (words[0] != "" and not {*words[1:]}.isdisjoint(STAGES))
    return ending.lower() in ("yaml", "yml") and is_meant


def _stage_of(path: Path) -> Stage:
    match = re.fullmatch(r"(([0-9]+)-[\w-]+)\.(\w+)\.yaml", path.name)
    if match is None:
        raise LotteryError(
            f"'{path}' looks like a stage and is none: stages are called NUMBER-NAME.SUBCOMMAND.yaml, with letters, "
            "digits, '-' and '_' in the name, as 01-dense.fit.yaml. Rename it, or move it out of the folder."
        )
    name, number, command = match.groups()
    if command not in STAGES:
        raise LotteryError(f"'{path}' asks for the subcommand '{command}'; there are {', '.join(STAGES)}.")
    return Stage(path, int(number), name, command)
