"""Find, verify and ship lottery tickets in a Lightning project that you already have, with the evidence."""

from lightning_lottery.callbacks import (
    PLATON,
    SNIP,
    EarlyBird,
    ExactResume,
    GraSP,
    MagnitudePruning,
    MaskFreezing,
    NetworkSlimming,
    Snapshots,
    SynFlow,
    log_spaced,
)
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.yaml_project import YamlProject
from lightning_lottery.connectivity.path import path
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp import IterativePruning
from lightning_lottery.experiments.imp_report import ImpReport
from lightning_lottery.experiments.instability import InstabilityAnalysis
from lightning_lottery.experiments.sweep import InstabilitySweep
from lightning_lottery.experiments.sweep_report import SweepReport
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule
from lightning_lottery.functional.settling.rules import ADF, HammingFIFO, MannKendall, SlopeEquivalence, SlopeHAC
from lightning_lottery.scope import Scope
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.removal import shrink

__all__ = [
    "PLATON",
    "MagnitudePruning",
    "SynFlow",
    "SNIP",
    "GraSP",
    "NetworkSlimming",
    "EarlyBird",
    "MaskFreezing",
    "Snapshots",
    "log_spaced",
    "ExactResume",
    "Schedule",
    "Constant",
    "Cubic",
    "Exponential",
    "HammingFIFO",
    "SlopeHAC",
    "MannKendall",
    "ADF",
    "SlopeEquivalence",
    "Scope",
    "Ticket",
    "FactoryProject",
    "YamlProject",
    "InstabilityAnalysis",
    "InstabilitySweep",
    "SweepReport",
    "IterativePruning",
    "ImpReport",
    "path",
    "PathReport",
    "shrink",
    "LotteryError",
]
