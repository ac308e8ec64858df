"""When rules drew tickets in several runs, and what networks reach that are trained from them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightning_lottery.figures.settling import draw_lanes, kind_of, removed_in_words, share_of
from lightning_lottery.figures.style import (
    INK,
    THRESHOLD,
    Mark,
    explain_marks,
    look,
    mean,
    panels,
    per_cent,
    styled,
    ticks_at,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def draws_over_seeds(draws: Mapping[str, Mapping[str, Sequence[int | None]]], notes: Sequence[str] = ()) -> "Figure":
    """The steps at which rules drew in several runs: a row for each rule, a dot for each run, heads beside neurons.

    Args:
        draws: Rule to series, such as ``head-0.3`` (kind of unit and fraction removed), to the step in each run; None
            where the rule never settled.
        notes: What is missing, in sentences.
    """
    series = list(dict.fromkeys(name for by_series in draws.values() for name in by_series))
    kinds, shares = sorted({*map(kind_of, series)}), sorted({*map(share_of, series)}, key=float)
    tall = len(draws) * (0.17 * len(shares) + 0.2)
    figure, every = panels(len(kinds), (2.2 + 4.2 * max(1, len(kinds)), 1.6 + tall), sharex=True)
    for column, (axes, kind) in enumerate(zip(every, kinds, strict=True)):
        looks = {name: look(shares.index(share_of(name))) for name in series if kind_of(name) == kind}
        of_kind = {rule: {n: steps for n, steps in rows.items() if n in looks} for rule, rows in draws.items()}
        draw_lanes(axes, of_kind, looks, named=not column)
        axes.set_title(f"{kind}s: when rules found their masks settled", fontsize="medium")
        axes.set_xlabel("optimizer step")
    if every:
        handles = [
            every[0].plot(
                [], [], **{**look(number), "linestyle": ""}, label=f"{removed_in_words(f'-{share}')} removed"
            )[0]
            for number, share in enumerate(shares)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=max(1, len(shares)), fontsize="small")
    explain_marks(figure, [], [*notes, *_never_settled(draws)])
    return figure


def _never_settled(draws: Mapping[str, Mapping[str, Sequence[int | None]]]) -> list[str]:
    """Sentences about what is missing in some runs; a rule that never settled at all says so in its row."""
    return [
        f"{rule}, {removed_in_words(name)} of {kind_of(name)}s: not settled in {steps.count(None)} of {len(steps)}."
        for rule, by_series in draws.items()
        if any(step is not None for steps in by_series.values() for step in steps)
        for name, steps in by_series.items()
        if None in steps
    ]


class Retrained(NamedTuple):
    """What networks reached that were trained from tickets of one sparsity."""

    stated: Mapping[int, Sequence[float]]
    """Step of drawing, stated beforehand, to the metric in each run."""
    by_rule: Mapping[str, Sequence[tuple[int, float]]]
    """Rule to the step at which it drew, and the metric, in each run."""


@styled
def accuracy_over_draws(
    sparsities: Mapping[str, Retrained], metric: str, dense: Sequence[float] = (), notes: Sequence[str] = ()
) -> "Figure":
    """What a network reaches that is trained from a ticket, over the step at which the ticket was drawn.

    Args:
        sparsities: What a panel is of, such as ``50 %``, to what was reached there.
        metric: Its name, in words.
        dense: The metric of the network without a ticket, in each run; empty where none was trained.
        notes: What is missing, in sentences.

    Source: You et al. 2020, figure 1.
    """
    figure, every = panels(len(sparsities), (1.2 + 4.6 * max(1, len(sparsities)), 4.4), sharey=True)
    rules = list(dict.fromkeys(rule for reached in sparsities.values() for rule in reached.by_rule))
    steps = [
        step
        for reached in sparsities.values()
        for step in (*reached.stated, *(s for d in reached.by_rule.values() for s, _ in d))
    ]
    for axes, (title, reached) in zip(every, sparsities.items(), strict=True):
        stated = sorted(reached.stated.items())
        axes.plot([step for step, _ in stated], [mean(values) for _, values in stated], color=INK, linewidth=1.8)
        for step, values in stated:
            axes.plot([step] * len(values), values, "o", color=INK, alpha=0.5, markersize=4)
        for rule, points in reached.by_rule.items():
            style = {**look(rules.index(rule)), "linestyle": ""}
            axes.plot([step for step, _ in points], [value for _, value in points], **style, markersize=7, alpha=0.8)
        if dense:
            axes.axhline(mean(dense), **THRESHOLD)
        if steps and min(steps) > 0 and max(steps) > 20 * min(steps):
            axes.set_xscale("log")
            ticks_at(axes, list(reached.stated), [f"{step:,}" for step in reached.stated])
        axes.set(title=f"{title} removed", xlabel="drawn at optimizer step")
    if every:
        per_cent(every[0].yaxis, metric)
        handles = [every[0].plot([], [], **{**look(n), "linestyle": ""}, label=rule)[0] for n, rule in enumerate(rules)]
        if handles:
            figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)), fontsize="small")
    marks: list[tuple[Mark, str]] = [("mean", "mean of tickets drawn at stated steps"), ("run", "a run")]
    marks += [("threshold", "without a ticket, mean")] if dense else []
    explain_marks(figure, marks, notes)
    return figure
