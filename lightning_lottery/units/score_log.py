"""The scores of all units over a fit, in a file: bit for bit, block by block, so that draws can be replayed from it."""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import index
from pathlib import Path
from shutil import copyfileobj
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.settling import scores_over_steps
from lightning_lottery.files import Location, Remote, write_whole, written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "scores.log"

_MAGIC = b"lightning_lottery scores 1\n"
_HEADER = struct.Struct("<I")  # bytes of the JSON that follows
_BLOCK = struct.Struct("<III")  # rows, bytes of what follows, and their checksum
_MOST_ROWS = 1 << 12
_MOST_HEADER = 64 << 20
_PIECE = 1 << 24  # bytes that are copied at a time


class Block(NamedTuple):
    """Rows that were noted one after another: their optimizer steps, and where they lie in the file."""

    steps: list[int]
    offset: int
    end: int


class ScoreLog:
    """Writes the scores of all units of each step that is noted: exactly, so that masks made of them are the same.

    Scores are float32. Of each block, which a probe ends or 100 rows do, a row is stored as what changed in its bits
    since the row before, compressed: about two bytes a unit and step for coefficients that an optimizer moves, four at
    most. The file stays below ``most``, 1 GiB: then it ends, and whoever reads it is told where.

    Nothing but whole blocks is ever read. A fit that goes on from a checkpoint drops those that came after it; where
    the log until then is neither in its folder nor beside the checkpoint, the log begins anew. Under a URL nothing can
    be appended: there the file appears when the fit ends, and until this object is gone it lies in a temporary one.

    Args:
        header: Of what the scores are, as plain JSON values.
        most: Bytes that the file has at most.
    """

    def __init__(self, header: Mapping[str, Any], *, most: int = 1 << 30) -> None:
        text = json.dumps(header).encode()
        self._head = _MAGIC + _HEADER.pack(len(text)) + text
        self._most = most
        self._path: Path | None = None
        self._target: Location | None = None
        self._checksum = 0  # of all blocks since the fit began: it tells whether a file holds them
        self.why_ended: str | None = None
        """A sentence's end, where nothing is added to the file any more."""

    def begin(self, target: Location) -> None:
        """Begin the file, in place of an older one.

        Raises:
            LotteryError: It cannot be written.
        """
        self._target, self._checksum, self.why_ended = target, 0, None
        if isinstance(target, Path):
            self._path = target
            write_whole(target, self._head, "log of scores")
        else:
            with NamedTemporaryFile(delete=False) as file:
                file.write(self._head)
            self._path = Path(file.name)
            # However the fit ends, and also where the same Trainer goes on: it may still be read and added to.
            finalize(self, self._path.unlink, missing_ok=True)

    def go_on(self, target: Location, beside: Sequence[Path], step: int) -> bool:
        """Go on with the file of the fit whose checkpoint ``load_state_dict`` was given.

        Args:
            target: Where it is to be.
            beside: Where it may be instead: then it is copied.
            step: The last step that was noted before the checkpoint; what lies behind it is dropped.

        Returns:
            Whether it was there; else a new one has begun.

        Raises:
            LotteryError: It cannot be written.
        """
        for path in (target, *beside):
            if not isinstance(target, Path) or not isinstance(path, Path):
                break
            with suppress(OSError):
                size = self._size_until(path, step)
                if not size:
                    continue
                if path == target:
                    os.truncate(path, size)
                else:
                    with open(path, "rb") as file, written_whole(target, "log of scores") as copy:
                        for start in range(0, size, _PIECE):
                            copy.write(file.read(min(_PIECE, size - start)))
                self._target = self._path = target
                return True
        self.begin(target)
        return False

    def state_dict(self) -> dict[str, Any]:
        """What tells the file again, as plain values."""
        return {"checksum": self._checksum, "why_ended": self.why_ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; ``go_on`` then finds the file."""
        self._checksum = index(state["checksum"])
        self.why_ended = None if state["why_ended"] is None else str(state["why_ended"])

    def append(self, steps: Sequence[int], rows: Tensor) -> None:
        """Add rows; does nothing where nothing was begun, or where the file has ended.

        Args:
            steps: Their optimizer steps, rising.
            rows: float32, one for each step, on the CPU.
        """
        if self._path is None or self.why_ended is not None or not len(steps):
            return
        content = np.array(steps, dtype="<i8").tobytes() + packed(rows.numpy())
        block = _BLOCK.pack(len(steps), len(content), zlib.crc32(content)) + content
        try:
            if self._path.stat().st_size + len(block) > self._most:
                self.why_ended = f"has reached {self._most >> 20} MiB"
                return
            with open(self._path, "ab") as file:
                file.write(block)
        except OSError as error:
            self.why_ended = f"could not be written: {error.strerror or error}"
            return
        self._checksum = zlib.crc32(block, self._checksum)

    def read(self) -> "LoggedScores | None":
        """What is in the file now; None where none was begun."""
        return None if self._path is None else LoggedScores(self._path)

    def end(self) -> None:
        """Put what was written under a URL.

        Raises:
            LotteryError: It cannot be.
        """
        if self._path is not None and isinstance(self._target, Remote):
            with open(self._path, "rb") as file, written_whole(self._target, "log of scores") as copy:
                copyfileobj(file, copy)

    def _size_until(self, path: Path, step: int) -> int:
        """Bytes of a file up to a step, if it is this log until then; else 0."""
        with open(path, "rb") as file:
            if file.read(len(self._head)) != self._head:
                return 0
            size, total = len(self._head), 0
            for block in _blocks(file, units=None):
                if block.steps[-1] > step:
                    break
                file.seek(size)
                total = zlib.crc32(file.read(block.end - size), total)
                size = block.end
        return size if total == self._checksum else 0


class LoggedScores:
    """A log of scores, as it can be read: whole blocks, however a fit ended.

    Args:
        path: The file.

    Raises:
        LotteryError: It is not there, or is no log of scores.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                if file.read(len(_MAGIC)) != _MAGIC:
                    raise LotteryError(f"'{path}' is no log of scores, or of another version.")
                (length,) = _HEADER.unpack(file.read(_HEADER.size))
                if length > _MOST_HEADER:
                    raise LotteryError(f"'{path}' is no log of scores: its header would have {length} bytes.")
                self.header: dict[str, Any] = json.loads(file.read(length))
                self.layers: dict[str, dict[str, int]] = {
                    kind: {name: int(size) for name, size in sizes.items()}
                    for kind, sizes in self.header["layers"].items()
                }
                if any(size < 1 for sizes in self.layers.values() for size in sizes.values()):
                    raise ValueError("a layer has no unit")
                self.units = sum(size for sizes in self.layers.values() for size in sizes.values())
                self.blocks = list(_blocks(file, self.units))
        except OSError as error:
            raise LotteryError(f"The log of scores '{path}' cannot be read: {error.strerror or error}.") from error
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
            if isinstance(error, LotteryError):
                raise
            raise LotteryError(f"'{path}' is no log of scores: {type(error).__name__}: {error}.") from error

    @property
    def steps(self) -> list[int]:
        """The optimizer steps whose scores it holds."""
        return [step for block in self.blocks for step in block.steps]

    def sample(self, most: int = 200) -> tuple[list[int], Tensor]:
        """So many steps at most, evenly spaced where blocks are, and their rows."""
        latest = len(self.blocks) - 1
        numbers = sorted({round(i * latest / (most - 1)) for i in range(most)}) if self.blocks else []
        last = [(steps[-1], rows[-1]) for steps, rows in self.rows([self.blocks[number] for number in numbers])]
        rows = torch.stack([row for _, row in last]) if last else torch.zeros(0, self.units)
        return [step for step, _ in last], rows

    def figure(self) -> "Figure":
        """The scores of all units over the steps of a sample."""
        steps, rows = self.sample()
        parts = iter(torch.split(rows, [size for sizes in self.layers.values() for size in sizes.values()], dim=1))
        layers = {kind: {name: next(parts).numpy() for name in sizes} for kind, sizes in self.layers.items()}
        words = "norm of a unit's weights" if self.header.get("scores") == "weights" else "slimming coefficient"
        return scores_over_steps(steps, layers, words)

    def rows(self, blocks: Sequence[Block] | None = None) -> Iterator[tuple[list[int], Tensor]]:
        """Block by block the steps and their rows, float32; default: of all blocks.

        Raises:
            LotteryError: A block is damaged.
        """
        with open(self.path, "rb") as file:
            for block in self.blocks if blocks is None else blocks:
                file.seek(block.offset)
                content = file.read(block.end - block.offset)
                yield block.steps, torch.from_numpy(unpacked(content, len(block.steps), self.units, self.path))


def packed(rows: Any) -> bytes:
    """Rows of float32, each as what changed in its bits since the one before, compressed.

    Example:
        >>> rows = np.float32([[1.0, 2.0], [1.5, 2.0]])
        >>> bool((unpacked(packed(rows), 2, 2, "here") == rows).all())
        True
    """
    bits = np.ascontiguousarray(rows, dtype="<f4").view("<u4")
    changes = np.concatenate([bits[:1], bits[1:] ^ bits[:-1]])
    # The first bytes of all numbers, then the second ones ...: signs and exponents, which hardly change, lie together.
    apart = np.ascontiguousarray(changes.view(np.uint8).reshape(*changes.shape, 4).transpose(2, 0, 1))
    return zlib.compress(apart.tobytes(), 1)


def unpacked(content: bytes, rows: int, units: int, path: Any) -> Any:
    """What ``packed`` was given: a float32 array of shape (rows, units).

    Raises:
        LotteryError: It was given something else.
    """
    size = 4 * rows * units
    try:
        decompressor = zlib.decompressobj()
        plain = decompressor.decompress(content, size + 1)  # no more memory than so much, whatever a file says
    except zlib.error as error:
        raise LotteryError(f"A block of '{path}' is damaged: {error}.") from error
    if len(plain) != size:
        raise LotteryError(f"A block of '{path}' is damaged: it does not hold {rows} rows of {units} scores.")
    apart = np.frombuffer(plain, dtype=np.uint8).reshape(4, rows, units)
    changes = np.ascontiguousarray(apart.transpose(1, 2, 0)).view("<u4")[..., 0]
    return np.bitwise_xor.accumulate(changes, axis=0).view("<f4")


def _blocks(file: IO[bytes], units: int | None) -> Iterator[Block]:
    """The whole blocks from where a file stands; what a killed fit left of one, and all behind it, is passed over."""
    last = 0
    while len(head := file.read(_BLOCK.size)) == _BLOCK.size:
        rows, length, checksum = _BLOCK.unpack(head)
        start = file.tell()
        # Compressed, random bits are longer than they are by zlib's own framing: less than a hundredth.
        most = float("inf") if units is None else 8 * rows + 4.04 * rows * units + 1000
        if not 0 < rows <= _MOST_ROWS or length > most:
            return
        content = file.read(length)
        if len(content) < length or length < 8 * rows or zlib.crc32(content) != checksum:
            return
        steps: list[int] = np.frombuffer(content[: 8 * rows], dtype="<i8").tolist()
        if steps[0] <= last or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            return
        last = steps[-1]
        yield Block(steps, start + 8 * rows, start + length)
        file.seek(start + length)
