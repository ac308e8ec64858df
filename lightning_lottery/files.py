"""Files: written whole or not at all, here or under a URL, known by a hash, in folders that one process holds."""

import csv
import glob
import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lightning_lottery.errors import LotteryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

# Not there on Windows, where a file that somebody has open cannot be removed anyway.
_FCNTL: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None


MOST = 256 << 20
"""Bytes of the largest text that is read: more than a million records."""


@dataclass(frozen=True)
class Remote:
    """A folder or file that fsspec reaches under a URL: ``s3://bucket/run``; as much of a ``Path`` as writing takes."""

    url: str

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url


Location = Path | Remote
"""Where files go: a folder or file of this machine, or one under a URL."""


def location(path: "str | os.PathLike[str] | Remote") -> Location:
    """A path, or what a URL names: ``s3://bucket/run`` is no local folder of that name.

    Raises:
        LotteryError: fsspec does not know the URL's protocol, or lacks the package for it.
    """
    if isinstance(path, Remote) or ":" not in (text := os.fspath(path)):
        return path if isinstance(path, Remote) else Path(path)
    from fsspec.core import url_to_fs
    from fsspec.utils import get_protocol

    protocol = get_protocol(text)
    if protocol == "file" and not text.startswith("file:"):  # a colon in a name, or a drive
        return Path(text)
    try:
        inner = url_to_fs(text)[1]
    except (ImportError, ValueError) as error:
        raise LotteryError(f"'{text}' cannot be written to: {error}") from error
    return Path(inner) if protocol in ("file", "local") else Remote(text)


def opened(path: Location) -> IO[bytes]:
    """A file to read from its beginning.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    if isinstance(path, Path):
        return open(path, "rb")
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path.url)
    file: IO[bytes] = system.open(inner, "rb")
    return file


def read_text(path: Path, what: str) -> str:
    """The text of a file.

    Args:
        path: Where.
        what: What the file is, for the refusal: "records".

    Raises:
        LotteryError: It is not there, cannot be read, has more than ``MOST`` bytes, or is no text in UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST + 1)
        if len(content) > MOST:
            raise LotteryError(f"The {what} '{path}' has more than {MOST >> 20} MiB: it is something else.")
        return content.decode()
    except OSError as error:
        raise LotteryError(f"The {what} '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise LotteryError(f"The {what} '{path}' is no text in UTF-8: {error.reason} at byte {error.start}.") from error


def write_whole(path: Location, content: bytes, what: str) -> None:
    """Write a file so that no reader ever sees a part of it.

    Args:
        path: Where; its folder is made.
        content: The bytes.
        what: What the file is, for the refusal: "ticket".

    Raises:
        LotteryError: It cannot be written (full disk, no permission); nothing is left behind.
    """
    with written_whole(path, what) as file:
        file.write(content)


@contextmanager
def written_whole(path: Location, what: str) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when the block ends: no reader ever sees a part of it.

    On this machine it is written beside its target, forced to the disk and renamed. A store under a URL has no such
    rename; there the file is put when it is complete, by fsspec's transaction: object stores (S3, GCS, Azure) show an
    upload only then, other file systems (SFTP, SMB) rename. What a kill leaves of an unfinished upload expires as the
    store has it.

    Args:
        path: Where; its folder is made.
        what: What the file is, for the refusal: "ticket".

    Raises:
        LotteryError: It cannot be written; nothing is left behind, and an older file of the name stays.
    """
    try:
        with _put(path) if isinstance(path, Remote) else _written_beside(path) as file:
            yield file
    except OSError as error:
        raise LotteryError(f"The {what} '{path}' could not be written: {error.strerror or error}.") from error


@contextmanager
def _written_beside(path: Path) -> Iterator[IO[bytes]]:
    # In the same folder: a rename within one file system replaces the target in one step, across two it copies.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    try:
        with open(partial, "wb") as file:
            with suppress(OSError):  # some network file systems have no locks
                _hold(file)
            yield file
        with open(partial, "r+b") as file:  # by its name: who was given that may have put another file there
            os.fsync(file.fileno())  # else a crash after the rename may leave an empty file under the final name
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _put(path: Remote) -> Iterator[IO[bytes]]:
    from fsspec.core import url_to_fs

    try:
        # A file system's object has one transaction at a time, and fsspec shares the object: the end of ours would
        # commit what another thread, such as Lightning's AsyncCheckpointIO, has half written.
        system, inner = url_to_fs(path.url, skip_instance_cache=True)
        system.makedirs(inner.rsplit("/", 1)[0], exist_ok=True)
        with system.transaction, system.open(inner, "wb") as file:
            yield file
    except OSError:
        raise
    except Exception as error:  # what else a store's own client raises: no credentials, no bucket, no connection
        raise OSError(str(error)) from error


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of files they were writing; what a living one is writing stays.

    Args:
        folder: Where the files were to be.
        name: Of which file; default: of all in the folder.
    """
    for partial in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.partial"):
        with suppress(OSError):
            with open(partial, "r+b") as file:
                _hold(file)  # fails where its writer lives
            partial.unlink()


def remove_file(path: Path) -> None:
    """Remove a file, where there is one.

    Raises:
        LotteryError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise LotteryError(f"'{path}' cannot be removed: {error.strerror or error}.") from error


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it; a link to one stays, with nothing in the folder that it leads to.

    Raises:
        LotteryError: Something in it cannot be removed.
    """
    try:
        if not folder.is_symlink():
            shutil.rmtree(folder)
            return
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise LotteryError(f"'{error.filename or folder}' cannot be removed: {error.strerror or error}.") from error


def _hold(file: IO[bytes]) -> None:
    """Lock a file as long as it is open; the system gives it free when the process dies, in whatever way."""
    if _FCNTL is not None:
        _FCNTL.flock(file, _FCNTL.LOCK_EX | _FCNTL.LOCK_NB)


def write_table(path: Location, rows: Sequence[Mapping[str, Any]], what: str, *, columns: Sequence[str] = ()) -> None:
    """Write rows as CSV, a column for every key; a list in a cell is written with spaces between its values.

    Args:
        path: Where; its folder is made.
        rows: Column to value; a row may lack columns, whose cells then stay empty.
        what: What the file is, for the refusal: "norms".
        columns: Those that come first, also where no row has them: the header of a table without rows.

    Raises:
        LotteryError: It cannot be written.
    """
    text = StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys((*columns, *(key for row in rows for key in row)))))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for key, v in row.items()})
    write_whole(path, text.getvalue().encode(), what)


def write_image(folder: Location, name: str, figure: "Figure") -> None:
    """Write a figure as ``NAME.png`` and ``NAME.svg``: the same bytes for the same figure.

    Raises:
        LotteryError: One cannot be written.
    """
    from matplotlib import style

    from lightning_lottery.figures.style import STYLE

    # Ticks are made only when a figure is drawn, by the settings of that moment: a notebook's may be white on black.
    with style.context(["default", STYLE]):
        for ending, options in (("png", {"dpi": 120}), ("svg", {"metadata": {"Date": None}})):
            image = BytesIO()
            figure.savefig(image, format=ending, facecolor="white", **options)
            write_whole(folder / f"{name}.{ending}", image.getvalue(), "figure")


def hash_of_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """Hexadecimal hash of names, dtypes, shapes and bits: equal only for equal tensors, order aside."""
    import torch

    digest = blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_of_file(path: Path) -> str:
    """Hexadecimal hash of a file's bytes."""
    digest = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder until the block, or this process, ends in whatever way.

    Args:
        folder: That others are kept from by the same lock, its file ``.lock``.
        wait: Where another process is in it, wait for it to end.

    Raises:
        LotteryError: Another process is in it, or the lock cannot be had.
    """
    # The system gives the lock free when the process dies, also by SIGKILL: a killed run leaves no stale lock.
    lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise LotteryError(f"Another process is training '{folder}': wait for it, or end it.") from error
    except OSError as error:
        raise LotteryError(f"'{folder / '.lock'}' cannot be locked: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()
