"""The one style of all figures: panels on a grid, a dashed red threshold, labels that fit."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THRESHOLD: dict[str, Any] = {"color": "tab:red", "linestyle": "--"}
"""How a threshold's line is drawn, across or upright."""


def panels(number: int, size: tuple[float, float], *, upright: bool = False) -> "tuple[Figure, list[Axes]]":
    """A figure that belongs to no window, with panels side by side or, ``upright``, one below the other.

    Args:
        number: How many panels.
        size: Width and height of the figure, in inches.
        upright: Whether they stand one below the other.
    """
    # Not pyplot: it keeps every figure until somebody closes it, and on some machines asks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    rows, columns = (number, 1) if upright else (1, number)
    return figure, [figure.add_subplot(rows, columns, panel + 1) for panel in range(number)]


def mean(values: Collection[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def rows_of_labels(axes: "Axes", labels: Sequence[str], *, named: bool, fontsize: str = "medium") -> None:
    """One row for each label, the first on top; without their names where the panel to the left has them."""
    axes.set_yticks(range(len(labels)), labels if named else [""] * len(labels), fontsize=fontsize)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def ticks_at(axes: "Axes", values: Sequence[float], labels: Sequence[str], *, rotation: float = 0) -> None:
    """Small labels where values are, and nowhere else: a logarithmic axis has ticks of its own."""
    axes.set_xticks(values, labels, fontsize="small", rotation=rotation)
    axes.set_xticks([], minor=True)
