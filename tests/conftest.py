import gc
import os
import signal
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: no test may load from a hub
os.environ["SOURCE_DATE_EPOCH"] = "1764460800"  # the time in records: those of equal runs are equal bit for bit
os.environ["LOTTERY_WARM"] = "0"  # a nursery would be refused by every next test, whose name is in its environment
os.environ["OMP_NUM_THREADS"] = "1"  # whatever a shell says: processes that tests start count as this one does, below

import pytest  # noqa: E402
import torch  # noqa: E402

from helpers.works_with import cells_of  # noqa: E402

# A shell that starts this in its background has SIGINT ignored, and so would everything that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # two workers share two cores, and the golden vectors were made with one thread


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden vectors that LOTTERY_GOLDEN names, or the part that lies beside the tests."""
    named = os.environ.get("LOTTERY_GOLDEN")
    folder = Path(named) if named else Path(__file__).parent / "golden"
    if not folder.is_dir():
        pytest.fail(f"LOTTERY_GOLDEN={named} is not a folder: correct it, or unset it to test with tests/golden.")
    return folder


# Scripts that tests start: importing one for its doctests would run it.
collect_ignore = ["helpers/kills.py", "helpers/ranks.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The recipes first: half a minute each, and at the end one worker would be left alone with them."""
    items.sort(key=lambda item: item.path.name != "test_recipes.py")


@pytest.fixture(scope="module", autouse=True)
def _what_earlier_modules_left_is_not_looked_at_again() -> None:
    """Tuners and loaders collect garbage often: what imports left would take them seconds each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _a_picture_is_drawn_only_where_it_is_looked_at(request, monkeypatch) -> None:
    """One takes ten times as long as the fit of a test: those marked ``pictures`` have theirs."""
    if request.node.get_closest_marker("pictures") is not None:
        return
    for module, callback in (("hooks.mask_callback", "MaskCallback"), ("callbacks.early_bird", "EarlyBird")):
        if drawing := getattr(sys.modules.get(f"lightning_lottery.{module}"), callback, None):
            monkeypatch.setattr(drawing, "_write_pictures", lambda *_: None)
            monkeypatch.setattr(drawing, "_draw", lambda *_: None, raising=False)


OUTCOMES: dict[tuple[str, str], set[str]] = {}
"""How the tests ended that show a cell of README's table."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    # A report brings these from a worker of xdist to the process that ends the run; markers stay behind.
    item.user_properties.extend(("shows", cell) for cell in cells_of(item))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, cell in report.user_properties:
        if name == "shows" and (report.when == "call" or report.skipped):
            OUTCOMES.setdefault(tuple(cell), set()).add(report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What README claims was run, not only collected."""
    unseen = [cell for cell, outcomes in OUTCOMES.items() if outcomes == {"skipped"}]
    if unseen:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write(f"\nREADME's table claims what was skipped: {unseen}\n")


def pytest_unconfigure() -> None:
    """Let it go at the end."""
    gc.unfreeze()
