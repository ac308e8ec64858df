"""The sections that runners read from a project's YAML, beside what ``fit`` reads."""

from dataclasses import dataclass
from typing import Literal

from lightning_lottery.callbacks.base import MaskCallback


@dataclass(frozen=True)
class InstabilitySettings:
    """Section ``instability`` of a YAML.

    Args:
        seeds: Of the children; at least two, all different, or all equal for a null control.
        monitor: The logged metric that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss.
        threshold: Error barrier below which networks are called stable, a fraction.
        alphas: Places on the line, evenly spaced, both ends included; >= 2.
        recalibrate: Training batches for estimating batch norm's statistics anew at each place; 0 for none.
        layer_alphas: Places at which single layers are interpolated, in [0, 1]; empty for none.
        ticket: Path of a ticket that every child trains.
        pruner: A callback that prunes once, at the checkpoint: every child trains its ticket.
        predict: ``package.module:function`` that gives predicted classes for (module, batch), to compare predictions.
    """

    seeds: tuple[int, ...] = (1, 2)
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    threshold: float = 0.02
    alphas: int = 21
    recalibrate: int = 0
    layer_alphas: tuple[float, ...] = ()
    ticket: str | None = None
    pruner: MaskCallback | None = None
    predict: str | None = None
