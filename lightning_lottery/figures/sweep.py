"""What a sweep over steps says: the error barrier against the step at which children part, and the lines behind it."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_lottery.figures.style import THRESHOLD, panels, ticks_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def barrier_over_steps(curves: Mapping[str, Mapping[int, Mapping[str, Any]]], threshold: float) -> "Figure":
    """The error barrier against the step at which children part, on a logarithmic axis that begins with 0.

    Args:
        curves: Network to step to ``mean``, its bounds ``low`` and ``high``, and ``by_parent``: means; None for what is
            not known or not finite, and not drawn.
        threshold: Error barrier below which a network is called stable, a fraction.

    Source: Frankle et al. 2020, figure 3.
    """
    figure, (axes,) = panels(1, (7, 4.2))
    axes.set(xlabel="optimizer step at which children part", ylabel="error barrier")
    axes.set_xscale("symlog", linthresh=1)  # the first step is often 0, which a logarithm does not show
    for number, (name, curve) in enumerate(curves.items()):
        points = {step: point for step, point in curve.items() if point["mean"] is not None}
        color, steps = f"C{number}", sorted(points)
        axes.plot(steps, [points[step]["mean"] for step in steps], "o-", color=color, label=name)
        bounded = [step for step in steps if points[step]["low"] is not None]
        low, high = ([points[step][bound] for step in bounded] for bound in ("low", "high"))
        axes.fill_between(bounded, low, high, color=color, alpha=0.15, linewidth=0)
        for step in steps:
            means = [mean for mean in points[step]["by_parent"].values() if mean is not None]
            axes.plot([step] * len(means), means, ".", color=color, alpha=0.5, markersize=4)
    axes.axhline(threshold, **THRESHOLD, label="threshold")
    every_step = sorted({step for points in curves.values() for step in points})
    ticks_at(axes, every_step, [str(step) for step in every_step])
    # By the means alone: with few children the bounds are so wide that the curve would be flat below them.
    top = max([threshold, *(point["mean"] or 0 for points in curves.values() for point in points.values())])
    axes.set_ylim(-0.1 * top, 1.6 * top)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def lines_over_steps(
    alphas: Sequence[float], heat: Mapping[str, Mapping[int, Sequence[float]]], threshold: float
) -> "Figure":
    """How far the error lies above the mean of the ends, over alpha and step: a heat-map a network.

    Args:
        alphas: Fractions of the line, from 0 to 1.
        heat: Network to step to the rise at each alpha; blank where it is NaN.
        threshold: Error barrier below which a network is called stable, a fraction: the least that the colours reach.
    """
    every_rise = [rise for rises_by_step in heat.values() for rises in rises_by_step.values() for rise in rises]
    top = max([threshold, *(rise for rise in every_rise if rise < math.inf)])
    figure, all_axes = panels(len(heat), (1 + 4.2 * len(heat), 3.6))
    for axes, (name, rises_by_step) in zip(all_axes, heat.items(), strict=True):
        rows = [[rises[number] for rises in rises_by_step.values()] for number in range(len(alphas))]
        image = axes.imshow(rows, origin="lower", aspect="auto", vmin=0, vmax=top, cmap="magma")
        stride = -(-len(rises_by_step) // 12)  # a label for at most a dozen steps
        labelled = [str(step) for step in rises_by_step][::stride]
        axes.set_xticks(range(0, len(rises_by_step), stride), labelled, rotation=45, fontsize="small")
        ticks = [0, len(alphas) // 2, len(alphas) - 1]
        axes.set_yticks(ticks, [f"{alphas[tick]:g}" for tick in ticks])
        axes.set(title=name, xlabel="step (not to scale)", ylabel="alpha" if axes is all_axes[0] else "")
        if axes is all_axes[-1]:
            figure.colorbar(image, ax=axes, label="error above the ends' mean")
    return figure
