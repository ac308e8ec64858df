"""What the methods compute: tensors in, tensors out, in anybody's training loop."""

from lightning_lottery.functional.k_star import KStar, k_star
from lightning_lottery.functional.masks import Masks, Scores, count, density, hamming, keep_top, shuffle
from lightning_lottery.functional.matching import Matching, ThresholdROC, judge_matching, roc_of_threshold
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule
from lightning_lottery.functional.scores import grasp, iterative_masks, magnitude, snip, synflow
from lightning_lottery.functional.search import Bisection, Grid
from lightning_lottery.functional.sensitivity import Averages, averages_like, observe_, score
from lightning_lottery.functional.settling.detector import Detector, Settled, replay
from lightning_lottery.functional.settling.rules import (
    ADF,
    HammingFIFO,
    MannKendall,
    Rule,
    SlopeEquivalence,
    SlopeHAC,
    newest_distances,
    scores_differ,
)
from lightning_lottery.functional.settling.tests import layers_by_units, moving_average, nuclear_norm
from lightning_lottery.functional.verdicts import Stability, judge

__all__ = [
    "ADF",
    "Averages",
    "Bisection",
    "Constant",
    "Cubic",
    "Detector",
    "Exponential",
    "Grid",
    "HammingFIFO",
    "KStar",
    "MannKendall",
    "Masks",
    "Matching",
    "Rule",
    "Schedule",
    "Scores",
    "Settled",
    "SlopeEquivalence",
    "SlopeHAC",
    "Stability",
    "ThresholdROC",
    "averages_like",
    "count",
    "density",
    "grasp",
    "hamming",
    "iterative_masks",
    "judge",
    "judge_matching",
    "k_star",
    "keep_top",
    "layers_by_units",
    "magnitude",
    "moving_average",
    "newest_distances",
    "nuclear_norm",
    "observe_",
    "replay",
    "roc_of_threshold",
    "score",
    "scores_differ",
    "shuffle",
    "snip",
    "synflow",
]
