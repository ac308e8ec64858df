"""Every benchmark runs, at a size at which its numbers mean nothing: nothing here is timed."""

import math
import warnings
from importlib import import_module
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "benchmarks").glob("bench_*.py"))
STARTS_PROCESSES = pytest.mark.torture
AREAS = [
    pytest.param(file.stem, marks=[STARTS_PROCESSES] if file.stem in ("bench_children", "bench_imports") else [])
    for file in FILES
]


@pytest.mark.parametrize("area", AREAS)
def test_every_benchmark_runs_and_gives_rows(area):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as `make bench` does
        rows = list(import_module(f"benchmarks.{area}").run(toy=True))
    assert rows
    for row in rows:
        low, high = row.spread
        assert math.isfinite(row.value) and low <= row.value <= high
        assert str(row).count("|") == 5 and row.what
