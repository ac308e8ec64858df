"""What a training step costs in a running fit, before units were cut out and after: time, multiply-adds, parameters."""

import csv
import statistics
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_lottery.files import Location, opened, write_table
from lightning_lottery.functional.multiply_adds import multiply_adds
from lightning_lottery.hooks.private import step_arguments
from lightning_lottery.hooks.scoring import optimizers_untouched, untouched, with_state
from lightning_lottery.scope import plain_name

_MOST = 1000  # of the last steps' times: their median stands for all
_SYNCHRONISED = 10  # a GPU is waited for in every tenth step only, so that the watch does not slow it down


class Costs:
    """What a step of a running fit costs before and after its module became smaller.

    Attributes:
        counted: Parameters and multiply-adds of a batch's forward pass (None where they could not be counted), before
            and, once it is smaller, after.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing was counted or timed."""
        self.counted: list[tuple[int, int | None]] = []
        self.step = 0  # after which it became smaller
        self._times: tuple[deque[float], deque[float]] = (deque(maxlen=_MOST), deque(maxlen=_MOST))
        self._started: float | None = None
        self._since_step = 0.0
        self._steps = 0

    # Time, all that lies between the starts and ends of a step's batches.

    def start(self, device: torch.device) -> None:
        """A batch begins."""
        is_timed = device.type != "cuda" or self._steps % _SYNCHRONISED == 0
        self._started = _now(device) if is_timed else None

    def stop(self, device: torch.device, *, has_stepped: bool) -> None:
        """A batch ends, with an optimizer step or, where batches are accumulated, without one."""
        if self._started is not None:
            self._since_step += _now(device) - self._started
            if has_stepped:
                self._times[len(self.counted) == 2].append(self._since_step)
        self._started = None
        if has_stepped:
            self._steps, self._since_step = self._steps + 1, 0.0

    # Counts.

    def count(self, trainer: Trainer, batch: Any, index: int) -> None:
        """Count, once before and once after; a batch of None is none."""
        size = sum(parameter.numel() for parameter in trainer.lightning_module.parameters())
        self.counted.append((size, None if batch is None else multiply_adds_of_step(trainer, batch, index)))

    # Records.

    def rows(self) -> list[dict[str, Any]]:
        """Of ``shrunk.csv``: before and after, each with the median of its steps' seconds where any was timed."""
        return [
            {
                "module": module,
                "from_step": first,
                "parameters": parameters,
                "multiply_adds": products,
                "seconds_per_step": statistics.median(times) if times else None,
                "steps_timed": len(times),
            }
            for module, first, (parameters, products), times in zip(
                ("whole", "smaller"), (0, self.step), self.counted, self._times, strict=False
            )
        ]

    def write(self, path: Location) -> list[dict[str, Any]]:
        """Write the rows; of a fit that goes on, the times of its first life are those that the file has."""
        rows = self.rows()
        with suppress(OSError, ValueError, KeyError, StopIteration), opened(path) as file:  # none, or somebody else's
            before = next(csv.DictReader(file.read().decode().splitlines()))
            if not self._times[0] and int(before["parameters"]) == rows[0]["parameters"]:
                rows[0]["seconds_per_step"] = float(before["seconds_per_step"])
                rows[0]["steps_timed"] = int(before["steps_timed"])
        write_table(path, rows, "costs")
        return rows

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: counts, and no times, which would tell a resumed fit from an unbroken one."""
        return {"step": self.step, "counted": [list(pair) for pair in self.counted]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.step, self.counted = int(state["step"]), [(size, products) for size, products in state["counted"]]


def savings(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a smaller module saves, in a sentence; empty where there is none.

    Example:
        >>> whole = {"parameters": 2000, "multiply_adds": 4_000_000, "seconds_per_step": 0.004}
        >>> smaller = {"parameters": 1000, "multiply_adds": 3_000_000, "seconds_per_step": None}
        >>> savings([whole, smaller])
        '1,000 of 2,000 parameters are left, and 3.00 of 4.00 million multiply-adds of a batch'
    """
    if len(rows) < 2:
        return ""
    whole, smaller = rows
    parts = [f"{smaller['parameters']:,} of {whole['parameters']:,} parameters are left"]
    if whole["multiply_adds"] and smaller["multiply_adds"]:
        millions = [f"{row['multiply_adds'] / 1e6:,.2f}" for row in (smaller, whole)]
        parts.append(f"and {millions[0]} of {millions[1]} million multiply-adds of a batch")
    if whole["seconds_per_step"] and smaller["seconds_per_step"]:
        seconds = [1000 * row["seconds_per_step"] for row in (smaller, whole)]
        parts.append(f"a step takes {seconds[0]:.3g} ms, before {seconds[1]:.3g} ms")
    return ", ".join(parts)


def multiply_adds_of_step(trainer: Trainer, batch: Any, index: int) -> int | None:
    """How many the forward passes of ``training_step`` take for a batch that is on the device; None where it fails.

    Counted by one more call in evaluation mode, of which no trace is left: neither in random numbers, buffers and
    gradients nor in logs.
    """
    if not trainer.lightning_module.automatic_optimization:
        return None  # its `training_step` would step optimizers
    try:
        with warnings.catch_warnings(), untouched(trainer, None) as module, optimizers_untouched(trainer):
            warnings.simplefilter("ignore")
            buffers = {plain_name(name): buffer.clone() for name, buffer in module.named_buffers()}
            step = with_state(module, "training_step", None)
            arguments = step_arguments(trainer, batch, index)
            # As Lightning calls it: by place, for a project may call the batch as it likes.
            return multiply_adds(module, {}, lambda: step(buffers, *arguments.values())).total
    except Exception:  # somebody's step that cannot be called once more is no reason to end a fit
        return None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
