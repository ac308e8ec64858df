"""How the lines between networks are judged: the settings that ``path`` and the experiments share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_lottery.checks import check_count, check_positive, check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.connectivity import check_alphas

ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 21))
"""Where a line is evaluated by default: both ends and the middle among them."""


NO_SHARES = ("loss", "nll", "mse", "mae", "perplexity", "entropy", "energy")
"""In the names of metrics that are low where a network is good, and are no shares of samples."""


def is_share(monitor: str, mode: str, values: Sequence[float]) -> bool:
    """Whether a metric is a share of samples: by its name, as a loss may lie between 0 and 1 as an error does."""
    return (mode == "max" or not any(word in monitor for word in NO_SHARES)) and all(0 <= v <= 1 for v in values)


def check_monitor(line: Sequence[Mapping[str, float]], judging: "Judging") -> None:
    """Refuse what cannot be judged, given all that a module logs at each place.

    Raises:
        LotteryError: It does not log the monitor, or an accuracy in percent.
    """
    monitor, mode = judging.monitor, judging.mode
    if monitor not in line[0]:
        raise LotteryError(f"The module does not log '{monitor}'; it logs {', '.join(sorted(line[0])) or 'nothing'}.")
    if mode == "max" and (highest := max(point[monitor] for point in line)) > 1:
        raise LotteryError(
            f"'{monitor}' goes up to {highest:.4g}: with mode='max' it must be a fraction in [0, 1]. "
            "Log it as a fraction, or judge an error or a loss with mode='min'."
        )


def check_ratio(curve: Mapping[str, Sequence[float]], judging: "Judging") -> None:
    """Refuse a ratio of an error that can be negative.

    Raises:
        LotteryError: A ratio is asked for, and the error is negative somewhere.
    """
    if judging.threshold_ratio is not None and (lowest := min(judging.errors(curve))) < 0:
        raise LotteryError(
            f"`threshold_ratio` is a fraction of the ends' error, and that of '{judging.monitor}' goes down to "
            f"{lowest:.4g}: give a `threshold` in its units."
        )


@dataclass(frozen=True)
class Judging:
    """Which metric is judged, where on the line, and against what: arguments of ``path``, by the same names.

    ``alphas`` are kept in rising order.

    Args:
        threshold_ratio: In place of ``threshold``: a barrier of that fraction of the mean error of the ends.
        train_split: Whether the lines are evaluated on the training split as well.

    Raises:
        LotteryError: One is out of its range.
    """

    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    threshold: float = 0.02
    alphas: Sequence[float] = ALPHAS
    recalibrate: int = 0
    layer_alphas: Sequence[float] = ()
    threshold_ratio: float | None = None
    train_split: bool = False

    def __post_init__(self) -> None:
        check_word("mode", self.mode, ("max", "min"))
        check_positive("threshold", self.threshold, "the error barrier below which networks are stable")
        if self.threshold_ratio is not None:
            check_positive("threshold_ratio", self.threshold_ratio, "the barrier's fraction of the ends' error")
        check_count("recalibrate", self.recalibrate, "a number of training batches", least=0)
        if any(not 0 <= alpha <= 1 for alpha in self.layer_alphas):
            raise LotteryError(f"`layer_alphas` are places in [0, 1], got {list(self.layer_alphas)}.")
        object.__setattr__(self, "alphas", check_alphas(self.alphas))
        object.__setattr__(self, "layer_alphas", tuple(float(alpha) for alpha in self.layer_alphas))

    @property
    def bound(self) -> float:
        """What barriers are held against: the threshold, or the ratio for barriers that are divided by the ends."""
        return self.threshold if self.threshold_ratio is None else self.threshold_ratio

    def errors(self, curve: Mapping[str, Sequence[float]]) -> list[float]:
        """The monitor along a line as an error: one minus it where it is better when high."""
        values = curve[self.monitor]
        return [1 - value for value in values] if self.mode == "max" else list(values)
