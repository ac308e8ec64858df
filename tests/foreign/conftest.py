from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

import pytest

from foreign.oracle import CALLBACKS, Cell, product
from foreign.table import README, table


@pytest.fixture(scope="module", autouse=True)
def _what_takes_most_of_a_tiny_fit_is_left_out() -> Iterator[None]:
    """Every Trainer reads the entry points of all packages anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning.fabric.utilities.registry.entry_points", cache(entry_points))
        yield


OUTCOMES: dict[Cell, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, value in report.user_properties:
        if name == "foreign" and report.when == "call":
            module, loop, callback, text = value
            OUTCOMES[module, loop, callback] = text


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The table that is kept is the one that ran, wherever the whole product did."""
    if OUTCOMES.keys() == set(product(CALLBACKS)) and table(OUTCOMES) not in README.read_text(encoding="utf-8"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if OUTCOMES.keys() == set(product(CALLBACKS)):
        kept = table(OUTCOMES) in README.read_text(encoding="utf-8")
        title = (
            "foreign projects" if kept else "foreign projects: tests/README.md keeps another table, put this one there"
        )
        terminalreporter.section(title)
        terminalreporter.write_line(table(OUTCOMES))
