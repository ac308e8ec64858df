"""What a sweep over steps says: the error barrier against the step at which children part, k*, and the lines behind."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_lottery.figures.style import (
    COLOR_MAP,
    INK,
    THRESHOLD,
    Mark,
    explain_marks,
    hold_all,
    keep_scale,
    look,
    name_ends,
    panels,
    per_cent,
    rows_of_labels,
    size_in_words,
    styled,
    ticks_at,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = npt.NDArray[np.floating[Any]]

AXIS = "optimizer step k at which the children part"


@styled
def barrier_over_steps(
    networks: Mapping[str, Mapping[str, Any]],
    thresholds: Collection[float],
    *,
    barrier: str = "error barrier",
    error: str = "test error",
    are_shares: bool = True,
    notes: Sequence[str] = (),
) -> "Figure":
    """The error barrier against the step at which children part; k* of each network below it, and the children's error.

    Step 0 and the first other one are as far apart as steps are in the middle, whatever a logarithm says of them.

    Args:
        networks: Name to ``steps`` (step to ``mean``, its bounds ``low`` and ``high``, ``by_parent``: means, and the
            children's ``error``) and to k*: ``step``, the interpolated ``estimate``, its bounds ``low`` and ``high``,
            ``level``. None for what is not known or not finite, and not drawn; what is not there was not asked for.
        thresholds: Error barriers below which networks are called stable, in the barriers' units.
        barrier: What the barrier is called.
        error: What the error of the children is called.
        are_shares: Whether both are fractions, read in per cent.
        notes: What else is missing.

    Source: Frankle et al. 2020, figures 3 and 5.
    """
    steps = sorted({step for network in networks.values() for step in network["steps"]})
    names, looks = list(networks), [look(number) for number in range(len(networks))]
    points = {name: _points(network) for name, network in networks.items()}
    has_errors = any(point.get("error") is not None for at in points.values() for point in at.values())
    has_bounds = any(point.get("low") is not None for at in points.values() for point in at.values())
    heights = [3.4, 0.3 + 0.28 * len(names), *([1.7] if has_errors else [])]
    figure, every = panels(len(heights), (8, 1.6 + sum(heights)), columns=1, heights=heights)
    above, rows = every[:2]
    for axes in every:
        _scale_steps(axes, steps)
    for each, (name, at) in zip(looks, points.items(), strict=True):
        _draw_curve(above, at, "mean", each)
        bounded = {step: point for step, point in at.items() if None not in (point.get("low"), point.get("high"))}
        low, high = ([point[bound] for point in bounded.values()] for bound in ("low", "high"))
        above.fill_between([*bounded], low, high, color=each["color"], alpha=0.13, linewidth=0)
        if (star := networks[name].get("step")) in at:
            above.plot([star], [at[star]["mean"]], **_star(each))
        if has_errors:
            _draw_curve(
                every[2], {step: point for step, point in at.items() if point.get("error") is not None}, "error", each
            )
    inner = [point["mean"] for at in points.values() for point in at.values()]
    inner += [mean for at in points.values() for point in at.values() for mean in _parents(point)]
    bounds = [
        point[b] for at in points.values() for point in at.values() for b in ("low", "high") if point.get(b) is not None
    ]
    beyond = hold_all(above, [0.0, *thresholds, *inner], bounds)
    ends = [
        (at[max(at)]["mean"], name, each["color"]) for each, (name, at) in zip(looks, points.items(), strict=True) if at
    ]
    for threshold in sorted(set(thresholds)):
        above.axhline(threshold, **THRESHOLD)
        ends.append((threshold, f"threshold {size_in_words(threshold, are_shares=are_shares)}", INK))
    name_ends(above, ends)
    if has_errors:
        keep_scale(every[2], min(thresholds))
    _draw_stars(rows, networks, looks, steps)
    for axes, words in zip((above, *every[2:]), (barrier, error), strict=False):
        per_cent(axes.yaxis, words, are_shares=are_shares)
    for axes in every:
        ticks_at(axes, steps, [str(step) for step in steps])
        axes.tick_params(axis="x", labelbottom=axes is every[-1])
    every[-1].set_xlabel(AXIS)
    explain_marks(figure, _marks(networks, points, has_bounds), [*_notes(networks, points, beyond, are_shares), *notes])
    figure.align_ylabels([above, *every[2:]])
    return figure


def _points(network: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """The steps of a network whose mean is known, rising."""
    return {step: point for step, point in sorted(network["steps"].items()) if point.get("mean") is not None}


def _parents(point: Mapping[str, Any]) -> list[float]:
    return [mean for mean in point.get("by_parent", {}).values() if mean is not None]


def _scale_steps(axes: "Axes", steps: Sequence[int]) -> None:
    """An axis of log(1 + k), as k* is interpolated; from 0 to the next step as wide as between steps on average."""
    positive = [step for step in steps if step > 0]
    if not positive:
        axes.set_xlim(-1, 1)
        return
    first, last = math.log1p(positive[0]), math.log1p(positive[-1])
    gap = (last - first) / (len(positive) - 1) if last > first else 1.0

    def positions_of(values: "Floats") -> "Floats":
        value = np.sign(values) * np.log1p(np.abs(values))
        return np.where(value < first, value * gap / first, value - first + gap)

    def steps_at(positions: "Floats") -> "Floats":
        value = np.where(positions < gap, positions * first / gap, positions - gap + first)
        return np.sign(value) * np.expm1(np.abs(value))

    axes.set_xscale("function", functions=(positions_of, steps_at))
    margin = 0.06 * (last - first + gap)
    edges = np.array([(0.0 if steps[0] == 0 else gap) - margin, last - first + gap + margin])
    axes.set_xlim(*steps_at(edges))


def _draw_curve(axes: "Axes", at: Mapping[int, Mapping[str, Any]], value: str, each: Mapping[str, Any]) -> None:
    """A value over steps, and that of each parent, where it is known."""
    axes.plot([*at], [point[value] for point in at.values()], **each)
    many = {"mean": "by_parent", "error": "errors"}[value]
    for step, point in at.items():
        values = [one for one in point.get(many, {}).values() if one is not None]
        if len(values) > 1:
            axes.plot([step] * len(values), values, **{**each, "linestyle": "", "markersize": 3, "alpha": 0.5})


def _star(each: Mapping[str, Any]) -> dict[str, Any]:
    return {"color": each["color"], "marker": "*", "markersize": 13, "markeredgecolor": INK, "zorder": 5}


def _draw_stars(
    axes: "Axes", networks: Mapping[str, Mapping[str, Any]], looks: Sequence[Mapping[str, Any]], steps: Sequence[int]
) -> None:
    """A row for each network: k*, the interpolated crossing, and a bar between the bounds of k*."""
    left, right = axes.get_xlim()
    for row, (network, each) in enumerate(zip(networks.values(), looks, strict=True)):
        star, estimate, high = network.get("step"), network.get("estimate"), network.get("high")
        low = network.get("low") or steps[0]
        axes.plot(
            [low, right if high is None else high],
            [row, row],
            color=each["color"],
            linewidth=5,
            alpha=0.35,
            solid_capstyle="butt",
        )
        axes.plot([low], [row], marker="|", color=each["color"], markersize=9)
        end: dict[str, Any] = {"marker": ">", "clip_on": False} if high is None else {"marker": "|", "markersize": 9}
        axes.plot([right if high is None else high], [row], color=each["color"], **end)
        if estimate is not None:
            axes.plot(
                [estimate], [row], color=each["color"], marker="d", markerfacecolor="white", linestyle="", markersize=7
            )
        if star is not None:
            axes.plot([star], [row], **_star(each))
        says = f"k* = {star}" if star is not None else f"none by {max(network['steps'], default=0)}"
        axes.text(1.03, row, says, transform=axes.get_yaxis_transform(), verticalalignment="center", fontsize=9)
    rows_of_labels(axes, list(networks), named=True, fontsize="small")
    axes.set_xlim(left, right)
    axes.set_ylabel("k*")


def _marks(
    networks: Mapping[str, Mapping[str, Any]], points: Mapping[str, Mapping[int, Any]], has_bounds: bool
) -> list[tuple[Mark | dict[str, Any], str]]:
    parents = any(len(_parents(point)) > 1 for at in points.values() for point in at.values())
    wrong = {network["level"] for network in networks.values() if network.get("level") is not None}
    marks: list[tuple[Mark | dict[str, Any], str]] = [("mean", "mean over parents" if parents else "mean over pairs")]
    if parents:
        marks.append(("run", "one parent"))
    if has_bounds:
        marks.append(("band", "bounds of the mean, one-sided 95 % each"))
    marks += [
        ("star", "k*: stable here and at every later step looked at"),
        ("crossing", "where the mean crosses the threshold"),
        ("bounds", "bounds of k*" + (f", each wrong in at most {100 * max(wrong):.0f} %" if wrong else "")),
    ]
    return marks


def _notes(
    networks: Mapping[str, Mapping[str, Any]],
    points: Mapping[str, Mapping[int, Any]],
    beyond: float | None,
    are_shares: bool,
) -> list[str]:
    """What is not drawn, and how the axis is to be read."""
    notes = []
    if beyond is not None:
        size = size_in_words(beyond, are_shares=are_shares)
        notes.append(f"Beyond {size} the axis of barriers is logarithmic, so that wide bounds are not cut off.")
    for name, network in networks.items():
        missing = [str(step) for step in sorted(network["steps"]) if step not in points[name]]
        if missing:
            notes.append(f"{name}: no finite barrier at step {', '.join(missing)}.")
    return notes


@styled
def lines_over_steps(
    alphas: Sequence[float],
    heat: Mapping[str, Mapping[int, Sequence[float]]],
    threshold: float,
    *,
    are_shares: bool = True,
) -> "Figure":
    """How far the error lies above the mean of the ends, over alpha and step: a heat-map a network.

    Args:
        alphas: Fractions of the line, from 0 to 1.
        heat: Network to step to the rise at each alpha; blank where it is NaN.
        threshold: Error barrier below which a network is called stable: the least that the colours reach.
        are_shares: Whether errors are fractions, read in per cent.
    """
    every_rise = [rise for rises_by_step in heat.values() for rises in rises_by_step.values() for rise in rises]
    top = max([threshold, *(rise for rise in every_rise if rise < math.inf)])
    figure, all_axes = panels(len(heat), (1.4 + 4.2 * len(heat), 3.6))
    unit = 100 if are_shares else 1
    for axes, (name, rises_by_step) in zip(all_axes, heat.items(), strict=True):
        rows = [[unit * rises[number] for rises in rises_by_step.values()] for number in range(len(alphas))]
        axes.grid(visible=False)
        image = axes.imshow(rows, origin="lower", aspect="auto", vmin=0, vmax=unit * top, cmap=COLOR_MAP)
        ticks_at(axes, list(range(len(rises_by_step))), [str(step) for step in rises_by_step])
        ticks = [0, len(alphas) // 2, len(alphas) - 1]
        axes.set_yticks(ticks, [f"{alphas[tick]:g}" for tick in ticks])
        axes.set(title=name, xlabel="step k, not to scale")
        axes.set_ylabel("place on the line (alpha)" if axes is all_axes[0] else "")
        if axes is all_axes[-1]:
            bar = figure.colorbar(
                image, ax=axes, label="error above the mean of the ends" + (", %" if are_shares else "")
            )
            bar.ax.axhline(unit * threshold, **{**THRESHOLD, "color": "white"})
    return figure
