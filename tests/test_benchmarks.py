"""Every benchmark runs, at a size at which its numbers mean nothing: nothing here is timed."""

import math
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import on_gpu
from benchmarks.measure import plain, ratio

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


def test_the_table_of_a_gpu_is_tried_at_toy_sizes_and_is_whole_after_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # fits leave their records there
    rows = [ratio(f"row {i}", [1.0], [2.0]) for i in range(2)]

    def dies(toy):
        yield from rows
        raise KeyboardInterrupt

    monkeypatch.setattr(on_gpu, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        on_gpu.main(True, tmp_path / "build/table.md")
    assert (tmp_path / "build/table.md").read_text().splitlines()[-2:] == [str(row) for row in rows]
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.chdir(tmp_path)
        assert all(math.isfinite(row.value) for row in on_gpu.run(toy=True))
        assert [*on_gpu.run(toy=True, budget=-1.0)] == []
    assert capsys.readouterr().err.count("left out, the time is over") == len(on_gpu.PARTS)


def test_rounds_of_several_passes_are_put_together_before_medians_are_taken():
    row = ratio("a", [1, 2], [2, 2], unit="%").and_those_of(ratio("a", [9], [4], unit="%"))
    assert str(row) == "| a | 100 % | 50 to 225 |  |"
    assert (
        str(plain("b", [2.5], "B", goal="<= 3 B").and_those_of(plain("b", [2.5], "B"))) == "| b | 2.5 B |  | <= 3 B |"
    )
