"""Does a small barrier go with a good ticket? Barrier against deficit, and the same as ranks within steps."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_lottery.figures.style import (
    COLOR_MAP,
    INK,
    MARKERS,
    PALE,
    THRESHOLD,
    Mark,
    explain_marks,
    panels,
    per_cent,
    size_in_words,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARENTS = (*MARKERS, "<", ">", "p", "*", "h", "d", "8")
"""A marker for each parent: colours say the step."""


@styled
def barrier_and_deficit(
    points: Sequence[tuple[int, int, float, float]],
    method: str,
    correlation: str,
    margin: float,
    noise_floor: float | None,
    *,
    are_shares: bool = True,
) -> "Figure":
    """A line for each parent through its steps, and beside it the ranks of parents within each step.

    A parent has its marker, a step its colour, darker the earlier.

    Args:
        points: Parent, step, error barrier and deficit of each ticket.
        method: What found the tickets, for the title.
        correlation: In words, for the title of the ranks.
        margin: Deficit up to which a ticket matches.
        noise_floor: The barrier that equal errors would show, shaded up to it; None where that is not known.
        are_shares: Whether barriers and deficits are fractions, read in per cent.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import FixedLocator, NullLocator

    known = [point for point in points if all(map(math.isfinite, point[2:]))]
    figure, (axes, ranks) = panels(2, (11.5, 5.4))
    steps = sorted({step for _, step, *_ in known})
    colors = {step: colormaps[COLOR_MAP](number / max(1, len(steps) - 1)) for number, step in enumerate(steps)}
    parents = sorted({parent for parent, *_ in known})
    markers = {parent: PARENTS[number % len(PARENTS)] for number, parent in enumerate(parents)}
    side, every_rank = math.ceil(len(steps) ** 0.5), _ranks(known, steps)
    for parent, marker in markers.items():
        line = sorted((step, max(barrier, 0.0), deficit) for p, step, barrier, deficit in known if p == parent)
        axes.plot([barrier for _, barrier, _ in line], [deficit for *_, deficit in line], color=PALE, linewidth=0.7)
        for step, barrier, deficit in line:
            each: dict[str, Any] = {
                "color": colors[step],
                "marker": marker,
                "markeredgecolor": INK,
                "markeredgewidth": 0.5,
            }
            axes.plot([barrier], [deficit], **each)
            # Ranks of several steps are the same: beside each other none hides another.
            beside = steps.index(step) % side, steps.index(step) // side
            shifted = [
                rank + 0.16 * (n - (side - 1) / 2) for rank, n in zip(every_rank[parent, step], beside, strict=True)
            ]
            ranks.plot([shifted[0]], [shifted[1]], **each)
    axes.axhline(margin, **THRESHOLD)
    size = size_in_words(margin, are_shares=are_shares)
    marks: list[tuple[Mark | dict[str, Any], str]] = [
        ({"color": PALE, "marker": marker, "linestyle": ""}, f"parent {parent}") for parent, marker in markers.items()
    ]
    marks.append(("threshold", f"margin: a ticket matches up to {size}"))
    least = noise_floor or 1e-3
    axes.set_xscale("symlog", linthresh=least)  # a barrier may be 0, which a logarithm does not show
    axes.set_xlim(left=0)
    largest = max((barrier for _, _, barrier, _ in known), default=least)
    digits = (1, 2, 5) if largest < 100 * least else (1,)
    ticks = [digit * 10.0**power for power in range(-5, 6) for digit in digits]
    axes.xaxis.set_major_locator(FixedLocator([0.0, *(tick for tick in ticks if tick >= least)]))
    axes.xaxis.set_minor_locator(NullLocator())
    if noise_floor is not None:
        axes.axvspan(0, noise_floor, color=PALE, alpha=0.2, zorder=0, linewidth=0)
        marks.append(("band", "barriers that samples alone would show"))
    axes.set_title(f"{method}: a line for each parent")
    per_cent(axes.xaxis, "error barrier of the dense network's children", are_shares=are_shares)
    per_cent(axes.yaxis, "error of the ticket above the dense one's", are_shares=are_shares)
    ranks.set(
        xlabel="rank of the barrier within its step", ylabel="rank of the ticket's error, steps beside each other"
    )
    ranks.set_title(correlation)
    ranks.set(xticks=range(1, len(markers) + 1), yticks=range(1, len(markers) + 1))
    if steps:
        _explain_steps(figure, ranks, steps)
    left_out = len(points) - len(known)
    notes = [f"{left_out} of {len(points)} tickets have no finite barrier or error."] if left_out else []
    explain_marks(figure, marks, notes)
    return figure


def _ranks(
    points: Sequence[tuple[int, int, float, float]], steps: Sequence[int]
) -> dict[tuple[int, int], tuple[float, float]]:
    """Parent and step to the ranks of its barrier and of its deficit among those of the step."""
    from scipy.stats import rankdata

    ranks: dict[tuple[int, int], tuple[float, float]] = {}
    for step in steps:
        parents, _, barriers, deficits = zip(*(point for point in points if point[1] == step), strict=True)
        pairs = zip(rankdata(barriers), rankdata(deficits), strict=True)
        ranks |= {(parent, step): pair for parent, pair in zip(parents, pairs, strict=True)}
    return ranks


def _explain_steps(figure: "Figure", axes: "Axes", steps: Sequence[int]) -> None:
    """A bar that says which colour is which step."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    edges = [number - 0.5 for number in range(len(steps) + 1)]
    colors = ScalarMappable(BoundaryNorm(edges, 256), colormaps[COLOR_MAP].resampled(256))
    bar = figure.colorbar(colors, ax=axes, label="optimizer step", ticks=range(len(steps)))
    bar.ax.set_yticklabels([str(step) for step in steps], fontsize="small")
    bar.ax.minorticks_off()
