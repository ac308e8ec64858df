"""Barriers over steps with k*, of sweeps that lie in folders, and of whatever lines are judged at several steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.pictures.folders import Drawn, Part, load_lines
from lightning_lottery.experiments.siblings import REPORT
from lightning_lottery.experiments.sweep_report import DENSE, SweepReport, draw_sweeps, summary_in


def draw_swept(parts: Sequence[Part], drawn: Drawn) -> None:
    """Barriers over steps; the parts of one name are parents of one sweep only where one folder holds them."""
    sweeps: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for part in parts:
        name = part.name
        while name in sweeps:  # two stages of one name, of different seeds of a recipe
            name = f"{part.name} ({part.folder.parent.name})" if name == part.name else f"{name}'"
        try:
            sweeps[name] = summary_in(part.folder)
        except LotteryError as refusal:
            if (part.folder / "summary.json").exists():
                notes.append(str(refusal))
            content = _sweep_so_far(part, notes)
            if content is not None:
                sweeps[name] = content
    if sweeps:
        drawn.figures["barrier"] = draw_sweeps(sweeps, notes)
    drawn.notes += notes


def _sweep_so_far(part: Part, notes: list[str]) -> dict[str, Any] | None:
    """The summary of a sweep that has not ended, as far as lines are judged; None where none are."""
    reports: dict[str, dict[int, dict[int, PathReport]]] = {}
    for path in sorted(part.folder.glob(f"parent-*/*-step-*/{REPORT}")):
        network, step = path.parent.parent.name.rsplit("-step-", 1)
        parent = path.parent.parent.parent.name.removeprefix("parent-")
        if step.isdecimal() and parent.isdecimal() and (report := load_lines(path, notes)) is not None:
            reports.setdefault(network, {}).setdefault(int(step), {})[int(parent)] = report
    notes.append(f"{part.prefix}the sweep has not ended: drawn is what is judged so far.")
    return summary_of_lines(reports, notes)


def summary_of_lines(
    reports: Mapping[str, Mapping[int, Mapping[int, PathReport]]], notes: list[str]
) -> dict[str, Any] | None:
    """What a sweep's summary would say of these lines; None where there are none."""
    summary: dict[str, Any] | None = None
    for network, steps in reports.items():
        threshold = next(iter(next(iter(steps.values())).values())).judging.bound
        try:
            # Each by itself: a comparison with the dense network is no part of this picture.
            content = SweepReport(threshold, {DENSE: steps}).summary()
        except LotteryError as error:
            notes.append(f"{network}: {error}")
            continue
        summary = summary or {**content, "networks": {}}
        summary["networks"][network] = content["networks"][DENSE]
    return summary
