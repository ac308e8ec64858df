"""What each stage of a recipe reached in each run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import mean, panels, rows_of_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stages_over_seeds(values: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> "Figure":
    """One row per stage, one panel per metric: a dot for each run, a bar at their mean.

    Args:
        values: Metric to stage to its value in each run; stages in the order in which they ran, not all in each metric.
        title: Title of the figure.
    """
    stages = list(dict.fromkeys(stage for runs_by_stage in values.values() for stage in runs_by_stage))
    figure, all_axes = panels(len(values), (2.5 + 4.5 * len(values), 0.9 + 0.45 * len(stages)))
    figure.suptitle(title)
    for axes, (metric, runs_by_stage) in zip(all_axes, values.items(), strict=True):
        for stage, runs in runs_by_stage.items():
            row = stages.index(stage)
            axes.plot(runs, [row] * len(runs), "o", color="tab:blue", alpha=0.6)
            axes.plot([mean(runs)], [row], "|", color="black", markersize=18, markeredgewidth=2)
        axes.set_xlabel(metric)
        rows_of_labels(axes, stages, named=axes is all_axes[0])
    return figure
