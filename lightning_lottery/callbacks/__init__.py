"""When masks change: Lightning callbacks for any LightningModule."""

from lightning_lottery.callbacks.dynamic import DynamicMask as DynamicMask
from lightning_lottery.callbacks.early_bird import EarlyBird as EarlyBird
from lightning_lottery.callbacks.exact_resume import ExactResume as ExactResume
from lightning_lottery.callbacks.freezing import MaskFreezing as MaskFreezing
from lightning_lottery.callbacks.loss_probe import LossProbe as LossProbe
from lightning_lottery.callbacks.magnitude import MagnitudePruning as MagnitudePruning
from lightning_lottery.callbacks.platon import PLATON as PLATON
from lightning_lottery.callbacks.slimming import NetworkSlimming as NetworkSlimming
from lightning_lottery.callbacks.snapshots import Snapshots as Snapshots
from lightning_lottery.callbacks.snapshots import log_spaced as log_spaced
from lightning_lottery.callbacks.snip_grasp import SNIP as SNIP
from lightning_lottery.callbacks.snip_grasp import GraSP as GraSP
from lightning_lottery.callbacks.synflow import SynFlow as SynFlow
from lightning_lottery.hooks.mask_callback import MaskCallback as MaskCallback
