"""Imports only go down: the floors of the house, read from the source of every module."""

import ast
import graphlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

PACKAGE = "lightning_lottery"
ROOT = Path(__file__).parents[1] / PACKAGE

FLOORS = [  # lowest first; a name stands for the module or for everything in the folder
    {"errors"},
    {"checks", "files", "figures", "notebook"},
    {"shards"},
    {"scope"},
    {"functional"},
    {"frozen", "diagnosis"},
    {"ticket"},
    {"units", "hooks"},
    {"callbacks"},  # the method files
    {"children"},
    {"connectivity"},
    {"experiments"},
    {"command", "zoo"},
    {""},  # the public names
    {"__main__"},
]


def modules() -> dict[str, Path]:
    """Every module by its name below the package: '' is the package, 'callbacks' the folder's `__init__`."""
    named = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


MODULES = modules()


def floor(module: str) -> int:
    while True:
        for number, names in enumerate(FLOORS):
            if module in names:
                return number
        if "." not in module:
            raise LookupError(f"{module!r} stands on no floor: give it one in FLOORS.")
        module = module.rpartition(".")[0]


def is_method_file(module: str) -> bool:
    return module.startswith("callbacks.") and floor(module) == floor("callbacks")


def imported(source: str, package: str, known: Collection[str]) -> Iterator[str]:
    """Those of the `known` modules that `source`, standing in `package`, imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            head, _, rest = target.partition(".")
            if head == PACKAGE:
                yield rest if rest in known else rest.rpartition(".")[0]


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    package = ".".join([PACKAGE, *path.parent.relative_to(ROOT).parts])
    return set(imported(path.read_text(encoding="utf-8"), package, MODULES))


def test_the_reader_sees_every_spelling_of_an_import():
    source = f"""
import {PACKAGE}.errors
import {PACKAGE}
from {PACKAGE} import errors
from {PACKAGE}.errors import LotteryError
from . import base
from .. import errors as e
from ..errors import LotteryError as L
from torch import nn
def late():
    from {PACKAGE} import Scope
"""
    known = {"", "errors", "callbacks", "callbacks.base"}
    seen = list(imported(source, f"{PACKAGE}.callbacks", known))
    assert sorted(seen) == ["", "", "callbacks.base", *["errors"] * 5]


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module):
    level = floor(module)
    stays_below = is_method_file(module)  # what two method files need is maths or timing
    up = {name for name in imports_of(module) if floor(name) > level or (stays_below and floor(name) == level)}
    assert up == set()


def test_no_imports_go_in_a_circle():
    # A folder's `__init__` is left out: it names what lies in its folder, and every file there stands below it.
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    files = {name: imports_of(name) - folders for name in MODULES.keys() - folders}
    list(graphlib.TopologicalSorter(files).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "zoo"])
def test_the_zoo_knows_only_itself_and_the_floors_named_for_it(module):
    allowed = {"zoo", "errors", "checks", "files", "functional", "hooks"}
    assert {name for name in imports_of(module) if name.split(".")[0] not in allowed} == set()
