"""What the methods compute: tensors in, tensors out, in anybody's training loop."""

from lightning_lottery.functional.bootstrap import bootstrap_k_star, nested_bootstrap
from lightning_lottery.functional.masks import Masks, Scores, count, density, hamming, keep_top, shuffle
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule
from lightning_lottery.functional.scores import grasp, iterative_masks, magnitude, snip, synflow
from lightning_lottery.functional.search import Bisection, Grid, KStar, k_star
from lightning_lottery.functional.sensitivity import Averages, averages_like, observe_, score
from lightning_lottery.functional.settling.detector import Detector, Verdict, replay
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
from lightning_lottery.functional.stability import StepStability, ThresholdROC, judge_step, roc_of_threshold

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
    "Rule",
    "Schedule",
    "Scores",
    "SlopeEquivalence",
    "SlopeHAC",
    "StepStability",
    "ThresholdROC",
    "Verdict",
    "averages_like",
    "bootstrap_k_star",
    "count",
    "density",
    "grasp",
    "hamming",
    "iterative_masks",
    "judge_step",
    "k_star",
    "keep_top",
    "layers_by_units",
    "magnitude",
    "moving_average",
    "nested_bootstrap",
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
