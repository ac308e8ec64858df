"""What a recipe says at its end: tables that fit the terminal, what was found and how sure it is, and what next."""

import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lightning_lottery.children.records import Row, is_accuracy
from lightning_lottery.functional.verdicts import Stability

Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Stage to metric to ``mean``, ``sd`` and ``n`` over networks, or over pairs of them."""

OF_LINES = ("_barrier", "_excess", "_ratio", "_middle")
"""How measures of a line between two networks end."""

NORMAL_95 = 1.96
"""Standard errors within which chance stays with 95 %."""


def table_of_networks(summary: Summary, title: str, width: int) -> Table:
    """A row for each stage: what is removed, and its test metrics, as many as fit.

    Args:
        summary: What ``summarise`` gave.
        title: Of the table.
        width: Of the terminal, in characters.
    """
    metrics = [*dict.fromkeys(metric for stage in summary.values() for metric in stage)]
    metrics = [metric for metric in metrics if not metric.endswith(OF_LINES)]
    tested = [metric for metric in metrics if metric.startswith("test")]
    measured = tested or [metric for metric in metrics if metric.startswith("val")]
    cells = {metric: [_written(stage.get(metric)) for stage in summary.values()] for metric in measured}
    columns = {"stage": [*summary], "removed": [_percent(stage.get("sparsity")) for stage in summary.values()]}
    left_out = []
    for metric in sorted(measured, key=lambda metric: not is_accuracy(metric)):  # accuracies first
        if len(columns) > 2 and _width({**columns, metric: cells[metric]}) > width:
            left_out.append(metric)
        else:
            columns[metric] = cells[metric]
    table = Table(title=title)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="left" if name == "stage" else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    has_spread = any(stage[metric]["sd"] for stage in summary.values() for metric in measured if metric in stage)
    notes = ["±: standard deviation over the networks of a stage, of all seeds and children"] if has_spread else []
    notes += [f"Also measured: {', '.join(left_out)}"] if left_out else []
    table.caption = "\n".join(notes) or None
    return table


def table_of_lines(summary: Summary, verdicts: Mapping[str, Stability]) -> Table | None:
    """A row for each stage that has lines between children: mean barrier, its bounds, the verdict; None without any.

    Args:
        summary: As for ``table_of_networks``.
        verdicts: Stage to its verdict over the seeds, where it has one here.
    """
    barriers = {stage: metrics["error_barrier"] for stage, metrics in summary.items() if "error_barrier" in metrics}
    if not barriers:
        return None
    table = Table(title="Error barrier on the lines between children of one checkpoint")
    for name in ("stage", "mean", "bounds", "verdict"):
        table.add_column(name, no_wrap=True, justify="right" if name == "mean" else "left")
    for stage, moments in barriers.items():
        verdict = verdicts.get(stage)
        is_bounded = verdict is not None and verdict.low is not None and verdict.high is not None
        bounds = f"{verdict.low:.4f} to {verdict.high:.4f}" if verdict is not None and is_bounded else ""
        table.add_row(stage, f"{moments['mean']:.4f}", bounds, "" if verdict is None else verdict.verdict)
    thresholds = {f"{verdict.threshold:g}" for verdict in verdicts.values()}
    held = f"Stable: below {', '.join(sorted(thresholds))}. " if thresholds else ""
    table.caption = f"{held}Bounds of the mean: one-sided, 95 % each." if verdicts else None
    return table


def findings(summary: Summary, rows: Sequence[Row], verdicts: Mapping[str, Stability]) -> Iterator[str]:
    """What was found, in a sentence on accuracy and one on barriers.

    Args:
        summary: As for ``table_of_networks``.
        rows: The records.
        verdicts: As for ``table_of_lines``.
    """
    metrics = [metric for stage in summary.values() for metric in stage if metric.startswith("test")]
    if accuracies := [metric for metric in dict.fromkeys(metrics) if is_accuracy(metric)]:
        means = {stage: values[accuracies[0]]["mean"] for stage, values in summary.items() if accuracies[0] in values}
        samples = {row.get("n") for row in rows if row["metric"] == accuracies[0]}
        yield from _on_accuracy(accuracies[0], means, samples)
    by_noise: dict[str, dict[str, list[str]]] = {}
    for stage, verdict in verdicts.items():
        by_noise.setdefault(verdict.noise or "SGD noise", {}).setdefault(verdict.verdict, []).append(stage)
    for noise, by_verdict in by_noise.items():
        gathered = "; ".join(f"{verdict}: {', '.join(stages)}" for verdict, stages in sorted(by_verdict.items()))
        yield f"To {noise} {gathered}."


def where_to_look(folder: Path) -> Iterator[str]:
    """Where the pictures, the records and the curves of a recipe are."""
    pictures = sorted((path.name for path in folder.glob("*.png")), key=lambda name: (name != "summary.png", name))
    if pictures:
        yield ", ".join([f"Picture: {folder / pictures[0]}", *pictures[1:]])
    yield f"Records: {folder / 'results.csv'}, or in Python lightning_lottery.results('{folder}')"
    yield f"Curves:  {tensorboard()} --logdir {folder}"


def what_next(recipe: Path, seeds: Sequence[int], *, takes_more_seeds: bool) -> Iterator[str]:
    """What to do next: with more seeds, and where to read what was expected.

    Args:
        recipe: Its folder.
        seeds: Of the run.
        takes_more_seeds: Whether its stages heed them.
    """
    if len(seeds) == 1 and takes_more_seeds:
        more = ",".join(map(str, range(seeds[0], seeds[0] + 3)))
        yield f"Next: of other seeds this one says nothing; the same command with --seeds {more} adds two to it."
    if (recipe / "README.md").is_file():
        yield f"What was expected and measured: {recipe / 'README.md'}"


def tensorboard() -> str:
    """The command that starts TensorBoard from this shell: that of this environment where the shell's path has none."""
    beside = Path(sys.executable).parent / "tensorboard"
    if shutil.which("tensorboard") or not beside.is_file():
        return "tensorboard"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def _on_accuracy(metric: str, means: Mapping[str, float], samples: set[Any]) -> Iterator[str]:
    """How far stages lie apart, and how far apart chance alone would put them."""
    if len(means) < 2 or not all(0 <= mean <= 1 for mean in means.values()):
        return
    worst, best = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    extent = f"{metric}: {means[worst]:.4f} ({worst}) to {means[best]:.4f} ({best})."
    if means[worst] == means[best]:
        extent = f"{metric}: {means[best]:.4f} in every stage."
    if len(samples) != 1 or None in samples:
        yield extent
        return
    (count,) = samples
    mean = sum(means.values()) / len(means)
    error = math.sqrt(mean * (1 - mean) / count)
    apart = NORMAL_95 * math.sqrt(2) * error  # of two networks whose mistakes are independent
    below = [stage for stage in means if means[stage] < means[best] - apart]
    which = f"further below the best: {', '.join(below)}" if below else "all lie within that"
    yield (
        f"{extent} Of {count} test samples, chance alone is ± {error:.3f} (standard error), and two stages that differ "
        f"by less than {apart:.3f} are not told apart; {which}."
    )


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """Characters that a table of these columns takes, with its borders."""
    return sum(max(len(name), *map(len, cells)) + 3 for name, cells in columns.items()) + 1


def _percent(moments: Mapping[str, Any] | None) -> str:
    return "" if moments is None else f"{100 * moments['mean']:.1f} %"


def _written(moments: Mapping[str, Any] | None) -> str:
    if moments is None:
        return ""
    return f"{moments['mean']:.4f}" + (f" ± {moments['sd']:.4f}" if moments["sd"] else "")
