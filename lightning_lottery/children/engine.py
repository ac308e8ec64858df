"""Where children are done: in this process, in processes of their own, or by the workers of a Dask cluster."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console

from lightning_lottery.children.child import Child, Work, do_child
from lightning_lottery.children.processes import JOBS, run_one, run_together
from lightning_lottery.errors import LotteryError

Named = Sequence[tuple[str, Child]]
"""Children that do not depend on each other, and what each is called."""

Engine = Callable[[Named, Console], None]
"""Does those that are not done yet, and raises where some fail."""

DASK = "LOTTERY_DASK"
"""Environment variable with the address of the Dask scheduler that does the children of a recipe's stage."""


def of_environment() -> dict[str, Any]:
    """Where a recipe's stage has its children done, as ``run`` was told: the arguments ``jobs`` and ``dask``."""
    return {"jobs": int(os.environ.get(JOBS, 1)), "dask": os.environ.get(DASK)}


def engine_of(
    jobs: int = 1, dask: str | None = None, here: Callable[[Child], Mapping[str, Work]] | None = None
) -> Engine:
    """What does children.

    Args:
        jobs: How many at the same time on this machine, >= 1.
        dask: Address of a Dask scheduler whose workers do them instead, such as ``tcp://10.0.0.1:8786``.
        here: What a child's commands do in this process, where another could not import what they need.

    Raises:
        LotteryError: Several at once, or Dask, where only this process can do them; Dask is not installed.
    """
    if jobs < 1:
        raise LotteryError(f"`jobs` is a number of children at the same time >= 1, got {jobs!r}.")
    if here is not None:
        if jobs > 1 or dask is not None:
            raise LotteryError(
                "Parallel children are processes of their own: give factories that another process can import, "
                "functions at the top of a file."
            )
        return partial(_in_this_process, here=here)
    if dask is not None:
        from lightning_lottery.children.cluster import run_on_dask

        return partial(run_on_dask, address=dask)
    if jobs > 1:
        return partial(run_together, jobs=jobs)
    return _in_turn


def _in_turn(named: Named, console: Console) -> None:
    for what, child in named:
        run_one(child, what, console)


def _in_this_process(named: Named, console: Console, *, here: Callable[[Child], Mapping[str, Work]]) -> None:
    """Do children, and leave this process's random numbers and environment as they were."""
    for _, child in named:
        child.prepare()
        with isolate_rng(), _seed_restored():
            do_child(child.folder, here(child))


@contextmanager
def _seed_restored() -> Iterator[None]:
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
