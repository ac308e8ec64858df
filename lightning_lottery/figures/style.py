"""The one style of all figures: colours that the colour-blind tell apart, labels that fit, words for keys.

Colours are those of Okabe & Ito 2008 without yellow, which white hides; black is for what is no series: a threshold, a
reference, a mean. A series differs from the next by its marker too, and by its line beyond six. The paper is white and
opaque, so that a figure is read alike on a dark page, and whatever style a user's notebook has.
"""

import re
import textwrap
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

INK = "#222222"
"""Of text, axes, thresholds and references."""
PALE = "#8a8a8a"
"""Of what stands behind: leaders, the marks of a legend that are of no series."""

THRESHOLD: dict[str, Any] = {"color": INK, "linestyle": (0, (7, 3)), "linewidth": 1.3}
"""How a threshold's line is drawn, across or upright: long dashes in no series' colour."""

COLOR_MAP = "cividis"
"""Of amounts and steps: it rises in lightness, and the colour-blind read it as all others do."""

STYLE: dict[str, Any] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "savefig.transparent": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.markersize": 5,
    "svg.hashsalt": "lightning_lottery",  # else the identifiers in an SVG differ from one writing to the next
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """A function that draws, in this style and in no setting of the user's."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        from matplotlib import style

        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return drawn


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line of a series, for ``plot``; no two of the first 42 are alike.

    Args:
        number: Of the series, from 0.

    Example:
        >>> look(0)
        {'color': '#0072B2', 'marker': 'o', 'linestyle': '-'}
    """
    line = LINES[number // len(COLORS) % len(LINES)]
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)], "linestyle": line}


def panels(
    number: int,
    size: tuple[float, float],
    *,
    columns: int | None = None,
    heights: Sequence[float] | None = None,
    **shared: Any,
) -> "tuple[Figure, list[Axes]]":
    """A figure that belongs to no window, with panels on a grid.

    Args:
        number: How many panels.
        size: Width and height of the figure, in inches.
        columns: How many stand side by side; default: all.
        heights: Of the rows, relative to each other; default: all alike.
        shared: ``sharex``, ``sharey``: whether all have one axis.
    """
    # Not pyplot: it keeps every figure until somebody closes it, and on some machines asks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    columns = max(1, min(number, columns or number))
    rows = -(-number // columns)
    grid = figure.add_gridspec(max(1, rows), columns, height_ratios=heights)
    every: list[Axes] = []
    for panel in range(number):
        first = {name: every[0] for name, is_shared in shared.items() if is_shared and every}
        axes = figure.add_subplot(grid[panel // columns, panel % columns], **first)
        # Ticks are made when a figure is drawn, by then with the user's settings.
        axes.tick_params(color=INK, labelcolor=INK)
        every.append(axes)
    return figure, every


def mean(values: Collection[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def in_words(key: str) -> str:
    """What people call a metric: words in place of its key.

    Example:
        >>> [in_words(key) for key in ("test_acc", "val/loss", "error_barrier", "recalibrated test_acc")]
        ['test accuracy', 'validation loss', 'error barrier', 'recalibrated test accuracy']
    """
    full = {"acc": "accuracy", "val": "validation", "valid": "validation", "train": "training", "lr": "learning rate"}
    return " ".join(full.get(word, word) for word in re.split(r"[\s_/]+", key) if word)


def per_cent(axis: "Axis", words: str, *, are_shares: bool = True) -> None:
    """Say what an axis shows: fractions are read in per cent.

    Args:
        axis: ``axes.xaxis`` or ``axes.yaxis``.
        words: What it shows; ", %" is added.
        are_shares: Whether that is fractions; else there are only the words.
    """
    from matplotlib.ticker import FuncFormatter

    if are_shares:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}"))
    axis.set_label_text(f"{words}, %" if are_shares else words)


def percentage(fraction: float) -> str:
    """A fraction in per cent, with three digits that count.

    Example:
        >>> percentage(0.0123456), percentage(0.5), percentage(1.0)
        ('1.23', '50', '100')
    """
    return f"{100 * fraction:.3g}"


def size_in_words(size: float, *, are_shares: bool) -> str:
    """A size with three digits that count, in per cent where it is a fraction."""
    return f"{percentage(size)} %" if are_shares else f"{size:.3g}"


def error_in_words(monitor: str, mode: str) -> str:
    """What the error of a judged metric is called.

    Example:
        >>> error_in_words("test_acc", "max"), error_in_words("val_f1", "max"), error_in_words("test_loss", "min")
        ('test error', '1 - validation f1', 'test loss')
    """
    words = in_words(monitor)
    if mode == "min":
        return words
    return words.replace("accuracy", "error") if "accuracy" in words else f"1 - {words}"


def hold_all(axes: "Axes", inner: Sequence[float], bounds: Sequence[float]) -> float | None:
    """Set the limits of the y axis so that everything is inside; bounds that are far off are compressed, never cut.

    Args:
        axes: The panel.
        inner: What is to be read: curves and thresholds, in data.
        bounds: What must be inside as well.

    Returns:
        The height beyond which the axis is logarithmic, where bounds reach far beyond the rest; else None.
    """
    top, low = max(inner, default=1.0), min([*inner, *bounds], default=0.0)
    high = max([top, *bounds])
    size = max(abs(top), abs(min(inner, default=0.0))) or 1.0
    if high <= 2.5 * size and low >= -1.5 * size:
        edge = 0.05 * (high - low) or 0.5
        axes.set_ylim(low - edge, high + edge)
        return None
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

    linear = 1.15 * size
    bottom = 1.3 * low if low < -linear else low - 0.1 * size
    ceiling = 1.3 * high if high > linear else linear
    axes.set_yscale("symlog", linthresh=linear, linscale=2.5)
    axes.set_ylim(bottom, ceiling)
    near = [tick for tick in MaxNLocator(5).tick_values(0, linear) if abs(tick) <= linear]
    far = [sign * step * 10.0**power for sign in (1, -1) for power in range(-6, 7) for step in (1, 3)]
    ticks = near + [tick for tick in far if abs(tick) > 1.4 * linear and bottom <= tick <= ceiling]
    axes.yaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # a logarithmic one names powers, and but some ticks
    return linear


def keep_scale(axes: "Axes", least: float) -> None:
    """Widen the limits of the y axis to at least a size, so that what is flat does not look like a hill."""
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def rows_of_labels(axes: "Axes", labels: Sequence[str], *, named: bool, fontsize: str = "medium") -> None:
    """One row for each label, the first on top; without their names where the panel to the left has them."""
    axes.set_yticks(range(len(labels)), labels if named else [""] * len(labels), fontsize=fontsize)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def ticks_at(axes: "Axes", values: Sequence[float], labels: Sequence[str]) -> None:
    """Ticks below where values are and nowhere else, with as many small labels as fit beside each other.

    The first and the last have theirs; a tick whose label would touch another's has none. Scale and limits are set
    before.

    Args:
        axes: Whose x axis.
        values: In the order of the labels.
        labels: One for each value.
    """
    size, scaled = 8.0, axes.xaxis.get_transform().transform
    ends = scaled(list(axes.get_xlim()))
    places = [float(share) for share in (scaled(list(values)) - ends[0]) / (ends[1] - ends[0])]
    inches = axes.bbox.width / axes.figure.dpi
    widths = [(0.65 * size * len(label) + 5) / 72 / inches for label in labels]
    order = sorted(range(len(places)), key=lambda number: places[number])
    shown: list[int] = []
    for number in dict.fromkeys([*order[:1], *order[-1:], *order]):
        if all(abs(places[number] - places[one]) >= (widths[number] + widths[one]) / 2 for one in shown):
            shown.append(number)
    axes.set_xticks([values[one] for one in shown], [labels[one] for one in shown], fontsize=size)
    axes.set_xticks([value for one, value in enumerate(values) if one not in shown], minor=True)
    axes.tick_params(axis="x", which="minor", labelbottom=False)


def name_ends(axes: "Axes", ends: Sequence[tuple[float, str, str]], x: float | None = None) -> None:
    """Names right of the panel at the heights where curves end, moved apart where they would touch.

    Call it when everything is drawn: the limits of the y axis stay as they are.

    Args:
        axes: The panel.
        ends: Height in data, name and colour of each; names stay dark, as light colours of a series are not to be read.
        x: Where the curves end, in data: a leader goes from there to the name; default: the panel's right edge.
    """
    size = 9.0
    axes.set_ylim(axes.get_ylim())
    inches = axes.bbox.height / axes.figure.dpi
    scaled = axes.yaxis.get_transform().transform
    low, high = scaled(list(axes.get_ylim()))
    order = sorted(ends, key=lambda end: float(scaled([end[0]])[0]) * (1 if high > low else -1))
    wanted = [float((scaled([height])[0] - low) / (high - low)) for height, *_ in order]
    heights = spread([min(1.0, max(0.0, height)) for height in wanted], 1.6 * size / 72 / inches)
    right = axes.get_xlim()[1] if x is None else x
    for (y, name, color), height in zip(order, heights, strict=True):
        axes.annotate(
            name,
            (right, y),
            (1.03, height),
            textcoords=axes.transAxes,
            fontsize=size,
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 1.0,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights in [0, 1] moved as little as need be until each is a gap above the one before.

    Crowds move about their mean; where there are too many, some come to lie below 0.

    Example:
        >>> spread([0.0, 0.5, 0.5, 1.0], 0.25)
        [0.0, 0.375, 0.625, 1.0]
    """
    crowds: list[tuple[float, int]] = []  # where the lowest of a crowd lies, and how many they are
    for height in heights:
        lowest, count = height, 1
        while crowds and lowest < crowds[-1][0] + crowds[-1][1] * gap:
            below, more = crowds.pop()
            # The lowest places that each half asks for, averaged by its number.
            lowest = (below * more + (lowest - more * gap) * count) / (more + count)
            count += more
        crowds.append((lowest, count))
    moved = [lowest + number * gap for lowest, count in crowds for number in range(count)]
    above = [max(height, number * gap) for number, height in enumerate(moved)]
    return [min(height, 1 - number * gap) for number, height in enumerate(reversed(above))][::-1]


Mark = Literal["mean", "run", "band", "half", "bounds", "threshold", "reference", "star", "crossing", "ring"]
"""What a legend explains: lines, dots of single runs, bands, bars from bound to bound, lines across, and points."""

MARKS: dict[Mark, dict[str, Any]] = {
    "mean": {"color": PALE, "linewidth": 1.8},
    "run": {"color": PALE, "marker": "o", "linestyle": "", "alpha": 0.7, "markersize": 4},
    "band": {"color": PALE, "linewidth": 8, "alpha": 0.3},
    "half": {"color": PALE, "linewidth": 8, "alpha": 0.6},
    "bounds": {"color": PALE, "marker": "|", "linewidth": 1.2, "markersize": 8},
    "threshold": THRESHOLD,
    "reference": {"color": INK, "linestyle": ":"},
    "star": {"color": PALE, "marker": "*", "linestyle": "", "markersize": 12, "markeredgecolor": INK},
    "crossing": {"color": PALE, "marker": "d", "linestyle": "", "markersize": 7, "markerfacecolor": "white"},
    "ring": {"color": INK, "marker": "o", "linestyle": "", "markersize": 11, "markerfacecolor": "none"},
}


def explain_marks(
    figure: "Figure", marks: Sequence[tuple[Mark | dict[str, Any], str]], notes: Sequence[str] = ()
) -> None:
    """A legend below the panels that says what marks mean, whatever their colour, and what is not drawn.

    Args:
        figure: Whose.
        marks: Each kind of mark, or how a series is drawn, and its meaning in words.
        notes: Sentences below, such as what is missing.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.lines import Line2D

    wide = int(figure.get_figwidth() * 13)  # characters beside each other
    lines = [textwrap.fill(note, wide) for note in notes]
    words = [textwrap.fill(meaning, wide) for _, meaning in marks]
    columns = max(1, min(len(words), wide // (8 + max(map(len, words), default=1))))
    if words:
        below = figure.legend(
            [Line2D([], [], **(MARKS[mark] if isinstance(mark, str) else mark)) for mark, _ in marks],
            words,
            loc="outside lower left",
            ncols=columns,
            fontsize="small",
        )
        below.set_title("\n".join(lines), FontProperties(size="small", style="italic"))
        below.set_alignment("left")
    elif lines:
        figure.supxlabel("\n".join(lines), fontsize="small", style="italic", x=0.01, horizontalalignment="left")
