"""What a sweep found: barriers over steps, k*, records, tables and figures."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from lightning_lottery.children.records import curves_in, write_results
from lightning_lottery.connectivity.report import Pair, PathReport
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.drawing import barrier_over_steps, lines_over_steps
from lightning_lottery.functional.k_star import KStar, k_star
from lightning_lottery.functional.matching import ThresholdROC, roc_of_threshold
from lightning_lottery.functional.verdicts import Barriers, Stability, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = "dense"
"""What the network that nothing was removed from is called."""

Reports = Mapping[int, Mapping[int, PathReport]]
"""Step to parent to the lines between that parent's children."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found.

    Args:
        threshold: Error barrier below which a network is called stable, a fraction.
        reports: Network, ``"dense"`` first, to step to parent to the lines between its children.
        margin: Error above the dense network's that still counts as a match, a fraction.
    """

    threshold: float
    reports: Mapping[str, Reports]
    margin: float = 0.01

    def barriers(self, network: str, *, recalibrated: bool = False) -> dict[int, Barriers]:
        """Step to parent to pair of children to error barrier."""
        return {step: _barriers(of, recalibrated=recalibrated) for step, of in self.reports[network].items()}

    def judged(self, network: str, parent: int | None = None) -> dict[int, Stability]:
        """Step to what its barriers say: pooled over parents, or of one parent."""
        return {step: self._judge(network, step, parent) for step in self.reports[network]}

    def _judge(self, network: str, step: int, parent: int | None = None) -> Stability:
        barriers = _barriers(self.reports[network][step])
        of = barriers if parent is None else {parent: barriers[parent]}
        error, samples = self._error_at(network, step)
        return judge(of, self.threshold, error=error, samples=samples)

    def k_star(self, network: str, parent: int | None = None) -> KStar:
        """From which step on a network is stable: pooled over parents, or of one parent."""
        return k_star(self.judged(network, parent))

    def lines(self, network: str) -> dict[int, list[float]]:
        """Step to how far the error lies above the mean of the ends, at each alpha: mean over parents and pairs."""
        found = {}
        for step, of in self.reports[network].items():
            along = [np.array(report.errors(pair)) for report in of.values() for pair in report.pairs]
            found[step] = np.mean([errors - (errors[0] + errors[-1]) / 2 for errors in along], axis=0).tolist()
        return found

    def matching(self, network: str) -> dict[tuple[int, int], tuple[float, bool]]:
        """(step, parent) to the dense network's barrier there, and whether the network pruned there matches it.

        A pruned network matches where the mean error of its children is at most ``margin`` above that of the dense
        one's children from the same snapshot. Barriers that are not finite, and metrics that are no share of samples,
        are left out.
        """
        found = {}
        for step, of in self.reports[network].items():
            for parent, report in of.items():
                dense = self.reports[DENSE].get(step, {}).get(parent)
                errors = (report.error_of_ends, None if dense is None else dense.error_of_ends)
                if dense is None or errors[0] is None or errors[1] is None:
                    continue
                barrier = float(np.mean([dense.measures(pair)["error_barrier"] for pair in dense.pairs]))
                if math.isfinite(barrier):
                    found[step, parent] = barrier, errors[0] <= errors[1] + self.margin
        return found

    def roc(self, network: str) -> ThresholdROC:
        """Which threshold of the dense network's barrier goes best with pruned networks that match it.

        Raises:
            LotteryError: All of them match, or none.

        Source: Bolwerk 2021, who asks which instability is small enough to prune at.
        """
        found = list(self.matching(network).values())
        return roc_of_threshold([barrier for barrier, _ in found], [is_match for _, is_match in found])

    def summary(self) -> dict[str, Any]:
        """k* and every step of every network, plain values; None for a k* beyond the last step."""
        networks: dict[str, Any] = {}
        for network, steps in self.reports.items():
            parents = sorted({parent for of in steps.values() for parent in of})
            networks[network] = {
                **_plain(asdict(self.k_star(network))),
                "parents": {str(parent): _plain(asdict(self.k_star(network, parent))) for parent in parents},
                "steps": {str(step): self._step(network, step) for step in steps},
                **({} if network == DENSE else {"matching": self._matching(network)}),
            }
        return {"threshold": self.threshold, "networks": networks}

    def _matching(self, network: str) -> dict[str, Any]:
        found = self.matching(network)
        points = [[step, parent, barrier, is_match] for (step, parent), (barrier, is_match) in found.items()]
        try:
            roc = self.roc(network)
        except LotteryError as error:
            return {"points": points, "margin": self.margin, "no_threshold": str(error)}
        return {
            "points": points,
            "margin": self.margin,
            "auc": roc.auc,
            "best": _finite(roc.best),
            "youden": roc.youden,
        }

    def _step(self, network: str, step: int) -> dict[str, Any]:
        of = self.reports[network][step]
        own = {str(parent): _finite(self._judge(network, step, parent).mean) for parent in of}
        recalibrated = {}
        if all("recalibrated" in report.curves for report in of.values()):
            again = _barriers(of, recalibrated=True)
            recalibrated = {"recalibrated": float(np.mean([list(pairs.values()) for pairs in again.values()]))}
        error, _ = self._error_at(network, step)
        return _plain({**asdict(self._judge(network, step)), "by_parent": own, "error": error, **recalibrated})

    def _error_at(self, network: str, step: int) -> tuple[float | None, int]:
        """Mean error of the children, where the metric is one that has a binomial error, and the samples."""
        of = self.reports[network][step]
        found = [report.error_of_ends for report in of.values()]
        known = [error for error in found if error is not None]
        return (float(np.mean(known)) if len(known) == len(found) else None), next(iter(of.values())).samples


def _barriers(of: Mapping[int, PathReport], *, recalibrated: bool = False) -> dict[int, dict[Pair, float]]:
    """Parent to pair of children to error barrier."""
    kind = "recalibrated" if recalibrated else "raw"
    return {
        parent: {pair: report.measures(pair, kind)["error_barrier"] for pair in report.pairs}
        for parent, report in of.items()
    }


def write_report(
    report: SweepReport,
    summary: Mapping[str, Any],
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    beside: Mapping[str, Any],
) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, figures, and curves for TensorBoard.

    Barriers are scalars on the axis of steps, in a run of their own, ``sweep``, beside figures.

    Args:
        report: What was found.
        summary: The report's.
        folder: Where the files go.
        rows: The records.
        beside: Name to the summary of another sweep, drawn in the same picture.

    Raises:
        LotteryError: A file cannot be written.
    """
    figures = _figures_of(report, summary, beside)
    write_results(folder, rows, summary, figures)
    with curves_in(folder / "sweep", figures) as writer:
        for network, of in summary["networks"].items():
            for step, found in of["steps"].items():
                for name in ("mean", "low", "high"):
                    if found[name] is not None:
                        writer.add_scalar(f"sweep/error_barrier/{network}/{name}", found[name], int(step))


def table_of(summary: Mapping[str, Any]) -> Table:
    """A row for each network and step: children's error, barrier with its bounds, each parent's, verdict."""
    table = Table(
        title=f"error barrier, threshold {summary['threshold']}",
        caption="Bounds of the mean over parents: one-sided, 95 % each. By parent: means of its pairs.",
    )
    for column in ("network", "step", "error", "barrier", "bounds", "by parent", "verdict"):
        table.add_column(column, justify="right" if column == "step" else "left")
    for network, of in summary["networks"].items():
        for step, found in of["steps"].items():
            bounds = "" if found["low"] is None else f"{found['low']:.4f} to {found['high']:.4f}"
            error = "" if found["error"] is None else f"{found['error']:.4f}"
            by_parent = " ".join("-" if own is None else f"{own:.4f}" for own in found["by_parent"].values())
            mean = "" if found["mean"] is None else f"{found['mean']:.4f}"
            table.add_row(network, step, error, mean, bounds, by_parent, found["verdict"])
    return table


def verdicts_of(report: SweepReport) -> Iterator[str]:
    """k* of every network in a sentence, then what contradicts it and what more seeds would do."""
    for network, steps in report.reports.items():
        star, judged = report.k_star(network), report.judged(network)
        last, first = judged[max(judged)], min(judged)
        found = f"stable from step {star.step} on"
        if star.step is None:
            found = f"not shown stable at step {max(judged)}: {last.reason}"
        where, low, high = (_place(step, first) for step in (star.estimate, star.low, star.high))
        parents = sorted({parent for of in steps.values() for parent in of})
        own = ", ".join(f"{parent}: {_place(report.k_star(network, parent).estimate, first)}" for parent in parents)
        yield (
            f"{network}: {found}. The mean barrier falls below {report.threshold} {where} (95 % bounds: {low}, "
            f"{high}); of single parents, {own}."
        )
        yield from (f"{network}: step {step} is {said}." for step, said in star.contradictions.items())
        for step, of in judged.items():
            more = {"parents": of.more_parents, "children of each parent": of.more_children}
            if told := " or ".join(f"{number} more {what}" for what, number in more.items() if number):
                yield f"{network}: step {step} is undecided; {told} would decide it, estimates staying as they are."
        if network != DENSE:
            yield f"{network}: {_told_of_matching(report, network)}"
        if last.test_standard_error:
            yield f"{network}: standard error of an error on this test set alone: {last.test_standard_error:.4f}."


def _told_of_matching(report: SweepReport, network: str) -> str:
    found = report.matching(network).values()
    told = f"{sum(is_match for _, is_match in found)} of {len(found)} match the dense network from the same snapshot"
    told += f" within {report.margin}"
    try:
        roc = report.roc(network)
    except LotteryError:
        return f"{told}."
    if roc.auc <= 0.5:
        return f"{told}; a small barrier does not tell which (area under the ROC curve {roc.auc:.2f})."
    return f"{told}; a barrier below {roc.best:.4f} tells best which (area under the ROC curve {roc.auc:.2f})."


def _place(step: float, first: int) -> str:
    if step == first:
        return f"at or before step {first}"
    return f"at step {step:.0f}" if math.isfinite(step) else "beyond the last step"


def stable_step(folder: Path, network: str) -> int:
    """The step k* that a sweep found.

    Args:
        folder: Of the sweep.
        network: Its name there.

    Raises:
        LotteryError: There is no sweep, no such network in it, or no step from which on it is stable.
    """
    networks = summary_in(folder)["networks"]
    if network not in networks:
        raise LotteryError(f"The sweep in '{folder}' has no network '{network}': it has {', '.join(networks)}.")
    if (step := networks[network]["step"]) is None:
        raise LotteryError(
            f"The sweep in '{folder}' found no step from which on '{network}' is stable: there is no k* to prune at. "
            "Give it later steps, or more parents and children."
        )
    return int(step)


def summary_in(folder: Path) -> dict[str, Any]:
    """The ``summary.json`` of a sweep.

    Raises:
        LotteryError: There is none.
    """
    path = folder / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if not {"threshold", "networks"} <= found.keys():
        raise LotteryError(f"There is no finished sweep in '{folder}'.")
    return found


def _figures_of(report: SweepReport, summary: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, "Figure"]:
    """``barrier``: over the steps, for every network and those of other sweeps; ``lines``: heat-maps over alpha too."""
    curves = {
        f"{name} {network}".strip(): {int(step): found for step, found in of["steps"].items()}
        for name, sweep in {"": summary, **others}.items()
        for network, of in sweep["networks"].items()
    }
    alphas = next(
        report for steps in report.reports.values() for of in steps.values() for report in of.values()
    ).judging.alphas
    heat = {network: report.lines(network) for network in report.reports}
    return {
        "barrier": barrier_over_steps(curves, report.threshold),
        "lines": lines_over_steps(alphas, heat, report.threshold),
    }


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold: None for what is not finite."""
    return {name: _finite(value) if isinstance(value, float) else value for name, value in found.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
