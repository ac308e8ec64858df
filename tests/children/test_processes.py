import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from helpers.factories import STEPS
from helpers.slow_children import QUIET, kill_after_five_steps, slow_child, steps_of, wait_for_steps
from helpers.stages import in_this_process
from lightning_lottery import LotteryError
from lightning_lottery.children import environment, processes
from lightning_lottery.children.child import Child
from lightning_lottery.children.processes import run_child
from lightning_lottery.children.progress import tell_progress
from lightning_lottery.children.signals import Ended


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


def test_a_child_that_fails_in_a_process_of_its_own_is_told_of_in_its_own_sentence(tmp_path, config):
    quiet = Console(file=StringIO())
    odd = {**config, "model": {"class_path": "helpers.stages.NoSuchClass"}}
    other = {**config, "data": {**config["data"], "init_args": {**config["data"]["init_args"], "batch_size": 0}}}
    children = [(name, Child(tmp_path / name, "fit", each)) for name, each in (("one", odd), ("two", other))]
    with pytest.raises(LotteryError, match=r"^one failed: .*NoSuchClass.*\. What is done stays\.$") as refusal:
        processes.run_one(children[0][1], "one", quiet)
    assert "exit code" not in str(refusal.value)
    with pytest.raises(LotteryError, match=r"child.log\)$") as refusal:
        processes.run_together(children, quiet, jobs=2)
    for sentence in ("one failed: .*NoSuchClass", "two failed: .*batch_size"):  # in the order in which they ended
        assert re.search(sentence, str(refusal.value), re.DOTALL)


class Process:
    """Stands for a child's process: what is done with it is written down; its first waiting is interrupted."""

    def __init__(self, interrupt, calls):
        self.interrupt, self.calls = interrupt, calls

    def wait(self):
        self.calls.append("wait")
        if self.calls == ["wait"]:
            self.interrupt()
        return 1

    def send_signal(self, number):
        self.calls.append(number)

    def kill(self):
        self.calls.append("kill")


def ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("interrupt", "passed_on", "leaves"),
    [
        (ctrl_c, signal.SIGINT, KeyboardInterrupt),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), signal.SIGTERM, Ended),
        (lambda: os.kill(os.getpid(), signal.SIGUSR1), signal.SIGUSR1, Ended),
    ],
)
def test_a_signal_is_passed_on_to_the_child_which_is_given_the_time_to_shut_down(
    child, monkeypatch, interrupt, passed_on, leaves
):
    calls = []
    process = Process(interrupt, calls)
    monkeypatch.setattr(processes.subprocess, "Popen", lambda command, env, stdin: nullcontext(process))
    with pytest.raises(leaves):
        run_child(child)
    assert calls == ["wait", passed_on, "wait", "kill"]


def test_a_signal_reaches_all_of_several_children_before_one_is_waited_for():
    calls = []
    several = [Process(None, calls), Process(None, calls)]
    with pytest.raises(Ended), processes._passing_on(several):
        calls.append("begins")
        raise Ended(signal.SIGTERM)
    assert calls == ["begins", signal.SIGTERM, signal.SIGTERM, "wait", "wait"]


def test_a_child_that_left_without_being_done_has_failed_whatever_its_exit_code(child, config, tmp_path, monkeypatch):
    for code, message in (
        (0, "^dense ended with exit code 0, but did not finish"),
        (128 + signal.SIGTERM, "^dense was ended by SIGTERM: the same command goes on from here"),
        (-signal.SIGTERM, "^dense was ended by SIGTERM: the same command goes on from here"),
        (3, "^dense failed with exit code 3"),
    ):
        monkeypatch.setattr(processes, "run_child", lambda child, code=code: code)
        with pytest.raises(LotteryError, match=message):
            processes.run_one(child, "dense", QUIET)
        with pytest.raises(LotteryError, match=message):
            processes.follow([("dense", child)], lambda child, slot, code=code: lambda: code, 1, QUIET)


def test_children_that_run_together_are_said_to_be_interrupted(monkeypatch):
    def asked(*_):
        raise Ended(signal.SIGTERM)

    monkeypatch.setattr(processes, "follow", asked)
    quiet = Console(file=StringIO())
    with pytest.raises(Ended):
        processes.run_together([], quiet, jobs=2)
    assert quiet.file.getvalue() == "Interrupted. The same command goes on from here.\n"


@pytest.mark.parametrize(("jobs", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_whoever_starts_children_passes_a_signal_on_and_they_end_at_their_next_step(parent, tmp_path, jobs, number):
    child = slow_child(tmp_path / "child", parent)
    script = f"""
from pathlib import Path; import sys
from rich.console import Console
from lightning_lottery.children.child import Child
from lightning_lottery.children.engine import engine_of
engine_of({jobs})([("slow", Child.load(Path(sys.argv[1])))], Console())
"""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script, child.folder], env=variables) as starter:
        wait_for_steps(child, 5)
        starter.send_signal(number)
        assert starter.wait(timeout=120) in (128 + number, -number)
    taken = steps_of(child)
    assert len(taken) < STEPS and not child.is_done
    saved = torch.load(child.folder / "resume.ckpt", weights_only=True)["global_step"]
    assert saved == taken[-1]  # nothing is lost
    assert in_this_process(child) == 0 and child.is_done
    assert steps_of(child) == list(range(1, STEPS + 1))


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


@pytest.mark.parametrize("warm", ["0", "1"])
def test_a_child_ends_with_the_process_that_started_it(parent, tmp_path, warm):
    child = slow_child(tmp_path / "child", parent)
    script = (
        "from pathlib import Path; from lightning_lottery.children.child import Child;"
        "from lightning_lottery.children.processes import run_child; import sys;"
        "run_child(Child.load(Path(sys.argv[1])))"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), environment.WARM: warm}
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


def in_a_notebook(monkeypatch):
    """A console in a notebook, and the lines that it was shown."""
    shown = []

    class Shown:
        def __init__(self, console):
            assert console.is_jupyter

        def show(self, name, done, total, more="", *, unit="step"):
            shown.append(f"{name} · {unit} {done}/{total}")

    monkeypatch.setattr(processes, "Line", Shown)
    quiet = Console(file=StringIO())
    quiet.is_jupyter = True
    return quiet, shown


def test_a_notebook_has_one_line_for_a_child_in_a_process_of_its_own(child, monkeypatch):
    quiet, shown = in_a_notebook(monkeypatch)
    monkeypatch.setattr(quiet, "rule", lambda name: None)
    monkeypatch.setattr(processes, "run_child", in_this_process)
    processes.run_one(child, "dense", quiet)
    assert shown[-1] == f"dense · step {STEPS}/{STEPS}" and all(line.startswith("dense · step ") for line in shown)


def test_a_notebook_has_one_line_for_several_children(config, tmp_path, monkeypatch):
    quiet, shown = in_a_notebook(monkeypatch)
    children = [(name, Child(tmp_path / name, "fit", config)) for name in ("one", "two")]

    def launch(child, slot):
        tell_progress(child.folder, 3, None)
        return lambda: in_this_process(child)

    monkeypatch.setattr(processes.time, "sleep", lambda _: None)
    processes.follow(children, launch, 1, quiet)
    assert shown[0] == "child 1/2 · one · step 3/None" and shown[-1] == "two: done · child 2/2"
    assert quiet.file.getvalue() == ""
