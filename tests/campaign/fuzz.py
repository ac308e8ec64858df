"""Files that somebody has damaged or forged, thousands of them: what reads them refuses them in a sentence."""

import json
import pickle
import random
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.numpy import save
from torch import nn

from campaign.table import Outcome
from helpers.children import finished, lines_report
from helpers.stages import fit
from lightning_lottery import LotteryError, Ticket
from lightning_lottery import ticket as module
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve
from lightning_lottery.children.records import record
from lightning_lottery.connectivity.report import PathReport

ROOM = 1 << 30
"""Bytes that all files of a campaign may take together, beside what the process has when it begins."""

SECONDS = 30
"""Of the processor, that reading one file may take."""

SHOWN = 5
"""Failures of which the whole story is told."""

RUNS_CODE = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"}
"""What Python's audit calls the ways in which code of a file would run."""

RAN: list[str] = []


def _deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


CALL = "!!python/object/apply:os.system ['touch bang']"
NONSENSE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, float("nan"), float("inf")),
    *(
        "",
        "w",
        "parameter/w",
        "\ud800",
        "\0",
        "a" * 10_000,
        "../../etc/passwd",
        "__import__('os').system('true')",
        CALL,
    ),
    *(
        [],
        [[]],
        [0] * 1_000,
        [2**20] * 20,
        [-1, -1],
        [3.0],
        ["3"],
        _deep(50),
        _deep(400),
        {},
        {"": None},
        {"w": {"w": []}},
    ),
    {"class_path": "os.system", "init_args": {"command": "touch bang"}},
]
"""Whatever a value may be replaced by."""


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return eval, ("1 + 1",)


@contextmanager
def watched() -> Iterator[None]:
    """Bound this process's memory, and note in ``RAN`` what runs code; both for good."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(lambda event, _: RAN.append(event) if event in RUNS_CODE else None)
    previous = signal.signal(signal.SIGVTALRM, _too_slow)
    yield
    signal.signal(signal.SIGVTALRM, previous)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def tried(cases: Iterator[tuple[str, Callable[[], object]]]) -> Outcome:
    """Read every case: nothing but a LotteryError comes out, and no code runs."""
    total, failed, failures = 0, 0, list[str]()
    with watched():
        for name, read in cases:
            total += 1
            RAN.clear()
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            wrong = ""
            try:
                read()
            except LotteryError as error:
                wrong = "a refusal of several lines" if "\n" in str(error) else ""
            except Exception as error:
                wrong = f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if wrong := wrong or ", ".join(RAN):
                failed += 1
                failures += [f"{name}: {wrong}"] * (len(failures) < SHOWN)
    return Outcome(total, failures, failed)


# Bytes and values that are damaged.


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Flipped bits, or a piece cut out, repeated or put in."""
    changed = bytearray(content)
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    match chance.choice(("flip", "flip", "end", "cut", "repeat", "put in")):
        case "flip":
            for _ in range(chance.choice((1, 1, 1, 2, 8, 64))):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        case "end":
            del changed[start:]
        case "cut":
            del changed[start:end]
        case "repeat":
            changed[start:start] = changed[start:end]
        case "put in":
            changed[start:start] = chance.randbytes(chance.choice((1, 8, 1000)))
    return bytes(changed)


def nonsensical(chance: random.Random, value: Any) -> Any:
    """A value of plain types with another value, key or entry somewhere in it."""
    if not isinstance(value, (dict, list)) or not value or chance.random() < 0.2:
        return chance.choice(NONSENSE)
    if isinstance(value, dict):
        key = chance.choice(list(value))
        without = {name: inner for name, inner in value.items() if name != key}
        match chance.randrange(6):
            case 0:
                return without
            case 1:
                return {**without, str(chance.choice(NONSENSE))[:100]: value[key]}
            case 2:
                return {**value, str(chance.choice(NONSENSE))[:100]: chance.choice(NONSENSE)}
        return {**value, key: nonsensical(chance, value[key])}
    index = chance.randrange(len(value))
    return [*value[:index], nonsensical(chance, value[index]), *value[index + chance.randrange(2) :]]


# Tickets.


def _ticket() -> Ticket:
    bits = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    tied = torch.tensor([[True, False], [False, True]])
    return Ticket(
        {"w": bits, "z": tied, "scalar": torch.tensor(True), "empty": torch.ones(0, 3, dtype=torch.bool), "tied": tied},
        units={"heads": torch.tensor([True, False, True])},
        ties={"tied": "z"},
        provenance={"method": "PLATON", "sparsity": 0.5, "step": 3, "versions": {"torch": "2"}, "layers": [1, 2]},
    )


def forged(chance: random.Random, header: dict[str, Any], packed: dict[str, Any]) -> bytes:
    """A ticket whose header says nonsense, under a digest that fits it."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        header = nonsensical(chance, header)
        if not isinstance(header, dict):
            break
    text = json.dumps(header)
    if chance.random() < 0.02:
        text = text.replace("[", "[" * 100_000, 1)
    content: Any = {"digest": module._digest(text, packed), "ticket": text}
    if chance.random() < 0.1:
        content = nonsensical(chance, content)
    return bytes(save(packed, {module.FORMAT: json.dumps(content)}))


def outside(chance: random.Random, content: bytes) -> bytes:
    """A ticket in whose file the format's own table of tensors says nonsense."""
    (length,) = struct.unpack("<Q", content[:8])
    table = json.dumps(nonsensical(chance, json.loads(content[8 : 8 + length]))).encode()
    claimed = chance.choice((len(table),) * 4 + (0, 2**62, 10**8))
    return struct.pack("<Q", claimed) + table + content[8 + length :]


def _foreign(chance: random.Random) -> bytes:
    return chance.choice((pickle.dumps(Bomb()), chance.randbytes(200), b"", b"{}", b"[" * 200_000, bytes(1000)))


def _look_at(path: Path) -> None:
    ticket = Ticket.load(path)
    repr(ticket), ticket.table(), ticket.sparsity, ticket.shuffled(0), ticket.hamming(ticket)
    ticket.save(path.with_name("again"))
    if not Ticket.load(path.with_name("again")).hamming(ticket) == 0:
        raise ValueError("a ticket that is another one when it is saved and loaded")
    ticket.check(nn.Linear(9, 5))


def tickets(number: int, folder: Path) -> Outcome:
    """So many files that were tickets, or say so."""
    chance, path = random.Random(number), folder / "ticket"
    _ticket().save(path)
    content = path.read_bytes()
    metadata, packed = module._read(path)
    header = json.loads(json.loads(metadata[module.FORMAT])["ticket"])
    kinds: dict[str, Callable[[], bytes]] = {
        "damaged": lambda: damaged(chance, content),
        "forged": lambda: forged(chance, header, packed),
        "outside": lambda: outside(chance, content),
        "foreign": lambda: _foreign(chance),
    }
    names = chance.choices([*kinds], weights=(45, 35, 15, 5), k=number)

    def cases() -> Iterator[tuple[str, Callable[[], object]]]:
        for name in names:
            path.unlink()  # ext4 forces a file that is cut and rewritten to the disk: slow, thousands of times
            path.write_bytes(forgery := kinds[name]())
            yield f"{name} {forgery[:3000]!r}", lambda: _look_at(path)

    module.write_whole = _write_at_once
    _look_at(path)  # what it imports would count as code that runs
    return tried(cases())


def _write_at_once(path: Path, content: bytes, what: str) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


# What children leave, and what users write.


def texts(number: int, folder: Path) -> Outcome:
    """So many files of a finished child, reports and YAMLs."""
    chance = random.Random(number)
    child = Child(folder / "child", "fit", {**fit(), "ckpt_path": None})
    rows = [record(stage="a", seed=1, step=3, metric="test_acc", value=0.5, density=1.0, n=8)]
    finished(child, rows)
    report, config = folder / "report.json", folder / "fit.yaml"
    lines_report(0.1).save(report)
    config.write_text(yaml.safe_dump(fit()))
    readers: dict[Path, Callable[[], object]] = {
        child.folder / "child.json": lambda: Child.load(child.folder).is_done,
        child.folder / "config.yaml": lambda: Child.load(child.folder),
        child.folder / "done": lambda: child.is_done,
        child.folder / "results.jsonl": lambda: child.records(),
        report: lambda: _summary_of(report),
        config: lambda: resolve(["fit", "--config", str(config)]),
    }
    whole = {path: path.read_bytes() for path in readers}
    for read in readers.values():
        read()  # as above

    def cases() -> Iterator[tuple[str, Callable[[], object]]]:
        for path in chance.choices([*readers], weights=(20, 20, 10, 20, 20, 1), k=number):
            for intact, content in whole.items():
                _write_at_once(intact, content, "")
            path.unlink()
            path.write_bytes(forgery := _forged_text(chance, path, whole[path]))
            yield f"{path.name} {forgery[:3000]!r}", readers[path]

    return tried(cases())


def _summary_of(path: Path) -> None:
    report = PathReport.load(path)
    json.dumps(report.summary()), report.sentences(), report.rows()


LAUGHS = "\n".join(["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
"""A short text that is a thousand million values."""


def _forged_text(chance: random.Random, path: Path, content: bytes) -> bytes:
    if chance.random() < 0.4:
        return damaged(chance, content)
    if path.suffix == ".yaml":
        if chance.random() < 0.3:
            lines = content.decode().splitlines()
            extra = chance.choice(
                (LAUGHS, f"bomb: {CALL}", "a: &a [*a]", "<<: *nobody", "? [a, b]\n: c", "a: " + "[" * 5_000)
            )
            lines.insert(chance.randrange(len(lines) + 1), extra)
            return "\n".join(lines).encode()
        return json.dumps(nonsensical(chance, yaml.safe_load(content))).encode()  # YAML as well
    try:
        return json.dumps(nonsensical(chance, json.loads(content))).encode()
    except ValueError:  # rows
        return b"".join(json.dumps(nonsensical(chance, json.loads(line))).encode() for line in content.splitlines())
