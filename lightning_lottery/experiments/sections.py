"""What a project's YAML holds for experiments: their sections, and the step k* that a recipe's stage found."""

import os
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import Sections, working_directory
from lightning_lottery.children.engine import engine_options
from lightning_lottery.children.environment import PROVISIONAL, RUN
from lightning_lottery.children.options import perturbation_of
from lightning_lottery.children.records import Row, read_rows
from lightning_lottery.children.yaml_project import ConfiguredCallback, YamlProject
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp import IterativePruning
from lightning_lottery.experiments.instability import InstabilityAnalysis
from lightning_lottery.experiments.sweep import InstabilitySweep
from lightning_lottery.experiments.sweep_report import stable_step
from lightning_lottery.scope import Scope

SECTIONS: Sections = {"instability": InstabilityAnalysis, "sweep": InstabilitySweep, "imp": IterativePruning}
"""Experiments that read a section of their name beside what ``fit`` reads; ``fit`` itself accepts and ignores it."""


def read_section(name: str, values: Mapping[str, Any]) -> Any:
    """The experiment of a section whose fields were resolved to plain values.

    Raises:
        LotteryError: A value is refused.

    Example:
        >>> read_section("imp", {"seeds": [0, 1], "levels": 3}).seeds
        (0, 1)
    """
    return SECTIONS[name](**{field: _typed(field, value) for field, value in values.items()})


def _typed(field: str, value: Any) -> Any:
    """The value of an experiment's field: plain values have lists and mappings only."""
    if field == "scope" and value is not None:
        return Scope(**{name: _typed(name, part) for name, part in value.items()})
    if field == "noise" and isinstance(value, Mapping):
        return perturbation_of(value.get("init_args", value))
    if field == "pruner" and value is not None:
        return ConfiguredCallback(value["class_path"], value.get("init_args", {}))
    if field == "pruners":
        return {name: _typed("pruner", pruner) for name, pruner in value.items()}
    if field == "tickets":  # a specification is JSON, whose keys are words
        return {name: _by_step(path) if isinstance(path, Mapping) else path for name, path in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _by_step(paths: Mapping[Any, str]) -> dict[int, str]:
    try:
        return {int(step): path for step, path in paths.items()}
    except ValueError as error:
        raise LotteryError(f"`tickets` of a network are a path, or one for each step, got {dict(paths)}.") from error


def run_section(child: Child, resume: str) -> list[Row]:
    """What a recipe's stage does that asks for an experiment: all of it, in the stage's folder.

    The stage's command is the name of the section. Nothing is resumed here: the experiment's own children are.
    """
    experiment = read_section(child.command, child.config[child.command])
    project = YamlProject({name: value for name, value in child.config.items() if name != child.command})
    labels = {name: value for name, value in child.labels.items() if name != "seed"}
    begin = {} if child.command == "sweep" else {"ckpt_path": child.config["ckpt_path"]}  # a sweep has parents instead
    experiment.run(
        project,
        **begin,
        **engine_options(),
        out=child.folder,
        labels={"stage": child.folder.name, "parent": child.config["seed_everything"], **labels},
    )
    return read_rows(child.folder / "results.jsonl")  # not yet a child's records: it is not done


def _stable_step(stage: str, network: str = "dense") -> int:
    """What ``${stable_step:STAGE}`` or ``${stable_step:STAGE,NETWORK}`` in a recipe's YAML means.

    Raises:
        LotteryError: Outside a recipe; or the stage's sweep found no such step, or is not done.
    """
    if RUN not in os.environ:
        raise LotteryError(f"'stable_step:{stage}' names a stage of a recipe: it means something in `run` only.")
    folder = working_directory() / os.environ[RUN] / stage
    try:
        return stable_step(folder, network)
    except LotteryError:
        if os.environ.get(PROVISIONAL):
            return 0
        raise


# OmegaConf has one table of resolvers for the whole process: whoever reads the sections can also resolve the step.
OmegaConf.register_resolver("stable_step", _stable_step, replace=True)
