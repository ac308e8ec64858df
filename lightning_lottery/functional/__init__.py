"""What the methods compute: tensors in, tensors out, in anybody's training loop."""

from lightning_lottery.functional.masks import (
    Masks,
    Scores,
    count,
    density,
    hamming,
    keep_top,
    shuffle,
)
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule
from lightning_lottery.functional.scores import magnitude
from lightning_lottery.functional.sensitivity import Averages, averages_like, observe_, score

__all__ = [
    "Averages",
    "Constant",
    "Cubic",
    "Exponential",
    "Masks",
    "Schedule",
    "Scores",
    "averages_like",
    "count",
    "density",
    "hamming",
    "keep_top",
    "magnitude",
    "observe_",
    "score",
    "shuffle",
]
