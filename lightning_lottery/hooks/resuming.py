"""What callbacks with state do alike when a fit begins or goes on: refuse foreign state, start the clock."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.clock import StepClock
from lightning_lottery.hooks.masked import Masked
from lightning_lottery.hooks.private import restore_loader
from lightning_lottery.ticket import unpack


@contextmanager
def reading_state(label: str) -> Iterator[None]:
    """A block that reads a checkpoint's state: whatever it stumbles over is a refusal.

    Args:
        label: What messages call the callback.

    Raises:
        LotteryError: The block's own, or that the state is not what the callback writes.
    """
    try:
        yield
    except LotteryError:
        raise
    except Exception as error:
        raise LotteryError(
            f"The checkpoint's state of {label} is not what it writes ({type(error).__name__}: {error}): resume from "
            "another checkpoint, or give the callback a `name` to start it afresh."
        ) from error


def check_tensors(saved: Mapping[str, Any], like: Mapping[str, Tensor], kind: Literal["masks", "averages"]) -> None:
    """Refuse a checkpoint's tensors that are not one for each parameter, of its shape.

    Args:
        saved: By parameter name.
        like: The parameters, under the same names.
        kind: Masks are bool tensors, averages floating-point numbers, all finite.

    Raises:
        LotteryError: Another name, shape or kind.
    """
    check_shapes({name: tuple(tensor.shape) for name, tensor in saved.items()}, like, kind)
    for name, tensor in saved.items():
        if kind == "masks" and tensor.dtype != torch.bool:
            raise LotteryError(f"The checkpoint's masks are bool tensors, that of '{name}' is {tensor.dtype}.")
        if kind == "averages" and not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise LotteryError(f"The checkpoint's averages are finite numbers, those of '{name}' are not.")


def check_shapes(shapes: Mapping[str, tuple[int, ...]], like: Mapping[str, Tensor], kind: str) -> None:
    """Refuse a checkpoint's tensors whose names and shapes are not those of parameters; as ``check_tensors``."""
    if shapes != (here := {name: tuple(param.shape) for name, param in like.items()}):
        odd = sorted(name for name in shapes.keys() | here.keys() if shapes.get(name) != here.get(name))
        listed = ", ".join(f"{name} {shapes.get(name, 'absent')} for {here.get(name, 'absent')}" for name in odd)
        raise LotteryError(f"The checkpoint's {kind} do not fit this module: {listed}.")


def masks_in(state: Mapping[str, Any], masked: Masked) -> dict[str, Tensor]:
    """What this rank holds of a checkpoint's masks, which are whole: as bool tensors, or packed to bits by shards.

    Raises:
        LotteryError: They do not fit the parameters.
    """
    saved, params, shards = state["masks"], masked.params, masked.shards
    if "shapes" not in state:
        check_tensors(saved, params, "masks")
        return {name: shards.part(name, saved[name]).clone() for name in params}
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    check_shapes(shapes, params, "masks")
    return {name: shards.part(name, unpack(saved[name].numpy(), [*shapes[name]])).clone() for name in params}


def check_hashes(saved: Mapping[str, int], masked: Masked) -> None:
    """Refuse masks that are not those that a checkpoint's writers had, on any number of ranks, all parts together.

    Args:
        saved: By parameter name; empty of a checkpoint that has none.
        masked: The masks as they were read.

    Raises:
        LotteryError: A mask is another, on every rank alike.
    """
    read = masked.hashes if saved else {}
    if odd := [name for name, number in read.items() if number != saved.get(name)]:
        raise LotteryError(
            f"The checkpoint's mask of '{odd[0]}' is not the one that was saved, all ranks' parts together: the file "
            "has changed, or ranks read different ones."
        )


def check_state(state: Mapping[str, Any], version: int, label: str, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint's state that is not one of this callback with these settings.

    Args:
        state: What the callback's ``state_dict`` gave: ``version``, ``method``, ``settings`` and more.
        version: The newest version of that state that is read here.
        label: What messages call the callback.
        settings: What must be alike in the fit that goes on, ``method`` included.

    Raises:
        LotteryError: A newer version, or one setting is another.
    """
    if state["version"] > version:
        raise LotteryError(
            f"The checkpoint holds state of {label} in version {state['version']}, this lightning_lottery reads up to "
            f"{version}: upgrade it."
        )
    saved = {"method": state["method"], **state["settings"]}
    for key, value in settings.items():
        if saved[key] != value:
            raise LotteryError(
                f"The checkpoint was written with {key} {saved[key]}, this fit asks for {value}: resume with the same "
                "callback, or give this one a `name` to start it afresh."
            )


def start_clock(clock: StepClock, trainer: Trainer, label: str) -> None:
    """Start a callback's clock in ``on_train_start``, and say where the checkpoint lacks something of it."""
    if clock.step > trainer.global_step:
        raise LotteryError(
            f"The checkpoint's state of {label} is of step {clock.step}, and the fit goes on at {trainer.global_step}: "
            "they are not of one checkpoint."
        )
    is_new = clock.is_new
    missed = clock.start(trainer)
    if is_new and clock.step > 0:
        rank_zero_info(f"{label} begins at step {clock.step}, where this fit does.")
    if missed:
        rank_zero_warn(
            f"{label}: the checkpoint was saved between an optimizer step and this callback's hook, so it lacks what "
            f"step {clock.step} would have added. Save in a Checkpoint callback instead."
        )
    restore_loader(trainer)
