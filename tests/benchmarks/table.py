"""All benchmarks, or those named: ``make bench``, ``make bench ONLY="platon shrink"``."""

import sys
from datetime import date
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

AREAS = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main(only: list[str]) -> None:
    """Print the table as it grows; every area in a process of its own, so that none depends on those before it."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(
        f"{device}, {torch.get_num_threads()} threads; torch {version('torch')}, lightning {version('lightning')};",
        end=" ",
    )
    print(f"{date.today()}.\n\n| what | measured | nine of ten rounds | goal |\n|---|---|---|---|", flush=True)
    for area in only or AREAS:
        process = get_context("spawn").Process(target=_show, args=(area,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"The benchmark of {area} failed: its own message stands above.")


def _show(area: str) -> None:
    for row in import_module(f"benchmarks.bench_{area}").run():
        print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
