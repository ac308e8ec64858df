"""The line between networks: metrics along it, for one analysis or many, and what each layer adds to the barrier."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_lottery.figures.style import (
    COLORS,
    INK,
    LINES,
    MARKERS,
    THRESHOLD,
    Mark,
    explain_marks,
    hold_all,
    keep_scale,
    look,
    mean,
    name_ends,
    panels,
    per_cent,
    rows_of_labels,
    size_in_words,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[float]]
"""Pair of networks, by its name, to a value at every alpha."""

Marks = dict[str, Mark | dict[str, Any]]
"""Meaning, in words, to the mark that has it."""

FEW = 6
"""Pairs that are drawn as a line each; more are a band, with their mean and the highest of them."""

ALONG = "alpha, the place on the line: 0 is the pair's second network, 1 its first"


@styled
def lines_between(
    alphas: Sequence[float],
    along: Mapping[str, Curves],
    threshold: float,
    *,
    beside: Mapping[str, Mapping[str, Curves]] | None = None,
    title: str = "",
    shares: Sequence[str] = (),
) -> "Figure":
    """Metrics along the lines between networks: each pair, or a band of many, and the threshold of the error.

    Args:
        alphas: Fractions of the line, from 0 to 1.
        along: Metric, in words, to its values along each pair's line; the first is judged.
        threshold: Barrier of the first metric below which networks are called stable, in its units.
        beside: The same of other lines, by what they are called, such as ``aligned``: their means are drawn.
        title: The verdict.
        shares: The metrics that are fractions, read in per cent.
    """
    figure, every = panels(len(along), (6 * len(along), 4.6))
    figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    marks: Marks = {}
    for axes, (metric, curves) in zip(every, along.items(), strict=True):
        curves = _finite(curves)
        if len(curves) > FEW:
            marks |= _draw_band(axes, alphas, list(curves.values()))
            named = {
                f"highest: {(pair := _highest(curves))}": (curves[pair], {**look(1), "marker": "", "linewidth": 1})
            }
        else:
            named = {pair: (curve, {**look(n), "markersize": 3}) for n, (pair, curve) in enumerate(curves.items())}
        for curve, drawn in named.values():
            axes.plot(alphas, curve, **drawn)
        for number, (kind, lines) in enumerate((beside or {}).items(), start=1):
            if lines.get(metric):
                drawn = {"color": INK, "linestyle": LINES[number], "linewidth": 1.5}
                axes.plot(alphas, _means(list(_finite(lines[metric]).values())), **drawn)
                marks[f"{kind}, mean"] = drawn
        middle = _mean_of_ends(curves)
        if axes is every[0]:
            axes.axhline(middle, **REFERENCE)
            axes.axhline(middle + threshold, **THRESHOLD)
            size = size_in_words(threshold, are_shares=metric in shares)
            marks |= {f"threshold, {size} above the mean of the ends": "threshold", "mean of the ends": "reference"}
        keep_scale(axes, 3 * threshold if axes is every[0] else 0.2 * abs(middle))
        name_ends(axes, [(_last(curve), pair, drawn["color"]) for pair, (curve, drawn) in named.items()], alphas[-1])
        axes.set_xlabel(ALONG, fontsize="small")
        per_cent(axes.yaxis, metric, are_shares=metric in shares)
    explain_marks(figure, [(mark, words) for words, mark in marks.items()], _gaps(along))
    return figure


class Paths(NamedTuple):
    """The lines of one analysis among several, and what they say."""

    alphas: Sequence[float]
    rises: Mapping[str, Curves]
    """Parent, by its name, to pair to the error above the mean of the pair's ends, at every alpha."""
    threshold: float
    verdict: str
    mean: float | None = None
    """Of the barriers, as judged; None where it is not finite."""
    low: float | None = None
    high: float | None = None


@styled
def paths_of_stages(
    stages: Mapping[str, Paths], *, error: str = "error", are_shares: bool = True, notes: Sequence[str] = ()
) -> "Figure":
    """The lines of several analyses in small panels on one y axis, each with its verdict, and its interval beside.

    Args:
        stages: Name of an analysis to its lines; all in the same units.
        error: What the error is called.
        are_shares: Whether it is a fraction, read in per cent.
        notes: What is missing.
    """
    columns = 3 if len(stages) in (3, 5, 6) else min(4, max(1, len(stages)))
    rows = -(-len(stages) // columns)
    figure, every = panels(len(stages), (1 + 2.9 * columns, 1.6 + 2.5 * rows), columns=columns, sharey=True)
    grouped = _in_groups(stages)
    looks = {
        group: look(n) | {"markersize": 3, "linewidth": 1.2}
        for n, group in enumerate(dict.fromkeys(g for s in grouped.values() for g in s))
    }
    marks: Marks = {}
    inner, bounds = [1.5 * paths.threshold for paths in stages.values()], []
    for axes, (stage, paths) in zip(every, stages.items(), strict=True):
        axes.axhline(0, **REFERENCE)
        axes.axhline(paths.threshold, **THRESHOLD)
        curves = [curve for of_group in grouped[stage].values() for curve in of_group]
        inner += [value for curve in curves for value in curve if math.isfinite(value)]
        if len(curves) > 2 * FEW:
            marks |= _draw_band(axes, paths.alphas, curves)
        else:
            for group, of_group in grouped[stage].items():
                marks[group] = looks[group]
                for curve in of_group:
                    axes.plot(paths.alphas, curve, **looks[group])
        if paths.mean is not None:
            inner.append(paths.mean)
            axes.plot([BESIDE], [paths.mean], **MEAN_BARRIER)
            marks["mean barrier, as judged"] = MEAN_BARRIER
        if paths.low is not None and paths.high is not None:
            bounds += [paths.low, paths.high]
            marks["its bounds, one-sided 95 % each"] = "bounds"
            axes.plot([BESIDE, BESIDE], [paths.low, paths.high], color=INK, marker="_", markersize=8, linewidth=1.3)
        axes.set_title("\n".join((*textwrap.wrap(stage, WIDE), *textwrap.wrap(paths.verdict, WIDE))), fontsize="small")
        axes.set_xlim(-0.03, 2 * BESIDE - 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    for number, axes in enumerate(every):
        axes.tick_params(labelleft=number % columns == 0)
        axes.set_xlabel("alpha" if number + columns >= len(every) else "", fontsize="small")
    beyond = hold_all(every[0], inner, bounds) if every else None
    if are_shares and every:
        per_cent(every[0].yaxis, error)
    for axes in every[::columns]:
        axes.set_ylabel(f"{error} above\nthe mean of the ends{', %' if are_shares else ''}", fontsize="small")
    sizes = sorted({paths.threshold for paths in stages.values()})
    written = " or ".join(size_in_words(size, are_shares=are_shares) for size in sizes)
    marks |= {f"threshold, {written}": "threshold"}
    if beyond is not None:
        size = size_in_words(beyond, are_shares=are_shares)
        notes = [*notes, f"Beyond {size} the axis is logarithmic, so that wide bounds are not cut off."]
    explain_marks(figure, [(mark, words) for words, mark in marks.items()], [*notes, f"{ALONG}."])
    return figure


MEAN_BARRIER: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": ""}

REFERENCE: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1}

WIDE = 38
"""Characters of a title that fit above a small panel."""

BESIDE = 1.12
"""Where on the axis of alpha an interval stands: right of the line."""


def _in_groups(stages: Mapping[str, Paths]) -> dict[str, dict[str, list[Sequence[float]]]]:
    """Stage to what its lines are called to the lines: by pair where there is one parent, by parent where several."""
    has_parents = len({parent for paths in stages.values() for parent in paths.rises}) > 1
    grouped: dict[str, dict[str, list[Sequence[float]]]] = {}
    for stage, paths in stages.items():
        groups = grouped.setdefault(stage, {})
        for parent, curves in paths.rises.items():
            for pair, curve in _finite(curves).items():
                groups.setdefault(parent if has_parents else pair, []).append(curve)
    return grouped


def _draw_band(axes: "Axes", alphas: Sequence[float], curves: Sequence[Sequence[float]]) -> Marks:
    """From the lowest to the highest of many lines, the middle half of them, and their mean."""
    import numpy as np

    known = [curve for curve in curves if all(map(math.isfinite, curve))]
    if known:
        low, first, third, high = np.quantile(np.array(known), [0, 0.25, 0.75, 1], axis=0)
        axes.fill_between(alphas, low, high, color=COLORS[0], alpha=0.18, linewidth=0)
        axes.fill_between(alphas, first, third, color=COLORS[0], alpha=0.35, linewidth=0)
        axes.plot(alphas, _means(known), color=COLORS[0], linewidth=1.8)
    return {f"all {len(known)} pairs": "band", "the middle half of them": "half", "their mean": "mean"}


def _finite(curves: Curves) -> dict[str, list[float]]:
    """The curves with gaps where they are not finite."""
    return {pair: [value if math.isfinite(value) else math.nan for value in curve] for pair, curve in curves.items()}


def _gaps(along: Mapping[str, Curves]) -> list[str]:
    """Which lines have gaps."""
    notes = []
    for metric, curves in along.items():
        pairs = [pair for pair, curve in curves.items() if not all(map(math.isfinite, curve))]
        if pairs:
            notes.append(f"{metric}: not finite everywhere between {', '.join(pairs)}.")
    return notes


def _means(curves: Sequence[Sequence[float]]) -> list[float]:
    return [mean(values) for values in zip(*curves, strict=True)]


def _mean_of_ends(curves: Curves) -> float:
    ends = [curve[end] for curve in curves.values() for end in (0, -1) if math.isfinite(curve[end])]
    return mean(ends) if ends else 0.0


def _highest(curves: Curves) -> str:
    """The pair whose line goes highest."""
    return max(
        curves, key=lambda pair: max((value for value in curves[pair] if math.isfinite(value)), default=-math.inf)
    )


def _last(curve: Sequence[float]) -> float:
    """The last value that is finite; 0 where none is."""
    return next((value for value in reversed(curve) if math.isfinite(value)), 0.0)


@styled
def layers_between(
    barriers: Mapping[str, Mapping[str, Sequence[float]]], threshold: float, *, are_shares: bool = True
) -> "Figure":
    """A bar for each layer: how far the error rises when only it, or all layers up to it, are interpolated.

    Args:
        barriers: Kind (``single``, ``cumulative``) to layer to the rise of each pair.
        threshold: Error barrier below which networks are called stable.
        are_shares: Whether rises are fractions, read in per cent.
    """
    titles = {"single": "one layer alone", "cumulative": "all layers up to it"}
    layers = len(next(iter(barriers.values())))
    figure, every = panels(len(barriers), (3 + 4 * len(barriers), 1.7 + 0.22 * layers))
    for axes, (kind, rises_by_layer) in zip(every, barriers.items(), strict=True):
        means = [mean(rises) for rises in rises_by_layer.values()]
        axes.barh(range(layers), means, color=COLORS[4], alpha=0.8)
        for row, rises in enumerate(rises_by_layer.values()):
            axes.plot(rises, [row] * len(rises), MARKERS[0], color=INK, markersize=2.5, alpha=0.6)
        axes.axvline(threshold, **THRESHOLD)
        axes.set_title(f"interpolated: {titles.get(kind, kind)}")
        per_cent(axes.xaxis, "rise of the error", are_shares=are_shares)
        rows_of_labels(axes, list(rises_by_layer), named=axes is every[0], fontsize="small")
    size = size_in_words(threshold, are_shares=are_shares)
    bar = {"color": COLORS[4], "linewidth": 8, "alpha": 0.8}
    explain_marks(figure, [(bar, "mean over pairs"), ("run", "one pair"), ("threshold", f"threshold, {size}")])
    return figure
