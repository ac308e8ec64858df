"""Files: written whole or not at all, known by a hash, in folders that one process holds."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lightning_lottery.errors import LotteryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Write a file so that no reader ever sees a part of it.

    Args:
        path: Where; its folder is made.
        content: The bytes.
        what: What the file is, for the refusal: "ticket".

    Raises:
        LotteryError: It cannot be written (full disk, no permission); nothing is left behind.
    """
    with written_beside(path, what) as partial, open(partial, "wb") as file:
        file.write(content)


@contextmanager
def written_beside(path: Path, what: str) -> Iterator[Path]:
    """The path of a file to write beside ``path``: forced to the disk and renamed when the block ends.

    Args:
        path: Where the file is to be; its folder is made.
        what: What the file is, for the refusal: "ticket".

    Raises:
        LotteryError: It cannot be written; nothing is left behind.
    """
    # In the same folder: a rename within one file system replaces the target in one step, across two it copies.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())  # else a crash after the rename may leave an empty file under the final name
        os.replace(partial, path)
    except OSError as error:
        raise LotteryError(f"The {what} '{path}' could not be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], what: str, *, columns: Sequence[str] = ()) -> None:
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


def write_image(path: Path, figure: "Figure") -> None:
    """Write a figure as PNG.

    Raises:
        LotteryError: It cannot be written.
    """
    image = BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue(), "figure")


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
        LotteryError: Another process is in it.
    """
    try:
        # The system gives the lock free when the process dies, also by SIGKILL: a killed run leaves no stale lock.
        with FileLock(folder / ".lock", timeout=-1 if wait else 0):
            yield
    except Timeout as error:
        raise LotteryError(f"Another process is training '{folder}': wait for it, or end it.") from error
