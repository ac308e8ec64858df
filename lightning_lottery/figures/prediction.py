"""Does a small barrier go with a good ticket? Barrier against deficit, and the same as ranks within steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def barrier_and_deficit(
    points: Sequence[tuple[int, int, float, float]],
    method: str,
    correlation: str,
    margin: float,
    noise_floor: float | None,
) -> "Figure":
    """A line for each parent through its steps, and beside it the ranks of parents within each step.

    Args:
        points: Parent, step, error barrier and deficit of each ticket.
        method: What found the tickets, for the title.
        correlation: In words, for the title of the ranks.
        margin: Deficit up to which a ticket matches, shaded.
        noise_floor: The barrier that equal errors would show, shaded up to it; None where that is not known.
    """
    from matplotlib import colormaps
    from scipy.stats import rankdata

    figure, (axes, ranks) = panels(2, (10.5, 4.2))
    steps = sorted({step for _, step, *_ in points})
    colors = {step: colormaps["viridis"](number / max(1, len(steps) - 1)) for number, step in enumerate(steps)}
    for parent in sorted({parent for parent, *_ in points}):
        line = sorted((step, max(barrier, 0.0), deficit) for p, step, barrier, deficit in points if p == parent)
        axes.plot([barrier for _, barrier, _ in line], [deficit for *_, deficit in line], color="0.7", linewidth=0.8)
    for step in steps:
        here = [(barrier, deficit) for _, s, barrier, deficit in points if s == step]
        barriers, deficits = zip(*here, strict=True)
        axes.plot(barriers, deficits, "o", color=colors[step], label=f"step {step}")
        ranks.plot(rankdata(barriers), rankdata(deficits), "o", color=colors[step], alpha=0.7)
    axes.axhspan(min(0.0, axes.get_ylim()[0]), margin, color="tab:green", alpha=0.08, zorder=0)
    axes.axhline(margin, color="tab:green", linestyle=":", label=f"matches: at most {margin:g}")
    least = noise_floor or 1e-3
    axes.set_xscale("symlog", linthresh=least)  # a barrier may be 0, which a logarithm does not show
    if noise_floor is not None:
        axes.axvspan(0, noise_floor, color="0.5", alpha=0.15, zorder=0, label="what samples alone show")
    axes.set(
        xlabel="error barrier of the dense network's children", ylabel="error of the ticket above the dense network's"
    )
    axes.set(title=f"{method}: a line for each parent")
    axes.legend(fontsize="x-small")
    ranks.set(xlabel="rank of the barrier within its step", ylabel="rank of the ticket's error within its step")
    ranks.set(title=correlation)
    for each in (axes, ranks):
        each.grid(alpha=0.3)
    return figure
