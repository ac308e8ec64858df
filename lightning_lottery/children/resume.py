"""Do a child in this process: from its beginning, or where it was killed from its newest checkpoint."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lightning_lottery.children.child import ERROR, Child, entered
from lightning_lottery.children.environment import RESUME_FROM
from lightning_lottery.children.folders import load_checkpoint, remove_checkpoint
from lightning_lottery.children.records import Row, commit_here
from lightning_lottery.children.signals import ENDING, Ended, ended_by, heed
from lightning_lottery.children.slurm import requeue
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import remove_file

Work = Callable[[Child, str], list[Row] | None]
"""What a command does: given the child and the checkpoint to resume from (or ""), its records; None on other ranks."""


def do_child(folder: Path, commands: Mapping[str, Work], *, wait: bool = False) -> None:
    """Do the child of a folder in this process: what ``lightning-lottery child DIR`` does.

    Args:
        folder: The child's.
        commands: What each command does.
        wait: Where another process is in the folder, wait for it to end.

    Raises:
        LotteryError: The folder holds no child, another process is in it, or its configuration is refused.
        Ended: A signal asked this process to end; the child goes on from there.
    """
    child = Child.load(folder)
    is_first_rank = RESUME_FROM not in os.environ
    with ended_by(*ENDING):
        try:
            _do(child, commands, wait)
        except Ended as end:
            # Further ranks end with the first, by agreement. Where one had an exit code, Lightning (2.6.6) would kill
            # the first rank at once, whatever that is about to say.
            if is_first_rank:
                if end.number not in (signal.SIGINT, signal.SIGTERM):  # SIGUSR1, which Windows has not
                    requeue()
                raise
        except Exception as error:
            heed()  # a terminal's Ctrl-C has ended this child's helpers as well: what it stumbled over is no mistake
            if is_first_rank:  # for whoever started it, and sees no more of it than the exit code
                (folder / ERROR).write_text(_sentence(error))
            raise
        finally:
            if is_first_rank:
                os.environ.pop(RESUME_FROM, None)


def _do(child: Child, commands: Mapping[str, Work], wait: bool) -> None:
    is_first_rank = RESUME_FROM not in os.environ
    with entered(child.folder, wait=wait):
        if child.is_done:
            rank_zero_info(f"{child.folder} is done.")
            remove_checkpoint(child.folder / "resume.ckpt")  # killed when it had just marked itself
            return
        resume = _newest_that_loads(child.folder)
        if is_first_rank and not resume:
            # Anew, with the hashes of files that earlier children have written since the folder was prepared.
            child.specify()
            # TensorBoard (2.21) takes back curves where a log is begun anew, but no text.
            for stale in child.folder.glob("events.out.tfevents.*"):
                remove_file(stale)
        commit = commit_here() if is_first_rank else None  # now: a training takes longer than the next commit
        try:
            rows = commands[child.command](child, resume)
        except SystemExit as leaving:
            if leaving.code:
                raise
            raise LotteryError(
                f"'{child.folder}' is not done: the project left its process by `sys.exit()` in the middle of it."
            ) from leaving
        if rows is not None:
            child.finish(rows, commit)


def _sentence(error: Exception) -> str:
    """A refusal in its own words; of another exception the type and the first line, as below a traceback."""
    from lightning_lottery.children.cli import mistake_in  # the parser takes long to import

    if (mistake := mistake_in(error)) is not None:
        return str(mistake)
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


def _newest_that_loads(folder: Path) -> str:
    """Path of the checkpoint to go on from, or nothing; decided once, by the rank that runs first."""
    if RESUME_FROM in os.environ:
        return os.environ[RESUME_FROM]
    path = folder / "resume.ckpt"
    try:
        load_checkpoint(path, "meta")
        resume = str(path)
    except FileNotFoundError:
        resume = ""
    except Exception as error:  # whatever a torn file makes torch raise
        rank_zero_info(f"{path} does not load ({error}): the child begins anew.")
        resume = ""
    os.environ[RESUME_FROM] = resume
    return resume
