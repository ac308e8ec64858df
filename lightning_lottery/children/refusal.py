"""What the parser has against a configuration, in one sentence that suggests what was meant."""

import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import import_module

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_lottery import callbacks, functional
from lightning_lottery.checks import did_you_mean
from lightning_lottery.children.parser_words import in_plain_words
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.settling.rules import Rule

UNION_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
)
"""Beginnings of what the parser says of every union of types."""

BASE_CLASS_NOISE = ("Problem with given class_path 'lightning.Callback'", "Not a valid subclass of Callback")
"""What it goes on to say of an argument of a callback: that the base class does not have it either."""

NO_CLASS = re.compile(r"class_path 'lightning\.Lightning(Data)?Module'")
"""In what it says of a section that names no class, whose keys it then looks for in the base class."""

CLASSES_MISSING = (
    " If a program's own LightningCLI(Model, Data) saved this file, it names no classes: say them beside --config, "
    "--model package.Model --data package.Data."
)

NOT_A_CLASS = re.compile(r"Expected a dot import path string: (\w+)")
NOT_AN_ARGUMENT = re.compile(r".*class_path '([\w.]+)': Option '([\w.]+)' is not accepted")
NO_MODEL = "the following arguments are required: fit.model"
MODEL_MISSING = "The configuration names no module to train: give `model` in the YAML, or --model package.Class."

NOT_AN_OPTION = re.compile(r"does not accept option '([\w.]+)'")
NOT_IN_MODULE = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")

PUBLIC = [name for name in {**vars(callbacks), **vars(functional)} if name != "MaskCallback"]
"""Names of this package that a YAML may say, and more."""

KINDS: dict[str, type] = {
    "callbacks": Callback,
    "model": LightningModule,
    "data": LightningDataModule,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
    "sparsity": Schedule,
    "rules": Rule,
}
"""Last word of a parser's key to what its classes are."""


def in_one_sentence(message: str, options: Iterable[str] = ()) -> str:
    """The parser's words without what it says of every union of types and of its base class, and what was meant.

    Args:
        message: What it says, over several lines.
        options: Every option of the subcommand.
    """
    lines = list(_telling(message, noise=UNION_NOISE, base=BASE_CLASS_NOISE))
    if len(lines) == 1 and lines[0].endswith(":"):  # nothing is left: what it says of the base class was all it said
        lines = list(_telling(message, noise=UNION_NOISE, base=BASE_CLASS_NOISE[1:]))
    sentence = "; ".join(lines).replace(":;", ":").rstrip(".") + "."
    if sentence.startswith(NO_MODEL):
        return MODEL_MISSING
    if NO_CLASS.search(sentence):
        return sentence + CLASSES_MISSING
    return in_plain_words(sentence) + _hint(sentence, options)


def _telling(message: str, *, noise: tuple[str, ...], base: tuple[str, ...]) -> Iterator[str]:
    """Those lines that say something, each once."""
    seen: set[str] = set()
    left_out = len(message)  # what is indented more belongs to a line that is left out
    for line in filter(str.strip, message.splitlines()):
        indent, words = len(line) - len(line.lstrip()), line.strip().removeprefix("- ")
        if indent <= left_out:
            is_base = words.startswith(base)
            left_out = indent if is_base else len(message)
            if not is_base and not words.startswith(noise) and words not in seen:
                seen.add(words)
                yield words


def _hint(sentence: str, options: Iterable[str]) -> str:
    """What was meant, and what there is."""
    if match := NOT_AN_ARGUMENT.match(sentence):
        arguments = [name for name in _arguments_of(match[1]) if name != "self"]
        listed = f" It takes {', '.join(arguments)}." if arguments else ""
        return did_you_mean(match[2], arguments) + listed
    if match := NOT_A_CLASS.search(sentence):
        key = re.findall(r'Parser key "(?:[\w.]*\.)?(\w+)"', sentence)[-1:]
        kind = KINDS.get("".join(key))
        kinds = [kind] if kind else [*KINDS.values()]
        names = {below.__name__ for each in kinds for below in _below(each)}
        ours = [name for name in PUBLIC if kind and name in names]
        listed = f" This package has {', '.join(ours)}; any other by its path, package.Class." if ours else ""
        return did_you_mean(match[1], names) + listed
    if match := NOT_IN_MODULE.search(sentence):
        return did_you_mean(match[2], dir(import_module(match[1])))
    if match := NOT_AN_OPTION.search(sentence):
        return did_you_mean(match[1], options)
    return ""


def _arguments_of(path: str) -> list[str]:
    """The arguments of a class that the parser has imported; none where it cannot be looked at."""
    module, _, name = path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def _below(kind: type) -> Iterator[type]:
    """All classes below one that are imported by now, private ones left out."""
    subclasses: list[type] = kind.__subclasses__()
    for below in subclasses:
        if not below.__name__.startswith("_"):
            yield below
        yield from _below(below)
