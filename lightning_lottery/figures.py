"""Pure drawing: numbers in, matplotlib figure out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stages_over_seeds(values: Mapping[str, Sequence[float]], metric: str, title: str) -> "Figure":
    """One row per stage: a dot for each seed, a bar at their mean.

    Args:
        values: Stage to the metric's value for each seed, stages in the order in which they ran.
        metric: Name of the metric, for the axis.
        title: Title of the figure.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.45 * len(values)), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=metric)
    for row, of in enumerate(values.values()):
        axes.plot(of, [row] * len(of), "o", color="tab:blue", alpha=0.6)
        axes.plot([sum(of) / len(of)], [row], "|", color="black", markersize=18, markeredgewidth=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    return figure
