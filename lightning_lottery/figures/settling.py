"""How unit masks settle: how far they move, their norms, what rules say of them and when they draw."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_lottery.figures.style import (
    COLOR_MAP,
    COLORS,
    PALE,
    THRESHOLD,
    look,
    name_ends,
    panels,
    per_cent,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]
"""Optimizer steps, rising, and values."""

_POINTS = 1000  # of a curve: as many as a panel has dots in a row
_LINES = 300  # units that are drawn one by one


class Margins(NamedTuple):
    """The smallest margin, or change, that would have held at each probe of a rule, beside the one it was asked for."""

    word: str
    """``"margin"``, in norm per step, or ``"change"``, a fraction of the norm over a window."""
    asked: float
    least: list[tuple[int, float | None]]
    """Optimizer step and value; None where it is not known."""


class Judgement(NamedTuple):
    """What a rule looks at, and when it holds."""

    word: str
    """``"p-value"``, or what its statistic is."""
    threshold: float | None
    """None where the rule has none of its own."""
    above: bool
    """Whether values above the threshold hold; else those below."""
    curves: Mapping[str, Curve]
    """Series, such as ``head-0.3``, to steps and values."""


@styled
def settling_over_steps(
    moves: Mapping[str, Curve],
    norms: Mapping[str, Curve],
    judgements: Mapping[str, Judgement],
    draws: Mapping[str, Mapping[str, int]],
    margins: Mapping[str, Mapping[str, Margins]] | None = None,
) -> "Figure":
    """How unit masks settle, a column for each kind of unit and a colour for each sparsity, on one axis of steps.

    From above: distance of each mask to the one before it, nuclear norm, what each rule says with its threshold, the
    smallest margins that would have held, and the draws, each sparsity in a lane of its own.

    Args:
        moves: Series, such as ``head-0.3`` (kind of unit and fraction removed), to the distance of consecutive masks.
        norms: Series to nuclear norms.
        judgements: Rule to what it looked at.
        draws: Series to rule to the step at which it drew; a rule that never settled is missing.
        margins: Series to rule to its margins.
    """
    series = list(dict.fromkeys([*norms, *moves]))
    kinds = list(dict.fromkeys(map(kind_of, series)))
    shares = list(dict.fromkeys(map(share_of, series)))
    margins = margins or {}
    words = list(dict.fromkeys(one.word for name in series for one in margins.get(name, {}).values()))
    lanes = 0.1 * len(shares) + 0.12
    heights = [1.5, 1.8, *[1.2] * len(judgements), *[1.2] * len(words), lanes * max(1, len(judgements)) + 0.1]
    figure, rows = _grid(len(kinds), heights)
    for column, kind in enumerate(kinds):
        of_kind = {name: look(shares.index(share_of(name)))["color"] for name in series if kind_of(name) == kind}
        panel = iter([row[column] for row in rows])
        axes = next(panel)
        axes.set_title(f"{kind}s: how far the masks moved since the ones before")
        _draw_curves(axes, {name: moves.get(name, ()) for name in of_kind}, of_kind)
        per_cent(axes.yaxis, "distance")
        axes.set_ylim(bottom=0)
        axes = next(panel)
        axes.set(title="nuclear norm of the masks, by what they remove", ylabel="norm")
        _draw_curves(axes, {name: norms.get(name, ()) for name in of_kind}, of_kind)
        norm = axes
        ends = [(norms[name][-1][1], removed_in_words(name), of_kind[name]) for name in of_kind if norms.get(name)]
        for rule, judgement in judgements.items():
            _draw_judgement(next(panel), rule, judgement, of_kind, draws)
        for word in words:
            _draw_margins(next(panel), word, {name: margins.get(name, {}) for name in of_kind}, of_kind)
        draw_lanes(
            next(panel),
            {rule: {name: [draws.get(name, {}).get(rule)] for name in of_kind} for rule in judgements},
            {name: look(shares.index(share_of(name))) for name in of_kind},
            named=not column,
        )
        if ends:
            name_ends(norm, ends)
    return figure


def _grid(columns: int, heights: Sequence[float]) -> "tuple[Figure, list[list[Axes]]]":
    """Panels in rows of these heights, in inches, all on one axis of steps; nothing is laid out by trial."""
    wide, left, gap, space = 4.4, 1.75, 1.35, 0.42
    width = left + columns * wide + max(0, columns - 1) * gap + 1.45
    height = sum(heights) + space * len(heights) + 0.6
    figure, every = panels(columns * len(heights), (width, height), columns=columns or 1, sharex=True)
    figure.set_layout_engine("none")
    top = height - 0.35
    rows = []
    for number, high in enumerate(heights):
        row = every[number * columns : (number + 1) * columns]
        for column, axes in enumerate(row):
            x = left + column * (wide + gap)
            axes.set_position((x / width, (top - high) / height, wide / width, high / height))
            axes.tick_params(axis="x", labelbottom=number == len(heights) - 1)
        top -= high + space
        rows.append(row)
    for axes in rows[-1] if rows else []:
        axes.set_xlabel("optimizer step")
    return figure, rows


def _draw_curves(axes: "Axes", curves: Mapping[str, Curve], colors: Mapping[str, str]) -> None:
    for name, curve in curves.items():
        thin = outline(curve)
        axes.plot([step for step, _ in thin], [value for _, value in thin], color=colors[name], linewidth=1.0)
    if not any(curves.values()):
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=PALE)


def _draw_judgement(
    axes: "Axes",
    rule: str,
    judgement: Judgement,
    colors: Mapping[str, str],
    draws: Mapping[str, Mapping[str, int]],
) -> None:
    side = "above" if judgement.above else "below"
    holds = "" if judgement.threshold is None else f"; holds {side} {judgement.threshold:g}"
    axes.set_title(f"{rule}: {judgement.word}{holds}", fontsize="small")
    axes.set_ylabel(judgement.word, fontsize="small")
    curves = {name: judgement.curves.get(name, ()) for name in colors}
    _draw_curves(axes, curves, colors)
    if judgement.threshold is not None:
        axes.axhline(judgement.threshold, **THRESHOLD)
    for name, curve in curves.items():
        drew = [(step, value) for step, value in curve if step == draws.get(name, {}).get(rule)]
        axes.plot(*zip(*drew, strict=True), "o", color=colors[name], markersize=5) if drew else None
    if judgement.word == "p-value":
        axes.set_ylim(-0.05, 1.05)


def _draw_margins(
    axes: "Axes", word: str, margins: Mapping[str, Mapping[str, Margins]], colors: Mapping[str, str]
) -> None:
    """The smallest margins, or changes, that would have held."""
    units = {"margin": "norm per step", "change": "of the norm"}
    axes.set_title(f"smallest {word} that would have held; asked for: dashed", fontsize="small")
    axes.set_ylabel(f"{word},\n{units[word]}", fontsize="small")
    for name, by_rule in margins.items():
        for one in by_rule.values():
            known = [(step, value) for step, value in one.least if value is not None and 0 < value < float("inf")]
            if one.word == word:
                axes.plot([s for s, _ in known], [v for _, v in known], ".-", color=colors[name], linewidth=0.8, ms=3)
                axes.axhline(one.asked, **THRESHOLD)
    axes.set_yscale("log")


def draw_lanes(
    axes: "Axes",
    draws: Mapping[str, Mapping[str, Sequence[int | None]]],
    looks: Mapping[str, Mapping[str, Any]],
    *,
    named: bool,
) -> None:
    """The steps of draws: a row for each rule, and in it a lane for each series, so that none hides another.

    Args:
        axes: The panel.
        draws: Rule to series to steps, of one run or several; None for a run in which the rule never settled.
        looks: Series to colour and marker.
        named: Whether rules are named here.
    """
    axes.set_title("draws", fontsize="small")
    names, high = list(looks), 0.8 / max(1, len(looks))
    for row, by_series in enumerate(draws.values()):
        axes.axhspan(row - 0.5, row + 0.5, color=PALE, alpha=0.12 * (row % 2), linewidth=0)
        for name, steps in by_series.items():
            settled = sorted(step for step in steps if step is not None)
            # Of several runs that drew at one step each is seen: one a little below the other.
            lower = [settled[:i].count(step) for i, step in enumerate(settled)]
            lane = row - 0.4 + high * (names.index(name) + (0.15 if any(lower) else 0.5))
            heights = [lane + 0.7 * high * (number % 5) / 4 for number in lower]
            axes.plot(settled, heights, **{**looks[name], "linestyle": ""}, markersize=4)
        if by_series and not any(step is not None for steps in by_series.values() for step in steps):
            axes.text(
                *(0.5, row), "never settled", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=7
            )
    rules = [textwrap.fill(rule, 24) if named else "" for rule in draws]
    axes.set_yticks(range(len(draws)), rules, fontsize=8)
    axes.set_ylim(max(1, len(draws)) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


@styled
def mask_distances(matrices: Mapping[str, tuple[Sequence[int], Sequence[Sequence[float]]]]) -> "Figure":
    """How far the masks of every two steps lie apart, as heat-maps in one scale: dark where they are the same.

    Args:
        matrices: Series, such as ``head-0.3``, to optimizer steps and the square matrix of Hamming distances.

    Source: You et al. 2020, figure 2.
    """
    kinds, shares = (list(dict.fromkeys(map(part, matrices))) for part in (kind_of, share_of))
    columns, rows = max(1, len(shares)), max(1, len(kinds))
    side, gap, width, height = 1.9, 0.65, 0.2 + 2.55 * columns + 1.1, 0.25 + 2.5 * rows + 0.1
    figure, every = panels(len(kinds) * len(shares), (width, height), columns=columns)
    figure.set_layout_engine("none")  # found by trial it would take seconds for a dozen panels
    for number, axes in enumerate(every):
        x, y = 0.75 + (side + gap) * (number % columns), height - 0.3 - side - (side + 0.6) * (number // columns)
        axes.set_position((x / width, y / height, side / width, side / height))
    highest = max((value for _, distances in matrices.values() for row in distances for value in row), default=0.0)
    images = []
    for number, axes in enumerate(every):
        kind, share = kinds[number // columns], shares[number % columns]
        steps, distances = matrices.get(f"{kind}-{share}", ((), ()))
        axes.set_title(f"{removed_in_words(f'{kind}-{share}')} of {kind}s removed", fontsize="small")
        axes.tick_params(labelsize=8)
        axes.grid(visible=False)
        axes.set_ylabel("" if number % columns else "optimizer step")
        axes.set_xlabel("optimizer step" if number // columns == rows - 1 else "")
        if len(steps):
            ends = (steps[0], steps[-1] + (steps[-1] == steps[0]))  # an image of no width is not drawn
            images.append(
                axes.imshow(
                    distances,
                    origin="lower",
                    extent=(*ends, *ends),
                    aspect="auto",
                    vmin=0,
                    vmax=highest or 1,
                    cmap=COLOR_MAP,
                )
            )
            axes.locator_params(nbins=4)
        else:
            axes.text(0.5, 0.5, "no masks", transform=axes.transAxes, ha="center", va="center", color=PALE)
    if images:
        low = 0.5 / height
        bar = figure.colorbar(images[0], cax=figure.add_axes((1 - 0.95 / width, low, 0.16 / width, 0.95 - low)))
        per_cent(bar.ax.yaxis, "Hamming distance of the masks")
    return figure


@styled
def scores_over_steps(steps: Sequence[int], layers: Mapping[str, Mapping[str, Any]], words: str) -> "Figure":
    """The scores of all units over training, a panel for each kind: a line for each unit, or how many lie where.

    Args:
        steps: Optimizer steps, rising.
        layers: Kind of unit to the names of its layers, in order, to scores of shape (steps, units).
        words: What a score is, for the axis.
    """
    figure, every = panels(len(layers), (1.5 + 4.6 * max(1, len(layers)), 3.8))
    for axes, (kind, by_layer) in zip(every, layers.items(), strict=True):
        units = sum(scores.shape[1] for scores in by_layer.values())
        axes.set(xlabel="optimizer step", ylabel=words, title=f"{units:,} {kind}s of {len(by_layer)} layers")
        if units <= _LINES:
            _draw_lines(axes, steps, by_layer)
        elif len(steps) > 1:
            _draw_density(axes, steps, by_layer)
    return figure


def _draw_lines(axes: "Axes", steps: Sequence[int], layers: Mapping[str, Any]) -> None:
    """A line for each unit, coloured from the first layer to the last."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    scale = Normalize(1, max(2, len(layers)))
    for number, scores in enumerate(layers.values(), start=1):
        axes.plot(steps, scores, color=colormaps["viridis"](0.9 * scale(number)), linewidth=0.7, alpha=0.8)
    if len(layers) > 1:
        shades = ListedColormap([colormaps["viridis"](0.9 * scale(n)) for n in range(1, len(layers) + 1)])
        bar = axes.figure.colorbar(ScalarMappable(Normalize(0.5, len(layers) + 0.5), shades), ax=axes, aspect=30)
        every = -(-len(layers) // 12)
        bar.set_ticks(range(1, len(layers) + 1, every), labels=[str(n) for n in range(1, len(layers) + 1, every)])
        bar.minorticks_off()
        bar.set_label("layer, from the input on")


def _draw_density(axes: "Axes", steps: Sequence[int], layers: Mapping[str, Any]) -> None:
    """How many units have which score at each step; scores that are not finite are left out."""
    import numpy as np
    from matplotlib.colors import LogNorm

    scores = np.concatenate([np.asarray(part, dtype=np.float64) for part in layers.values()], axis=1)
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 121)
    counts = np.array([np.histogram(row[np.isfinite(row)], edges)[0] for row in scores], dtype=np.float64)
    image = axes.pcolormesh(
        [*steps, 2 * steps[-1] - steps[-2]],
        edges,
        np.where(counts > 0, counts, np.nan).T,
        cmap=COLOR_MAP,
        norm=LogNorm(1, max(2.0, counts.max())),
    )
    image.set_rasterized(True)
    axes.plot(
        steps, np.nanmedian(np.where(np.isfinite(scores), scores, np.nan), axis=1), color=COLORS[1], linewidth=1.2
    )
    bar = axes.figure.colorbar(image, ax=axes, aspect=30)
    bar.set_label("units (line: the median unit)")


def outline(curve: Curve) -> list[tuple[int, float]]:
    """A curve of at most 2,000 points that looks like it: of each piece the lowest and the highest.

    Example:
        >>> outline([(step, float(step % 7 == 3)) for step in range(5)])
        [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1.0), (4, 0.0)]
    """
    if len(curve) <= 2 * _POINTS:
        return list(curve)
    thin: list[tuple[int, float]] = []
    for number in range(_POINTS):
        piece = curve[number * len(curve) // _POINTS : (number + 1) * len(curve) // _POINTS]
        ends = {min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])}
        thin += sorted(ends)
    return thin


def kind_of(series: str) -> str:
    """The kind of unit in ``head-0.3``."""
    return series.partition("-")[0]


def share_of(series: str) -> str:
    """The fraction removed in ``head-0.3``, as it is written there."""
    return series.partition("-")[2]


def removed_in_words(series: str) -> str:
    """The same in per cent."""
    return f"{100 * float(share_of(series)):.3g} %"
