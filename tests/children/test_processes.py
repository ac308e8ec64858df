import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from helpers.factories import STEPS
from helpers.slow_children import kill_after_five_steps, slow_child, steps_of
from helpers.stages import in_this_process
from lightning_lottery import LotteryError
from lightning_lottery.children import environment, processes
from lightning_lottery.children.child import Child
from lightning_lottery.children.processes import run_child


def test_the_exit_code_of_a_child_is_that_of_its_process(tmp_path, capfd):
    assert run_child(Child(tmp_path / "none", "fit", {})) == 2
    written = capfd.readouterr().err
    assert "is not a child's folder" in written and "Traceback" not in written


def test_a_child_that_wrote_everything_is_done_however_its_process_ended(child, config, tmp_path, monkeypatch):
    quiet, aborted = Console(file=StringIO()), -int(signal.SIGABRT)
    monkeypatch.setattr(processes, "run_child", lambda child: in_this_process(child) or aborted)
    processes.run_one(child, "dense", quiet)
    assert child.is_done and "dense: done, but its process ended with exit code -6 afterwards" in quiet.file.getvalue()
    children = [(name, Child(tmp_path / name, "fit", config)) for name in ("one", "other")]

    def launch(child, slot):
        return lambda: (in_this_process(child) if child.folder.name == "one" else 0) or aborted

    with pytest.raises(LotteryError, match="^other was ended by SIGABRT"):
        processes.follow(children, launch, 1, quiet)
    assert [child.is_done for _, child in children] == [True, False]


def test_an_interrupted_child_is_given_the_time_to_shut_down(child, monkeypatch):
    calls = []

    class Process:
        def wait(self):
            calls.append("wait")
            if len(calls) == 1:
                raise KeyboardInterrupt
            return 1

        def kill(self):
            calls.append("kill")

    monkeypatch.setattr(processes.subprocess, "Popen", lambda command, env, stdin: nullcontext(Process()))
    with pytest.raises(KeyboardInterrupt):
        run_child(child)
    assert calls == ["wait", "wait", "kill"]


def test_a_child_is_tied_to_a_pipe_and_to_no_other_input(monkeypatch):
    monkeypatch.setenv(environment.TIED, "1")
    ties = []
    monkeypatch.setattr(processes, "Thread", lambda **options: SimpleNamespace(start=lambda: ties.append(options)))
    read, write = os.pipe()
    for number, expected in ((read, 1), (os.open(os.devnull, os.O_RDONLY), 0), (None, 0)):
        ties.clear()
        status = os.fstat(number) if number is not None else None

        def fstat(_, status=status):
            if status is None:
                raise OSError("closed")
            return status

        with monkeypatch.context() as patch:
            patch.setattr(processes.os, "fstat", fstat)
            processes.end_with_starter()
        assert len(ties) == expected
        if number is not None:
            os.close(number)
    os.close(write)


def test_a_child_ends_with_the_process_that_started_it(parent, tmp_path):
    child = slow_child(tmp_path / "child", parent)
    script = (
        "from pathlib import Path; from lightning_lottery.children.child import Child;"
        "from lightning_lottery.children.processes import run_child; import sys;"
        "run_child(Child.load(Path(sys.argv[1])))"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script, child.folder], env=variables) as starter:
        kill_after_five_steps(child, lambda: starter.pid)
    time.sleep(1)
    taken = len(steps_of(child))
    time.sleep(1)
    assert len(steps_of(child)) == taken < STEPS and not child.is_done


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"),
    [(2, "", ["", ""]), (2, "4,5,6,7", ["4,5", "6,7"]), (3, "0,1", ["0", "1", "0"]), (1, "3", ["3"])],
)
def test_children_share_the_devices_that_this_process_may_use(jobs, gpus, expected, monkeypatch):
    monkeypatch.setattr(processes.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    shares = [processes._share(slot, jobs) for slot in range(jobs)]
    assert [share.get("CUDA_VISIBLE_DEVICES", "") for share in shares] == expected
