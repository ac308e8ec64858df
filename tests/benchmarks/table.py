"""All benchmarks, or those named: ``make bench``, ``make bench ONLY="platon shrink"``."""

import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.measure import Row

AREAS = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))

PASSES = 3
"""Over all areas: machines are faster at one time than at another, and so are processes."""


def main(only: list[str]) -> None:
    """Print the table as the last pass completes it; every area of a pass in a process of its own."""
    if unknown := set(only) - set(AREAS):
        sys.exit(f"There is no benchmark of {', '.join(sorted(unknown))}; those that there are: {', '.join(AREAS)}.")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(
        f"{device}, {torch.get_num_threads()} threads; torch {version('torch')}, lightning {version('lightning')};",
        end=" ",
    )
    print(f"{date.today()}.\n\n| what | measured | lowest to highest round | goal |\n|---|---|---|---|", flush=True)
    rows_by_area: dict[str, list[Row]] = {}
    for number in range(1, PASSES + 1):
        for area in only or AREAS:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                rows = process.submit(measured, area).result()
            print(f"pass {number} of {PASSES}: {area}", file=sys.stderr)
            before = rows_by_area.get(area)
            rows_by_area[area] = [a.and_those_of(b) for a, b in zip(before, rows, strict=True)] if before else rows
            if number == PASSES:
                print(*rows_by_area[area], sep="\n", flush=True)


def measured(area: str) -> list[Row]:
    """The rows of one area."""
    logging.disable(logging.WARNING)
    return list(import_module(f"benchmarks.bench_{area}").run())


if __name__ == "__main__":
    main(sys.argv[1:])
