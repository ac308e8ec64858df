"""What each stage of a recipe reached in each run."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightning_lottery.figures.style import (
    COLORS,
    INK,
    MARKERS,
    THRESHOLD,
    Mark,
    explain_marks,
    mean,
    panels,
    per_cent,
    rows_of_labels,
    size_in_words,
    styled,
)

if TYPE_CHECKING:
    from typing import Any

    from matplotlib.figure import Figure


class Reached(NamedTuple):
    """What one stage reached in a metric."""

    values: Sequence[float]
    """In each run."""
    low: float | None = None
    high: float | None = None


class Panel(NamedTuple):
    """One metric of all stages."""

    metric: str
    """What it is called."""
    stages: Mapping[str, Reached]
    """In the order in which they ran; one that has no such metric is not there."""
    bounds: str = ""
    """What an interval means."""
    are_shares: bool = True
    threshold: float | None = None


@styled
def stages_over_seeds(every_panel: Sequence[Panel], title: str, notes: Sequence[str] = ()) -> "Figure":
    """One row per stage, one panel per metric: a dot for each run, their mean, and its interval.

    Args:
        every_panel: Metrics.
        title: Title of the figure.
        notes: What is missing.
    """
    stages = sorted(dict.fromkeys(stage for panel in every_panel for stage in panel.stages), key=_number)
    size = (3 + 4 * len(every_panel), 1.8 + 0.42 * len(stages))
    figure, every = panels(len(every_panel), size)
    figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    marks: dict[str, Mark | dict[str, Any]] = {}
    missing = list(notes)
    for axes, panel in zip(every, every_panel, strict=True):
        for stage, reached in panel.stages.items():
            row, runs = stages.index(stage), [run for run in reached.values if math.isfinite(run)]
            if lacking := len(reached.values) - len(runs):
                missing.append(f"{stage}: {panel.metric} is not finite in {lacking} of {len(reached.values)} runs.")
            if reached.low is not None and reached.high is not None:
                axes.plot([reached.low, reached.high], [row, row], marker="|", color=INK, linewidth=1.2, markersize=7)
                marks[panel.bounds] = "bounds"
            axes.plot(runs, [row] * len(runs), MARKERS[0], color=COLORS[0], alpha=0.55, markersize=5)
            if runs:
                axes.plot([mean(runs)], [row], MARKERS[3], color=COLORS[1], markersize=6, markeredgecolor=INK)
        if panel.threshold is not None:
            axes.axvline(panel.threshold, **THRESHOLD)
            marks[f"threshold, {size_in_words(panel.threshold, are_shares=panel.are_shares)}"] = "threshold"
        per_cent(axes.xaxis, panel.metric, are_shares=panel.are_shares)
        rows_of_labels(axes, stages, named=axes is every[0])
    dots: dict[str, Mark | dict[str, Any]] = {
        "one run": {"color": COLORS[0], "marker": MARKERS[0], "linestyle": "", "alpha": 0.55},
        "mean": {"color": COLORS[1], "marker": MARKERS[3], "linestyle": "", "markeredgecolor": INK},
    }
    explain_marks(figure, [(mark, words) for words, mark in {**dots, **marks}.items()], missing)
    return figure


def _number(stage: str) -> tuple[float, str]:
    """Stages go by the number that they begin with."""
    number = stage.partition("-")[0]
    return (int(number) if number.isdecimal() else math.inf, "")
