"""Somebody's project as Lightning's command line sees it: YAML in; module, data and Trainer out."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import lightning_lottery  # noqa: F401 (its classes answer to their short names once imported)
from lightning_lottery.errors import LotteryError

COMMANDS = tuple(LightningCLI.subcommands())
"""The subcommands that Lightning itself runs: fit, validate, test, predict."""


class Project(LightningCLI):
    """LightningCLI with interpolation in YAML (``${oc.env:NAME}``) and mistakes told in one sentence.

    Args:
        arguments: Command line, a subcommand first; None for the program's own.
        run: What to do with the finished project, given (project, subcommand); default: Lightning's subcommand.
        trainer: Trainer arguments that override the configuration's, given the configuration's own.

    Raises:
        LotteryError: A value that one of our classes refuses.
        SystemExit: With 2, for an unknown key, class or type; the message is on stderr.
    """

    def __init__(
        self,
        arguments: Sequence[str] | None = None,
        *,
        run: Callable[["Project", str], None] | None = None,
        trainer: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._run_instead = run
        self._trainer_arguments = trainer
        super().__init__(
            parser_kwargs={"parser_mode": "omegaconf"},
            save_config_kwargs={"overwrite": True},
            args=None if arguments is None else list(arguments),
        )

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer
    config: Namespace

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the given arguments alone: Lightning would warn that the program has some of its own."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        except Exception as error:
            from omegaconf.errors import OmegaConfBaseException

            if isinstance(error, OmegaConfBaseException):
                raise LotteryError(f"The configuration cannot be resolved: {str(error).splitlines()[0]}.") from error
            raise

    def instantiate_classes(self) -> None:
        """Build everything; a refusal by one of our classes is raised as itself."""
        try:
            super().instantiate_classes()
        except Exception as error:
            raise mistake_in(error) or error from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, with the arguments that override the configuration's."""
        if self._trainer_arguments is not None:
            self.save_config_callback = None
            kwargs |= self._trainer_arguments(self._get(self.config_init, "trainer"))
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        if self._run_instead is None:
            super()._run_subcommand(subcommand)
        else:
            self._run_instead(self, subcommand)

    def plain_config(self) -> dict[str, Any]:
        """The resolved configuration of the subcommand: plain values, every default written out."""
        subcommand = self.config.subcommand
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=False, format="yaml")
        config = yaml.safe_load(text)[subcommand]
        config.pop("config", None)
        return dict(config)


class _ParsedOnly(Project):
    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def _parse_ckpt_path(self) -> None:
        """What a checkpoint says of itself is no part of the configuration."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


class ResolvedProject(Project):
    """A project whose configuration was resolved before: what its checkpoint says of itself changes nothing."""

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is."""


def resolve(arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration that a command line means, without building or running anything.

    Raises:
        LotteryError: It is refused; the parser's own words.
    """
    said = StringIO()
    try:
        with redirect_stderr(said):
            return _ParsedOnly(arguments).plain_config()
    except SystemExit as error:
        if not error.code:
            raise
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        message = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")
        raise LotteryError(message.removeprefix("error:").strip()) from error


def mistake_in(error: BaseException | None) -> LotteryError | MisconfigurationException | None:
    """The refusal that lies at the bottom of an exception, if one of ours or of Lightning's does."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (LotteryError, MisconfigurationException)):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
