"""What pruning costs: a metric against the fraction of weights kept, for one run of iterative pruning or several."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_lottery.figures.style import (
    LINES,
    MARKS,
    PALE,
    Mark,
    explain_marks,
    keep_scale,
    look,
    mean,
    name_ends,
    panels,
    per_cent,
    percentage,
    styled,
    ticks_at,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Levels(NamedTuple):
    """One run: a dense network, tickets of falling density, and their controls."""

    dense: Sequence[float]
    """The metric of the dense network for each seed."""
    curves: Mapping[str, Mapping[float, Sequence[float]]]
    """``ticket``, or what a control is called, to density, in (0, 1), to the metric for each seed."""
    matches_down_to: float | None = None
    """Density of the last ticket that matches the dense network; None for none."""


TICKET = "ticket"


@styled
def accuracy_against_density(
    runs: Mapping[str, Levels], metric: str, *, are_shares: bool = True, notes: Sequence[str] = ()
) -> "Figure":
    """A metric against the fraction of weights kept, on a logarithmic axis: tickets, their controls, the dense network.

    A run has its colour and marker, a control its line; the density 1 is the dense network's.

    Args:
        runs: What a run is called, which may be empty for a single one, to its levels.
        metric: What the metric is called.
        are_shares: Whether it is a fraction, read in per cent.
        notes: What is missing.
    """
    figure, (axes,) = panels(1, (8, 5.2))
    axes.set_xscale("log")
    axes.set_xlabel("weights kept, %")
    kinds = list(dict.fromkeys([TICKET, *(kind for levels in runs.values() for kind in levels.curves)]))
    densities, ends, missing = {1.0}, [], list(notes)
    marks: dict[str, Mark | dict[str, Any]] = {"mean over seeds": "mean"}
    for number, (name, levels) in enumerate(runs.items()):
        for kind, points in levels.curves.items():
            each = look(number if len(runs) > 1 else kinds.index(kind)) | {
                "linestyle": LINES[kinds.index(kind) % len(LINES)]
            }
            if kind != TICKET:
                each["markerfacecolor"] = "white"
            known = _known({1.0: levels.dense, **points} if kind == TICKET else points)
            title = " ".join(word for word in (name, kind if kind != TICKET or not name else "") if word)
            missing += [f"{title}: no number at {percentage(d)} % kept." for d in points if d not in known]
            densities |= {*points}
            if not known:
                continue
            means = {density: mean(seeds) for density, seeds in known.items()}
            axes.plot([*means], [*means.values()], **each)
            if any(len(seeds) > 1 for seeds in known.values()):
                lows, highs = ([end(seeds) for seeds in known.values()] for end in (min, max))
                axes.fill_between([*known], lows, highs, color=each["color"], alpha=0.15, linewidth=0)
                marks["from the lowest to the highest seed"] = "band"
            ends.append((means[min(means)], title, each["color"]))
            if kind == TICKET and levels.matches_down_to in means:
                axes.plot([levels.matches_down_to], [means[levels.matches_down_to]], zorder=5, **MARKS["ring"])
                marks["the last ticket that matches the dense network"] = "ring"
        if dense := _known({1.0: levels.dense}):
            color = look(number)["color"] if len(runs) > 1 else PALE
            axes.axhline(mean(dense[1.0]), color=color, linestyle=(0, (1, 2)), linewidth=1.2, zorder=0)
            marks["the dense network"] = MARKS["reference"] | {"color": PALE, "linestyle": (0, (1, 2))}
    lowest = min(densities)
    edge = lowest**-0.04 if lowest < 1 else 1.1
    axes.set_xlim(edge, lowest / edge)
    every = sorted(densities)
    ticks_at(axes, every, [percentage(density) for density in every])
    per_cent(axes.yaxis, metric, are_shares=are_shares)
    if are_shares:
        keep_scale(axes, 0.02)
    name_ends(axes, ends, lowest)
    explain_marks(figure, [(mark, words) for words, mark in marks.items()], missing)
    return figure


def _known(points: Mapping[float, Sequence[float]]) -> dict[float, list[float]]:
    """Density, falling, to the finite values there; without what has none."""
    finite = {density: [seed for seed in seeds if math.isfinite(seed)] for density, seeds in points.items()}
    return {density: finite[density] for density in sorted(finite, reverse=True) if finite[density]}
