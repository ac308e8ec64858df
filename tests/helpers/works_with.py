"""README's table of what works with what, read from the tests that show it.

A test that shows a cell says so: ``@pytest.mark.shows(row="LBFGS", column="PLATON", cell="yes")``. Its parameters may
say a part: the callbacks of `helpers.callbacks` say their column, so that the test itself gives the row and the cell.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
Cell = tuple[str, str]  # row, column


def rows(argument: str, values: dict[str, Any], title: str = "{}") -> pytest.MarkDecorator:
    """Parametrize by values whose names are rows of the table, or parts of a row's title."""
    marked = [
        pytest.param(value, id=name, marks=pytest.mark.shows(row=title.format(name))) for name, value in values.items()
    ]
    return pytest.mark.parametrize(argument, marked)


def cells_of(item: pytest.Item) -> dict[Cell, str]:
    """What one test shows: its markers' parts put together; nothing where it, or no part of it, is run."""
    parts: dict[str, Any] = {}
    for marker in item.iter_markers("shows"):
        parts = marker.kwargs | parts  # the nearest marker comes first
    if "cell" not in parts or item.get_closest_marker("skip"):
        return {}
    columns = parts["column"] if isinstance(parts["column"], (list, tuple)) else [parts["column"]]
    return {(parts["row"], column): parts["cell"] for column in columns}


def shown_by(items: Iterable[pytest.Item]) -> dict[Cell, str]:
    """What the tests show together.

    Raises:
        AssertionError: Two tests show different things in one cell.
    """
    shown: dict[Cell, str] = {}
    for item in items:
        for cell, text in cells_of(item).items():
            assert shown.setdefault(cell, text) == text, f"{item.nodeid}: {cell} is '{text}', elsewhere '{shown[cell]}'"
    return shown


def everything_is_collected(config: pytest.Config) -> bool:
    """Whether this run was asked for all tests, not for some files or names."""
    return config.args == config.getini("testpaths") and not config.option.keyword


def claimed() -> dict[Cell, str]:
    """What README says: every cell of the table that is not empty."""
    table = re.search(r"^\| \|.+\|\n\|(?:---\|)+\n((?:\|.+\|\n)+)", README.read_text(), re.MULTILINE)
    assert table, "README has no table whose first column has no title"
    columns = [name.strip() for name in table[0].splitlines()[0].strip("|").split("|")][1:]
    lines = [[text.strip() for text in line.strip("|").split("|")] for line in table[1].splitlines()]
    return {(row, column): text for row, *texts in lines for column, text in zip(columns, texts, strict=True) if text}
