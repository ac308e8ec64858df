"""What networks reach while they train, with marks where they were pruned."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_lottery.figures.style import explain_marks, look, name_ends, panels, per_cent, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def accuracy_through_training(
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    metric: str,
    pruned: Mapping[str, tuple[int, int]] | None = None,
    *,
    is_share: bool = True,
    notes: Sequence[str] = (),
) -> "Figure":
    """A metric through training: a curve for each run, marked where its network was pruned.

    Args:
        curves: What runs are called, such as ``dense``, to a curve for each of them: optimizer steps and values.
        metric: Its name, in words.
        pruned: What runs are called to the first and the last step at which weights were removed.
        is_share: Whether the metric is read in per cent.
        notes: What is missing, in sentences.
    """
    figure, (axes,) = panels(1, (8, 4.4))
    ends = []
    for number, (name, runs) in enumerate(curves.items()):
        style = look(number)
        for run in runs:
            steps, values = [step for step, _ in run], [value for _, value in run]
            axes.plot(steps, values, color=style["color"], linestyle=style["linestyle"], linewidth=1.2, alpha=0.9)
            if name in (pruned or {}) and steps:
                first, last = (pruned or {})[name]
                within = [step for step in steps if first < step < last]
                along = [first, *within, *([last] if last > first else [])]
                # Where nothing was measured yet the mark stands on the first value.
                heights = np.interp(along, steps, values)
                axes.plot(along, heights, color=style["color"], linewidth=6, alpha=0.25, solid_capstyle="butt")
                axes.plot(along[:1], heights[:1], "v", color=style["color"], markersize=10, markeredgecolor="white")
        last_values = [run[-1][1] for run in runs if run]
        if last_values:
            ends.append((sum(last_values) / len(last_values), name, style["color"]))
    axes.set_xlabel("optimizer step")
    per_cent(axes.yaxis, metric, are_shares=is_share)
    if pruned:
        axes.set_title("▼ pruned; a broad line: while weights are removed", fontsize="small")
    explain_marks(figure, [], notes)
    name_ends(axes, ends)
    return figure
