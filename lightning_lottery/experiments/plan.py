"""The children of an experiment: who depends on whom, and who does them where."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_lottery.children.child import Child, Row, Work, discard_with_dependents
from lightning_lottery.children.engine import Engine, engine_of
from lightning_lottery.children.environment import IMPORTING
from lightning_lottery.children.options import Options
from lightning_lottery.children.project import Project
from lightning_lottery.connectivity.checkpoints import load_plain
from lightning_lottery.errors import LotteryError

ProjectWork = Callable[[Child, str, Project | None], list[Row] | None]
"""What a command does with a project in place of the one that the child's folder says."""


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
        """Remove what is to be done again, and what uses its files.

        Args:
            names: Of children's folders below ``folder``.
            folder: The experiment's.

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
    """A child that trains or judges a project, under the project's seed.

    Args:
        project: What it builds.
        folder: Where everything of it goes.
        command: What it does.
        ckpt_path: Where it begins; None for the module as built.
        options: What the command needs beside.
        labels: What rows of its records say.
    """
    return Child(folder, command, {**project.config(), "ckpt_path": ckpt_path}, labels or {}, options, project)


def engine_for(
    projects: Iterable[Project], commands: Mapping[str, ProjectWork], *, jobs: int, dask: str | None
) -> Engine:
    """What does children: processes of their own, or this one where no other can build their projects.

    Args:
        projects: All that children have.
        commands: What the children's commands do.
        jobs: Children at the same time, each with its share of devices and threads.
        dask: Address of a Dask scheduler whose workers do them instead.

    Raises:
        LotteryError: Several at once, or Dask, where only this process can do them.
    """
    if all(project.is_importable for project in projects):
        return engine_of(jobs, dask)

    def works_of(child: Child) -> dict[str, Work]:
        # The child's own project: of a sweep's starts, each network's is pruned by another callback.
        return {name: partial(_with_project, work, child.project) for name, work in commands.items()}

    return engine_of(jobs, dask, works_of)


def _with_project(work: ProjectWork, project: Project | None, child: Child, resume: str) -> list[Row] | None:
    return work(child, resume, project)


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
    """Refuse an experiment that a script starts when its children import it.

    Raises:
        LotteryError: One does.
    """
    if os.environ.get(IMPORTING):
        raise LotteryError(
            f"'{os.environ[IMPORTING]}' runs an analysis when it is imported, which its children must do: put the "
            'call under `if __name__ == "__main__":`.'
        )
