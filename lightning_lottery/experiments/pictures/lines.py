"""The lines of analyses that lie in folders: of one, of several in small panels, and over the step of parting."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_lottery.children.conditions import FILE as CONDITIONS
from lightning_lottery.children.conditions import read_conditions
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.connectivity.stability import barrier_in_words, stability_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.pictures.folders import Drawn, Part, load_lines
from lightning_lottery.experiments.pictures.sweeps import summary_of_lines
from lightning_lottery.experiments.siblings import REPORT
from lightning_lottery.experiments.sweep_report import draw_sweeps
from lightning_lottery.figures.between import Paths, paths_of_stages
from lightning_lottery.figures.style import error_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_lines(parts: Sequence[Part], drawn: Drawn) -> None:
    """The lines of one analysis, or of several: in small panels, and over the step at which their children part."""
    reports: list[tuple[Part, PathReport]] = []
    notes: list[str] = []
    for part in parts:
        path = next((path for path in (part.folder / REPORT, part.folder / REPORT.name) if path.is_file()), None)
        if path is None:
            notes.append(f"{part.prefix}the lines of '{part.folder}' are not judged yet.")
        elif (report := load_lines(path, notes)) is not None:
            reports.append((part, report))
    if len(reports) == 1:
        drawn.figures["path"] = reports[0][1].figure()
    elif reports:
        stages: dict[str, dict[int, PathReport]] = {}
        for part, report in reports:
            stage = stages.setdefault(part.name, {})
            stage[len(stage)] = report
        drawn.figures |= draw_stability(stages, notes)
        drawn.figures |= _over_steps(reports, notes)
    drawn.notes += notes


def draw_stability(stages: Mapping[str, Mapping[int, PathReport]], notes: list[str]) -> dict[str, "Figure"]:
    """``stability``: the lines of each stage, whose parents are judged together."""
    panels: dict[str, Paths] = {}
    first = next(iter(next(iter(stages.values())).values()))
    are_shares = first.error_of_ends is not None or first.judging.threshold_ratio is not None
    for stage, reports in stages.items():
        one = next(iter(reports.values()))
        rises = {f"seed {seed}": report.rises() for seed, report in reports.items()}
        try:
            judged = stability_of(reports)
        except LotteryError as refusal:
            notes.append(f"{stage}: {refusal}")
            panels[stage] = Paths(one.judging.alphas, rises, one.judging.bound, "not judged")
            continue
        words = f"{judged.in_words}: {barrier_in_words(judged, are_shares=are_shares)}"
        mean = judged.mean if math.isfinite(judged.mean) else None
        panels[stage] = Paths(one.judging.alphas, rises, one.judging.bound, words, mean, judged.low, judged.high)
    error = error_in_words(first.judging.monitor, first.judging.mode)
    return {"stability": paths_of_stages(panels, error=error, are_shares=are_shares, notes=notes)}


def _over_steps(reports: Sequence[tuple[Part, PathReport]], notes: list[str]) -> dict[str, "Figure"]:
    """``over-steps``: where analyses began at different steps, their barriers over these.

    A network is called what its analyses' names have in common beside the step: ``imp`` of ``imp-step-100``.
    """
    networks: dict[str, dict[int, dict[int, PathReport]]] = {}
    for part, report in reports:
        if (step := _step_of(part.folder)) is None:
            return {}
        name = re.sub(r"[-_ ]*(step|k)?[-_= ]*\d+$", "", re.sub(r"^\d+-", "", part.name)) or part.name
        parents = networks.setdefault(name, {}).setdefault(step, {})
        parents[len(parents)] = report
    if len({step for steps in networks.values() for step in steps}) < 2:
        return {}
    summary = summary_of_lines({name: dict(sorted(steps.items())) for name, steps in networks.items()}, notes)
    return {} if summary is None else {"over-steps": draw_sweeps({"": summary}, notes)}


def _step_of(folder: Path) -> int | None:
    """The optimizer step at which the children of an analysis begin; None where none says so."""
    for child in sorted(folder.glob("seed-*")):
        if (child / CONDITIONS).is_file():
            return int(read_conditions(child)["start_step"])
    return None
