"""What a sweep found: barriers over steps, k*, records, tables and figures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from lightning_lottery.checks import is_count, is_number
from lightning_lottery.children.frames import frame_of
from lightning_lottery.children.reading import again, is_mapping, read_json
from lightning_lottery.children.records import Row
from lightning_lottery.connectivity.report import Pair, PathReport
from lightning_lottery.connectivity.stability import on_constant, on_more, stability_of, unit_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.style import error_in_words
from lightning_lottery.figures.sweep import barrier_over_steps, lines_over_steps
from lightning_lottery.functional.k_star import LEVEL, KStar, find_k_star
from lightning_lottery.functional.matching import ThresholdROC, roc_of_threshold
from lightning_lottery.functional.verdicts import Barriers, Stability
from lightning_lottery.notebook import html_of_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

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
        level: Of the search that chose the steps, a fraction.
        records: Of parents, children and lines.
        beside: Name to the summary of another sweep, drawn in the same picture.
    """

    threshold: float
    reports: Mapping[str, Reports]
    margin: float = 0.01
    level: float = LEVEL
    records: Sequence[Row] = field(default=(), compare=False, repr=False)
    beside: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __repr__(self) -> str:
        stars = {network: self.k_star(network).step for network in self.reports}
        words = {network: "not shown stable" if k is None else f"stable at step {k}" for network, k in stars.items()}
        return f"SweepReport({', '.join(map(' '.join, words.items()))}; threshold {self.threshold})"

    def _repr_html_(self) -> str:
        return html_of_table(self.table(), self.sentences())

    def barriers(self, network: str, *, recalibrated: bool = False) -> dict[int, Barriers]:
        """Step to parent to pair of children to error barrier."""
        return {step: _barriers(reports, recalibrated=recalibrated) for step, reports in self.reports[network].items()}

    def judged(self, network: str, parent: int | None = None) -> dict[int, Stability]:
        """Step to what its barriers say: pooled over parents, or of one parent."""
        return {step: self._judge(network, step, parent) for step in self.reports[network]}

    def _judge(self, network: str, step: int, parent: int | None = None) -> Stability:
        reports = self.reports[network][step]
        return stability_of(reports if parent is None else {parent: reports[parent]})

    def on_train_split(self, network: str) -> dict[int, Stability]:
        """Step to what the barriers on the training split say, pooled over parents; empty where nobody asked."""
        judged = {}
        for step, reports in self.reports[network].items():
            training = {parent: report.train for parent, report in reports.items() if report.train is not None}
            if len(training) == len(reports):
                judged[step] = stability_of(training)
        return judged

    def k_star(self, network: str, parent: int | None = None) -> KStar:
        """From which step on a network is stable: pooled over parents, or of one parent."""
        return find_k_star(self.judged(network, parent), self.level)

    def lines(self, network: str) -> dict[int, list[float]]:
        """Step to how far the error lies above the mean of the ends, at each alpha: mean over parents and pairs."""
        lines = {}
        for step, reports in self.reports[network].items():
            along = [np.array(report.errors(pair)) for report in reports.values() for pair in report.pairs]
            lines[step] = np.mean([errors - (errors[0] + errors[-1]) / 2 for errors in along], axis=0).tolist()
        return lines

    def matching(self, network: str) -> dict[tuple[int, int], tuple[float, bool]]:
        """(step, parent) to the dense network's barrier there, and whether the network pruned there matches it.

        A pruned network matches where the mean error of its children is at most ``margin`` above that of the dense
        one's children from the same snapshot. Barriers that are not finite, and metrics that are no share of samples,
        are left out.
        """
        points = {}
        for step, reports in self.reports[network].items():
            for parent, report in reports.items():
                dense = self.reports[DENSE].get(step, {}).get(parent)
                errors = (report.error_of_ends, None if dense is None else dense.error_of_ends)
                if dense is None or errors[0] is None or errors[1] is None:
                    continue  # each network has its own search: the dense one may not have looked at this step
                barrier = float(np.mean([dense.measures(pair)["error_barrier"] for pair in dense.pairs]))
                if math.isfinite(barrier):
                    points[step, parent] = barrier, errors[0] <= errors[1] + self.margin
        return points

    def roc(self, network: str) -> ThresholdROC:
        """Which threshold of the dense network's barrier goes best with pruned networks that match it.

        Raises:
            LotteryError: All of them match, or none.

        Source: Bolwerk 2021, who asks which instability is small enough to prune at.
        """
        points = self.matching(network).values()
        return roc_of_threshold([barrier for barrier, _ in points], [is_match for _, is_match in points])

    def rows(self) -> list[Row]:
        """The records of parents, children and lines."""
        return list(self.records)

    def to_frame(self) -> "DataFrame":
        """The records as a data frame, in the columns of ``results``.

        Raises:
            LotteryError: pandas is not installed.
        """
        return frame_of(self.rows())

    def summary(self) -> dict[str, Any]:
        """k* and every step of every network, plain values; None for a k* beyond the last step."""
        networks: dict[str, Any] = {}
        for network, steps in self.reports.items():
            parents = sorted({parent for reports in steps.values() for parent in reports})
            networks[network] = {
                **_plain_star(self.k_star(network)),
                "parents": {str(parent): _plain_star(self.k_star(network, parent)) for parent in parents},
                "steps": {str(step): self._step(network, step) for step in steps},
                **({} if network == DENSE else {"matching": self._matching(network)}),
            }
        judging = self._first.judging
        about = {"monitor": judging.monitor, "mode": judging.mode, "is_ratio": judging.threshold_ratio is not None}
        about["noise"] = self._first.noise
        return {"threshold": self.threshold, **about, "networks": networks}

    def figure(self) -> "Figure":
        """The barrier over the steps, with k* and the children's error, beside other sweeps'."""
        return draw_sweeps({"": self.summary(), **self.beside})

    def figures(self) -> dict[str, "Figure"]:
        """``barrier``: over the steps, beside other sweeps'; ``lines``: heat-maps over alpha and step."""
        first, heat = self._first, {network: self.lines(network) for network in self.reports}
        are_shares = first.error_of_ends is not None
        lines = lines_over_steps(first.judging.alphas, heat, self.threshold, are_shares=are_shares)
        return {"barrier": self.figure(), "lines": lines}

    def table(self) -> Table:
        """A row for each network and step: children's error, barrier with its bounds, each parent's, verdict."""
        table = Table(
            title=f"error barrier, threshold {self._threshold}{_under(self._first.noise)}",
            caption="Bounds of the mean over parents: one-sided, 95 % each. Of each parent: the mean of its pairs.",
            caption_justify="left",
        )
        has_train = any(self.on_train_split(network) for network in self.reports)
        train = ("on train",) if has_train else ()
        for column in (
            "network",
            "step",
            "children's\nerror",
            "barrier",
            "bounds",
            *train,
            "of each\nparent",
            "verdict",
        ):
            table.add_column(column, justify="right" if column == "step" else "left")
        for network, steps in ((network, content["steps"]) for network, content in self.summary()["networks"].items()):
            for step, values in steps.items():
                bounds = "" if values["low"] is None else f"{values['low']:.4f} to {values['high']:.4f}"
                error = "" if values["error"] is None else f"{values['error']:.4f}"
                means = " ".join("-" if mean is None else f"{mean:.4f}" for mean in values["by_parent"].values())
                mean = "" if values["mean"] is None else f"{values['mean']:.4f}"
                on_train = (values.get("train") or {}).get("mean")
                training = ["-" if on_train is None else f"{on_train:.4f}"] if has_train else []
                table.add_row(network, step, error, mean, bounds, *training, means, values["verdict"])
        return table

    def sentences(self) -> list[str]:
        """k* of every network, then what contradicts it and what more seeds would do."""
        return [sentence for network in self.reports for sentence in self._sentences_on(network)]

    @property
    def _threshold(self) -> str:
        """In words: with a ratio, barriers are in units of the ends' mean error."""
        is_ratio = self._first.judging.threshold_ratio is not None
        return f"{self.threshold} of the ends' mean error" if is_ratio else f"{self.threshold}"

    @property
    def _first(self) -> PathReport:
        return next(report for steps in self.reports.values() for at in steps.values() for report in at.values())

    def _sentences_on(self, network: str) -> Iterator[str]:
        star, judged = self.k_star(network), self.judged(network)
        last, first = judged[max(judged)], min(judged)
        noise = self._first.noise
        stable = f"stable to {noise}" if noise else "stable"
        verdict = _stable_steps(star, stable)
        if star.step is None:
            verdict = f"not shown {stable} at step {max(judged)}: {last.reason}"
        where, low, high = (_where(step, first) for step in (star.estimate, star.low, star.high))
        parents = sorted({parent for reports in self.reports[network].values() for parent in reports})
        estimates = {parent: self.k_star(network, parent).estimate for parent in parents}
        single = ", ".join(f"{parent}: {_where(estimate, first)}" for parent, estimate in estimates.items())
        yield (
            f"{network}: {verdict}. The mean barrier falls below {self._threshold} {where} (bounds, each wrong with a "
            f"probability of at most {100 * star.level:.0f} %: {low}, {high}); of single parents, {single}."
        )
        yield from (f"{network}: step {step} is {how}." for step, how in star.contradictions.items())
        for step, stability in judged.items():
            yield from (f"{network}: step {step} is undecided. {sentence}" for sentence in on_more(stability))
        for step, reports in self.reports[network].items():
            for parent, report in reports.items():
                if report.constant_error is not None:
                    yield f"{network}: step {step}, children of parent {parent}. {on_constant(report.constant_error)}"
        yield from _on_parents(network, max(judged) if star.step is None else star.step, judged)
        if training := self.on_train_split(network):
            yield f"{network}: {_on_training(training)}."
        if network != DENSE:
            yield f"{network}: {self._sentence_on_matching(network)}"
        if last.noise_floor is not None:
            yield f"{network}: equal errors all along the lines would show a barrier of {last.noise_floor:.4f} here."
        else:
            reasons = {report.networks_alone for report in self.reports[network][max(judged)].values()} - {""}
            yield from (f"{network}: networks alone are judged, as {reason}." for reason in sorted(reasons))

    def _sentence_on_matching(self, network: str) -> str:
        points = self.matching(network).values()
        count = f"{sum(is_match for _, is_match in points)} of {len(points)}"
        match = f"{count} match the dense network from the same snapshot within {self.margin}"
        try:
            roc = self.roc(network)
        except LotteryError:
            return f"{match}."
        # Barriers and tickets both change with the step: `predict-tickets` compares parents within steps.
        area = f"area under the ROC curve of the barrier over all steps {roc.auc:.2f}"
        return f"{match} ({area}: confounded with the step)."

    def _matching(self, network: str) -> dict[str, Any]:
        matching = self.matching(network)
        points = [[step, parent, barrier, is_match] for (step, parent), (barrier, is_match) in matching.items()]
        summary = {"points": points, "margin": self.margin}
        try:
            roc = self.roc(network)
        except LotteryError as error:
            return {**summary, "no_threshold": str(error)}
        return {**summary, "auc": roc.auc, "best": _finite(roc.best), "youden": roc.youden}

    def _step(self, network: str, step: int) -> dict[str, Any]:
        reports = self.reports[network][step]
        means = {str(parent): _finite(self._judge(network, step, parent).mean) for parent in reports}
        recalibrated = {}
        if all("recalibrated" in report.curves for report in reports.values()):
            barriers = _barriers(reports, recalibrated=True)
            means_by_parent = [np.mean(list(pairs.values())) for pairs in barriers.values()]
            recalibrated = {"recalibrated": float(np.mean(means_by_parent)) / unit_of(reports)}
        # None where the metric is no share of samples.
        errors = {str(parent): report.error_of_ends for parent, report in reports.items()}
        known = [error for error in errors.values() if error is not None]
        error = {"error": float(np.mean(known)) if len(known) == len(errors) else None, "errors": errors}
        train = self.on_train_split(network).get(step)
        on_train = {} if train is None else {"train": _plain(asdict(train))}
        return _plain({**asdict(self._judge(network, step)), "by_parent": means, **error, **recalibrated, **on_train})


def _barriers(reports: Mapping[int, PathReport], *, recalibrated: bool = False) -> dict[int, dict[Pair, float]]:
    """Parent to pair of children to error barrier."""
    kind = "recalibrated" if recalibrated else "raw"
    return {
        parent: {pair: report.measures(pair, kind)["error_barrier"] for pair in report.pairs}
        for parent, report in reports.items()
    }


def _on_parents(network: str, step: int, judged: Mapping[int, Stability]) -> Iterator[str]:
    """How far parents lie apart at a step, and what the typical one has: a mean may hide both."""
    stability = judged[step]
    if (spread := stability.spread_of_parents) is not None:
        yield (
            f"{network}: at step {step} the largest parent has {max(stability.by_parent):.4f}, {spread:.1f} times the "
            "smallest."
        )
    if (typical := stability.typical) is not None:
        yield (
            f"{network}: at step {step} the typical parent (the median, were they log-normal) has "
            f"{typical.median:.4f}, bounds {typical.low:.4f} and {typical.high:.4f}: {typical.verdict}."
        )


def _stable_steps(star: KStar, stable: str) -> str:
    """At which evaluated steps a network is stable, and how far these are apart: in between nobody looked."""
    if star.largest_gap is None:
        return f"{stable} at step {star.step}, the last evaluated one"
    above = ", ".join(map(str, star.evaluated_above))
    return (
        f"{stable} at step {star.step} and at the evaluated steps above it ({above}; largest gap a factor "
        f"{star.largest_gap:.3g})"
    )


def _under(noise: str) -> str:
    return f", children differ by {noise}" if noise else ""


def _on_training(judged: Mapping[int, Stability]) -> str:
    """What the training split says at each step."""
    steps = [f"{at.mean:.4f} at step {step} ({at.verdict})" for step, at in judged.items()]
    return f"on the training split the mean barrier is {', '.join(steps)}"


def _where(step: float, first: int) -> str:
    if step == first:
        return f"at or before step {first}"
    return f"at step {step:.0f}" if math.isfinite(step) else "beyond the last step"


def draw_sweeps(sweeps: Mapping[str, Mapping[str, Any]], notes: Sequence[str] = ()) -> "Figure":
    """The barriers of several sweeps over the step, all networks in one picture.

    Args:
        sweeps: What a sweep is called to its summary; a network's name follows, where there is one for it.
        notes: What is missing.
    """
    networks = {
        f"{name} {network}".strip(): {**content, "steps": {int(step): at for step, at in content["steps"].items()}}
        for name, sweep in sweeps.items()
        for network, content in sweep["networks"].items()
    }
    # What an older version of this package wrote does not say what was judged: an accuracy, as most are.
    judged = {(sweep.get("monitor", "test_acc"), sweep.get("mode", "max")) for sweep in sweeps.values()}
    ratios = {bool(sweep.get("is_ratio")) for sweep in sweeps.values()}
    errors = [at.get("error") for network in networks.values() for at in network["steps"].values()]
    are_shares = any(error is not None for error in errors)
    if len(judged) > 1 or len(ratios) > 1:
        notes = [*notes, f"The sweeps judge different metrics: {', '.join(sorted(monitor for monitor, _ in judged))}."]
    unit = " of the ends' mean error" if ratios == {True} else ""
    noises = {sweep.get("noise") or "" for sweep in sweeps.values()}
    if len(noises) > 1:
        notes = [*notes, f"The sweeps' children differ by different noise: {', '.join(sorted(noises - {''}))}."]
    under = f", children differ by {noises.pop()}" if len(noises) == 1 and noises != {""} else ""
    words = " or ".join(sorted({error_in_words(monitor, mode) for monitor, mode in judged}))
    return barrier_over_steps(
        networks,
        {sweep["threshold"] for sweep in sweeps.values()},
        barrier=fill(f"barrier of the {words}{unit}{under}", 38),  # as long as the axis is high
        error=words,
        are_shares=are_shares or ratios == {True},
        notes=notes,
    )


def stable_step(folder: Path, network: str) -> int:
    """The step k* that the sweep in a folder found for a network.

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
    if not path.exists():
        raise LotteryError(f"There is no finished sweep in '{folder}'.")
    summary = read_json(path, "summary of a sweep")
    if not is_mapping(summary) or not is_number(summary.get("threshold")) or not _are_networks(summary.get("networks")):
        raise LotteryError(f"There is no finished sweep in '{folder}': '{path}' is of none. {again(folder)}")
    return dict(summary)


def _are_networks(networks: Any) -> bool:
    """Whether a value can be the networks of a summary, as far as pictures and recipes rely on it."""
    return is_mapping(networks) and all(
        is_mapping(network)
        and (network.get("step") is None or is_count(network["step"]))
        and is_mapping(steps := network.get("steps"))
        and all(step.isdecimal() and _is_point(point) for step, point in steps.items())
        for network in networks.values()
    )


def _is_point(point: Any) -> bool:
    """Whether a value can be what a summary says of a step."""
    if not is_mapping(point) or not is_mapping(point.get("by_parent")):
        return False
    numbers = (point.get("mean", ""), point.get("low", ""), point.get("high", ""), *point["by_parent"].values())
    return all(number is None or is_number(number) for number in numbers)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold: None for what is not finite."""
    return {name: _finite(value) if isinstance(value, float) else value for name, value in values.items()}


def _plain_star(star: KStar) -> dict[str, Any]:
    """What JSON can hold, as it comes back from there."""
    contradictions = {str(step): how for step, how in star.contradictions.items()}
    return {**_plain(asdict(star)), "contradictions": contradictions, "evaluated_above": list(star.evaluated_above)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
