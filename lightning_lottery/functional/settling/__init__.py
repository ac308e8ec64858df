"""When have masks settled? Rules on distances and norms of masks that were drawn while a network trains."""

from lightning_lottery.functional.settling.detector import Detector, Settled, replay
from lightning_lottery.functional.settling.rules import (
    ADF,
    Finding,
    HammingFIFO,
    MannKendall,
    Rule,
    SlopeEquivalence,
    SlopeHAC,
    newest_distances,
    scores_differ,
)
from lightning_lottery.functional.settling.tests import (
    adf,
    layers_by_units,
    mann_kendall,
    moving_average,
    nuclear_norm,
    slope_equivalence,
    slope_hac,
)
from lightning_lottery.functional.settling.watch import Probe, Watch, names_of, tells_apart, unit_masks_of

__all__ = [
    "ADF",
    "Detector",
    "Finding",
    "HammingFIFO",
    "MannKendall",
    "Probe",
    "Rule",
    "Settled",
    "SlopeEquivalence",
    "SlopeHAC",
    "Watch",
    "adf",
    "layers_by_units",
    "mann_kendall",
    "moving_average",
    "names_of",
    "newest_distances",
    "nuclear_norm",
    "replay",
    "scores_differ",
    "slope_equivalence",
    "slope_hac",
    "tells_apart",
    "unit_masks_of",
]
