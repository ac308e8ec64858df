"""The line between networks: metrics along it, and what each layer adds to the barrier."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import THRESHOLD, mean, panels, rows_of_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lines_between(
    alphas: Sequence[float],
    along: Mapping[str, Sequence[Sequence[float]]],
    threshold: float,
    beside: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] | None = None,
) -> "Figure":
    """Metrics along the lines between networks: each pair, their mean, the ends, and the threshold of the error.

    Args:
        alphas: Fractions of the line, from 0 to 1.
        along: Metric to its values at every alpha for each pair; ``error`` is judged.
        threshold: Error barrier below which networks are called stable, a fraction.
        beside: The same of other lines, dashed, by what they are called, such as ``aligned``.
    """
    figure, all_axes = panels(len(along), (5 * len(along), 3.6))
    for axes, (metric, curves) in zip(all_axes, along.items(), strict=True):
        for curve in curves:
            axes.plot(alphas, curve, color="tab:blue", alpha=0.4)
        means = [mean(values) for values in zip(*curves, strict=True)]
        axes.plot(alphas, means, color="black", label=f"mean of {len(curves)} pair{'s' if len(curves) > 1 else ''}")
        axes.plot([alphas[0], alphas[-1]], [means[0], means[-1]], "o", color="black", label="ends")
        for color, (kind, lines) in enumerate((beside or {}).items(), start=1):
            for pair, curve in enumerate(lines[metric]):
                axes.plot(alphas, curve, color=f"C{color}", linestyle="--", label="" if pair else kind)
        if metric == "error":
            axes.axhline((means[0] + means[-1]) / 2 + threshold, **THRESHOLD, label="threshold")
        axes.set(xlabel="alpha", ylabel=metric)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def layers_between(barriers: Mapping[str, Mapping[str, Sequence[float]]], threshold: float) -> "Figure":
    """A bar for each layer: how far the error rises when only it, or all layers up to it, are interpolated.

    Args:
        barriers: Kind (``single``, ``cumulative``) to layer to the rise of each pair, fractions.
        threshold: Error barrier below which networks are called stable, a fraction.
    """
    layers = len(next(iter(barriers.values())))
    figure, all_axes = panels(len(barriers), (5 * len(barriers), 1.2 + 0.22 * layers))
    for axes, (kind, rises_by_layer) in zip(all_axes, barriers.items(), strict=True):
        axes.barh(range(layers), [mean(rises) for rises in rises_by_layer.values()], color="tab:blue", alpha=0.6)
        for row, rises in enumerate(rises_by_layer.values()):
            axes.plot(rises, [row] * len(rises), ".", color="black")
        axes.axvline(threshold, **THRESHOLD)
        axes.set(xlabel="error barrier", title=f"{kind} layers")
        rows_of_labels(axes, list(rises_by_layer), named=axes is all_axes[0], fontsize="small")
    return figure
