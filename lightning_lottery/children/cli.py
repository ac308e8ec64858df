"""Lightning's command line: a project's YAML and options resolved, built or run; mistakes told in one sentence."""

import re
from argparse import Action, ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

# Imports every callback, schedule and rule: jsonargparse finds a class by its short name only where it was imported.
import lightning_lottery.callbacks  # noqa: F401
from lightning_lottery.children.reading import not_a_checkpoint
from lightning_lottery.children.refusal import in_one_sentence
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import read_text

SUBCLASSES = re.compile(r"(?<=known subclasses: )[\w., ]+")
"""In its help: what the classes are that an argument takes."""

INTERNAL = re.compile(r"lightning_lottery\.(?!(zoo\.)?[A-Z]\w*$)")
"""Of our classes those that no user names: the others lie at the top, or in the zoo."""

NO_KEYS = "Unexpected config"
"""In what the parser (jsonargparse 4.53) says of a file that is empty or no mapping; it does not say which file."""

TWO_ALIKE = "Found more than one stateful callback"
"""In what a Trainer says (Lightning 2.6.6) of callbacks of one ``state_key``."""

TO_BEGIN = "`lightning-lottery fit --model mine.Net --data mine.Data --print_config` prints one to begin with."

Sections = Mapping[str, type]
"""Name of a section of a YAML, beside what ``fit`` reads, to the dataclass whose fields are its keys."""

_working_directory: ContextVar[Path] = ContextVar("_working_directory")

COMMANDS = tuple(LightningCLI.subcommands())
"""The subcommands that Lightning itself runs: fit, validate, test, predict."""


def working_directory() -> Path:
    """Where the command was started: jsonargparse (4.53) reads a file from within that file's folder."""
    return _working_directory.get(Path.cwd())


class _Help(DefaultHelpFormatter):
    """Help that names, of this package's classes, those that users name."""

    def _expand_help(self, action: Action) -> str:
        return SUBCLASSES.sub(_without_internal, super()._expand_help(action))


def _without_internal(classes: re.Match[str]) -> str:
    return ", ".join(name for name in classes[0].split(", ") if not INTERNAL.match(name))


class LotteryCLI(LightningCLI):
    """LightningCLI with interpolation in YAML (``${oc.env:NAME}``) and mistakes told in one sentence.

    Args:
        arguments: Command line, a subcommand first; None for the program's own.
        sections: Accepted in the YAML beside what ``fit`` reads, so that one file serves all; they build nothing.
        section: The one that is read, with its defaults where nobody names it.
        trainer: Trainer arguments that override the configuration's, given the configuration's own.

    Raises:
        LotteryError: An unknown key, class or type; a checkpoint that is not there; a value that one of our classes
            refuses.
    """

    def __init__(
        self,
        arguments: Sequence[str] | None = None,
        *,
        sections: Sections | None = None,
        section: str = "",
        trainer: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        # A parser of all sections takes thrice as long as that of `fit`: those that nobody names are left out.
        named = {name for name in sections or {} if name == section or _is_named(name, arguments)}
        self._sections = {name: kind for name, kind in (sections or {}).items() if name in named}
        self._trainer_arguments = trainer
        subcommand = arguments[0] if arguments else None
        self._subcommands = {subcommand} if subcommand in COMMANDS else set(COMMANDS)
        if arguments:
            arguments = [arguments[0], *_classes_in(arguments), *arguments[1:]]
        whole_words = {"allow_abbrev": False}
        super().__init__(
            # Before 4.53, jsonargparse asked the subcommand's parser alone whether it takes abbreviations.
            parser_kwargs={"parser_mode": "omegaconf", "exit_on_error": False, "formatter_class": _Help, **whole_words}
            | dict.fromkeys(self._subcommands, whole_words),
            save_config_kwargs={"overwrite": True},
            args=None if arguments is None else list(arguments),
        )

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer
    config: Namespace

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for: the parser of each takes as long as that one alone."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in self._subcommands}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Accept the sections; not built, because an experiment's defaults need not make one."""
        name = "".join(self._subcommands) if len(self._subcommands) == 1 else "SUBCOMMAND"
        parser.usage = f"lightning-lottery {name} --config FILE [options]"  # in place of a hundred lines
        for name, experiment in self._sections.items():
            parser.add_class_arguments(experiment, name, instantiate=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the given arguments alone: Lightning would warn that the program has some of its own."""
        _working_directory.set(Path.cwd())
        words = args if isinstance(args, list) else []
        texts: dict[Path, str] = {}
        for option, name in zip(words, [*words[1:], ""], strict=True):
            path = Path(name if option == "--config" else option.removeprefix("--config="))
            if option.startswith("--config") and path.is_file():
                texts[path] = read_text(path, "configuration")  # refuses by name what is no text
        with _refusing(parser, texts):
            self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def _parse_ckpt_path(self) -> None:
        self._require_checkpoint()
        try:
            with _refusing():
                super()._parse_ckpt_path()
        except Exception as error:
            path = self.config[self.config.subcommand].get("ckpt_path")
            raise mistake_in(error) or not_a_checkpoint(path) from error

    def _require_checkpoint(self) -> None:
        """Refuse a checkpoint that is not there, before anything is built."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        is_word = path in (None, "best", "last", "hpc") or "://" in str(path) or str(path).startswith("registry")
        if not is_word and not Path(path).exists():
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
            callbacks = config["callbacks"] or []
            config["callbacks"] = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
            kwargs |= self._trainer_arguments(config)
        try:
            return super().instantiate_trainer(**kwargs)
        except RuntimeError as error:
            if TWO_ALIKE not in str(error):
                raise
            raise LotteryError(
                "Two callbacks of `trainer.callbacks` would be saved as one: give each of a kind a `name` of its own, "
                "as in {class_path: PLATON, init_args: {name: first, ...}}. All that prune are of one kind."
            ) from error
        except ValueError as error:  # of an accelerator, a strategy, a number that it does not know
            raise mistake_in(error) or LotteryError(f"The Trainer refuses its arguments: {error}") from error

    def plain_config(self, section: str = "") -> dict[str, Any]:
        """The resolved configuration of the subcommand: plain values, every default written out; and a section."""
        self._dump_config()
        left_out = {"config", *self._sections} - {section}
        return {key: value for key, value in self.config_dump.items() if key not in left_out}


class BuiltCLI(LotteryCLI):
    """Module, data and Trainer of a command line; its subcommand is not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


class _ParsedCLI(BuiltCLI):
    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def _parse_ckpt_path(self) -> None:
        """What a checkpoint says of itself is no part of the configuration."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""


class ResolvedCLI(BuiltCLI):
    """Module, data and Trainer of a configuration that was resolved before."""

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration, which was resolved before, as it is, whatever its checkpoint says of itself."""
        self._require_checkpoint()


def resolve(arguments: Sequence[str], sections: Sections | None = None) -> dict[str, Any]:
    """The configuration that a command line means, without building or running anything.

    Args:
        arguments: A subcommand of Lightning's, or the name of a section: then that is part of the result.
        sections: Accepted beside what ``fit`` reads.

    Raises:
        LotteryError: It is refused.
    """
    command, *options = arguments
    is_section = command in (sections or {})
    parsed = _ParsedCLI(["fit" if is_section else command, *options], sections=sections, section=command)
    return parsed.plain_config(command if is_section else "")


@contextmanager
def _refusing(parser: LightningArgumentParser | None = None, texts: Mapping[Path, str] | None = None) -> Iterator[None]:
    """Tell in one sentence what the parser has against a configuration, whose files hold these texts."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except OmegaConfBaseException as error:
        if (mistake := mistake_in(error)) is not None:
            raise mistake from None
        raise LotteryError(f"The configuration cannot be resolved: {str(error).splitlines()[0]}.") from error
    except ArgumentError as error:
        for path, text in (texts or {}).items() if NO_KEYS in str(error) else ():
            if not isinstance(yaml.safe_load(text), dict):
                raise LotteryError(f"The configuration '{path}' has no keys. {TO_BEGIN}") from error
        options = [] if parser is None else _options_of(parser)
        raise LotteryError(in_one_sentence(str(error), options)) from error


def _options_of(parser: LightningArgumentParser) -> list[str]:
    """Every option of the subcommands that a parser has."""
    subcommands = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    return [action.dest for parsers in subcommands for inner in parsers.values() for action in inner._actions]


def _is_named(section: str, arguments: Sequence[str] | None) -> bool:
    """Whether a command line, or a file that it names, may say something of a section."""
    if arguments is None:
        return True
    files = [Path(word.removeprefix("--config=")) for word in arguments]
    texts = (file.read_text(encoding="utf-8", errors="ignore") for file in files if _is_file(file))
    return any(section in text for text in (*arguments, *texts))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a word that is no path: too long, or with a null byte
        return False


def _classes_in(arguments: Sequence[str]) -> list[str]:
    """The options that name the module's and the data's class.

    Given before ``--config`` as well, they are the classes of a file that names none; a file that does still wins
    over these, and is overridden by what follows it.
    """
    pairs = list(zip(arguments, [*arguments[1:], ""], strict=True))
    apart = [word for option, name in pairs if option in ("--model", "--data") for word in (option, name)]
    return apart + [word for word in arguments if word.startswith(("--model=", "--data="))]


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
