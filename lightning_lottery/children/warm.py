"""Children that start at once: forks of a process that has imported everything, trained nothing and runs no thread.

That process, the *nursery*, is started when the first child is, and serves all whom its starter and its children start.
It ends with its starter, in whatever way that ends, or after a minute without work. A request brings along standard
input, output and error, the working directory and the whole environment, so that nothing but its parent tells a fork
from a process of its own. Only on Linux: elsewhere it is not safe to fork a process that has loaded this much.
"""

import gc
import json
import os
import random
import re
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module, invalidate_caches
from typing import IO, Any, Protocol

from lightning_lottery.children.environment import NURSERY, RESUME_FROM, TIED, WARM
from lightning_lottery.children.signals import ENDING, begin_anew

IDLE = 60.0
"""Seconds without a child after which a nursery ends."""

PATIENCE = 300.0
"""Seconds to wait for a nursery, which may be importing on a busy machine, before a child is started without it."""

MOST = 2**20
"""Bytes of a request: an environment, and a few paths."""

THREADS = "OMP_NUM_THREADS"
"""Threads of a process, as libraries read it when they are loaded."""

PER_CHILD = ("LOTTERY_", "PL_", THREADS, "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
"""How variables begin that are read after the imports, or that are set for a fork: each child may have others.

All others may have been read by whatever was imported: a child with other values is started without the nursery.
"""


class Process(Protocol):
    """As much of ``subprocess.Popen`` as whoever starts a child needs."""

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""

    def wait(self) -> int:
        """The same, once it has ended."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal, unless it has ended."""

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""


class Fork:
    """A fork of the nursery, as whoever asked for it sees it; as a context, it ends before the block does.

    Args:
        line: The connection on which its exit code will come.
        pid: Its process.
        input: Descriptor of the writing end of its standard input.
    """

    def __init__(self, line: socket.socket, pid: int, input: int) -> None:
        self.pid = pid
        self._line, self._input = line, input
        self._code: int | None = None

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._input)
        self.wait()

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self._code is None:
            answers = select.poll()  # `select.select` takes no descriptor above 1023
            answers.register(self._line, select.POLLIN)
            if answers.poll(0):
                self.wait()
        return self._code

    def wait(self) -> int:
        """The same, once it has ended."""
        if self._code is None:
            if answer := _receive(self._line):
                self._code = int(answer["code"])
            else:  # the nursery was killed: nobody learns any more how its fork ends
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                self._code = -signal.SIGKILL
            self._line.close()
        return self._code

    def send_signal(self, number: int, /) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def fork(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    stdout: IO[bytes] | None = None,
    stderr: int | None = None,
    cwd: str | None = None,
) -> Fork | None:
    """Start this package's command in a fork of the nursery; None where there can be none.

    Args:
        arguments: Of the command, such as ``["child", "runs/a"]``.
        variables: Its whole environment.
        stdout: As of ``subprocess.Popen``, as are ``stderr`` and ``cwd``.
        stderr: ``subprocess.STDOUT``, or None.
        cwd: Its working directory; default: that of this process.
    """
    # Descriptors of closed outputs would be taken by other files.
    has_outputs = sys.stdout is not None and sys.stderr is not None
    if sys.platform != "linux" or variables.get(WARM) == "0" or not has_outputs:
        return None
    output = 1 if stdout is None else stdout.fileno()
    reading, writing = os.pipe()
    files = [reading, output, output if stderr == subprocess.STDOUT else 2]
    request = {"arguments": [*arguments], "cwd": cwd or os.getcwd(), "variables": dict(variables)}
    try:
        # The nursery of this process's starter, then this process's own.
        asked = None
        if NURSERY in os.environ:
            with suppress(OSError):
                asked = _ask(os.environ[NURSERY], request, files)
        if asked := asked or _started.ask(request, files):
            return Fork(*asked, writing)
        os.close(writing)
        return None
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)


def _ask(address: str, request: dict[str, Any], files: Sequence[int]) -> tuple[socket.socket, int] | None:
    """Ask the nursery of an address; None where it refuses.

    Raises:
        OSError: It is gone.
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        line.settimeout(PATIENCE)
        line.connect(f"\0{address}")
        request["variables"][NURSERY] = address
        socket.send_fds(line, [json.dumps(request).encode()], files)
        if not (answer := _receive(line)):
            raise ConnectionResetError
        if "pid" in answer:
            line.settimeout(None)
            return line, answer["pid"]
    except BaseException:  # also a signal: a fork that nobody waits for ends with its input
        line.close()
        raise
    line.close()
    return None


def _receive(line: socket.socket) -> dict[str, Any] | None:
    """The next message, None where the one at the other end is gone."""
    try:
        text = line.recv(MOST)
    except ConnectionError:
        return None
    return json.loads(text) if text else None


class _Started:
    """The nursery that this process started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # the workers of Dask are threads
        self._process: subprocess.Popen[bytes] | None = None
        self._address, self._owner = "", 0

    def ask(self, request: dict[str, Any], files: Sequence[int]) -> tuple[socket.socket, int] | None:
        """Ask it; one that has ended, or is that of a process which this one is a fork of, is started anew."""
        for _ in range(2):
            with self._lock:
                if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
                    self._start(request["variables"])
                address, process = self._address, self._process
            try:
                return _ask(address, request, files)
            except OSError:
                try:
                    process.wait(1)  # type: ignore[union-attr]
                except subprocess.TimeoutExpired:
                    return None  # it hangs, or this request is more than it takes
        return None

    def _start(self, variables: Mapping[str, str]) -> None:
        # A name in no folder (Linux), so that nobody has to remove it. It is bound here: what is asked meanwhile waits.
        self._address, self._owner = f"lightning-lottery-{secrets.token_hex(16)}", os.getpid()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # of one that has ended, or in a fork of the process whose it is
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"\0{self._address}")
            listener.listen(1024)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lightning_lottery", "warm", str(listener.fileno())],
                env={name: value for name, value in variables.items() if name not in (TIED, RESUME_FROM)},
                stdin=subprocess.PIPE,  # whose writing end is here alone: it ends when this process does
                pass_fds=[listener.fileno()],
            )


_started = _Started()


def serve(listening: int) -> list[str]:
    """Fork at every request until nobody needs it any more; comes back in forks alone, with their arguments.

    Args:
        listening: Descriptor of the socket that requests come in at.

    Raises:
        SystemExit: The process that started it is gone, or nothing was asked for a while.
    """
    # A terminal sends them to everybody: they are the children's, whose exit codes this process is there to tell.
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    # Ignored, as somebody who starts this may have it, there would be no exit codes.
    handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.path[:] = [path for path in sys.path if path != os.getcwd()]  # a fork has that of whoever asks for it
    gc.freeze()  # or collecting would copy every page of every fork
    listener = socket.socket(fileno=listening)
    lines: dict[int, socket.socket] = {}
    inputs: list[Any] = [0, listener]
    with listener:
        while True:
            # Exit codes are looked for now and then: a handler of SIGCHLD would be the forks' as well.
            ready, _, _ = select.select(inputs, [], [], 0.02 if lines else IDLE)
            if 0 in ready or (not ready and not lines):
                raise SystemExit
            _tell_exit_codes(lines)
            if listener in ready:
                line, _ = listener.accept()
                request, files = _read_request(line)
                pid = None if request is None else _fork()
                if request is not None and pid == 0:
                    for each in (listener, line, *lines.values()):
                        each.close()
                    _become(request, files)
                    begin_anew(handlers)
                    return list(request["arguments"])
                for file in files:
                    os.close(file)
                if pid is None:
                    line.close()
                else:
                    lines[pid] = line
                    with suppress(OSError):  # who asked may be gone, and the fork's input with it
                        line.send(json.dumps({"pid": pid}).encode())


def _read_request(line: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """What is asked for, and the descriptors that came along; None where it is refused, whoever asks and whatever.

    Nothing that somebody sends, or does not send, may end or hold up the process that others' forks hang on.
    """
    files: list[int] = []
    try:
        if _is_of_this_user(line):
            line.settimeout(1)
            text, files, _, _ = socket.recv_fds(line, MOST, 3)
            request = json.loads(text)
            if _fits(request, files):
                line.settimeout(None)
                return request, files
            line.send(json.dumps({"refused": True}).encode())
    except (OSError, ValueError, TypeError, LookupError, AttributeError):  # gone, or no request
        pass
    return None, files


def _fork() -> int | None:
    """0 in the fork, where signals that ask it to end wait until it can answer them; None where there can be none."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    with warnings.catch_warnings():
        # Of threads: those there are, of numerical libraries, are ended and begun anew around a fork by these.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            pid = os.fork()
        except OSError:  # no memory, or no process more
            pid = None
    if pid != 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    return pid


def _is_of_this_user(line: socket.socket) -> bool:
    """Whether who asks is this user: anybody on the machine may connect to the name."""
    _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())


def _fits(request: Mapping[str, Any], files: Sequence[int]) -> bool:
    """Whether a fork of this process is what a process of its own with this environment would be."""
    import torch

    has_device = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if not request or len(files) != 3 or threading.active_count() > 1 or has_device:
        return False
    begun, variables = _begun_with(), request["variables"]
    threads, loses_paths = variables.get(THREADS), not {*_paths(begun)} <= {*_paths(variables)}
    has_threads = threads == begun.get(THREADS) or (threads is not None and re.fullmatch("[1-9][0-9]*", threads))
    return (
        not loses_paths
        and bool(has_threads)
        and all(
            # What imports set here they have set in whoever asks as well, where that is a child itself.
            variables.get(name) in (begun.get(name), os.environ.get(name))
            for name in begun.keys() | variables.keys()
            if not name.startswith(PER_CHILD)
        )
    )


def _paths(variables: Mapping[str, str]) -> list[str]:
    return [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]


def _begun_with() -> dict[str, str]:
    """The environment that this process was started with: what was imported has set variables since."""
    with open("/proc/self/environ", "rb") as file:
        lines = os.fsdecode(file.read()).split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _become(request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Take over what a request brought along, in a fork."""
    import numpy as np
    import torch

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.chdir(request["cwd"])
    begun = _begun_with()
    set_by_imports = {name: value for name, value in os.environ.items() if begun.get(name) != value}
    os.environ.clear()
    os.environ.update(request["variables"] | set_by_imports)
    if (threads := os.environ.get(THREADS)) is not None and threads != begun.get(THREADS):
        torch.set_num_threads(int(threads))
        with suppress(ImportError):  # NumPy's and SciPy's libraries read the variable when they were loaded
            import_module("threadpoolctl").threadpool_limits(int(threads))
    sys.path[:] = dict.fromkeys([request["cwd"], *_paths(os.environ), *sys.path])
    invalidate_caches()  # of a folder that there was not yet, Python remembers that there is none
    sys.argv[1:] = request["arguments"]
    random.seed()
    np.random.seed()


def _tell_exit_codes(lines: dict[int, socket.socket]) -> None:
    while lines:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with suppress(KeyError), lines.pop(pid) as line, suppress(OSError):  # who asked may be gone
            line.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
