"""What callbacks with state do alike when a fit begins or goes on: refuse foreign state, start the clock."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.clock import StepClock
from lightning_lottery.hooks.private import restore_loader


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
    is_new = clock.is_new
    missed = clock.start(trainer)
    if is_new and clock.step > 0:
        rank_zero_info(f"{label} begins with this fit at step {clock.step}: the checkpoint has no state of it.")
    if missed:
        rank_zero_warn(
            f"{label}: the checkpoint was saved between an optimizer step and this callback's hook, so it lacks what "
            f"step {clock.step} would have added. Save in a Checkpoint callback instead."
        )
    restore_loader(trainer)
