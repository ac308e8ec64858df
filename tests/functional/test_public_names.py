"""The index of the pure functions: every public one, from wherever it stands."""

import ast
from pathlib import Path

from lightning_lottery import functional

INDEX = Path(functional.__file__)


def public_names(folder):
    """Functions and classes that do not begin with an underscore, of every module below a folder."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.parse(path.read_text(encoding="utf-8")).body]
    defined = [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return [name for name in defined if not name.startswith("_")]


def test_nothing_public_is_missing_and_no_name_stands_for_two():
    names = public_names(INDEX.parent)
    imports = [node for node in ast.parse(INDEX.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    listed = [alias for node in imports for alias in node.names]
    assert len(names) == len(set(names)) > 10
    assert set(names) <= {alias.name for alias in listed}
    assert all(alias.asname == alias.name for alias in listed)  # else type checkers take it for nobody's business
    assert all(callable(getattr(functional, alias.name)) for alias in listed)
