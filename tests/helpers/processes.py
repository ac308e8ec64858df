"""Processes that a test starts as a user would: scripts, and the command."""

import os
import subprocess
from pathlib import Path

TESTS = Path(__file__).parents[1]


def run(*command: str, timeout: float = 240.0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command that finds this repository and `helpers`, but no variable that pytest or Lightning set."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
    for name in [name for name in environment if name.startswith(("PL_", "PYTEST_", "LOTTERY_"))]:
        del environment[name]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=timeout)
