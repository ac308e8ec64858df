"""How a network was pruned: what each layer lost when, what was asked for, and what the training loss did."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import (
    COLOR_MAP,
    COLORS,
    INK,
    PALE,
    name_ends,
    panels,
    per_cent,
    percentage,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 46  # characters of a layer's name


@styled
def pruning_over_steps(
    steps: Sequence[int],
    layers: Mapping[str, Sequence[float]],
    target: Sequence[float],
    achieved: Sequence[float],
    loss: Sequence[tuple[int, float]],
    change: Sequence[tuple[int, float]],
    end: int,
) -> "Figure":
    """Layers by steps, coloured by what was removed, over sparsity asked for and achieved, over loss and mask change.

    Args:
        steps: Optimizer steps at which masks were noted, rising; from each on to the next they stayed as they were.
        layers: Name to the fraction of the layer removed at each, in the order in which they are drawn from the top.
        target: The fraction asked for at each.
        achieved: The fraction of all that was removed at each.
        loss: Optimizer steps and training loss; what is not finite is left out, and counted below.
        change: Optimizer steps and the fraction of all entries whose mask was another one than before.
        end: The last step of the fit.
    """
    names, tall = shortened(list(layers)), min(10.0, max(1.2, 0.13 * len(layers)))
    size = min(8.0, max(4.5, 0.9 * 72 * tall / max(1, len(layers))))
    heights, gap = [tall, 1.5, 1.9], 0.45
    left = max(0.8, 0.3 + 0.6 * size / 72 * max(map(len, names), default=0))
    wide, high = left + 7.6, sum(heights) + 2 * gap + 0.95
    figure, (heat, sparsity, below) = panels(3, (wide, high), columns=1)
    # Laid out here: in search of a layout matplotlib would draw everything several times.
    figure.set_layout_engine("none")
    top = high - 0.35
    for axes, height in zip((heat, sparsity, below), heights, strict=True):
        axes.set_position((left / wide, (top - height) / high, 6.0 / wide, height / high))
        top -= height + gap
    last = max([end, *steps[-1:], *(step for step, _ in loss[-1:])], default=0)
    first = min([*steps[:1], *(step for step, _ in loss[:1])], default=0)
    for axes in (heat, sparsity, below):
        axes.set_xlim(first, max(last, first + 1))  # an axis of no width is not drawn
    _draw_layers(heat, steps, layers, max(last, *(step + 1 for step in steps[-1:]), 1))
    every = max(1, math.ceil(len(names) * size * 1.1 / 72 / tall))
    heat.set_yticks(range(0, len(names), every), names[::every], fontsize=size)
    _draw_sparsity(sparsity, steps, target, achieved, last)
    _draw_loss(below, loss, change)
    for axes in (heat, sparsity):
        axes.tick_params(axis="x", labelbottom=False)
    below.set_xlabel("optimizer step")
    return figure


def _draw_layers(axes: "Axes", steps: Sequence[int], layers: Mapping[str, Sequence[float]], end: int) -> None:
    axes.set_title("Removed of each layer")
    axes.grid(visible=False)
    axes.set_ylim(max(1, len(layers)) - 0.5, -0.5)
    if not steps or not layers:
        return
    # Cells as wide as masks stayed: a picture of equal cells would show updates, not steps.
    edges = [*steps, max(end, steps[-1] + 1)]
    image = axes.pcolormesh(
        edges, [row - 0.5 for row in range(len(layers) + 1)], list(layers.values()), cmap=COLOR_MAP, vmin=0, vmax=1
    )
    image.set_rasterized(True)  # in an SVG one image, not a path for each cell
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.02, 1)))
    per_cent(bar.ax.yaxis, "removed")


def _draw_sparsity(
    axes: "Axes", steps: Sequence[int], target: Sequence[float], achieved: Sequence[float], end: int
) -> None:
    per_cent(axes.yaxis, "sparsity")
    axes.set_title("Asked for and achieved, of all layers")
    if not steps:
        return
    until = [*steps, end]
    axes.step(until, [*target, target[-1]], where="post", color=PALE, linewidth=4, alpha=0.6)
    axes.step(until, [*achieved, achieved[-1]], where="post", color=COLORS[0], linewidth=1.4)
    axes.set_ylim(0, max(0.05, *target, *achieved) * 1.1)
    if abs(target[-1] - achieved[-1]) < 5e-4:
        ends = [(achieved[-1], f"achieved {percentage(achieved[-1])} %,\nas asked (grey)", COLORS[0])]
    else:
        ends = [
            (target[-1], f"asked {percentage(target[-1])} %", PALE),
            (achieved[-1], f"achieved {percentage(achieved[-1])} %", COLORS[0]),
        ]
    name_ends(axes, ends)


def _draw_loss(axes: "Axes", loss: Sequence[tuple[int, float]], change: Sequence[tuple[int, float]]) -> None:
    finite = [(step, value if math.isfinite(value) else math.nan) for step, value in loss]
    missing = sum(math.isnan(value) for _, value in finite)
    notes = [] if loss else ["no training loss is known"]
    notes += [f"{missing} of {len(loss)} points of the loss are not finite"] if missing else []
    axes.set_title("Training loss, and how much of the masks changed at each update")
    axes.text(0.99, 0.97, "\n".join(notes), transform=axes.transAxes, va="top", ha="right", fontsize=8, style="italic")
    axes.plot([step for step, _ in finite], [value for _, value in finite], color=INK, linewidth=0.9)
    axes.set_ylabel("training loss", color=INK)
    beside = axes.twinx()
    beside.grid(visible=False)
    beside.spines["right"].set_visible(True)
    per_cent(beside.yaxis, "mask change")
    beside.yaxis.label.set_color(COLORS[1])
    beside.tick_params(axis="y", colors=COLORS[1])
    if change:
        at, values = [step for step, _ in change], [value for _, value in change]
        if len(at) > 120:  # bars would be one block
            beside.fill_between(at, values, color=COLORS[1], alpha=0.35, linewidth=0)
        else:
            beside.vlines(at, 0, values, color=COLORS[1], linewidth=1.2)
            beside.plot(at, values, ".", color=COLORS[1])
    beside.set_ylim(0, max([1e-6, *(value for _, value in change if math.isfinite(value))]) * 1.15)
    axes.set_zorder(beside.get_zorder() + 1)  # the loss before the bars
    axes.patch.set_visible(False)


def shortened(names: Sequence[str]) -> list[str]:
    """Names of layers by their last parts that no other has, without ``.weight``; at most 46 characters long.

    Example:
        >>> shortened(["net.encoder.0.attn.weight", "net.encoder.1.attn.weight", "net.fc.weight"])
        ['encoder.0.attn', 'encoder.1.attn', 'fc']
    """
    plain = [name.removesuffix(".weight") for name in names]
    plain = plain if len({*plain}) == len(names) else list(names)
    parts = [name.split(".") for name in plain]
    ends = Counter(".".join(part[i:]) for part in parts for i in range(len(part)))
    short = []
    for part, name in zip(parts, names, strict=True):
        last = len(part) - (1 if name.endswith(".weight") and part[-1] != "weight" else 2)  # a bias says whose it is
        first = next((i for i in range(max(0, last), -1, -1) if ends[".".join(part[i:])] == 1), 0)
        while first and part[first].isdigit():  # a number alone says nothing
            first -= 1
        short.append(".".join(part[first:]))
    half = _LONGEST // 2
    return [name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}" for name in short]
