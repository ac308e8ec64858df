"""When masks change: Lightning callbacks for any LightningModule."""

from lightning_lottery.callbacks.early_bird import EarlyBird
from lightning_lottery.callbacks.exact_resume import ExactResume
from lightning_lottery.callbacks.freezing import MaskFreezing
from lightning_lottery.callbacks.magnitude import MagnitudePruning
from lightning_lottery.callbacks.platon import PLATON
from lightning_lottery.callbacks.slimming import NetworkSlimming
from lightning_lottery.callbacks.snapshots import Snapshots, log_spaced
from lightning_lottery.callbacks.snip_grasp import SNIP, GraSP
from lightning_lottery.callbacks.synflow import SynFlow
from lightning_lottery.hooks.mask_callback import MaskCallback

__all__ = [
    "PLATON",
    "SNIP",
    "EarlyBird",
    "ExactResume",
    "GraSP",
    "MagnitudePruning",
    "MaskCallback",
    "MaskFreezing",
    "NetworkSlimming",
    "Snapshots",
    "SynFlow",
    "log_spaced",
]
