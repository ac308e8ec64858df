"""Children on a cluster without this process: the list of their commands, and SLURM job arrays of it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote
from shutil import which

from lightning_lottery.children.child import Child
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole

Waves = Sequence[Sequence[Child]]
"""Children in the order of dependence: those of one wave use only files of waves before."""

AT_LAST = (
    "# When these are done: the same command with --dry_run lists what is trained next, without it trains what is "
    "left and judges all."
)
"""How a list of commands ends."""

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
    return join([str(Path(sys.executable).with_name("lightning-lottery")), "child", str(child.folder)])


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
            names.append(f"wave-{number}")
            _write_array(wave, folder, names[-1])
    if not names:
        raise LotteryError("Every child is done: the same command without --slurm judges them.")
    submit = SUBMIT.format(waves=" ".join(names), folder=quote(str(folder)))
    write_whole(folder / "submit.sh", submit.encode(), "script")
    return folder / "submit.sh"


def requeue() -> None:
    """Have SLURM start this process's job again, where it is one: SIGUSR1 came before its time limit, as asked for.

    In place of Lightning's own handler (2.6.6), which saves in the middle of a step and goes on.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")
    if job is not None and (scontrol := which("scontrol")):
        subprocess.run([scontrol, "requeue", job], check=False)  # where it fails, it says why


def _write_array(wave: Sequence[Child], folder: Path, name: str) -> None:
    """Write a wave's commands, a line each, and the script whose tasks do a line each."""
    # Also of children that are done: a task that waits in the queue from before finds its line by its number.
    lines = [command_of(child) for child in wave]
    text = folder / f"{name}.txt"
    script = ARRAY.format(
        name=name,
        tasks=len(lines),
        here=Path.cwd(),
        log=str(folder).replace("%", "%%"),  # SLURM reads %a and the like in the name of a log
        lines=quote(str(text)),
    )
    write_whole(text, "".join(f"{line}\n" for line in lines).encode(), "commands")
    write_whole(folder / f"{name}.sbatch", script.encode(), "script")
