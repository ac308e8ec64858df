"""Find, verify and ship lottery tickets in a Lightning project that you already have, with the evidence."""

from lightning_lottery.callbacks import PLATON, ExactResume, MagnitudePruning, MaskFreezing, Snapshots, log_spaced
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.schedules import Constant, Cubic, Exponential, Schedule
from lightning_lottery.runners.instability import PathReport, path
from lightning_lottery.scope import Scope
from lightning_lottery.ticket import Ticket

__all__ = [
    "PLATON",
    "MagnitudePruning",
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
    "path",
    "PathReport",
    "LotteryError",
]
