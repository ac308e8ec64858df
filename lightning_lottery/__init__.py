"""Find, verify and ship lottery tickets in a Lightning project that you already have, with the evidence."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from lightning_lottery.children.factories import FactoryProject as FactoryProject
    from lightning_lottery.children.yaml_project import YamlProject as YamlProject
    from lightning_lottery.connectivity.path import path as path
    from lightning_lottery.connectivity.report import PathReport as PathReport
    from lightning_lottery.errors import LotteryError as LotteryError
    from lightning_lottery.experiments.imp import IterativePruning as IterativePruning
    from lightning_lottery.experiments.imp_report import ImpReport as ImpReport
    from lightning_lottery.experiments.instability import InstabilityAnalysis as InstabilityAnalysis
    from lightning_lottery.experiments.recipe import run_recipe as run_recipe
    from lightning_lottery.experiments.results import results as results
    from lightning_lottery.experiments.sweep import InstabilitySweep as InstabilitySweep
    from lightning_lottery.experiments.sweep_report import SweepReport as SweepReport
    from lightning_lottery.functional.perturbation import Perturbation as Perturbation
    from lightning_lottery.functional.schedules import Constant as Constant
    from lightning_lottery.functional.schedules import Cubic as Cubic
    from lightning_lottery.functional.schedules import Exponential as Exponential
    from lightning_lottery.functional.schedules import Schedule as Schedule
    from lightning_lottery.functional.settling.rules import ADF as ADF
    from lightning_lottery.functional.settling.rules import HammingFIFO as HammingFIFO
    from lightning_lottery.functional.settling.rules import MannKendall as MannKendall
    from lightning_lottery.functional.settling.rules import SlopeEquivalence as SlopeEquivalence
    from lightning_lottery.functional.settling.rules import SlopeHAC as SlopeHAC
    from lightning_lottery.scope import Scope as Scope
    from lightning_lottery.ticket import Ticket as Ticket
    from lightning_lottery.units.groups import groups_of as groups_of
    from lightning_lottery.units.removal import shrink as shrink
    from lightning_lottery.units.replaying import replay_draws as replay_draws
    from lightning_lottery.units.replaying import table_of_draws as table_of_draws
    from lightning_lottery.units.saved import load_shrunk as load_shrunk
    from lightning_lottery.units.saved import save_shrunk as save_shrunk
    from lightning_lottery.units.scores import unit_masks as unit_masks

__version__: str  # as installed; see __getattr__

# Each public name and the module it stands in, in reading order. A name is imported when it is first asked for: the
# command's first answer and the script that needs one schedule do not wait for torch and Lightning.
_MODULES = {
    "PLATON": "callbacks.platon",
    "MagnitudePruning": "callbacks.magnitude",
    "SynFlow": "callbacks.synflow",
    "SNIP": "callbacks.snip_grasp",
    "GraSP": "callbacks.snip_grasp",
    "DynamicMask": "callbacks.dynamic",
    "NetworkSlimming": "callbacks.slimming",
    "EarlyBird": "callbacks.early_bird",
    "MaskFreezing": "callbacks.freezing",
    "Snapshots": "callbacks.snapshots",
    "log_spaced": "callbacks.snapshots",
    "ExactResume": "callbacks.exact_resume",
    "LossProbe": "callbacks.loss_probe",
    "Schedule": "functional.schedules",
    "Constant": "functional.schedules",
    "Cubic": "functional.schedules",
    "Exponential": "functional.schedules",
    "HammingFIFO": "functional.settling.rules",
    "SlopeHAC": "functional.settling.rules",
    "MannKendall": "functional.settling.rules",
    "ADF": "functional.settling.rules",
    "SlopeEquivalence": "functional.settling.rules",
    "Scope": "scope",
    "Ticket": "ticket",
    "FactoryProject": "children.factories",
    "YamlProject": "children.yaml_project",
    "InstabilityAnalysis": "experiments.instability",
    "InstabilitySweep": "experiments.sweep",
    "Perturbation": "functional.perturbation",
    "SweepReport": "experiments.sweep_report",
    "IterativePruning": "experiments.imp",
    "ImpReport": "experiments.imp_report",
    "run_recipe": "experiments.recipe",
    "results": "experiments.results",
    "path": "connectivity.path",
    "PathReport": "connectivity.report",
    "groups_of": "units.groups",
    "unit_masks": "units.scores",
    "replay_draws": "units.replaying",
    "table_of_draws": "units.replaying",
    "shrink": "units.removal",
    "save_shrunk": "units.saved",
    "load_shrunk": "units.saved",
    "LotteryError": "errors",
}

__all__ = list(_MODULES)  # noqa: PLE0605 (of strings)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)  # so that this is asked once
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
