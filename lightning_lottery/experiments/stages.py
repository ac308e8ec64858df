"""The numbered stages of a recipe folder, read from the names of its files; nothing slow is imported for it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lightning_lottery.errors import LotteryError

STAGES = ("fit", "validate", "test", "predict", "instability", "sweep", "imp")
"""Subcommands that a stage may ask for: Lightning's, and experiments that read a section of the YAML."""


@dataclass(frozen=True)
class Stage:
    """One file of a recipe, ``02-platon.fit.yaml``: its number, its name ``02-platon``, and its subcommand."""

    path: Path
    number: int
    name: str
    command: str

    def waits_for(self, overlay: str | os.PathLike[str] | None) -> set[str]:
        """The stages that must be done before its configuration is known: it names the step k* that they find."""
        texts = [path.read_text() for path in (self.path, *([] if overlay is None else [Path(overlay)]))]
        lines = [line.partition("#")[0] for text in texts for line in text.splitlines()]
        return {name for line in lines for name in re.findall(r"\$\{stable_step:([\w-]+)", line)}


def stages_of(recipe: Path) -> list[Stage]:
    """The stages of a recipe folder in the order of their numbers.

    Raises:
        LotteryError: No such folder, no stage in it, a number twice, or a subcommand that does not exist.
    """
    if not recipe.is_dir():
        raise LotteryError(f"There is no recipe folder '{recipe}'.")
    stages = []
    for path in recipe.glob("*.yaml"):
        if match := re.fullmatch(r"((\d+)-[\w-]+)\.(\w+)\.yaml", path.name):
            name, number, command = match.groups()
            if command not in STAGES:
                raise LotteryError(f"'{path}' asks for the subcommand '{command}'; there are {', '.join(STAGES)}.")
            stages.append(Stage(path, int(number), name, command))
    stages.sort(key=lambda stage: stage.number)
    if not stages:
        raise LotteryError(f"'{recipe}' has no stage: stages are files such as 01-dense.fit.yaml, 02-platon.fit.yaml.")
    for one, next_one in zip(stages, stages[1:], strict=False):
        if one.number == next_one.number:
            raise LotteryError(f"'{one.path.name}' and '{next_one.path.name}' of '{recipe}' have the same number.")
    return stages
