"""The index of the pure functions: every public one, from wherever it stands."""

import ast
from pathlib import Path

import pytest

from lightning_lottery import functional
from lightning_lottery.functional import settling

INDEXES = {"functional": functional, "settling": settling}


def public_names(folder):
    """Functions and classes that do not begin with an underscore, of every module below a folder."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.parse(path.read_text(encoding="utf-8")).body]
    defined = [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return [name for name in defined if not name.startswith("_")]


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_nothing_public_is_missing_and_no_name_stands_for_two(index):
    names = public_names(Path(index.__file__).parent)
    assert len(names) == len(set(names)) > 10
    assert set(names) <= set(index.__all__)
    assert all(callable(getattr(index, name)) for name in index.__all__)
