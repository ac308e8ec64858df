"""The loss on the same batches, step by step, and what changes of the masks did to it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import COLORS, INK, panels, per_cent, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def loss_by_steps_and_changes(
    steps: Sequence[int],
    before: Sequence[float],
    after: Sequence[float],
    changes: Sequence[float],
    sharpness: Sequence[float | None],
) -> "Figure":
    """The loss after each optimizer step, a bar up or down to what masks made of it; below, how much they changed.

    Args:
        steps: Optimizer steps, rising.
        before: The loss after each, before masks were made.
        after: The loss after masks were made.
        changes: The fraction of all masked entries whose mask changed.
        sharpness: Times the learning rate over two, or None where it was not measured.
    """
    curved = [(step, value) for step, value in zip(steps, sharpness, strict=True) if value is not None]
    figure, axes = panels(3 if curved else 2, (8, 6.0 if curved else 4.4), columns=1)
    loss, churn, *below = axes
    loss.plot(steps, after, color=COLORS[0], linewidth=0.9)
    loss.vlines(steps, before, after, color=COLORS[1], linewidth=1.4)
    loss.set(ylabel="loss", title="loss on the same training batches; upright: what the masks did to it")
    churn.vlines(steps, 0, changes, color=COLORS[1], linewidth=0.9)
    per_cent(churn.yaxis, "masks changed")
    churn.set_ylim(bottom=0)
    for panel in below:
        panel.plot(*zip(*curved, strict=True), "o-", color=INK, linewidth=0.9, markersize=4)
        panel.set(ylabel="sharpness × lr / 2")
        panel.set_ylim(bottom=0)
    for panel in axes:
        panel.set_xlim(steps[0] - 1, steps[-1] + 1)
    axes[-1].set_xlabel("optimizer step")
    return figure
