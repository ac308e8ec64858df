"""The stages of a recipe as children: configured for a seed, checked against what ran before, run one at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve
from lightning_lottery.children.environment import RUN, SEED, environment
from lightning_lottery.children.processes import run_one
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.experiments.stages import Stage
from lightning_lottery.experiments.sweep import PARENT_IN_PATH


def child_of_stage(stage: Stage, seed: int, folder: Path, overlays: Sequence[Path]) -> Child:
    """A stage of a seed's run, in that run's folder, with its configuration and the overlays' resolved.

    Raises:
        LotteryError: Its configuration is refused.
    """
    laid_over = [word for overlay in overlays for word in ("--config", str(overlay))]
    arguments = ["--config", str(stage.path), *laid_over, "--seed_everything", str(seed)]
    with environment(**{RUN: str(folder), SEED: str(seed)}):
        try:
            config = resolve([stage.command, *arguments], SECTIONS)
        except LotteryError as error:
            raise LotteryError(f"{stage.path}: {error}") from error
    labels = {"recipe": folder.parent.name, "stage": stage.name, "seed": seed}
    return Child(folder / stage.name, stage.command, config, labels)


def is_known(child: Child, stages: Sequence[Stage], overlays: Sequence[Path]) -> bool:
    """Whether its configuration is final before anything runs: the stages whose step it names are done."""
    stage = next(stage for stage in stages if stage.name == child.folder.name)
    return all((child.folder.parent / name / "done").is_file() for name in stage.waits_for(overlays))


def refuse_repeated(runs: Mapping[int, Sequence[Child]]) -> None:
    """Refuse seeds that an experiment's stage does not heed: the same trainings would count as several."""
    for children in zip(*runs.values(), strict=True):
        plans = [
            {name: value for name, value in child.config.items() if name != "seed_everything"} for child in children
        ]
        if len(plans) > 1 and children[0].command in ("imp", "sweep") and all(plan == plans[0] for plan in plans):
            raise LotteryError(
                f"Stage '{children[0].folder.name}' names the seeds that it trains, whatever the recipe's: with "
                f"{len(plans)} of these it would train the same {len(plans)} times. Run it with one, or let its YAML "
                "use ${oc.env:LOTTERY_SEED}."
            )


def refuse_changed(children: list[Child]) -> None:
    """Name every stage whose configuration changed since it was trained, before any runs."""
    changed = {child.folder.name: changes for child in children if (changes := child.changes())}
    if changed:
        shown = ". ".join(f"{name}: {changes}" for name, changes in changed.items())
        redo = " ".join(f"--redo {name}" for name in changed)
        raise LotteryError(f"Changed since it ran: {shown}. To run it again, and what depends on it: {redo}")


def run_stage(child: Child, name: str, console: Console) -> None:
    """Run a stage, shown by a name, unless it is done.

    Raises:
        LotteryError: It names a file that no earlier stage wrote, is refused, or failed.
    """
    for path in child.inputs():
        in_run, in_stage = (Path(path).is_relative_to(folder) for folder in (child.folder.parent, child.folder))
        is_of_parents = PARENT_IN_PATH in path  # as many files, for which the sweep itself looks
        if in_run and not in_stage and not is_of_parents and not Path(path).exists():
            raise LotteryError(f"{name}: '{path}' does not exist; no earlier stage wrote it.")
    run_one(child, name, console)
