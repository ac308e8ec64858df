from collections.abc import Callable
from typing import Any

import pytest

from campaign.forks import warm
from campaign.table import README, Outcome, is_whole, table

ROWS: dict[str, tuple[int, int]] = {}
"""Of every kind how many were tried, and how many failed."""


@pytest.fixture
def hold(record_property, tmp_path) -> Callable[..., None]:
    """Tries something in a process that has imported everything, and sees that all of it held."""

    def try_all(kind: str, campaign: Callable[..., Outcome], *arguments: Any) -> None:
        outcome = warm(campaign, *arguments, tmp_path)
        record_property("campaign", [kind, outcome.tried, outcome.failed])
        assert not outcome.failures, "\n".join(outcome.failures)

    return try_all


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tests elsewhere say as well what they try; where they stop at their first failure, all of it counts as failed."""
    for name, value in report.user_properties:
        if name == "campaign" and report.when == "call":
            kind, tried, failed = value
            before = ROWS.get(kind, (0, 0))
            ROWS[kind] = before[0] + tried, before[1] + (failed or tried * report.failed)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The table that is kept is the one that ran, wherever the whole campaign did."""
    if is_whole(ROWS) and table(ROWS) not in README.read_text(encoding="utf-8"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS and terminalreporter.config.option.markexpr == "torture":
        kept = not is_whole(ROWS) or table(ROWS) in README.read_text(encoding="utf-8")
        terminalreporter.section(
            "campaign" if kept else "campaign: tests/README.md keeps another table, put this one there"
        )
        terminalreporter.write_line(table(ROWS))
