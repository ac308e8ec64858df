"""What iterative pruning costs: a metric against the fraction of weights kept."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import mean, panels, ticks_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_against_density(
    curves: Mapping[str, Mapping[float, Sequence[float]]],
    dense: Sequence[float],
    metric: str,
    matches_down_to: float | None = None,
) -> "Figure":
    """A metric against the fraction of weights kept, on a logarithmic axis, beside the dense network.

    Args:
        curves: Name of a curve to density, in (0, 1], to the metric's value for each seed.
        dense: The metric of the dense network for each seed.
        metric: Its name, for the axis.
        matches_down_to: Density of the last level that matches the dense network, which a line marks; None for none.
    """
    figure, (axes,) = panels(1, (6, 4))
    axes.set(xlabel="density", ylabel=metric, xscale="log")
    axes.axhline(mean(dense), color="black", linestyle="--", label="dense")
    axes.axhspan(min(dense), max(dense), color="black", alpha=0.08)
    for number, (name, points) in enumerate(curves.items()):
        color = f"C{number}"
        axes.plot(list(points), [mean(seeds) for seeds in points.values()], "-", color=color, label=name)
        for density, seeds in points.items():
            axes.plot([density] * len(seeds), seeds, "o", color=color, alpha=0.5, markersize=4)
    if matches_down_to is not None:
        axes.axvline(matches_down_to, color="black", linestyle=":", label=f"matches down to {matches_down_to:.3g}")
    densities = sorted({density for points in curves.values() for density in points})
    ticks_at(axes, densities, [f"{density:.3g}" for density in densities])
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
