"""What a project's YAML holds for experiments: their sections, and the step k* that a recipe's stage found."""

import os

from omegaconf import OmegaConf

from lightning_lottery.children.environment import PROVISIONAL, RUN
from lightning_lottery.children.yaml_project import Sections, working_directory
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.settings import ImpSettings, InstabilitySettings, SweepSettings
from lightning_lottery.experiments.sweep_report import stable_step

SECTIONS: Sections = {"instability": InstabilitySettings, "sweep": SweepSettings, "imp": ImpSettings}
"""Experiments that read a section of their name beside what ``fit`` reads; ``fit`` itself accepts and ignores it."""


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
