"""Fits in folders: what they reached while they trained, where they were pruned, and when rules drew tickets."""

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from lightning_lottery.checks import is_count, is_number
from lightning_lottery.children.records import is_accuracy
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.pictures.folders import Drawn, Part, by_number, load_rows
from lightning_lottery.figures.draws import Retrained, accuracy_over_draws, draws_over_seeds
from lightning_lottery.figures.style import in_words
from lightning_lottery.figures.training import accuracy_through_training
from lightning_lottery.files import read_text
from lightning_lottery.functional.settling.watch import series_of
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.replaying import replay_draws
from lightning_lottery.units.score_log import FILE

Curve = list[tuple[int, float]]
Draws = dict[str, dict[str, list[int | None]]]
"""Rule to series, such as ``head-0.3``, to the step in each run."""


def draw_fits(parts: Sequence[Part], drawn: Drawn) -> None:
    """``training``: a metric through training, marked where networks were pruned; ``draws``: when rules drew."""
    notes: list[str] = []
    curves = {part: _curves_in(part.folder, f"{part.name or part.folder.name}: ", notes) for part in parts}
    metric = metric_of([[*by_metric] for by_metric in curves.values()])
    if metric is not None:
        runs: dict[str, list[Curve]] = {}
        pruned: dict[str, tuple[int, int]] = {}
        for part, by_metric in curves.items():
            name = part.name or part.folder.resolve().name
            if metric not in by_metric:
                notes.append(f"{name} has no {in_words(metric)} yet.")
                continue
            runs.setdefault(name, []).append(by_metric[metric])
            try:
                if name not in pruned and (between := pruned_in(part.folder)):
                    pruned[name] = between
            except LotteryError as error:
                notes.append(str(error))
        drawn.figures["training"] = accuracy_through_training(
            runs, in_words(metric), pruned, is_share=is_accuracy(metric), notes=notes
        )
    drawn.notes += notes
    notes = []
    draws: Draws = {}
    for part in parts:
        _add_draws(draws, part.folder, f"{part.name or part.folder.name}: ", notes)
    if draws:
        drawn.figures["draws"] = draws_over_seeds(draws, notes)
    drawn.notes += notes


def draw_early_birds(parts: Sequence[Part], drawn: Drawn) -> None:
    """Of a recipe: when rules drew in each seed, and what networks reached over the step of drawing."""
    for part in parts:
        prefix = f"{part.name}-".replace("/", "-") if part.name else ""
        notes: list[str] = []
        stages: dict[str, Draws] = {}
        folders = [folder for folder in _stages_of(part) if (folder / "child.json").is_file()]
        for folder in folders:
            _add_draws(stages.setdefault(folder.name, {}), folder, f"{folder.parent.name}/{folder.name}: ", notes)
        drawing = {stage: draws for stage, draws in stages.items() if draws}
        for stage, draws in drawing.items():
            name = f"{prefix}draws" if len(drawing) == 1 else f"{prefix}draws-{stage}"
            drawn.figures[name] = draws_over_seeds(draws, notes)
        figure = _draw_retrained(folders, notes)
        if figure is not None:
            drawn.figures[f"{prefix}over-draws"] = figure
        drawn.notes += notes


def _stages_of(part: Part) -> list[Path]:
    stages = sorted(part.folder.glob("seed-*/*/"), key=lambda path: (by_number(path.name), by_number(path.parent.name)))
    seeds = None if part.seeds is None else {f"seed-{seed}" for seed in part.seeds}
    return [stage for stage in stages if seeds is None or stage.parent.name in seeds]


# Curves of training.


def metric_of(metrics: Sequence[Sequence[str]]) -> str | None:
    """The metric that most runs have, of those an accuracy in validation first; None where none has any.

    Example:
        >>> metric_of([["train_loss", "val_loss", "val_acc"], ["val_loss", "val_acc"]])
        'val_acc'
    """
    names = dict.fromkeys(name for run in metrics for name in run)
    return min(
        names,
        key=lambda name: (not name.startswith("val"), not is_accuracy(name), -sum(name in run for run in metrics)),
        default=None,
    )


def _curves_in(folder: Path, prefix: str, notes: list[str]) -> dict[str, Curve]:
    """Metric to optimizer steps and values, from the files of a CSV logger or of TensorBoard."""
    try:
        curves = _csv_curves(folder / "metrics.csv") if (folder / "metrics.csv").is_file() else _event_curves(folder)
    except LotteryError as error:
        notes.append(f"{prefix}{error}")
        return {}
    if curves and (folder / "child.json").is_file() and not (folder / "done").is_file():
        last = max(curve[-1][0] for curve in curves.values())
        notes.append(f"{prefix}not done yet; drawn until step {last}.")
    return curves


def _csv_curves(path: Path) -> dict[str, Curve]:
    values: dict[str, dict[int, float]] = {}
    for row in _table(path, "metrics"):
        step = _number(row.get("step"))
        for name, text in row.items():
            if step is not None and name not in ("step", "epoch") and (value := _number(text)) is not None:
                values.setdefault(name, {})[int(step) + 1] = value
    return {name: sorted(curve.items()) for name, curve in values.items()}


def _event_curves(folder: Path) -> dict[str, Curve]:
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    try:
        events.FirstEventTimestamp()
    except ValueError as error:  # it says nothing of a file that it cannot read
        raise LotteryError(f"TensorBoard's file in '{folder}' holds nothing that can be read.") from error
    curves = {}
    for name in events.Tags()["scalars"]:
        if name.startswith(("val", "train", "test")):
            # Loggers count batches that stepped before: the first step is 0 there.
            curves[name] = sorted({event.step + 1: event.value for event in events.Scalars(name)}.items())
    return curves


def pruned_in(folder: Path) -> tuple[int, int] | None:
    """The first and the last step at which a fit removed weights, from its ``pruning.csv``; None where it has none.

    Raises:
        LotteryError: The table cannot be read.
    """
    steps = []
    for path in sorted(folder.glob("pruning*.csv")):
        before = 0.0
        for row in _table(path, "history of masks"):
            step, sparsity = _number(row.get("step")), _number(row.get("sparsity"))
            if step is not None and sparsity is not None:
                if sparsity > before:
                    steps.append(int(step))
                before = sparsity
    return (min(steps), max(steps)) if steps else None


def _table(path: Path, what: str) -> list[dict[str, Any]]:
    """The rows of a table.

    Raises:
        LotteryError: It cannot be read, or is none.
    """
    try:
        return list(csv.DictReader(StringIO(read_text(path, what))))
    except csv.Error as error:
        raise LotteryError(f"The {what} '{path}' are damaged: {error}.") from error


def _number(text: Any) -> float | None:
    """A finite number in a cell; None for anything else."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


# Draws.


def _add_draws(draws: Draws, folder: Path, prefix: str, notes: list[str]) -> None:
    """The draws of a fit beside those of others, from its table, or of one that has not ended from its log."""
    for bird in sorted(folder.glob("early_bird*/")):
        if (bird / "draws.csv").is_file():
            try:
                rows: Sequence[Mapping[str, Any]] = _table(bird / "draws.csv", "draws")
            except LotteryError as error:
                notes.append(f"{prefix}{error}")
                continue
        elif (bird / FILE).is_file():
            try:
                replayed = replay_draws(bird)
            except LotteryError as error:
                notes.append(f"{prefix}{error}")
                continue
            rows = replayed.table()
            notes.append(f"{prefix}not done yet; draws until step {replayed.last}.")
        else:
            continue
        for row in rows:
            step, sparsity = _number(row.get("step")), _number(row.get("sparsity"))
            if row.get("kind") and row.get("rule") and step is not None and sparsity is not None:
                series = series_of(row["kind"], sparsity)
                settled = str(row.get("settled")) == "True"
                draws.setdefault(str(row["rule"]), {}).setdefault(series, []).append(int(step) if settled else None)


def _draw_retrained(folders: Sequence[Path], notes: list[str]) -> Any:
    """What networks reached over the step at which their tickets were drawn; None where none was trained from one."""
    metrics: dict[Path, dict[str, float]] = {}
    for folder in folders:
        if (folder / "results.jsonl").is_file():
            rows = load_rows(folder / "results.jsonl", notes)
            metrics[folder] = {row["metric"]: row["value"] for row in rows if row.get("alpha") is None}
    tests = [[name for name in values if name.startswith("test")] for values in metrics.values()]
    metric = min((name for names in tests for name in names), key=lambda name: not is_accuracy(name), default=None)
    stated: dict[str, dict[int, list[float]]] = {}
    by_rule: dict[str, dict[str, list[tuple[int, float]]]] = {}
    dense: list[float] = []
    waiting = []
    for folder in folders:
        if (ticket := _ticket_in(folder, notes)) is None:
            if metric in metrics.get(folder, {}) and _is_dense(folder):
                dense.append(metrics[folder][metric or ""])
            continue
        step, sparsity, rule = ticket
        if metric is None or metric not in metrics.get(folder, {}):
            waiting.append(f"{folder.parent.name}/{folder.name}")
            continue
        share, value = f"{100 * sparsity:.3g} %", metrics[folder][metric]
        if rule.startswith("at=") and rule != "at=random":
            stated.setdefault(share, {}).setdefault(step, []).append(value)
        else:
            by_rule.setdefault(share, {}).setdefault(rule, []).append((step, value))
    if waiting:
        notes.append(f"Not done yet: {', '.join(waiting[:3])}{' and more' if len(waiting) > 3 else ''}.")
    shares = sorted({*stated, *by_rule}, key=lambda share: float(share.removesuffix(" %")))
    if not shares or metric is None:
        return None
    names = _short({rule for rules in by_rule.values() for rule in rules})
    reached = {
        share: Retrained(
            stated.get(share, {}), {names[rule]: points for rule, points in by_rule.get(share, {}).items()}
        )
        for share in shares
    }
    return accuracy_over_draws(reached, in_words(metric), dense, notes)


def _ticket_in(folder: Path, notes: list[str]) -> tuple[int, float, str] | None:
    """Step, sparsity and rule of the early-bird ticket that a fit trained; None where it trained none."""
    if not (folder / "ticket.safetensors").is_file():
        return None
    try:
        ticket = Ticket.load(folder / "ticket.safetensors")
    except LotteryError as error:
        notes.append(str(error))
        return None
    found_by = ticket.provenance.get("found_by")
    if not isinstance(found_by, Mapping) or found_by.get("method") != "EarlyBird":
        return None
    step, sparsity, rule = (found_by.get(word) for word in ("step", "unit_sparsity", "rule"))
    if not is_count(step) or not is_number(sparsity) or not isinstance(rule, str):
        return None
    return int(step or 0), float(sparsity or 0), rule


def _is_dense(folder: Path) -> bool:
    return all(row.get("method") == "dense" for row in load_rows(folder / "results.jsonl", []))


def _short(rules: set[str]) -> dict[str, str]:
    """Rules by the name of their class where that tells them apart; a random step in words."""
    short = {rule: "a random step" if rule == "at=random" else rule.partition("(")[0] for rule in sorted(rules)}
    return {rule: name if [*short.values()].count(name) == 1 else rule for rule, name in short.items()}
