"""What `test_shards.py` starts as a script: fits over two gloo ranks, one of which dies, and how the other one ends.

Imports once and forks. No launcher ends the other rank: it has to find out by itself. Prints `ok`.
"""

import os
import signal
import sys
import traceback
from pathlib import Path
from unittest.mock import patch

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from helpers.sharded import CALLBACKS, Small, fit, say
from helpers.states import same
from lightning_lottery import ExactResume, Ticket
from lightning_lottery.functional import sharded
from lightning_lottery.shards import Shards

NAMED = "as a checkpoint gets its name"
MOMENTS = {
    "in a training step": (Small, "training_step", 7),
    "amid a ranking": (sharded, "_quotas", 2),
    "as masks are put together for a checkpoint": (Shards, "whole", 30),
    NAMED: (os, "replace", 3),  # the first rank alone does this
}
"""A function that one rank calls while the other one sends or waits, and at which call it dies."""


def dies(call, how, number):
    """The same function, which ends its process when it is called so many times."""
    calls = []

    def called(*args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("this rank alone")
        return call(*args, **kwargs)

    return called


def live(folder, ckpt):
    fit(folder, CALLBACKS["PLATON"](), ExactResume(interval=1), ckpt=ckpt)


def together(folder, *, how="killed", moment=None, dying=None, ckpt=None):
    """The exit codes of a fit's ranks, negative for signals, and what each wrote to stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    port, children = find_free_network_port(), []
    for rank in range(2):
        if (child := os.fork()) == 0:
            code = 1
            try:
                signal.alarm(120)  # a rank that hangs ends by this signal, which is told from an end of its own
                os.dup2(os.open(folder / f"{rank}.err", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
                os.environ |= {"MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ["MASTER_ADDR"] = "127.0.0.1"
                if rank == dying:
                    owner, name, number = MOMENTS[moment]
                    with patch.object(owner, name, dies(getattr(owner, name), how, number)):
                        live(folder, ckpt)
                else:
                    live(folder, ckpt)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, [(folder / f"{rank}.err").read_text() for rank in range(2)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER = Path(sys.argv[1])
    for moment in MOMENTS:
        for how, dying, code in (("killed", int(moment != NAMED), -signal.SIGKILL), ("raising", 0, 1)):
            folder = FOLDER / f"{how} {moment}"
            codes, written = together(folder, how=how, moment=moment, dying=dying)
            assert codes[dying] == code and codes[1 - dying] == 1, (folder.name, codes, written)
            assert "gloo/transport" in written[1 - dying], (folder.name, written)
            say(folder.name)
    unbroken, again = FOLDER / "unbroken", FOLDER / f"killed {NAMED}"
    for folder, ckpt in ((unbroken, None), (again, again / "resume.ckpt")):
        codes, written = together(folder, ckpt=ckpt)
        assert codes == [0, 0], written
    first, second = (Ticket.load(folder / "ticket.safetensors") for folder in (unbroken, again))
    assert same(first.masks, second.masks) and first.provenance == second.provenance
    say("ok")
