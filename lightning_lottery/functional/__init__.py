"""What the methods compute: tensors in, tensors out, in anybody's training loop."""

from lightning_lottery.functional.detection import Detector, Verdict, replay
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
from lightning_lottery.functional.scores import grasp, iterative_masks, magnitude, snip, synflow
from lightning_lottery.functional.sensitivity import Averages, averages_like, observe_, score
from lightning_lottery.functional.settling import (
    ADF,
    HammingFIFO,
    MannKendall,
    Rule,
    SlopeEquivalence,
    SlopeHAC,
    newest_distances,
    scores_differ,
)
from lightning_lottery.functional.stationarity import layers_by_units, moving_average, nuclear_norm

__all__ = [
    "ADF",
    "Averages",
    "Constant",
    "Cubic",
    "Detector",
    "Exponential",
    "HammingFIFO",
    "MannKendall",
    "Masks",
    "Rule",
    "Schedule",
    "Scores",
    "SlopeEquivalence",
    "SlopeHAC",
    "Verdict",
    "averages_like",
    "count",
    "density",
    "grasp",
    "hamming",
    "iterative_masks",
    "keep_top",
    "layers_by_units",
    "magnitude",
    "moving_average",
    "newest_distances",
    "nuclear_norm",
    "observe_",
    "replay",
    "score",
    "scores_differ",
    "shuffle",
    "snip",
    "synflow",
]
