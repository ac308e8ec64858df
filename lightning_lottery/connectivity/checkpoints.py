"""Checkpoints of finished networks: their weights, found to fit a module, and the masks that they were trained with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lottery.children.folders import load_checkpoint
from lightning_lottery.children.reading import not_a_checkpoint
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import write_whole
from lightning_lottery.functional.masks import hamming
from lightning_lottery.ticket import unpack

FOR_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", "MixedPrecision")
"""Parts of a checkpoint that only training reads, and that a mean of networks does not have."""


def load_plain(ckpt_path: Path, device: str) -> Any:
    """A checkpoint, a file or the folder of a sharded fit, loaded without executing what is in it.

    Raises:
        LotteryError: No such file, or one that does not load so.
    """
    try:
        return load_checkpoint(ckpt_path, device)
    except LotteryError:
        raise
    except FileNotFoundError as error:
        raise LotteryError(f"There is no checkpoint '{ckpt_path}'.") from error
    except OSError as error:
        raise LotteryError(f"The checkpoint '{ckpt_path}' cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        raise not_a_checkpoint(ckpt_path) from error


def read_state(ckpt_path: Path, module: nn.Module, *, allow_diverged: bool = False) -> dict[str, Tensor]:
    """The weights and buffers of a checkpoint, on the CPU.

    Args:
        ckpt_path: A Lightning checkpoint, or a file of a plain state dict.
        module: What they must fit, name by name and shape by shape.
        allow_diverged: Weights need not be finite.

    Raises:
        LotteryError: No such file, not loadable without pickle, names or shapes that differ, or NaN.
    """
    loaded = load_plain(ckpt_path, "cpu")
    entries = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    state, expected = tensor_entries(entries), tensor_entries(module.state_dict())
    if state.keys() != expected.keys():
        state = _as_loaded(entries, module) or state
    odd = sorted(state.keys() ^ expected.keys())
    odd += [f"{name} (shape)" for name in state.keys() & expected.keys() if state[name].shape != expected[name].shape]
    if odd:
        listed = ", ".join(odd[:4]) + (", ..." if len(odd) > 4 else "")
        raise LotteryError(
            f"'{ckpt_path}' is of another model than {type(module).__name__}: {listed}. For a checkpoint of an inner "
            "network say where it belongs with `submodule`."
        )
    # Parameters only: a buffer may hold infinity by design, as attention masks do.
    weights = {name for name, _ in module.named_parameters()}
    broken = [name for name, value in state.items() if name in weights and not value.isfinite().all()]
    if broken and not allow_diverged:
        raise LotteryError(f"'{ckpt_path}' holds NaN or infinite weights in {', '.join(broken[:4])}.")
    return state


def _as_loaded(entries: Mapping[str, Any], module: nn.Module) -> dict[str, Tensor] | None:
    """The state of a module that has loaded another version's, which may lack or rename entries; None if it refuses."""
    with weights_kept(module):
        try:
            module.load_state_dict(entries)
        except RuntimeError:
            return None
        return {name: value.clone() for name, value in tensor_entries(module.state_dict()).items()}


@contextmanager
def weights_kept(module: nn.Module) -> Iterator[None]:
    """Weights and buffers are afterwards what they were before."""
    before = {name: value.clone() for name, value in tensor_entries(module.state_dict()).items()}
    try:
        yield
    finally:
        module.load_state_dict(before, strict=False)  # not strict: what `get_extra_state` keeps is not among them


def tensor_entries(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state without what modules keep beside tensors (``get_extra_state``)."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def masks_of(names: Sequence[str], *, aligned: bool, averaged: bool) -> list[dict[str, Tensor]]:
    """The masks that networks were trained with; refused where a line or a mean would mix them unasked.

    Args:
        names: Paths of the networks' checkpoints.
        aligned: Whether their units are to be permuted, and their masks with them.
        averaged: Whether they are to be averaged.

    Raises:
        LotteryError: Their masks differ, and units are in the order that there is; they remove something from networks
            that are to be permuted and averaged.
    """
    masks = [_masks_in(load_plain(Path(name), "cpu")) for name in names]
    first, *further = masks
    for name, each in zip(names[1:], further, strict=True):
        if each.keys() != first.keys() or (not aligned and hamming(each, first)):
            raise LotteryError(f"'{names[0]}' and '{name}' were trained with different masks: the line mixes them.")
    if aligned and averaged and any(not mask.all() for mask in first.values()):
        raise LotteryError(
            f"'{names[0]}' was trained with masks: with its units in another order a network's weights lie outside of "
            "them, and the mean of two is as dense as both together. Average without `align`."
        )
    return masks


def _masks_in(loaded: Any) -> dict[str, Tensor]:
    """The masks in a checkpoint, whichever of our callbacks held them."""
    states = loaded.get("callbacks", {}) if isinstance(loaded, dict) else {}
    ours = [state for key, state in states.items() if key.startswith("lightning_lottery.") and "masks" in state]
    return {name: mask for state in ours for name, mask in _whole_masks(state).items()}


def _whole_masks(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """A callback's masks, which sharded fits pack to bits."""
    if "shapes" not in state:
        masks: Mapping[str, Tensor] = state["masks"]
        return masks
    return {name: unpack(bits.numpy(), state["shapes"][name]) for name, bits in state["masks"].items()}


def write_in_form_of(example: Path, state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state as a checkpoint of another's form, without what only training reads.

    Args:
        example: A Lightning checkpoint, whose hyper-parameters and versions are kept, or a file of a plain state dict.
        state: What takes the place of its weights and buffers.
        path: Where to.

    Raises:
        LotteryError: It cannot be written.
    """
    loaded = load_plain(example, "cpu")
    content = {name: value for name, value in loaded.items() if name not in FOR_TRAINING}
    if "state_dict" in loaded:
        content["state_dict"] = {**loaded["state_dict"], **state}
    else:
        content |= state
    file = BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue(), "midpoint")
