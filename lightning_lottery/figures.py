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


def lines_between(
    alphas: Sequence[float], errors: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], threshold: float
) -> "Figure":
    """Error and loss along the lines between networks: each pair, their mean, and the threshold above the ends' mean.

    Args:
        alphas: Places on the line, from 0 to 1.
        errors: For each pair the error at every place, a fraction.
        losses: For each pair the loss at every place; may be empty.
        threshold: Error barrier below which networks are called stable, a fraction.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    shown = [("error", errors), *([("loss", losses)] if losses else [])]
    figure = Figure(figsize=(5 * len(shown), 3.6), layout="constrained")
    for number, (name, curves) in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), number, xlabel="alpha", ylabel=name)
        for curve in curves:
            axes.plot(alphas, curve, color="tab:blue", alpha=0.4)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(alphas, mean, color="black", label=f"mean of {len(curves)} pair{'s' if len(curves) > 1 else ''}")
        if name == "error":
            axes.axhline((mean[0] + mean[-1]) / 2 + threshold, color="tab:red", linestyle="--", label="threshold")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
