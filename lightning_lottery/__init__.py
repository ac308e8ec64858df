"""Find, verify and ship lottery tickets in a Lightning project that you already have, with the evidence."""

from lightning_lottery.callbacks import (
    PLATON,
    SNIP,
    ExactResume,
    GraSP,
    MagnitudePruning,
    MaskFreezing,
    Snapshots,
    SynFlow,
    log_spaced,
)
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule
from lightning_lottery.runners.instability import InstabilityAnalysis
from lightning_lottery.runners.path import path
from lightning_lottery.runners.path_report import PathReport
from lightning_lottery.scope import Scope
from lightning_lottery.shrink import shrink
from lightning_lottery.ticket import Ticket

__all__ = [
    "PLATON",
    "MagnitudePruning",
    "SynFlow",
    "SNIP",
    "GraSP",
    "MaskFreezing",
    "Snapshots",
    "log_spaced",
    "ExactResume",
    "Schedule",
    "Constant",
    "Cubic",
    "Exponential",
    "Scope",
    "Ticket",
    "InstabilityAnalysis",
    "path",
    "PathReport",
    "shrink",
    "LotteryError",
]
