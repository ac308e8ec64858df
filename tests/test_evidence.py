"""Every number that a page says was measured is one of the summary that is kept beside its recipe."""

import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evidence

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
KEPT = sorted(path.parent.name for path in RECIPES.glob("*/summary.json"))

NUMBER = re.compile(r"(?<![\w.])[+-]?(\d+\.\d+)( %)?(?![\w.]*\d)")
"""A decimal number, and whether per cent stand behind it; no version, no whole number."""


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a summary, however deep."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def summary_of(recipe: str) -> Any:
    return json.loads((RECIPES / recipe / "summary.json").read_text())


def drifted(text: str, summary: Any) -> list[str]:
    """The decimal numbers of a text that no number of the summary is rounded to, whatever their sign."""
    measured = [abs(number) for number in numbers_in(summary)]
    wrong = []
    for match in NUMBER.finditer(text):
        digits, is_percent = match[1], bool(match[2])
        places, factor = len(digits.partition(".")[2]), 100 if is_percent else 1
        # Half a unit of the last digit, and what a number of six digits was itself rounded by.
        if not any(abs(number * factor - float(digits)) <= 0.5001 * 10**-places for number in measured):
            wrong.append(match[0])
    return wrong


def section(page: str, title: str) -> str:
    """The text under a heading, to the next one of its depth."""
    _, _, rest = page.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


TABLE = re.compile(r"(?:<!-- in (.+?): (.+?) -->\n\n)?((?:^\|.*\n)+)", re.MULTILINE)
"""A table and, above it, where in the summary each of its rows stands and which of what is there it tells, in order.

``{1}`` in either is what the row's first cell says before a comma or a bracket, ``*`` any part of one name; a name that
has a slash itself stands in square brackets."""


def value_at(summary: Any, path: str) -> Any:
    """What stands in a summary under names with ``/`` between them."""
    for name in re.split(r"/(?![^\[]*\])", path):
        name = name.strip("[]")
        if isinstance(summary, list):
            summary = summary[int(name)]
        else:
            (key,) = fnmatch.filter(summary, name)
            summary = summary[key]
    return summary


def misplaced(root: str, fields: str, row: str, summary: Any) -> list[str]:
    """What a row of a table does not tell as the summary does; a number's sign, place and last digit count."""
    cells = [cell.strip(" *`") for cell in row.strip("|\n").split("|")]
    keys = {int(number) for number in re.findall(r"\{(\d)\}", root + fields)}
    named = {f"{{{number}}}": re.split(r" \(|,", cells[number - 1])[0].strip("`") for number in keys}
    paths = [f"{root}/{field.strip()}" for field in fields.split(",")]
    for mark, key in named.items():
        paths = [path.replace(mark, key) for path in paths]
    told = " | ".join(cell for number, cell in enumerate(cells, start=1) if number not in keys)
    expected = [value_at(summary, path) for path in paths]
    words = [value for value in expected if isinstance(value, str)]
    values = [value for value in expected if not isinstance(value, str)]
    numbers = list(NUMBER.finditer(told))
    if len(numbers) != len(values) or any(word not in told for word in words):
        return [row]
    wrong = []
    for match, value in zip(numbers, values, strict=True):
        places, factor = len(match[1].partition(".")[2]), 100 if match[2] else 1
        if abs(value * factor - float(match[0].removesuffix(" %"))) > 0.5001 * 10**-places:
            wrong.append(match[0])
    return wrong


@pytest.mark.parametrize("recipe", KEPT)
def test_every_number_of_a_page_s_tables_is_the_one_that_belongs_there(recipe):
    measured = section((RECIPES / recipe / "README.md").read_text(), "Measured")
    tables = [table for table in TABLE.findall(measured) if NUMBER.search(table[2])]
    assert tables
    for root, fields, rows in tables:
        assert root, f"nothing above this table says where its numbers stand:\n{rows}"
        for row in rows.splitlines()[2:]:
            assert not misplaced(root, fields, row, summary_of(recipe)), row


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("| a, x | 0.5 (0.25) | stable |", []),
        ("| a | 0.5 (-0.25) | stable |", ["-0.25"]),
        ("| a | 0.25 (0.5) | stable |", ["0.25", "0.5"]),
        ("| a | 0.5 (0.26) | stable |", ["0.26"]),
        ("| a | 0.5 (0.25) | good |", ["| a | 0.5 (0.25) | good |"]),
        ("| a | 0.5 | stable |", ["| a | 0.5 | stable |"]),
    ],
)
def test_a_number_of_another_place_is_noticed(row, wrong):
    summary = {"net-a": {"mean": 0.5, "all": [0.1, 0.25], "verdict": "stable"}}
    assert misplaced("net-{1}", "mean, all/1, verdict", row, summary) == wrong


@pytest.mark.parametrize("recipe", KEPT)
def test_a_page_s_numbers_are_those_of_the_summary_beside_it(recipe):
    measured = section((RECIPES / recipe / "README.md").read_text(), "Measured")
    assert NUMBER.search(measured), f"{recipe}'s page has no section `## Measured`"
    assert not drifted(measured, summary_of(recipe))


def test_so_are_those_of_the_table_of_recipes():
    rows = re.findall(
        r"^\| \[(\w+)\]\(\1/README.md\) \|.*\| (.+) \|$", (RECIPES / "README.md").read_text(), re.MULTILINE
    )
    for recipe, measured in rows:
        if recipe in KEPT:
            assert not drifted(measured, summary_of(recipe)), recipe


def test_so_are_those_of_the_table_of_findings():
    table = section((ROOT / "README.md").read_text(), "Evidence")
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| ") and "](recipes/" in row]
    assert len(rows) >= 8
    for finding, *_, here, _ in rows:
        recipes = re.findall(r"\]\(recipes/(\w+)/README.md\)", here)
        assert not drifted(here, [summary_of(recipe) for recipe in recipes]), finding


def test_a_recipe_that_is_not_measured_names_a_smaller_one_that_is():
    rows = re.findall(
        r"^\| \[(\w+)\]\(.*\| (not yet measured.*) \|$", (RECIPES / "README.md").read_text(), re.MULTILINE
    )
    twins = {name: re.search(r"its twin for a CPU is \[(\w+)\]", cell) for name, cell in rows}
    assert len(twins) > 5
    assert all(twin is not None and twin[1] in KEPT for twin in twins.values()), twins


def test_a_recipe_that_says_it_was_measured_keeps_its_summary():
    rows = re.findall(
        r"^\| \[(\w+)\]\(\1/README.md\) \|.*\| (.+) \|$", (RECIPES / "README.md").read_text(), re.MULTILINE
    )
    measured = {name for name, cell in rows if "not yet measured" not in cell}
    assert measured == {*KEPT}


def test_a_number_that_nobody_measured_is_noticed():
    summary = {"a": {"mean": 0.12345, "values": [0.1, 0.9496]}, "n": 3}
    assert drifted("0.123 ± 0.1, 12.3 %, -0.950, of 2.14.1, 30 epochs", summary) == []
    assert drifted("0.124, 12.4 %, 0.95, 0.94", summary) == ["0.124", "12.4 %", "0.94"]


def test_a_run_of_new_stages_joins_those_kept_and_a_run_anew_takes_their_place():
    before = {"made": [{"seeds": [0]}], "stages": {"01-a/parent": {}, "02-b": {}}, "experiments": {"overlap": 1}}
    later = {"made": [{"seeds": [1]}], "stages": {"03-c": {}}, "verdicts": {"03-c": 2}}
    both = evidence.joined(before, later)
    assert [run["seeds"] for run in both["made"]] == [[0], [1]]
    assert [*both["stages"]] == ["01-a/parent", "02-b", "03-c"]
    assert both["experiments"] == {"overlap": 1} and both["verdicts"] == {"03-c": 2}
    again = {"made": [{"seeds": [2]}], "stages": {"01-a/parent": {}}}
    assert evidence.joined(before, again) == again


def test_a_run_of_the_same_stages_otherwise_is_kept_beside_them():
    main = {"made": [], "stages": {"01-a": {"n": 1}}}
    fashion = {"made": [], "stages": {"01-a": {"n": 2}}}
    both = evidence.joined(main, fashion, "fashion")
    assert both == {**main, "arms": {"fashion": fashion}}
    assert evidence.joined({}, fashion, "fashion") == {"arms": {"fashion": fashion}}
    assert evidence.joined({"arms": {"fashion": fashion}}, main) == both
    again = {"made": [], "stages": {"01-a": {"n": 3}}}
    assert evidence.joined(both, again) == {**again, "arms": {"fashion": fashion}}
    new = {"made": [], "stages": {"02-b": {}}}
    assert evidence.joined(both, new)["arms"] == {"fashion": fashion}
