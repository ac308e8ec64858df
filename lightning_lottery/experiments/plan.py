"""The children of an experiment: who depends on whom, what they begin with, and who may start them."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_lottery.children.child import Child, discard_with_dependents
from lightning_lottery.children.environment import IMPORTING
from lightning_lottery.children.options import Options
from lightning_lottery.children.project import Project
from lightning_lottery.connectivity.checkpoints import load_plain
from lightning_lottery.errors import LotteryError


@dataclass(frozen=True)
class Plan:
    """Children of an experiment.

    Args:
        children: All that are known, in the order in which they depend on each other.
        waves: Those that are to be trained: one of a wave uses only files of the waves before.
    """

    children: Sequence[Child]
    waves: Sequence[Sequence[Child]]

    def discard(self, names: Collection[str], folder: Path) -> None:
        """Remove the children of these names below the experiment's folder, and what uses their files.

        Raises:
            LotteryError: There is no such child, or another process is in it.
        """
        discard_with_dependents(self.children, names, root=folder)


def child_of(
    project: Project,
    folder: Path,
    command: str,
    ckpt_path: str | None,
    *,
    options: Options | None = None,
    labels: Mapping[str, Any] | None = None,
) -> Child:
    """A ``Child`` that trains or judges a project under the project's seed, from a checkpoint or as built."""
    return Child(folder, command, {**project.config(), "ckpt_path": ckpt_path}, labels or {}, options, project)


def check_checkpoint(ckpt_path: Path) -> int:
    """Refuse what children cannot go on from, before anything is trained; else the optimizer step it was saved at."""
    loaded = load_plain(ckpt_path, "meta")
    if not isinstance(loaded, dict) or "optimizer_states" not in loaded or "loops" not in loaded:
        raise LotteryError(
            f"'{ckpt_path}' holds weights but no optimizer and no loops to go on from: give a full checkpoint of "
            "Lightning's (`save_weights_only=False`)."
        )
    return int(loaded["global_step"])


def check_not_importing() -> None:
    """Refuse an experiment that a script starts when its children import it."""
    if os.environ.get(IMPORTING):
        raise LotteryError(
            f"'{os.environ[IMPORTING]}' runs an analysis when it is imported, which its children must do: put the "
            'call under `if __name__ == "__main__":`.'
        )
