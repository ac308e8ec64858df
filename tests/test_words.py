"""The package's words: a variable, a field, a parameter is a noun for what it holds."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_lottery"
BANNED = {"of", "own", "found", "given", "said", "told", "other", "place"}


def names_made(node: ast.AST) -> list[str]:
    """The names that a node of the syntax tree gives to something."""
    match node:
        case ast.Name(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store()):
            return [node.id if isinstance(node, ast.Name) else node.attr]
        case ast.arg():
            return [node.arg]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
            return [node.name] if node.name else []
        case ast.alias():
            return [node.asname] if node.asname else []
        case _:
            return []


def banned_in(source: str) -> list[str]:
    """Names that say nothing, each with its line; underscores around a name do not excuse it."""
    made = [(getattr(node, "lineno", 0), name) for node in ast.walk(ast.parse(source)) for name in names_made(node)]
    return [f"{name} in line {line}" for line, name in made if name.strip("_") in BANNED]


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_name_is_a_noun_for_what_it_holds(module):
    assert banned_in(module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "_told: int = 1",
        "for of in (): pass",
        "[given for given in ()]",
        "with open('') as other: pass",
        "(place := 1)",
        "self._own = 1",
        "def f(*, said=None): pass",
        "lambda own: own",
        "def _told(): pass",
        "class C:\n    found: int",
        "import os as other",
    ],
)
def test_a_name_that_says_nothing_is_seen_wherever_it_is_made(source):
    assert len(banned_in(source)) == 1
