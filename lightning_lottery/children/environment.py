"""The environment variables of this package: what a process tells those that it starts, and a recipe its stages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

RUN = "LOTTERY_RUN"
"""A recipe's folder for one seed, ``OUT/RECIPE/seed-S``; a stage's YAML names other stages' files by it."""

SEED = "LOTTERY_SEED"
"""The seed that a recipe runs with, for a stage whose YAML derives further seeds from it."""

JOBS = "LOTTERY_JOBS"
"""How many children a stage of a recipe trains at the same time."""

DASK = "LOTTERY_DASK"
"""Address of the Dask scheduler whose workers train the children of a recipe's stage."""

PROVISIONAL = "LOTTERY_PROVISIONAL"
"""Set while a recipe checks all configurations: a step k* that no sweep has found yet may then be any."""

RESUME_FROM = "LOTTERY_RESUME_FROM"
"""Checkpoint (or "") that the first rank of a child goes on from; the other ranks start the command anew and read it.

Where it is set, this process is one of those other ranks.
"""

TIED = "LOTTERY_TIED"
"""Set in a child whose standard input ends with the process that started it."""

NURSERY = "LOTTERY_NURSERY"
"""Where the process listens that children are forked from, for those who start children of their own."""

WARM = "LOTTERY_WARM"
"""Set to 0 by whoever wants children started without that process, each with imports of its own."""

IMPORTING = "LOTTERY_IMPORTING"
"""Path of the script of factories that a child is importing, which must not run its analysis again meanwhile."""


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set environment variables, None for none, until the block ends; then all of them are as they were."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def environment_of_child(python_path: str) -> dict[str, str]:
    """What a child's process gets: this process's environment, with the paths that modules are found on."""
    # A stage that starts children is itself a child, with a checkpoint of its own: handed on, its RESUME_FROM would
    # make each of them take itself for a further rank that neither locks its folder nor chooses where to go on.
    handed_on = {name: value for name, value in os.environ.items() if name != RESUME_FROM}
    return handed_on | {"PYTHONPATH": python_path, TIED: "1"}
