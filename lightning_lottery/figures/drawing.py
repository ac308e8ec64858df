"""Pure drawing: numbers in, matplotlib figure out."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stages_over_seeds(values: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> "Figure":
    """One row per stage, one panel per metric: a dot for each run, a bar at their mean.

    Args:
        values: Metric to stage to its value in each run; stages in the order in which they ran, not all in each metric.
        title: Title of the figure.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(stage for of in values.values() for stage in of))
    figure = Figure(figsize=(2.5 + 4.5 * len(values), 0.9 + 0.45 * len(stages)), layout="constrained")
    figure.suptitle(title)
    for number, (metric, of_stages) in enumerate(values.items(), start=1):
        axes = figure.add_subplot(1, len(values), number, xlabel=metric)
        for stage, of in of_stages.items():
            row = stages.index(stage)
            axes.plot(of, [row] * len(of), "o", color="tab:blue", alpha=0.6)
            axes.plot([sum(of) / len(of)], [row], "|", color="black", markersize=18, markeredgewidth=2)
        axes.set_yticks(range(len(stages)), stages if number == 1 else [""] * len(stages))
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    return figure


def lines_between(
    alphas: Sequence[float],
    along: Mapping[str, Sequence[Sequence[float]]],
    threshold: float,
    beside: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] | None = None,
) -> "Figure":
    """Metrics along the lines between networks: each pair, their mean, the ends, and the threshold of the error.

    Args:
        alphas: Places on the line, from 0 to 1.
        along: Metric to its values at every place for each pair; ``error`` is judged.
        threshold: Error barrier below which networks are called stable, a fraction.
        beside: The same of other lines, dashed, by what they are called, such as ``aligned``.

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
        for color, (called, of) in enumerate((beside or {}).items(), start=1):
            for place, curve in enumerate(of[name]):
                axes.plot(alphas, curve, color=f"C{color}", linestyle="--", label="" if place else called)
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


def accuracy_against_density(
    curves: Mapping[str, Mapping[float, Sequence[float]]], dense: Sequence[float], metric: str
) -> "Figure":
    """A metric against the fraction of weights kept, on a logarithmic axis, beside the dense network.

    Args:
        curves: Name of a curve to density, in (0, 1], to the metric's value for each seed.
        dense: The metric of the dense network for each seed.
        metric: Its name, for the axis.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="density", ylabel=metric, xscale="log")
    mean = sum(dense) / len(dense)
    axes.axhline(mean, color="black", linestyle="--", label="dense")
    axes.axhspan(min(dense), max(dense), color="black", alpha=0.08)
    for number, (name, points) in enumerate(curves.items()):
        color = f"C{number}"
        axes.plot(list(points), [sum(of) / len(of) for of in points.values()], "-", color=color, label=name)
        for density, of in points.items():
            axes.plot([density] * len(of), of, "o", color=color, alpha=0.5, markersize=4)
    densities = sorted({density for points in curves.values() for density in points})
    axes.set_xticks(densities, [f"{density:.3g}" for density in densities], fontsize="small")
    axes.set_xticks([], minor=True)
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def norms_with_draws(
    norms: Mapping[str, Sequence[tuple[int, float]]], draws: Mapping[str, Mapping[str, int]]
) -> "Figure":
    """The nuclear norm of unit masks over training, a panel for each series, with a line where a rule drew.

    Args:
        norms: Series, such as ``head-0.3``, to (optimizer step, norm) pairs.
        draws: Series to rule to the step at which it drew.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 + 2.2 * max(1, len(norms))), layout="constrained")
    rules = [*dict.fromkeys(rule for of in draws.values() for rule in of)]
    for number, (name, series) in enumerate(norms.items(), start=1):
        axes = figure.add_subplot(len(norms), 1, number, title=name, ylabel="nuclear norm")
        axes.plot([step for step, _ in series], [norm for _, norm in series], color="black", linewidth=0.8)
        for rule, step in draws.get(name, {}).items():
            axes.axvline(step, color=f"C{rules.index(rule) % 10}", linestyle="--", label=f"{rule}: {step}")
        if draws.get(name):
            axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        axes.grid(alpha=0.3)
        if number == len(norms):
            axes.set_xlabel("optimizer step")
    return figure


def mask_distances(matrices: Mapping[str, tuple[Sequence[int], Sequence[Sequence[float]]]]) -> "Figure":
    """How far the masks of every two steps lie apart, as heat-maps: dark where they are the same.

    Args:
        matrices: Series to optimizer steps and the square matrix of Hamming distances, fractions.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.

    Source: You et al. 2020, figure 2.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * max(1, len(matrices)), 3.6), layout="constrained")
    for number, (name, (steps, distances)) in enumerate(matrices.items(), start=1):
        axes = figure.add_subplot(1, len(matrices), number, title=name, xlabel="optimizer step")
        if len(steps):
            ends = (steps[0], steps[-1] + (steps[-1] == steps[0]))
            image = axes.imshow(distances, origin="lower", extent=(*ends, *ends), aspect="auto", vmin=0, cmap="magma")
            figure.colorbar(image, ax=axes, label="Hamming distance")
    return figure


def barrier_over_steps(curves: Mapping[str, Mapping[int, Mapping[str, Any]]], threshold: float) -> "Figure":
    """The error barrier against the step at which children part, on a logarithmic axis that begins with 0.

    Args:
        curves: Network to step to ``mean``, its bounds ``low`` and ``high``, and ``by_parent``: means; None for what is
            not known or not finite, and not drawn.
        threshold: Error barrier below which a network is called stable, a fraction.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.

    Source: Frankle et al. 2020, figure 3.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step at which children part", ylabel="error barrier")
    axes.set_xscale("symlog", linthresh=1)
    for number, (name, found) in enumerate(curves.items()):
        points = {step: point for step, point in found.items() if point["mean"] is not None}
        color, steps = f"C{number}", sorted(points)
        axes.plot(steps, [points[step]["mean"] for step in steps], "o-", color=color, label=name)
        bounded = [step for step in steps if points[step]["low"] is not None]
        low, high = ([points[step][bound] for step in bounded] for bound in ("low", "high"))
        axes.fill_between(bounded, low, high, color=color, alpha=0.15, linewidth=0)
        for step in steps:
            of = [mean for mean in points[step]["by_parent"].values() if mean is not None]
            axes.plot([step] * len(of), of, ".", color=color, alpha=0.5, markersize=4)
    axes.axhline(threshold, color="tab:red", linestyle="--", label="threshold")
    places = sorted({step for points in curves.values() for step in points})
    axes.set_xticks(places, [str(step) for step in places], fontsize="small", rotation=45)
    axes.set_xticks([], minor=True)
    top = max([threshold, *(point["mean"] or 0 for points in curves.values() for point in points.values())])
    axes.set_ylim(-0.1 * top, 1.6 * top)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def lines_over_steps(
    alphas: Sequence[float], heat: Mapping[str, Mapping[int, Sequence[float]]], threshold: float
) -> "Figure":
    """How far the error lies above the mean of the ends, over place on the line and step: a heat-map a network.

    Args:
        alphas: Places on the line, from 0 to 1.
        heat: Network to step to the rise at each place; blank where it is NaN.
        threshold: Error barrier below which a network is called stable, a fraction: the least that the colours reach.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    top = max(
        [threshold, *(rise for of in heat.values() for rises in of.values() for rise in rises if rise < math.inf)]
    )
    figure = Figure(figsize=(1 + 4.2 * len(heat), 3.6), layout="constrained")
    for number, (name, of) in enumerate(heat.items(), start=1):
        axes = figure.add_subplot(
            1, len(heat), number, title=name, xlabel="step (not to scale)", ylabel="alpha" if number == 1 else ""
        )
        columns = [[rises[place] for rises in of.values()] for place in range(len(alphas))]
        image = axes.imshow(columns, origin="lower", aspect="auto", vmin=0, vmax=top, cmap="magma")
        every = -(-len(of) // 12)  # a label for at most a dozen steps
        axes.set_xticks(range(0, len(of), every), [str(step) for step in of][::every], rotation=45, fontsize="small")
        ticks = [0, len(alphas) // 2, len(alphas) - 1]
        axes.set_yticks(ticks, [f"{alphas[place]:g}" for place in ticks])
        if number == len(heat):
            figure.colorbar(image, ax=axes, label="error above the ends' mean")
    return figure
