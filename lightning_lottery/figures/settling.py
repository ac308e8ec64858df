"""How unit masks settle: their norms over training, and how far they lie apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightning_lottery.figures.style import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Margins(NamedTuple):
    """The smallest margin, or change, that would have held at each probe of a rule, beside the one it was asked for."""

    word: str
    """``"margin"``, in norm per step, or ``"change"``, a fraction of the norm over a window."""
    asked: float
    least: list[tuple[int, float | None]]
    """Optimizer step and value; None where it is not known."""


def norms_with_draws(
    norms: Mapping[str, Sequence[tuple[int, float]]],
    draws: Mapping[str, Mapping[str, int]],
    margins: Mapping[str, Mapping[str, Margins]] | None = None,
) -> "Figure":
    """The nuclear norm of unit masks over training, a panel for each series, with a line where a rule drew.

    Below each, where a rule has margins, another panel with the smallest that would have held: from where on they stay
    below a value, that value would have been enough.

    Args:
        norms: Series, such as ``head-0.3``, to (optimizer step, norm) pairs.
        draws: Series to rule to the step at which it drew.
        margins: Series to rule to its margins.
    """
    margins = margins or {}
    rules = dict.fromkeys(rule for by_rule in (*draws.values(), *margins.values()) for rule in by_rule)
    colours = {rule: f"C{i % 10}" for i, rule in enumerate(rules)}
    words = {name: [*dict.fromkeys(one.word for one in margins.get(name, {}).values())] for name in norms}
    number = len(norms) + sum(map(len, words.values()))
    figure, all_axes = panels(number, (10, 0.6 + 2.2 * max(1, number)), columns=1)
    panel = iter(all_axes)
    for name, series in norms.items():
        axes = next(panel)
        axes.plot([step for step, _ in series], [norm for _, norm in series], color="black", linewidth=0.8)
        for rule, step in draws.get(name, {}).items():
            axes.axvline(step, color=colours[rule], linestyle="--", label=f"{rule}: {step}")
        axes.set(title=name, ylabel="nuclear norm")
        for word in words[name]:
            below = next(panel)
            below.sharex(axes)
            alike = {rule: one for rule, one in margins[name].items() if one.word == word}
            _draw_margins(below, alike, draws.get(name, {}), colours)
    for axes in all_axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set_xlabel("optimizer step" if axes is all_axes[-1] else "")
        axes.grid(alpha=0.3)
    return figure


def _draw_margins(
    axes: "Axes", margins: Mapping[str, Margins], draws: Mapping[str, int], colours: Mapping[str, str]
) -> None:
    """The smallest margins that would have held, all margins or all changes, and where those rules drew."""
    units = {"margin": "norm per step", "change": "of the norm"}
    for rule, (word, asked, least) in margins.items():
        known, colour = [(step, value) for step, value in least if value is not None], colours[rule]
        steps, values = [step for step, _ in known], [value for _, value in known]
        axes.plot(steps, values, ".-", color=colour, linewidth=0.8, label=f"smallest for {rule}")
        axes.axhline(asked, color=colour, linestyle=":", label=f"{word} asked: {asked:g}")
        if rule in draws:
            axes.axvline(draws[rule], color=colour, linestyle="--")
        axes.set(yscale="log", ylabel=f"{word}\n({units[word]})")


def mask_distances(matrices: Mapping[str, tuple[Sequence[int], Sequence[Sequence[float]]]]) -> "Figure":
    """How far the masks of every two steps lie apart, as heat-maps: dark where they are the same.

    Args:
        matrices: Series to optimizer steps and the square matrix of Hamming distances, fractions.

    Source: You et al. 2020, figure 2.
    """
    figure, all_axes = panels(len(matrices), (4.2 * max(1, len(matrices)), 3.6))
    for axes, (name, (steps, distances)) in zip(all_axes, matrices.items(), strict=True):
        axes.set(title=name, xlabel="optimizer step")
        if len(steps):
            ends = (steps[0], steps[-1] + (steps[-1] == steps[0]))  # an image of no width is not drawn
            image = axes.imshow(distances, origin="lower", extent=(*ends, *ends), aspect="auto", vmin=0, cmap="magma")
            figure.colorbar(image, ax=axes, label="Hamming distance")
    return figure
