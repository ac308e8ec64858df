"""The arguments of a function or class, read from its source: to list options, nothing slow need be imported."""

import ast
import re
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

ARGS = re.compile(r"^Args:\n((?:(?: .*)?\n)*)", re.MULTILINE)
"""The section of a docstring that says what arguments are."""

ENTRY = re.compile(r"^    (\w+): *(.*\n(?:(?:     .*)?\n)*)", re.MULTILINE)
"""An argument in that section: its name, and what is said of it, further lines indented more."""

VALUES = {
    **{"int": "N", "float": "X", "bool": "{true,false}", "str": "TEXT"},
    **{"Sequence": "[A,B,...]", "Mapping": "{NAME: VALUE}"},
}
"""How help shows the value of an argument, by the first word of its type."""


class Argument(NamedTuple):
    """An argument: how its value is shown, its default as written (empty where that says nothing), and what it is."""

    name: str
    value: str
    default: str
    help: str
    is_required: bool


@cache
def arguments_of(module: str, name: str) -> tuple[Argument, ...]:
    """The arguments of a function, of a class's constructor, or the fields of a dataclass.

    Args:
        module: As it would be imported; it is only read.
        name: Of the function or class in it, a method as ``Class.method``.

    Raises:
        LookupError: The module has no such name.

    Example:
        >>> [argument.name for argument in arguments_of("lightning_lottery.functional.schedules", "Cubic")]
        ['final', 'begin', 'end']
    """
    tree = ast.parse(_source_of(module))
    node: ast.AST = tree
    sayings: dict[str, str] = {}
    for part in name.split("."):
        node = _inside(node, part)
        sayings |= _sayings_in(node)
    sayings |= _sayings_in(_init_in(node) or node)
    return tuple(Argument(name, *row[:2], sayings.get(name, ""), row[2]) for name, row in _rows_of(node, tree).items())


@cache
def names_in(module: str) -> dict[str, str]:
    """What a module imports from elsewhere at its top: name to the module that it stands in.

    Args:
        module: As it would be imported; it is only read.
    """
    lines = [line for line in ast.parse(_source_of(module)).body if isinstance(line, ast.ImportFrom)]
    return {alias.asname or alias.name: line.module or "" for line in lines for alias in line.names}


def _source_of(module: str) -> str:
    """The text of a module; of the packages that hold it only the first is looked for, and none is imported."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"There is no package {top}.")
    path = Path(spec.submodule_search_locations[0], *rest)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def _inside(node: ast.AST, name: str) -> ast.AST:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and child.name == name:
            return child
    raise LookupError(f"There is no {name}.")


def _sayings_in(node: ast.AST) -> dict[str, str]:
    """Argument to what a docstring says of it."""
    docstring = ast.get_docstring(node) if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else None
    section = ARGS.search(f"{docstring}\n") if docstring else None
    return {name: plain(text) for name, text in ENTRY.findall(section[1])} if section else {}


def plain(text: str) -> str:
    """Text of a docstring as a terminal shows it: one line, code without its marks."""
    return " ".join(cleandoc(text).replace("``", "").split())


Row = tuple[str, str, bool]
"""How a value and a default are shown, and whether there is none."""


def _rows_of(node: ast.AST, module: ast.Module) -> dict[str, Row]:
    """The arguments of a function; of a class those of its constructor, or of a base's in the same module."""
    if isinstance(function := _init_in(node) or node, ast.FunctionDef):
        return _parameters_of(function)
    rows: dict[str, Row] = {}
    for base in node.bases if isinstance(node, ast.ClassDef) else ():
        with suppress(LookupError):
            rows |= _rows_of(_inside(module, ast.unparse(base)), module)
    return rows | _fields_of(node) if isinstance(node, ast.ClassDef) else rows


def _init_in(node: ast.AST) -> ast.AST | None:
    with suppress(LookupError):
        return _inside(node, "__init__") if isinstance(node, ast.ClassDef) else None
    return None


def _parameters_of(function: ast.FunctionDef) -> dict[str, Row]:
    every = function.args
    positional = [*every.posonlyargs, *every.args]
    without = [None] * (len(positional) - len(every.defaults))
    defaults: list[ast.expr | None] = [*without, *every.defaults, *every.kw_defaults]
    pairs = zip([*positional, *every.kwonlyargs], defaults, strict=True)
    return {each.arg: _row(each.annotation, default) for each, default in pairs if each.arg != "self"}


def _fields_of(cls: ast.ClassDef) -> dict[str, Row]:
    """The fields of a dataclass; what another class annotates is no argument."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list):
        return {}
    lines = [line for line in cls.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    return {ast.unparse(line.target): _row(line.annotation, line.value) for line in lines}


def _row(annotation: ast.expr | None, default: ast.expr | None) -> Row:
    return _value(annotation), _shown(default), default is None


def _value(annotation: ast.expr | None) -> str:
    text = ast.unparse(annotation) if annotation else ""
    if words := re.fullmatch(r"Literal\[(.*)\]", text):
        return "{" + words[1].replace("'", "").replace(" ", "") + "}"
    return VALUES.get(re.split(r"\W", text)[0], "VALUE")


def _shown(default: ast.expr | None) -> str:
    """A default where it is a word or a number, or a short list of them."""
    try:
        value = ast.literal_eval(default) if default else None
    except ValueError:
        return ""
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
