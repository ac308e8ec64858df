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
    alphas: Sequence[float], along: Mapping[str, Sequence[Sequence[float]]], threshold: float
) -> "Figure":
    """Metrics along the lines between networks: each pair, their mean, the ends, and the threshold of the error.

    Args:
        alphas: Places on the line, from 0 to 1.
        along: Metric to its values at every place for each pair; ``error`` is judged.
        threshold: Error barrier below which networks are called stable, a fraction.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(along), 3.6), layout="constrained")
    for number, (name, curves) in enumerate(along.items(), start=1):
        axes = figure.add_subplot(1, len(along), number, xlabel="alpha", ylabel=name)
        for curve in curves:
            axes.plot(alphas, curve, color="tab:blue", alpha=0.4)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.plot(alphas, mean, color="black", label=f"mean of {len(curves)} pair{'s' if len(curves) > 1 else ''}")
        axes.plot([alphas[0], alphas[-1]], [mean[0], mean[-1]], "o", color="black", label="ends")
        if name == "error":
            axes.axhline((mean[0] + mean[-1]) / 2 + threshold, color="tab:red", linestyle="--", label="threshold")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def layers_between(barriers: Mapping[str, Mapping[str, Sequence[float]]], threshold: float) -> "Figure":
    """A bar for each layer: how far the error rises when only it, or all layers up to it, are interpolated.

    Args:
        barriers: Kind (``single``, ``cumulative``) to layer to the rise of each pair, fractions.
        threshold: Error barrier below which networks are called stable, a fraction.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    layers = len(next(iter(barriers.values())))
    figure = Figure(figsize=(5 * len(barriers), 1.2 + 0.22 * layers), layout="constrained")
    for number, (kind, of) in enumerate(barriers.items(), start=1):
        axes = figure.add_subplot(1, len(barriers), number, xlabel="error barrier", title=f"{kind} layers")
        axes.barh(range(layers), [sum(rises) / len(rises) for rises in of.values()], color="tab:blue", alpha=0.6)
        for row, rises in enumerate(of.values()):
            axes.plot(rises, [row] * len(rises), ".", color="black")
        axes.axvline(threshold, color="tab:red", linestyle="--")
        axes.set_yticks(range(layers), list(of) if number == 1 else [], fontsize="small")
        axes.set_ylim(layers - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    return figure
