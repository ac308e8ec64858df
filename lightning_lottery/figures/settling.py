"""How unit masks settle: their norms over training, and how far they lie apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_lottery.figures.style import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def norms_with_draws(
    norms: Mapping[str, Sequence[tuple[int, float]]], draws: Mapping[str, Mapping[str, int]]
) -> "Figure":
    """The nuclear norm of unit masks over training, a panel for each series, with a line where a rule drew.

    Args:
        norms: Series, such as ``head-0.3``, to (optimizer step, norm) pairs.
        draws: Series to rule to the step at which it drew.
    """
    figure, all_axes = panels(len(norms), (10, 0.6 + 2.2 * max(1, len(norms))), upright=True)
    rules = [*dict.fromkeys(rule for steps_by_rule in draws.values() for rule in steps_by_rule)]
    for axes, (name, series) in zip(all_axes, norms.items(), strict=True):
        axes.plot([step for step, _ in series], [norm for _, norm in series], color="black", linewidth=0.8)
        for rule, step in draws.get(name, {}).items():
            axes.axvline(step, color=f"C{rules.index(rule) % 10}", linestyle="--", label=f"{rule}: {step}")
        if draws.get(name):
            axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set(title=name, ylabel="nuclear norm", xlabel="optimizer step" if axes is all_axes[-1] else "")
        axes.grid(alpha=0.3)
    return figure


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
