"""Checkpoints that are folders, as sharded fits write them: read whole by one process, told apart, removed."""

import os
import pickle
import warnings
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from lightning_lottery.children.reading import not_a_checkpoint
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_file, remove_file, remove_tree

WEIGHTS = "state_dict."
"""How the names of a network's tensors begin, beside those of optimizers."""

REST = "meta.pt"
"""Lightning's file of all that is not sharded."""

_PLAIN = {
    "collections": ("OrderedDict",),
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
}
"""What the table of contents is made of. Dtypes are found as attributes of torch."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout)):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a table of contents")


def is_folder(ckpt_path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a sharded checkpoint."""
    return os.path.isfile(os.path.join(ckpt_path, ".metadata"))


def load_checkpoint(ckpt_path: Path, device: str) -> Any:
    """What a checkpoint holds, a file or a folder, without executing it; of a file with whatever torch raises.

    Raises:
        LotteryError: A folder that does not load so.
    """
    return (
        load_folder(ckpt_path, device)
        if is_folder(ckpt_path)
        else torch.load(ckpt_path, map_location=device, weights_only=True)
    )


def load_folder(ckpt_path: Path, device: str) -> dict[str, Any]:
    """A sharded checkpoint as if one process had written it: ``state_dict`` whole, and what is not sharded.

    Args:
        ckpt_path: The folder.
        device: Where tensors go; on ``"meta"`` none is read.

    Raises:
        LotteryError: It does not load without executing what is in it.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # all of it takes long to import
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    # So that a rank may read without the others; torch before 2.7 does where there is no process group.
    alone: dict[str, Any] = {"no_dist": True} if "no_dist" in signature(load).parameters else {}
    try:
        # torch reads this table by pickle, so it is looked through before.
        with open(ckpt_path / ".metadata", "rb") as file:
            contents = _PlainUnpickler(file).load().state_dict_metadata
        state = {
            name: torch.empty(item.size, dtype=item.properties.dtype, device=device)
            for name, item in contents.items()
            if name.startswith(WEIGHTS) and isinstance(item, TensorStorageMetadata)
        }
        if device != "meta":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as is meant
                load(state, checkpoint_id=ckpt_path, **alone)
        rest = torch.load(ckpt_path / REST, map_location=device, weights_only=True)
    except OSError as error:
        raise LotteryError(f"The checkpoint '{ckpt_path}' cannot be read: {error.strerror or error}.") from error
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise not_a_checkpoint(ckpt_path) from error
    return {**rest, "state_dict": {name.removeprefix(WEIGHTS): tensor for name, tensor in state.items()}}


def hash_of_folder(ckpt_path: Path) -> str:
    """A hash of a sharded checkpoint: of the hashes of its files, in their order."""
    digest = blake2b(digest_size=16)
    for path in sorted(ckpt_path.iterdir()):
        digest.update(f"{path.name} {hash_of_file(path)}\n".encode())
    return digest.hexdigest()


def remove_checkpoint(ckpt_path: Path) -> None:
    """Remove a checkpoint if it is there; of one that is a link to one of two folders both of these too."""
    if ckpt_path.is_dir() and not ckpt_path.is_symlink():  # of a run that was copied without its links
        remove_tree(ckpt_path)
    else:
        remove_file(ckpt_path)
    for folder in ckpt_path.parent.glob(f".{ckpt_path.name}.[01]"):
        remove_tree(folder)
