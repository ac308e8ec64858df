"""Children on a cluster: the list of their commands, SLURM job arrays of it, and Dask's distributed engine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shlex import join, quote
from typing import Any

from rich.console import Console

from lightning_lottery.children.child import Child
from lightning_lottery.children.processes import follow, search_path, started, surroundings
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole

Waves = Sequence[Sequence[Child]]
"""Children in the order of dependence: those of one wave use only files of waves before."""

AT_LAST = (
    "# then this command again: with --dry-run it lists what is asked for next, without it does that and judges all"
)
"""How a list of commands ends."""

PATIENCE = "30s"
"""How long a Dask scheduler is waited for."""

ARRAY = """#!/bin/bash
#SBATCH --job-name=lottery-{name}
#SBATCH --array=1-{tasks}
#SBATCH --chdir="{here}"
#SBATCH --output="{log}/{name}-%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
# A task does the line of its number; killed or requeued it goes on from the child's last checkpoint.
srun bash -c "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {lines})"
"""

SUBMIT = """#!/bin/bash
# Submits each wave after the one before has ended; a task whose child lacks what a failed one was to leave, fails.
# Arguments go to every sbatch: --partition gpu --gres gpu:1 --time 2:00:00
set -e
after=()
for wave in {waves}; do
    job=$(sbatch --parsable "${{after[@]}}" "$@" {folder}/"$wave".sbatch)
    after=(--dependency=afterany:"${{job%%;*}}")
done
"""


def command_of(child: Child) -> str:
    """The command that does a child, in this working directory."""
    command = [str(Path(sys.executable).with_name("lightning-lottery")), "child", str(child.folder)]
    return join(command)


def commands(waves: Waves) -> str:
    """Prepare every child, and list the commands of those that are not done, in the order of dependence."""
    lines = []
    for number, wave in enumerate(waves, start=1):
        for child in wave:
            child.prepare()
        lines.append(f"# wave {number}{', after the one before' if number > 1 else ''}: in any order or all at once")
        lines += [command_of(child) for child in wave if not child.is_done]
    return "\n".join([*lines, AT_LAST])


def write_slurm(waves: Waves, folder: Path) -> Path:
    """Prepare every child, and write a SLURM job array for each wave and a script that submits them.

    Args:
        waves: Children in the order of dependence.
        folder: Where ``submit.sh``, ``wave-N.sbatch`` and ``wave-N.txt`` (a command a line) go.

    Returns:
        The script that submits them.

    Raises:
        LotteryError: All are done, a child is refused, or a file cannot be written.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, wave in enumerate(waves, start=1):
        for child in wave:
            child.prepare()
        if not all(child.is_done for child in wave):
            lines = [command_of(child) for child in wave]  # all: a task that waits finds its line by number
            names.append(f"wave-{number}")
            text = folder / f"{names[-1]}.txt"
            script = ARRAY.format(
                name=names[-1],
                tasks=len(lines),
                here=Path.cwd(),
                log=str(folder).replace("%", "%%"),
                lines=quote(str(text)),
            )
            write_whole(text, "".join(f"{line}\n" for line in lines).encode(), "commands")
            write_whole(folder / f"{names[-1]}.sbatch", script.encode(), "script")
    if not names:
        raise LotteryError("Every child is done: the same command without --slurm judges them.")
    submit = SUBMIT.format(waves=" ".join(names), folder=quote(str(folder)))
    write_whole(folder / "submit.sh", submit.encode(), "script")
    return folder / "submit.sh"


def run_on_dask(children: Sequence[tuple[str, Child]], console: Console, *, address: str) -> None:
    """Prepare several children and have the workers of a Dask cluster do them, each by its command.

    Workers see the children's folders under the same paths and have this package; start them with one thread each, so
    that each does one child at a time. A child whose worker dies goes on, on another one, from its last checkpoint.

    Args:
        children: What each is called, and the child.
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
            future = client.submit(_do_on_worker, str(child.folder), os.getcwd(), search_path(), pure=False)
            return partial(_exit_code, child, future)

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

    Args:
        folder: The child's, seen from ``here``.
        here: Working directory of whoever asks.
        path: Where modules are found.
    """
    from distributed import get_worker

    command = [sys.executable, "-m", "lightning_lottery", "child", folder, "--wait"]
    variables = surroundings(path) | {"OMP_NUM_THREADS": str(get_worker().state.nthreads)}
    with open(Path(here) / folder / "child.log", "ab") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        with started(command, variables, cwd=here, **output) as process:
            return process.wait()
