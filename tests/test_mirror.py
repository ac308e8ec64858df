"""Where a test is found: beside its module's place in the package, and what tests share in `helpers`."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_file_imports_another(path):
    imports = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    modules = [node.module or "" for node in imports]
    assert not [name for name in modules if name.rpartition(".")[2].startswith("test_")], "share it in tests/helpers"
