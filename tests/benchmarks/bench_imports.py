"""What importing the package costs, beside importing Lightning."""

import subprocess
import sys

from benchmarks.measure import Row, interleaved, ratio


def run(toy: bool = False) -> list[Row]:
    """In fresh interpreters."""
    variants = {name: lambda name=name: _import(name) for name in ("lightning", "lightning_lottery")}
    times = interleaved(variants, 1 if toy else 2)
    return [
        ratio(
            "`import lightning_lottery` / `import lightning`",
            times["lightning_lottery"],
            times["lightning"],
            goal="<= 1.1 x",
        )
    ]


def _import(name: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {name}"], check=True)
