"""Mistakes that are seen before anything slow is imported: options and keys that do not exist, files that do not."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_lottery.checks import did_you_mean, nearest
from lightning_lottery.children.reading import is_bounded
from lightning_lottery.command.new_recipe import recipes
from lightning_lottery.command.signatures import arguments_of, names_in
from lightning_lottery.command.subcommands import SECTIONS, SUBCOMMANDS, Option, Subcommand, options_of
from lightning_lottery.errors import LotteryError

OF_CLASSES = ("model", "data", "optimizer", "lr_scheduler")
"""What takes any class, whose arguments nobody knows before it is imported."""

FILES = {
    "config": "configuration",
    "ckpt_path": "checkpoint",
    "ckpt_paths": "checkpoint",
    "ticket": "ticket",
    "tickets": "ticket",
    "source": "checkpoint",
    "target": "checkpoint",
    "sweep": "folder of a sweep",
    "imps": "folder of iterative pruning",
}
"""What names a file or a folder that has to be there, and what that is."""

MOST_LISTED = 25
"""Options that a refusal lists at most; the Trainer's are more."""

_HELP = " `lightning-lottery {} --help` says what there is."

CKPT_WORDS = ("best", "last", "hpc", "registry", "null", "")
"""What ``--ckpt_path`` takes in place of a file."""


def checked(subcommand: Subcommand, words: Sequence[str]) -> list[str]:
    """The words behind a subcommand, options in the one spelling that parsers know.

    Args:
        subcommand: Which.
        words: As they were typed.

    Raises:
        LotteryError: An option or a key of a YAML that does not exist, a file that is not there, something missing.
            What can only be known of classes that are imported is left to the parser.
    """
    spelled = [_spelled(word, subcommand) if word.startswith("--") else word for word in words]
    options, positions = _sorted_out(spelled, subcommand)
    _refuse_missing(options, positions, subcommand)
    for option in subcommand.options:
        for value in positions.get(option.name, ()) if option.words else ():
            _refuse_unknown(value, option, subcommand)
    for name, values in {**options, **positions}.items():
        for value in values if name in FILES else ():
            _refuse_absent(name, value)
    for name in positions.get("recipe", ()) if subcommand.name == "run" else ():
        if not Path(name).exists() and name in recipes():
            raise LotteryError(
                f"There is no recipe folder '{name}': `lightning-lottery new-recipe {name}` copies this package's."
            )
    if subcommand.is_on_project:
        for file in options.get("config", ()):
            _refuse_keys(file, subcommand)
    _refuse_arguments(spelled)
    return spelled


# Options.


def _spelled(word: str, subcommand: Subcommand) -> str:
    """An option with underscores where it was typed with dashes."""
    name, equals, value = word.removeprefix("--").partition("=")
    for spelling in (name, name.replace("-", "_")):
        if _is_known(spelling, subcommand):
            return f"--{spelling}{equals}{value}"
    options, wanted = options_of(subcommand.name), name.replace("-", "_")
    hint = did_you_mean(
        f"--{wanted}", [f"--{option}" for option in (*options, "help", *(["help_all"] * subcommand.is_on_project))]
    )
    section = wanted.rpartition(".")[0]
    alike = [option for option in options if option.rpartition(".")[0] == section and option not in SECTIONS]
    listed = f" There are {', '.join(f'--{option}' for option in alike)}." if 0 < len(alike) <= MOST_LISTED else ""
    raise LotteryError(f"`{subcommand.name}` has no option '{word}'.{hint}{listed or _HELP.format(subcommand.name)}")


def _is_known(name: str, subcommand: Subcommand) -> bool:
    """Whether an option exists, as far as that can be known here."""
    option = name.removesuffix("+")
    if option in subcommand.names or option in options_of(subcommand.name):
        return True
    first, *rest = (part.removesuffix("+") for part in option.split("."))
    if not subcommand.is_on_project or not rest:
        return False
    is_deeper = f"{first}.{rest[0]}" in options_of(subcommand.name)  # a key of the class that the option takes
    return first in OF_CLASSES or is_deeper or _is_help(option, subcommand)


def _is_help(option: str, subcommand: Subcommand) -> bool:
    return option.endswith(".help") and option.removesuffix(".help") in options_of(subcommand.name)


def _sorted_out(words: Sequence[str], subcommand: Subcommand) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Each option to its values, and what stands at positions by its name."""
    flags = {option.name for option in subcommand.options if not option.value and not option.is_position}
    options: dict[str, list[str]] = {}
    loose: list[str] = []
    waiting: str | None = None  # an option whose value is the next word
    for word in words:
        if word.startswith("--") or word == "-c":
            name, equals, value = ("config" if word == "-c" else word.removeprefix("--")).partition("=")
            values = options.setdefault(name, [])
            waiting = None if equals or name in flags or name == "print_config" else name
            if equals:
                values.append(value)
        elif waiting is not None:
            options[waiting].append(word)
            waiting = None
        else:
            loose.append(word)
    positions: dict[str, list[str]] = {}
    for option in (option for option in subcommand.options if option.is_position):
        taken = loose if option.kind == "several" else loose[:1]
        positions[option.name], loose = taken, loose[len(taken) :]
    if loose:
        hint = ": a YAML is given by --config." if loose[0].endswith((".yaml", ".yml")) else "."
        raise LotteryError(f"`{subcommand.name}` does not know what to do with '{loose[0]}'{hint}")
    return options, positions


def _refuse_missing(
    options: Mapping[str, Sequence[str]], positions: Mapping[str, Sequence[str]], subcommand: Subcommand
) -> None:
    """Refuse a command line that lacks what it cannot do without."""
    example = f"as in `lightning-lottery {subcommand.examples[0]}`"
    asks = options.keys() & {"print_config"} or any(name.endswith(".help") for name in options)
    if subcommand.is_on_project and not asks and not options.keys() & {"config", "model"}:
        raise LotteryError(f"`{subcommand.name}` needs a project: give fit's YAML by --config, {example}.")
    for option in subcommand.options if "plan" not in options else ():  # which asks for a plan alone, of nothing
        if option.is_required and not (positions if option.is_position else options).get(option.name):
            what = f"{option.name} ({option.help})" if option.is_position else f"--{option.name} ({option.help})"
            raise LotteryError(f"`{subcommand.name}` needs {what}, {example}.")
    for argument in subcommand.signature.arguments if subcommand.signature else ():
        if argument.is_required and not options.get(argument.name):
            raise LotteryError(f"`{subcommand.name}` needs --{argument.name} ({argument.help}), {example}.")


def _refuse_unknown(value: str, option: Option, subcommand: Subcommand) -> None:
    if value not in option.words:
        hint = did_you_mean(value, option.words)
        raise LotteryError(f"`{subcommand.name}` has no '{value}'.{hint} There are {', '.join(option.words)}.")


# Files.


def _refuse_absent(name: str, value: str) -> None:
    """Refuse a file that is not there; what may be text of YAML, or lies elsewhere, is left to whoever reads it."""
    if any(mark in value for mark in "{:$") or (name == "ckpt_path" and value.partition(":")[0] in CKPT_WORDS):
        return
    path = Path(value)
    if not path.exists():
        beside = [str(path.with_name(file.name)) for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise LotteryError(f"There is no {FILES[name]} '{value}'.{did_you_mean(value, beside)}")


# Keys of a YAML.


def _refuse_keys(file: str, subcommand: Subcommand) -> None:
    """Refuse a YAML with keys that nothing reads; one that cannot be read is left to the parser."""
    import yaml

    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    if not isinstance(content, dict) or not is_bounded(content):
        return
    for key, value in content.items():
        _refuse_key(str(key), file, subcommand, options_of(subcommand.name))
        inner = value if isinstance(value, dict) and key not in OF_CLASSES else {}
        for name in inner:
            _refuse_key(f"{key}.{name}", file, subcommand, options_of(subcommand.name))
    for name, keys, arguments in _classes_in(content):
        for key in keys:
            if nearest(key, ["init_args"]) and key != "init_args":
                raise LotteryError(f"'{file}' gives {name} a key '{key}'. Did you mean 'init_args'?")
        for argument in arguments:
            refuse_argument(name, str(argument), f"'{file}'")


def _refuse_key(key: str, file: str, subcommand: Subcommand, known: Collection[str]) -> None:
    if not _is_known(key, subcommand):
        section = key.rpartition(".")[0]
        alike = [name for name in known if name.rpartition(".")[0] == section]
        hint = did_you_mean(key, alike) or f" There are {', '.join(alike)}."
        raise LotteryError(f"'{file}' has a key '{key}' that nothing reads.{hint}")


# Arguments of this package's classes.


def _classes_in(content: Any) -> Iterator[tuple[str, list[str], Mapping[str, Any]]]:
    """The classes that a YAML names wherever they stand, with the keys beside the name and their arguments."""
    if isinstance(content, dict):
        arguments = content.get("init_args")
        if isinstance(name := content.get("class_path"), str):
            yield name, [str(key) for key in content], arguments if isinstance(arguments, dict) else {}
        for value in content.values():
            yield from _classes_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from _classes_in(value)


def _refuse_arguments(words: Sequence[str]) -> None:
    """Refuse arguments that a callback does not have which was named just before."""
    callback = ""
    for word in words:
        head, _, value = word.partition("=")
        first, *rest = head.removeprefix("--trainer.callbacks").removeprefix("+").split(".")
        if not head.startswith("--trainer.callbacks") or first:
            continue
        if not rest:
            callback = value
        elif rest[0] not in ("init_args", "class_path", "help"):
            refuse_argument(callback, rest[0].removesuffix("+"), "the command line")


def refuse_argument(name: str, argument: str, where: str) -> None:
    """Refuse an argument that a class of this package does not have; nothing is said of other classes.

    Args:
        name: Of the class, bare or as ``lightning_lottery.Class``.
        argument: Of its constructor.
        where: Who names it, for the message.

    Raises:
        LotteryError: It has no such argument.
    """
    bare = name.removeprefix("lightning_lottery.")
    module = _classes_of_ours().get(bare)
    if module is None:
        return
    known = [known.name for known in arguments_of(module, bare)]
    if known and argument not in known:
        hint = did_you_mean(argument, known)
        raise LotteryError(f"{bare} has no argument '{argument}' ({where}).{hint} It takes {', '.join(known)}.")


def _classes_of_ours() -> dict[str, str]:
    """The classes of this package that a YAML names, those of the zoo left out, and where they stand."""
    named = {**names_in("lightning_lottery.callbacks"), **names_in("lightning_lottery.functional")}
    standing = (
        "lightning_lottery.callbacks.",
        "lightning_lottery.functional.schedules",
        "lightning_lottery.functional.settling.rules",
    )
    classes = {name: module for name, module in named.items() if module.startswith(standing) and name[0].isupper()}
    return {**classes, "Scope": "lightning_lottery.scope"}


def subcommand_of(word: str) -> Subcommand:
    """The subcommand of a name, typed with dashes or underscores.

    Raises:
        LotteryError: There is none.
    """
    name = word.replace("_", "-")
    if name not in SUBCOMMANDS:
        meant = nearest(name, SUBCOMMANDS)
        hint = f" Did you mean '{meant}'?" if meant else ""
        raise LotteryError(f"There is no subcommand '{word}'.{hint} There are {', '.join(SUBCOMMANDS)}.")
    return SUBCOMMANDS[name]
