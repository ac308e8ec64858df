import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from campaign.boards import scalars
from helpers.processes import TESTS
from helpers.slow_children import slow_child, steps_of, wait_for_steps
from helpers.stages import fit, named, platon
from helpers.states import same
from lightning_lottery.children import processes, warm
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve
from lightning_lottery.children.environment import NURSERY, TIED, WARM
from lightning_lottery.children.processes import python_path, run_child, started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux alone")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    """The nursery of this module's tests, which share its start."""
    ours = warm._Started()
    yield ours
    if ours._process is not None:
        ours._process.stdin.close()
        assert ours._process.wait(timeout=60) == 0


@pytest.fixture
def later(tmp_path_factory):
    """A folder that the nursery looks for modules in, and that is made by one test alone."""
    return tmp_path_factory.getbasetemp() / "later"


@pytest.fixture
def warmed(nursery, later, monkeypatch):
    """As outside of tests: children are forks."""
    monkeypatch.setattr(warm, "_started", nursery)
    monkeypatch.delenv(WARM)
    for path in (TESTS.parent, TESTS, later):
        monkeypatch.syspath_prepend(str(path))
    monkeypatch.setenv("PYTHONPATH", python_path())
    return nursery


def surroundings(**more: str) -> dict[str, str]:
    """The environment, without what changes with every test."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return outside | {TIED: "1"} | more


def child_in(folder: Path, *callbacks) -> Child:
    folder.mkdir(parents=True)
    child = Child(folder / "child", "fit", resolve(["fit", "--config", str(written(folder, *callbacks))]))
    child.prepare()
    return child


def written(folder: Path, *callbacks) -> Path:
    path = folder / "fit.yaml"
    path.write_text(json.dumps(fit(*callbacks)))
    return path


def leavings(child: Child):
    checkpoint = torch.load(child.folder / "last.ckpt", weights_only=True)
    return {
        "checkpoint": {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "global_step")},
        "records": (child.folder / "results.jsonl").read_text(),
        "ticket": (child.folder / "ticket.safetensors").read_bytes(),
        "curves": scalars(child.folder),
    }


@pytest.fixture
def was_fork(monkeypatch):
    """The forks that were made."""
    forks = []

    def fork(arguments, variables, **options):
        outside = {name: value for name, value in variables.items() if name != "PYTEST_CURRENT_TEST"}
        forks.append(warm.fork(arguments, outside, **options))
        return forks[-1]

    monkeypatch.setattr(processes, "fork", fork)
    return forks


def test_a_fork_leaves_what_a_process_of_its_own_leaves_bit_for_bit(warmed, was_fork, tmp_path, monkeypatch):
    forked, cold = (child_in(tmp_path / name, platon()) for name in ("forked", "cold"))
    assert run_child(forked) == 0 and forked.is_done and was_fork[-1] is not None
    monkeypatch.setenv(WARM, "0")
    assert run_child(cold) == 0 and was_fork[-1] is None
    assert same(leavings(forked), leavings(cold))


def test_nothing_of_a_child_is_met_by_the_next_nor_of_the_nursery_itself(warmed, was_fork, tmp_path, monkeypatch):
    met = []
    for name in ("first", "second", "cold"):
        child = child_in(tmp_path / name, named("helpers.leaving.Leaves"))
        if name == "cold":
            monkeypatch.setenv(WARM, "0")
        assert run_child(child) == 0 and (was_fork[-1] is None) == (name == "cold")
        seen = json.loads((child.folder / "met.json").read_text())
        assert seen.pop("arguments") == ["child", str(child.folder)]
        met.append(seen)
    assert met[0] == met[1] == met[2]


def test_a_fork_has_the_threads_the_devices_the_folder_and_the_files_that_were_asked_for(warmed, was_fork, tmp_path):
    child = child_in(tmp_path / "child", named("helpers.leaving.Leaves"))
    with warm.fork(["child", str(tmp_path)], surroundings()) as other:
        other.wait()  # the nursery began with one thread
    variables = surroundings(OMP_NUM_THREADS="2", CUDA_VISIBLE_DEVICES="")
    with open(tmp_path / "log", "wb") as log:
        options = {"stdout": log, "stderr": subprocess.STDOUT, "cwd": str(tmp_path)}
        with started(["child", str(child.folder)], variables, **options) as process:
            assert process.wait() == 0 and was_fork[-1] is process
    met = json.loads((child.folder / "met.json").read_text())
    assert met["threads"] == 2 and met["threads of libraries"] == [2] and met["folder"] == str(tmp_path)
    assert (tmp_path / "log").read_text().endswith("met\n")


def test_a_module_in_a_folder_that_is_made_after_the_nursery_began_is_met(warmed, was_fork, later, tmp_path):
    with warm.fork(["child", str(tmp_path)], surroundings()) as process:
        process.wait()  # the nursery runs
    later.mkdir()
    (later / "written_later.py").write_text("from lightning.pytorch import Callback\nclass Late(Callback): ...\n")
    assert run_child(child_in(tmp_path / "child", named("written_later.Late"))) == 0 and was_fork[-1] is not None


def test_an_output_that_is_closed_or_full_is_no_matter_of_the_starter(warmed, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        print("kept until it is flushed")
        with warm.fork(["child", str(tmp_path)], surroundings()) as process:
            assert process.wait() == 2
        monkeypatch.setattr(sys, "stdout", None)
        assert warm.fork(["child", str(tmp_path)], surroundings()) is None
        with pytest.raises(OSError, match="No space"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_the_end_of_a_fork_is_seen_however_many_files_are_open():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here, there:
            fork = warm.Fork(socket.socket(fileno=fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, 1024)), os.getpid(), -1)
            assert fork.poll() is None
            there.send(b'{"code": 3}')
            assert fork.poll() == 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_mistake_is_told_as_by_a_process_of_its_own(warmed, was_fork, tmp_path, capfd):
    assert run_child(Child(tmp_path / "none", "fit", {})) == 2 and was_fork[-1] is not None
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "is not a child's folder" in error


def test_a_child_with_a_variable_that_imports_may_have_read_is_no_fork(warmed, was_fork, tmp_path):
    assert warm.fork(["child", str(tmp_path)], surroundings(MKL_CBWR="COMPATIBLE")) is None
    assert warm.fork(["child", str(tmp_path)], surroundings(**{WARM: "0"})) is None
    with warm.fork(["child", str(tmp_path)], surroundings()) as process:
        assert process.wait() == 2  # others are served


def test_a_fork_ends_by_a_signal_at_its_next_step_and_goes_on(warmed, was_fork, parent, tmp_path):
    child = slow_child(tmp_path / "child", parent)
    with started(["child", str(child.folder)], surroundings()) as process:
        wait_for_steps(child, 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM and was_fork[-1] is process
    assert not child.is_done and (child.folder / "resume.ckpt").exists()
    assert run_child(child) == 0 and steps_of(child) == [*range(1, len(steps_of(child)) + 1)]


def test_a_fork_whose_starter_leaves_is_killed(warmed, was_fork, parent, tmp_path):
    child = slow_child(tmp_path / "child", parent)
    with started(["child", str(child.folder)], surroundings()) as process:
        wait_for_steps(child, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), process._input)  # closed, as the system does when the starter is gone
        assert process.wait() == -signal.SIGKILL


def test_where_the_nursery_is_killed_its_forks_end_and_the_next_child_has_another(warmed, was_fork, parent, tmp_path):
    child = slow_child(tmp_path / "child", parent)
    with started(["child", str(child.folder)], surroundings()) as process:
        wait_for_steps(child, 3)
        warmed._process.kill()
        assert process.wait() == -signal.SIGKILL
        taken = len(steps_of(child))
    assert run_child(child) == 0 and child.is_done and isinstance(was_fork[-1], warm.Fork)
    assert 1 < steps_of(child)[taken:][0] <= taken + 1  # from its last checkpoint, which may be of its last step


def test_a_child_of_a_child_is_a_fork_of_the_same_nursery(warmed, monkeypatch, tmp_path):
    warmed.ask({"variables": surroundings(), "arguments": [], "cwd": "/nowhere"}, [])  # refused, and running
    monkeypatch.setenv(NURSERY, warmed._address)
    monkeypatch.setattr(warm, "_started", None)  # nobody starts another
    with warm.fork(["child", str(tmp_path)], surroundings()) as process:
        assert process.wait() == 2


def test_a_nursery_ends_where_nothing_is_asked_for_a_while_or_its_starter_is_gone(monkeypatch):
    handlers = {number: signal.getsignal(number) for number in (*warm.ENDING, signal.SIGCHLD)}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as whoever starts it may: it would learn no exit codes
    monkeypatch.setattr(warm, "IDLE", 0.01)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(warm.gc, "freeze", lambda: None)
    reading, writing = os.pipe()
    monkeypatch.setattr(
        warm.select, "select", lambda read, *rest: _select([reading, *read[1:]], *rest, reading=reading)
    )
    try:
        for close in (False, True):
            if close:
                os.close(writing)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind("")
                listener.listen()
                with pytest.raises(SystemExit) as left:
                    warm.serve(os.dup(listener.fileno()))
            assert left.value.code is None and signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        os.close(reading)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _select(*arguments, reading, select=select.select):
    ready, *rest = select(*arguments)
    return [[0 if each == reading else each for each in ready], *rest]


def test_another_user_and_a_process_with_threads_are_refused(monkeypatch):
    monkeypatch.setattr(warm.os, "getuid", lambda: -1)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        assert not warm._is_of_this_user(here)
    request = {"variables": warm._begun_with(), "arguments": [], "cwd": "."}
    assert warm._fits(request, [0, 1, 2]) == (threading.active_count() == 1)
    monkeypatch.setattr(warm.threading, "active_count", lambda: 1)
    assert warm._fits(request, [0, 1, 2]) and not warm._fits(request, [0])
    monkeypatch.setenv("SET_BY_AN_IMPORT", "1")
    for value, fits in (("1", True), ("2", False)):
        assert (
            warm._fits({**request, "variables": request["variables"] | {"SET_BY_AN_IMPORT": value}}, [0, 1, 2]) == fits
        )
    monkeypatch.setattr(warm.threading, "active_count", lambda: 2)
    assert not warm._fits(request, [0, 1, 2])


@pytest.mark.parametrize(
    ("begun", "asked", "fits"),
    [
        ({}, {"OMP_NUM_THREADS": "2"}, True),
        ({"OMP_NUM_THREADS": "2,1"}, {"OMP_NUM_THREADS": "2,1"}, True),
        ({}, {"OMP_NUM_THREADS": "2,1"}, False),
        ({}, {"OMP_NUM_THREADS": ""}, False),
        ({}, {"OMP_NUM_THREADS": "0"}, False),
        ({"OMP_NUM_THREADS": "2"}, {}, False),
        ({"PYTHONPATH": "/a"}, {"PYTHONPATH": "/b:/a"}, True),
        ({"PYTHONPATH": "/a:/b"}, {"PYTHONPATH": "/b"}, False),
    ],
)
def test_threads_that_cannot_be_set_and_paths_that_cannot_be_forgotten_are_no_forks(monkeypatch, begun, asked, fits):
    monkeypatch.setattr(warm.threading, "active_count", lambda: 1)
    monkeypatch.setattr(warm, "_begun_with", lambda: begun)
    assert warm._fits({"variables": asked}, [0, 1, 2]) == fits


def test_nobody_who_asks_and_leaves_or_says_nothing_holds_up_or_ends_the_forks_of_others(warmed, parent, tmp_path):
    child = slow_child(tmp_path / "child", parent)
    with warm.fork(["child", str(child.folder)], surroundings()) as fork:
        wait_for_steps(child, 1)
        lines = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        for line in lines:
            line.connect(f"\0{warmed._address}")
        lines[0].send(b"{}")
        lines[1].send(b"[1]")
        lines[0].close(), lines[1].close()
        assert fork.wait() == 0 and child.is_done
        lines[2].close()
    with warm.fork(["child", str(tmp_path)], surroundings()) as process:
        assert process.wait() == 2


def test_a_request_of_more_than_a_socket_takes_is_none_for_a_fork(warmed, tmp_path):
    assert warm.fork(["child", str(tmp_path)], surroundings(LOTTERY_LARGE="x" * 2**21)) is None
