"""Somebody's project: what gives module, data and Trainer, from YAML or from Python factories; nobody asks which."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.yaml_project import YamlProject
from lightning_lottery.hooks.mask_callback import MaskCallback


class Built(Protocol):
    """A project that stands: module, data and Trainer."""

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer


class Project(Protocol):
    """What gives module, data and Trainer, under one seed."""

    @property
    def seed(self) -> int:
        """The seed under which everything is built; 0 where the project leaves it open."""

    @property
    def is_importable(self) -> bool:
        """Whether another process can build it from what a child's folder says; else only this one can."""

    def config(self) -> dict[str, Any]:
        """The plain values that a child's ``config.yaml`` and fingerprint are made of, ``seed_everything`` included."""

    def with_seed(self, seed: int) -> "Project":
        """The same, built under another seed.

        Raises:
            LotteryError: The seed is none.
        """

    def with_pruner(self, make_pruner: Callable[[], MaskCallback]) -> "Project":
        """The same, whose Trainer has a callback more, the last one."""

    def build(
        self,
        folder: Path,
        subcommand: str,
        logger: Logger | bool,
        callbacks: Callable[[list[Callback]], list[Callback]],
    ) -> Built:
        """Build everything for a child.

        Args:
            folder: The child's, whose ``config.yaml`` says this project; the Trainer's ``default_root_dir``.
            subcommand: Lightning's, that is to be run.
            logger: In place of the project's.
            callbacks: The Trainer's, given the project's own.

        Raises:
            LotteryError: The project is refused.
        """


def project_of(config: Mapping[str, Any]) -> Project:
    """The project that a child's configuration says.

    Args:
        config: What ``Project.config`` gave; more keys, such as ``ckpt_path``, do no harm.

    Raises:
        LotteryError: It names factories that cannot be imported, or that are others here.
    """
    # `make_module` is no key of Lightning's command line.
    return FactoryProject.load(config) if "make_module" in config else YamlProject(config)
