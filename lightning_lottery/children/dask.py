"""Children on the workers of a Dask cluster, each in a process of its own that ends with its worker."""

import os
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_lottery.children.child import Child
from lightning_lottery.children.environment import environment_of_child
from lightning_lottery.children.processes import follow, python_path, started
from lightning_lottery.errors import LotteryError

PATIENCE = "30s"
"""How long a Dask scheduler is waited for."""


def run_on_dask(children: Sequence[tuple[str, Child]], console: Console, *, address: str) -> None:
    """Prepare several children and have the workers of a Dask cluster do them, each by its command.

    Workers see the children's folders under the same paths and have this package; start them with one thread each, so
    that each does one child at a time. A child whose worker dies goes on, on another one, from its last checkpoint.

    Args:
        children: The name that each is shown by, and the child.
        console: Shows how far they are.
        address: Of the scheduler.

    Raises:
        LotteryError: Dask is not installed or not there, a child is refused, or some failed: which.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise LotteryError("Dask is not installed: pip install 'lightning_lottery[dask]'.") from error
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise LotteryError(f"There is no Dask scheduler at '{address}': {error}.") from error
    with client:

        def launch(child: Child, _: int) -> Any:
            # pure=False: the same child asked for again, after it failed, is a new task and not the one of before.
            future = client.submit(_do_on_worker, str(child.folder), os.getcwd(), python_path(), pure=False)
            return partial(_exit_code, child, future)

        # All at once: the scheduler, which knows how many workers there are, queues what is too much for them.
        follow(children, launch, len(children), console)


def _exit_code(child: Child, future: Any) -> int | None:
    """Of a child that a worker does; None while it goes on, and 1 where Dask gave up on it."""
    if not future.done():
        return None
    if future.status == "finished":
        return int(future.result())
    with open(child.folder / "child.log", "a") as log:
        log.write(f"Dask: {future.exception()!r}\n")
    return 1


def _do_on_worker(folder: str, here: str, path: str) -> int:
    """Do a child in a process of its own that ends with this worker; its exit code.

    ``here`` is the working directory of whoever asks, ``path`` where its modules are found.
    """
    from distributed import get_worker

    # --wait: where Dask took a worker for lost that still lives, the child may run there for a while yet.
    arguments = ["child", folder, "--wait"]
    variables = environment_of_child(path) | {"OMP_NUM_THREADS": str(get_worker().state.nthreads)}
    with open(Path(here) / folder / "child.log", "ab") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        with started(arguments, variables, cwd=here, **output) as process:
            return process.wait()
