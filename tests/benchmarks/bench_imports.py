"""What importing the package costs, beside importing Lightning."""

import subprocess
import sys

from benchmarks.measure import Row, interleaved, ratio

# Names are imported when they are first asked for: `import lightning_lottery` alone takes next to nothing.
EVERY_NAME = "import lightning_lottery as package; [getattr(package, name) for name in package.__all__]"


def run(toy: bool = False) -> list[Row]:
    """In fresh interpreters."""
    scripts = {"lightning": "import lightning", "ours": EVERY_NAME}
    variants = {name: lambda script=script: _run(script) for name, script in scripts.items()}
    times = interleaved(variants, 1 if toy else 2)
    return [
        ratio(
            "every public name of lightning_lottery / `import lightning`",
            times["ours"],
            times["lightning"],
            goal="<= 1.02 x",
        )
    ]


def _run(script: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
