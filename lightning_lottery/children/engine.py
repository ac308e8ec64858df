"""Where children are done: in this process, in processes of their own, or by the workers of a Dask cluster.

SLURM is no engine: it does children after this process has ended, by the scripts of ``slurm.py``.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console

from lightning_lottery.checks import check_count
from lightning_lottery.children.child import Child
from lightning_lottery.children.environment import DASK, JOBS, environment
from lightning_lottery.children.processes import run_one, run_together
from lightning_lottery.children.records import Row
from lightning_lottery.children.resume import do_child
from lightning_lottery.children.signals import Ended
from lightning_lottery.errors import LotteryError

Named = Sequence[tuple[str, Child]]
"""Children that do not depend on each other, each with the name that it is shown by."""

ProjectWork = Callable[..., list[Row] | None]
"""What a command does, given the child, the checkpoint to resume from (or ""), and ``project``, where it is built."""

Engine = Callable[[Named, Console], None]
"""Does those that are not done yet, and raises where some fail."""


def engine_options() -> dict[str, Any]:
    """Where a stage of a recipe has its children done: the arguments ``jobs`` and ``dask`` that ``run`` was given."""
    return {"jobs": int(os.environ.get(JOBS, 1)), "dask": os.environ.get(DASK)}


def engine_of(jobs: int = 1, dask: str | None = None, here: Mapping[str, ProjectWork] | None = None) -> Engine:
    """What does children.

    Args:
        jobs: How many at the same time on this machine, >= 1.
        dask: Address of a Dask scheduler whose workers do them instead, such as ``tcp://10.0.0.1:8786``.
        here: What children's commands do in this process, where no other can build their projects.

    Raises:
        LotteryError: Several at once, or Dask, where only this process can do them; Dask is not installed.
    """
    check_count("jobs", jobs, "a number of children at the same time")
    if here is not None:
        if jobs > 1 or dask is not None:
            raise LotteryError(
                "Parallel children are processes of their own: give factories that another process can import, "
                "functions at the top of a file."
            )
        return partial(_in_this_process, here=here)
    if dask is not None:
        from lightning_lottery.children.dask import run_on_dask

        return partial(run_on_dask, address=dask)
    return partial(run_together, jobs=jobs) if jobs > 1 else _one_after_another


def _one_after_another(children: Named, console: Console) -> None:
    for name, child in children:
        run_one(child, name, console)


def _in_this_process(children: Named, console: Console, *, here: Mapping[str, ProjectWork]) -> None:
    """Do children, and leave this process's random numbers and environment as they were."""
    for _, child in children:
        child.prepare()
        # Lightning's `seed_everything` leaves the seed there, beside the random numbers that `isolate_rng` restores.
        seed = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
        # The child's own project: of a sweep's starts, each network's is pruned by another callback.
        works = {command: partial(work, project=child.project) for command, work in here.items()}
        with isolate_rng(), environment(**seed):
            try:
                do_child(child.folder, works)
            except Ended as end:
                if end.number == signal.SIGINT:
                    raise KeyboardInterrupt from end  # as whoever calls this, a notebook or a script, expects Ctrl-C
                raise
