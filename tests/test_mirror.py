"""Where a test is found: beside its module's place in the package, and what tests share in `helpers`."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lightning_lottery"


def has_code(path: Path) -> bool:
    """Whether a module defines a function or a method."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(node, functions) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def mirrored() -> list[Path]:
    """Every module of the package that has a function, except `__init__` and `__main__`."""
    named = (path for path in sorted(PACKAGE.rglob("*.py")) if not path.name.startswith("__"))
    return [path.relative_to(PACKAGE) for path in named if has_code(path)]


@pytest.mark.parametrize("module", mirrored(), ids=str)
def test_every_module_has_a_test_file_of_its_name(module):
    assert (TESTS / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_file_imports_another(path):
    imports = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    modules = [node.module or "" for node in imports]
    assert not [name for name in modules if name.rpartition(".")[2].startswith("test_")], "share it in tests/helpers"
