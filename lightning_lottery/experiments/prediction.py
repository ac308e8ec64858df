"""Does stability at a step predict a good ticket there? Asked of finished sweeps and iterative pruning."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from lightning_lottery.checks import check_count
from lightning_lottery.children.conditions import FILE, read_conditions
from lightning_lottery.children.frames import import_pandas
from lightning_lottery.children.records import Row, read_rows
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.connectivity.stability import unit_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp_report import row_of
from lightning_lottery.experiments.sweep_report import DENSE
from lightning_lottery.experiments.sweep_search import PARENT
from lightning_lottery.figures.prediction import barrier_and_deficit
from lightning_lottery.files import write_image, write_table, write_whole
from lightning_lottery.functional.matching import check_margin, holm
from lightning_lottery.functional.prediction import BOOTSTRAPPED, Prediction, predict_deficits
from lightning_lottery.notebook import html_of_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SCORES = ("dense", "pruned")
"""Whose barrier predicts: the dense network's, or that of the pruned one."""


LEVEL = 0.05
"""Of all correlations of a report together."""


@dataclass(frozen=True)
class Point:
    """One ticket: of a method, found at a step of a parent.

    Args:
        method: A sweep's network, or ``imp level N``.
        parent: Seed of the initialisation.
        step: At which the ticket was found.
        dense: Mean error barrier of the dense network's children, those left out that the deficit is of.
        pruned: The same of the pruned network's children; None where it has no such.
        deficit: Error of the ticket minus that of the dense network.
        error: Of the dense children that the barrier is of.
        trained: Optimizer steps that the ticket trained after the step.
    """

    method: str
    parent: int
    step: int
    dense: float
    pruned: float | None
    deficit: float
    error: float
    trained: int


@dataclass(frozen=True)
class PredictionReport:
    """What barriers say of tickets.

    Args:
        points: All tickets.
        predictions: Method to whose barrier to what it predicts; or the sentence that says why it cannot be said.
        margin: Deficit up to which a ticket matches.
        noise_floor: The barrier that equal errors along all lines would show, or None.
        are_shares: Whether errors are shares of samples, read in per cent.
    """

    points: Sequence[Point]
    predictions: Mapping[str, Mapping[str, Prediction | str]]
    margin: float
    noise_floor: float | None
    are_shares: bool = True

    def __repr__(self) -> str:
        return f"PredictionReport({len(self.points)} tickets: {', '.join(self.predictions)})"

    def _repr_html_(self) -> str:
        return html_of_table(self.table(), self.sentences())

    def rows(self) -> list[Row]:
        """A row for each ticket."""
        return [{**asdict(point), "matches": point.deficit <= self.margin} for point in self.points]

    def to_frame(self) -> "DataFrame":
        """The rows as a data frame.

        Raises:
            LotteryError: pandas is not installed.
        """
        return import_pandas().DataFrame(self.rows())

    def summary(self) -> dict[str, Any]:
        """Plain values: the predictions, and how many steps tickets trained."""
        adjusted = self.adjusted()
        predictions = {
            method: {
                score: result
                if isinstance(result, str)
                else {**asdict(result), "p_adjusted": adjusted.get((method, score))}
                for score, result in scores.items()
            }
            for method, scores in self.predictions.items()
        }
        trained: dict[str, dict[str, int]] = {}
        for point in self.points:
            trained.setdefault(point.method, {})[str(point.step)] = point.trained
        return {"margin": self.margin, "noise_floor": self.noise_floor, "trained": trained, "predictions": predictions}

    def adjusted(self) -> dict[tuple[str, str], float]:
        """Method and whose barrier to p, corrected by Holm for all of them; what only describes is no test."""
        tested = {
            (method, score): result.p
            for method, score, result in self._every()
            if not isinstance(result, str) and not result.is_descriptive
        }
        return holm(tested)

    def figure(self, method: str | None = None) -> "Figure":
        """Barrier against deficit, a line for each parent, and ranks within steps.

        Args:
            method: Which one's tickets; default: the first's.
        """
        method = next(iter(self.predictions)) if method is None else method
        points = [(p.parent, p.step, p.dense, p.deficit) for p in self.points if p.method == method]
        result = self.predictions[method]["dense"]
        title = result if isinstance(result, str) else _correlation(result)
        return barrier_and_deficit(points, method, title, self.margin, self.noise_floor, are_shares=self.are_shares)

    def figures(self) -> dict[str, "Figure"]:
        """``prediction``: barrier against deficit and ranks, of the first method; and one for each further method."""
        names = {
            method: "prediction" + (f"-{re.sub(r'[^a-z0-9]+', '-', method.lower())}" if number else "")
            for number, method in enumerate(self.predictions)
        }
        return {name: self.figure(method) for method, name in names.items()}

    def table(self) -> Table:
        """A row for each method and barrier."""
        title = "Does a lower barrier go with a better ticket, among parents at the same step?"
        table = Table(title=title, caption_justify="left")
        for column in ("ticket", "barrier\nof"):
            table.add_column(column)
        for column in ("rank\ncorr.", "95 %", "p", "by\nHolm", "beyond\nerror", "right\norder"):
            table.add_column(column, justify="right", no_wrap=column != "95 %")
        adjusted = self.adjusted()
        for method, score, result in self._every():
            if isinstance(result, str):  # the sentences say why
                table.add_row(method, score, *["-"] * 6)
                continue
            bounds = "" if result.low is None else f"{result.low:.2f} to {result.high:.2f}"
            beyond, order = _number(result.partial), _number(result.auc)
            p = f"{result.p:.3g}", _number(adjusted.get((method, score)))
            table.add_row(method, score, f"{result.rho:.2f}", bounds, *p, beyond, order)
        table.caption = (
            "Beyond error: the correlation that is left when that of the dense children's error is taken out.\n"
            "Right order: how often, of a ticket that matches and one that does not, the first has the lower barrier."
        )
        return table

    def sentences(self) -> list[str]:
        """What was found, in words."""
        sentences, adjusted = [], self.adjusted()
        for method, score, result in self._every():
            steps = {point.step for point in self.points if point.method == method}
            p = adjusted.get((method, score))
            family = "" if p is None or len(adjusted) == 1 else f", by Holm over {len(adjusted)} tests {p:.2g}"
            sentences.append(_sentence(method, score, result, len(steps), p is not None and p <= LEVEL, family))
        for method in self.predictions:
            sentences += _on_training(method, [point for point in self.points if point.method == method])
        return sentences

    def write(self, folder: Path) -> None:
        """Write ``points.csv``, ``summary.json`` and the figures.

        Raises:
            LotteryError: A file cannot be written.
        """
        write_table(folder / "points.csv", self.rows(), "points")
        write_whole(folder / "summary.json", json.dumps(self.summary(), indent=1).encode(), "summary")
        for name, figure in self.figures().items():
            write_image(folder, name, figure)

    def _every(self) -> Iterator[tuple[str, str, Prediction | str]]:
        for method, scores in self.predictions.items():
            for score, result in scores.items():
                yield method, score, result


def predict_tickets(
    sweep: str, imps: Sequence[str] = (), *, margin: float = 0.01, deficit_children: int = 1
) -> PredictionReport:
    """Whether stability at a step goes with a good ticket found there, over parents: nothing is trained for it.

    Of each cell of the sweep the last children are compared with the dense network's of the same seeds, which gives the
    ticket's deficit, and the others make the barrier: the two share no training.

    Args:
        sweep: Folder of a finished sweep with pruned networks, or with whose parents ``imps`` began.
        imps: Folders of finished iterative pruning of the same project, whose seeds are parents of the sweep, each
            rewound to a step of it.
        margin: Deficit up to which a ticket matches, > 0.
        deficit_children: How many children of each cell give the deficit; two others at least make the barrier.

    Raises:
        LotteryError: No finished sweep; too few children, or no ticket in it; folders that do not belong together.

    Source: Frankle et al. 2020, section 4 (whether stability at a step goes with matching tickets); the analysis by
    parents, stratified by step, is ours.
    """
    check_margin(margin)
    check_count("deficit_children", deficit_children, "how many children give the deficit,")
    folder = Path(sweep)
    reports = _read_sweep(folder)
    points = [point for cell in reports.items() for point in _points_of_sweep(cell, reports, folder, deficit_children)]
    for imp in imps:
        points += _points_of_imp(Path(imp), reports, folder, deficit_children)
    if not points:
        raise LotteryError(
            f"The sweep in '{sweep}' has no pruned network, and no iterative pruning is given: no ticket."
        )
    methods = list(dict.fromkeys(point.method for point in points))
    dense = [report for (network, *_), report in reports.items() if network == DENSE]
    # Barriers of points are in the error's units, also where verdicts are of a ratio.
    floors = [(report.stability.noise_floor, unit_of({0: report})) for report in dense]
    known = [floor * unit for floor, unit in floors if floor is not None]
    return PredictionReport(
        points=points,
        predictions={method: _predictions([p for p in points if p.method == method], margin) for method in methods},
        margin=margin,
        noise_floor=float(np.mean(known)) if known else None,
        are_shares=all(report.error_of_ends is not None for report in dense),
    )


Cell = tuple[str, int, int]
"""Network, parent, step."""


def _read_sweep(folder: Path) -> dict[Cell, PathReport]:
    """The lines of every cell.

    Raises:
        LotteryError: There are none, or of several test sets or metrics.
    """
    reports = {}
    for path in sorted(folder.glob("parent-*/*-step-*/lines/report.json")):
        network, step = path.parent.parent.name.rsplit("-step-", 1)
        parent = path.parent.parent.parent.name.removeprefix("parent-")
        if step.isdecimal() and parent.isdecimal():
            reports[network, int(parent), int(step)] = PathReport.load(path)
    if not reports:
        raise LotteryError(f"There is no finished sweep in '{folder}': it has no lines that were judged.")
    judged = {(report.judging.monitor, report.judging.mode, report.samples) for report in reports.values()}
    if len(judged) > 1:
        raise LotteryError(f"The lines in '{folder}' are of different metrics or test sets: {sorted(judged)}.")
    return reports


def _points_of_sweep(
    cell: tuple[Cell, PathReport], reports: Mapping[Cell, PathReport], folder: Path, left_out: int
) -> Iterator[Point]:
    (network, parent, step), report = cell
    dense = reports.get((DENSE, parent, step))
    if network == DENSE or dense is None:
        return
    errors, of_dense = _errors_of(report), _errors_of(dense)
    last = range(len(of_dense) - left_out, len(of_dense))
    if len(errors) != len(of_dense):
        raise LotteryError(f"{network} has {len(errors)} children at step {step}, the dense network {len(of_dense)}.")
    deficit = float(np.mean([errors[child] - of_dense[child] for child in last]))
    trained = _trained(folder / f"parent-{parent}" / f"{network}-step-{step}")
    pruned = _barrier(report, left_out)
    yield Point(network, parent, step, _barrier(dense, left_out), pruned, deficit, _error(dense, left_out), trained)


def _points_of_imp(folder: Path, reports: Mapping[Cell, PathReport], sweep: Path, left_out: int) -> Iterator[Point]:
    """Each level of each seed that is a parent of the sweep, at the step that it was rewound to."""
    any_report = next(iter(reports.values()))
    seeds = {int(path.name.removeprefix("seed-")): path for path in folder.glob("seed-*") if path.name[5:].isdecimal()}
    parents = {parent for _, parent, _ in reports}
    if not seeds.keys() & parents:
        raise LotteryError(
            f"The iterative pruning in '{folder}' has the seeds {sorted(seeds)}, the sweep the parents "
            f"{sorted(parents)}: they have none in common."
        )
    for seed in sorted(seeds.keys() & parents):
        _check_same_beginning(seeds[seed] / "level-0", sweep / f"parent-{seed}" / PARENT)
        dense_error = _recorded(seeds[seed] / "level-0", any_report)
        for level in sorted(seeds[seed].glob("level-*"), key=lambda path: (len(path.name), path.name)):
            number = level.name.removeprefix("level-")
            if number == "0" or not number.isdecimal() or not (level / "done").exists():
                continue
            conditions = read_conditions(level)
            step = conditions["start_step"]
            if (dense := reports.get((DENSE, seed, step))) is None:
                raise LotteryError(f"'{level}' was rewound to step {step}, at which the sweep has no dense network.")
            deficit, trained = _recorded(level, any_report) - dense_error, conditions["end_step"] - step
            barrier, error = _barrier(dense, left_out), _error(dense, left_out)
            yield Point(f"imp level {number}", seed, step, barrier, None, deficit, error, trained)


def _check_same_beginning(level: Path, parent: Path) -> None:
    """Refuse iterative pruning of another initialisation than the sweep's parent of that seed."""
    if (parent / FILE).exists() and read_conditions(parent).get("weights") != read_conditions(level).get("weights"):
        raise LotteryError(f"'{level}' and '{parent}' have one seed and began with other weights: another project's.")


def _recorded(child: Path, report: PathReport) -> float:
    """The error that a child recorded, in the metric of a sweep's report and on as many samples."""
    row = row_of(read_rows(child / "results.jsonl"), report.judging.monitor)
    if row.get("n") not in (None, report.samples):
        raise LotteryError(
            f"'{child}' was tested on {row['n']} samples, the sweep's networks on {report.samples}: give both one test "
            "set."
        )
    return report.judging.errors({report.judging.monitor: [float(row["value"])]})[0]


def _trained(cell: Path) -> int:
    """Optimizer steps of a cell's children."""
    conditions = read_conditions(next(path for path in sorted(cell.glob("seed-*")) if (path / FILE).exists()))
    return int(conditions["end_step"] - conditions["start_step"])


def _errors_of(report: PathReport) -> list[float]:
    """The error of each child."""
    errors: dict[int, float] = {}
    for i, j in report.pairs:
        errors[j], *_, errors[i] = report.errors((i, j))
    return [errors[child] for child in sorted(errors)]


def _others(report: PathReport, left_out: int) -> range:
    """The children that make the barrier.

    Raises:
        LotteryError: They are fewer than two.
    """
    count = len(_errors_of(report))
    if count - left_out < 2:
        raise LotteryError(
            f"Each cell has {count} children, of which {left_out} give the deficit: two others are needed for a "
            "barrier that shares no training with it. Give the sweep a seed more."
        )
    return range(count - left_out)


def _barrier(report: PathReport, left_out: int) -> float:
    others = _others(report, left_out)
    return float(np.mean([report.measures(p)["error_barrier"] for p in report.pairs if {*p} <= {*others}]))


def _error(report: PathReport, left_out: int) -> float:
    errors = _errors_of(report)
    return float(np.mean([errors[child] for child in _others(report, left_out)]))


def _predictions(points: Sequence[Point], margin: float) -> dict[str, Prediction | str]:
    """What the dense and the pruned network's barriers say of one method's tickets."""
    results: dict[str, Prediction | str] = {}
    parents = sorted({point.parent for point in points})
    at = {(point.parent, point.step): point for point in points}
    for score in SCORES:
        # At a step that lacks a parent, or a finite number of one, parents cannot be compared.
        steps = [
            step
            for step in sorted({point.step for point in points})
            if all(_is_whole(at.get((parent, step)), score) for parent in parents)
        ]
        if not steps:
            if score == "dense":
                results[score] = "no step has a barrier and a ticket of every parent"
            continue

        def values(name: str, steps: Sequence[int] = steps) -> np.ndarray[Any, np.dtype[np.float64]]:
            return np.array([[getattr(at[parent, step], name) for step in steps] for parent in parents], dtype=float)

        try:
            results[score] = predict_deficits(values(score), values("deficit"), values("error"), margin=margin)
        except LotteryError as error:
            results[score] = str(error)
    return results


def _is_whole(point: Point | None, score: str) -> bool:
    if point is None:
        return False
    numbers = (getattr(point, score), point.deficit, point.error)
    return all(number is not None and bool(np.isfinite(number)) for number in numbers)


def _correlation(result: Prediction) -> str:
    bounds = "" if result.low is None else f", 95 % {result.low:.2f} to {result.high:.2f}"
    return f"rho {result.rho:.2f}{bounds}, p {result.p:.2g}"


def _sentence(method: str, score: str, result: Prediction | str, steps: int, is_shown: bool, family: str) -> str:
    whose = "the dense network's" if score == "dense" else "the pruned network's"
    if isinstance(result, str):
        return f"{method}, {whose} barrier: {result.rstrip('.')}."
    goes = "goes" if is_shown else "was not shown to go"
    beyond = ""
    if result.partial is not None:
        beyond = (
            f"; beyond the error of dense children of that step rho {result.partial:.2f} (p {result.partial_p:.2g})"
        )
    sentence = (
        f"{method}: among {result.parents} initialisations at the same step, a lower barrier of {whose} children "
        f"{goes} with a better ticket ({_correlation(result)}{family}){beyond}."
    )
    if result.steps < steps:
        sentence += f" {steps - result.steps} of {steps} steps are left out: a parent has no ticket or no number there."
    if result.is_descriptive:
        sentence += f" With {result.parents} parents this only describes them."
    elif result.low is None:
        sentence += f" Bounds are given from {BOOTSTRAPPED} parents on."
    return sentence


def _on_training(method: str, points: Sequence[Point]) -> Iterator[str]:
    """Where tickets of later steps trained less."""
    steps = sorted({(point.step, point.trained) for point in points})
    (first, long), (last, short) = steps[0], steps[-1]
    if len({trained for _, trained in steps}) > 1:
        yield (
            f"{method}: tickets of later steps trained less ({long} steps after step {first}, {short} after {last}): "
            "within a step they are compared fairly, over steps they are not (`remaining: equal` in the sweep)."
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
