"""What the stages of a recipe reached, read from its folder, done or half done."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_lottery.children.records import Row, is_accuracy, is_of_whole_network
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.connectivity.stability import stability_of, unit_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.pictures.folders import Drawn, Part, by_number, kind_in, load_lines, load_rows
from lightning_lottery.experiments.pictures.lines import draw_stability
from lightning_lottery.experiments.siblings import REPORT
from lightning_lottery.figures.stages import Panel, Reached, stages_over_seeds
from lightning_lottery.figures.style import in_words
from lightning_lottery.functional.crossed import upper_quantile

LEVEL = 0.05
"""Of each bound of a mean accuracy."""

MOST_ROWS = 30
"""Stages in one picture of a recipe; where they are more, levels and steps are left to pictures of their own."""


def draw_recipes(parts: Sequence[Part], drawn: Drawn) -> None:
    """What every stage of a recipe reached, and the lines of its analyses."""
    for part in parts:
        prefix = f"{re.sub(r'[^A-Za-z0-9_]+', '-', part.name)}-" if part.name else ""
        notes: list[str] = []
        rows, analyses = _stages_in(part, notes)
        if analyses:
            drawn.figures |= {prefix + name: figure for name, figure in draw_stability(analyses, notes).items()}
        panels = [panel for panel in (_accuracies(rows), _barriers(analyses)) if panel is not None]
        if panels:
            stages = {stage for panel in panels for stage in panel.stages}
            if len(stages) > MOST_ROWS:
                panels = [
                    panel._replace(stages={s: r for s, r in panel.stages.items() if "/" not in s}) for panel in panels
                ]
                notes.append("Levels and steps of experiments are left to their own pictures.")
                panels = [panel for panel in panels if panel.stages]
        if panels:  # none are left of a recipe of many experiments alone
            title = part.name or part.folder.resolve().name
            drawn.figures[f"{prefix}summary"] = stages_over_seeds(panels, title, notes)
        drawn.notes += notes


def _stages_in(part: Part, notes: list[str]) -> tuple[list[Row], dict[str, dict[int, PathReport]]]:
    """The records of all stages that are done, and the lines of those that are analyses, by seed."""
    rows: list[Row] = []
    analyses: dict[str, dict[int, PathReport]] = {}
    waiting = []
    for stage in sorted(part.folder.glob("seed-*/*/"), key=lambda path: (by_number(path.name), path.parent.name)):
        seed = stage.parent.name.removeprefix("seed-")
        is_drawn = seed.isdecimal() and (part.seeds is None or int(seed) in part.seeds)
        if not (stage / "child.json").is_file() or not is_drawn:
            continue
        if not (stage / "done").is_file():
            waiting.append(f"{stage.parent.name}/{stage.name}")
        else:
            rows += load_rows(stage / "results.jsonl", notes)
        if kind_in(stage) == "lines" and (stage / REPORT).is_file() and (report := load_lines(stage / REPORT, notes)):
            analyses.setdefault(stage.name, {})[int(seed)] = report
    if waiting:
        notes.append(f"Not done yet: {', '.join(waiting)}.")
    return rows, analyses


def _accuracies(rows: Sequence[Row]) -> Panel | None:
    """The first test metric that is an accuracy, else the first one, of every stage; None where there is none."""
    whole = [row for row in rows if is_of_whole_network(row) and row.get("child_a") is None]
    metrics = list(dict.fromkeys(row["metric"] for row in whole))
    metrics.sort(key=lambda metric: (not metric.startswith("test"), not is_accuracy(metric)))
    if not metrics:
        return None
    values: dict[str, dict[tuple[Any, ...], Row]] = {}
    for row in whole:
        if row["metric"] == metrics[0]:
            values.setdefault(row["stage"], {})[row.get("parent"), row["seed"]] = row
    numbers = [row["value"] for by_run in values.values() for row in by_run.values()]
    are_shares = all(0 <= number <= 1 for number in numbers) and "loss" not in metrics[0]
    stages = {stage: _reached([*by_run.values()], are_shares) for stage, by_run in values.items()}
    bounds = "bounds of the mean, one-sided 95 % each: over runs, never narrower than so few test samples allow"
    return Panel(in_words(metrics[0]), stages, bounds, are_shares)


def _reached(rows: Sequence[Row], are_shares: bool) -> Reached:
    """The values of one stage and their bounds.

    By Student's t over runs, and never narrower than a single run's on so many test samples: all runs of a stage are
    right and wrong on the same ones, so that no number of runs takes away what these leave open.
    """
    values = [row["value"] for row in rows]
    mean, count = sum(values) / len(values), rows[0].get("n")
    reach = 0.0
    if len(values) > 1:
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        reach = upper_quantile(LEVEL, len(values) - 1) * (variance / len(values)) ** 0.5
    if are_shares and count:
        reach = max(reach, upper_quantile(LEVEL, math.inf) * (mean * (1 - mean) / count) ** 0.5)
    return Reached(values, mean - reach, mean + reach) if reach > 0 and math.isfinite(reach) else Reached(values)


def _barriers(analyses: Mapping[str, Mapping[int, PathReport]]) -> Panel | None:
    """The barrier of every pair of each analysis, beside its verdict's bounds."""
    if not analyses:
        return None
    stages, thresholds, are_shares = {}, set(), True
    for stage, reports in analyses.items():
        unit = unit_of(reports)
        every = [report.measures(pair)["error_barrier"] / unit for report in reports.values() for pair in report.pairs]
        one = next(iter(reports.values()))
        are_shares = are_shares and (one.error_of_ends is not None or one.judging.threshold_ratio is not None)
        thresholds.add(one.judging.bound)
        try:
            judged = stability_of(reports)
        except LotteryError:
            stages[stage] = Reached(every)
        else:
            stages[stage] = Reached(every, judged.low, judged.high)
    threshold = min(thresholds) if len(thresholds) == 1 else None
    return Panel("error barrier", stages, "bounds of the mean barrier, one-sided 95 % each", are_shares, threshold)
