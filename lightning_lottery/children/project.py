"""Somebody's project as Lightning's command line sees it: YAML in; module, data and Trainer out."""

import os
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from omegaconf import OmegaConf

from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.settings import ImpSettings, InstabilitySettings, SweepSettings
from lightning_lottery.experiments.sweep_report import stable_step

IDLE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
)
"""Beginnings of what the parser says of every union of types."""

BASE = ("Problem with given class_path 'lightning.Callback'", "Not a valid subclass of Callback")
"""What it goes on to say of an argument of a callback: that the base class does not have it either."""

SECTIONS = {"instability": InstabilitySettings, "sweep": SweepSettings, "imp": ImpSettings}
"""Runners that read a section of their name beside what ``fit`` reads; ``fit`` itself accepts and ignores it."""

PROVISIONAL = "LOTTERY_PROVISIONAL"
"""Environment variable: a step k* that no sweep has found yet may be any, to check the rest of a configuration."""

HERE: ContextVar[Path] = ContextVar("HERE")
"""The working directory; while it reads a file the parser works in that file's folder."""

COMMANDS = tuple(LightningCLI.subcommands())
"""The subcommands that Lightning itself runs: fit, validate, test, predict."""


class Project(LightningCLI):
    """LightningCLI with interpolation in YAML (``${oc.env:NAME}``) and mistakes told in one sentence.

    Args:
        arguments: Command line, a subcommand first; None for the program's own.
        run: What to do with the finished project, given (project, subcommand); default: Lightning's subcommand.
        trainer: Trainer arguments that override the configuration's, given the configuration's own.

    Raises:
        LotteryError: An unknown key, class or type; a checkpoint that is not there; a value that one of our classes
            refuses.
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
        given = arguments[0] if arguments else None
        self._asked = {given} if given in COMMANDS else set(COMMANDS)
        super().__init__(
            parser_kwargs={"parser_mode": "omegaconf", "exit_on_error": False, "allow_abbrev": False},
            save_config_kwargs={"overwrite": True},
            args=None if arguments is None else list(arguments),
        )

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer
    config: Namespace

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for: the parser of each takes as long as that one alone."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in self._asked}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Accept the sections of runners, so that one YAML serves all of them."""
        for name, settings in SECTIONS.items():
            parser.add_class_arguments(settings, name)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the given arguments alone: Lightning would warn that the program has some of its own."""
        HERE.set(Path.cwd())
        with _refusing():
            self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def _parse_ckpt_path(self) -> None:
        self._require_checkpoint()
        with _refusing():
            super()._parse_ckpt_path()

    def _require_checkpoint(self) -> None:
        """Refuse a checkpoint that is not there, before anything is built."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        named = path in (None, "best", "last", "hpc") or "://" in str(path) or str(path).startswith("registry")
        if not named and not Path(path).exists():
            raise LotteryError(f"There is no checkpoint '{path}'.")

    def instantiate_classes(self) -> None:
        """Build everything; a refusal by one of our classes is raised as itself."""
        try:
            super().instantiate_classes()
        except Exception as error:
            mistake = mistake_in(error)
            if mistake is None or mistake is error:
                raise
            raise mistake from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, with the arguments that override the configuration's."""
        if self._trainer_arguments is not None:
            self.save_config_callback = None
            config = dict(self._get(self.config_init, "trainer"))
            given = config["callbacks"] or []
            config["callbacks"] = list(given) if isinstance(given, (list, tuple)) else [given]
            kwargs |= self._trainer_arguments(config)
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        if self._run_instead is None:
            super()._run_subcommand(subcommand)
        else:
            self._run_instead(self, subcommand)

    def plain_config(self, section: str = "") -> dict[str, Any]:
        """The resolved configuration of the subcommand: plain values, every default written out; and a section."""
        self._dump_config()
        left_out = {"config", *SECTIONS} - {section}
        return {key: value for key, value in self.config_dump.items() if key not in left_out}


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
        self._require_checkpoint()


def resolve(arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration that a command line means, without building or running anything.

    Args:
        arguments: A subcommand of Lightning's, or of a runner that reads a section: then that is part of the result.

    Raises:
        LotteryError: It is refused.
    """
    command, *given = arguments
    is_runner = command in SECTIONS
    return _ParsedOnly(["fit" if is_runner else command, *given]).plain_config(command if is_runner else "")


@contextmanager
def _refusing() -> Iterator[None]:
    """Tell in one sentence what the parser has against a configuration."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except OmegaConfBaseException as error:
        if (mistake := mistake_in(error)) is not None:
            raise mistake from None
        raise LotteryError(f"The configuration cannot be resolved: {str(error).splitlines()[0]}.") from error
    except ArgumentError as error:
        raise LotteryError(_in_one_sentence(str(error))) from error


def _stable_step(stage: str, network: str = "dense") -> int:
    """What ``${stable_step:STAGE}`` or ``${stable_step:STAGE,NETWORK}`` in a recipe's YAML means.

    Raises:
        LotteryError: Outside a recipe; or the stage's sweep found no such step, or is not done.
    """
    if "LOTTERY_RUN" not in os.environ:
        raise LotteryError(f"'stable_step:{stage}' names a stage of a recipe: it means something in `run` only.")
    folder = HERE.get() / os.environ["LOTTERY_RUN"] / stage
    try:
        return stable_step(folder, network)
    except LotteryError:
        if os.environ.get(PROVISIONAL):
            return 0
        raise


OmegaConf.register_resolver("stable_step", _stable_step, replace=True)


def _in_one_sentence(message: str) -> str:
    """The parser's words, line by line, without what it says of every union of types and of its base class."""
    told: list[str] = []
    left_out = len(message)  # what is indented more belongs to a line that is left out
    for line in filter(str.strip, message.splitlines()):
        indent, words = len(line) - len(line.lstrip()), line.strip().removeprefix("- ")
        if indent <= left_out:
            is_base = words.startswith(BASE)
            left_out = indent if is_base else len(message)
            if not is_base and not words.startswith(IDLE) and words not in told:
                told.append(words)
    return "; ".join(told).replace(":;", ":").rstrip(".") + "."


def mistake_in(error: BaseException | None) -> LotteryError | MisconfigurationException | None:
    """The refusal that lies at the bottom of an exception, if one of ours or of Lightning's does."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (LotteryError, MisconfigurationException)):
            return error
        seen.add(id(error))
        parsing = type(error).__module__.split(".")[0] in ("argparse", "jsonargparse", "omegaconf")
        error = error.__cause__ or (error.__context__ if parsing else None)
    return None
