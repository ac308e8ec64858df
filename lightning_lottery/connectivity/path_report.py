"""What the lines between networks look like: measures, records, table, figures and curves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from lightning_lottery.children.records import curves_in, write_results
from lightning_lottery.figures.drawing import layers_between, lines_between
from lightning_lottery.files import write_whole
from lightning_lottery.functional.connectivity import error_barrier, excess
from lightning_lottery.functional.verdicts import Stability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[int, int]
Curve = Mapping[str, Sequence[float]]
"""Metric to its value at every place on a line."""

_OF_PAIRS = ("curves", "between", "recalibrated", "aligned", "moved")

LayerKey = tuple[str, int, str]
"""A layer's name, the host (0: the pair's first network, 1: its second), and ``"single"`` or ``"cumulative"``."""


@dataclass(frozen=True)
class PathReport:
    """What the lines between several networks look like.

    Args:
        names: Of the networks, in the order of the pairs' numbers.
        alphas: Places on each line; 1 is the pair's first network.
        monitor: The metric that is judged, a fraction.
        mode: Whether the monitor is better when high (``"max"``, an accuracy) or low (``"min"``, an error or a loss).
        threshold: Error barrier below which networks are called stable, a fraction.
        curves: For each pair every metric along the line.
        between: For each pair ``l2`` and ``cosine`` distance, and ``disagreement`` where predictions were compared.
        samples: In the evaluation set, over all ranks.
        device: What computed it.
        stability: The verdict on the raw barrier.
        recalibrated: The curves with batch norm's statistics estimated anew at each place; empty without batch norm.
        layer_alphas: Places at which single layers were interpolated.
        layers: For each pair the curves with only one layer interpolated in either host, or with all layers up to it.
        aligned: The curves to the second network with its units in the order of the first's; recalibrated where there
            are recalibrated ones. Empty where not asked.
        moved: For each aligned pair, group of units to how many of them changed places, and how many there are.
        left: Modules whose weights an alignment leaves in their order, and why.
        midpoint: Every metric of the mean of all networks; empty where none was written.
    """

    names: tuple[str, ...]
    alphas: tuple[float, ...]
    monitor: str
    mode: Literal["max", "min"]
    threshold: float
    curves: Mapping[Pair, Curve]
    between: Mapping[Pair, Mapping[str, float]]
    samples: int
    device: str
    stability: Stability
    recalibrated: Mapping[Pair, Curve] = field(default_factory=dict)
    layer_alphas: tuple[float, ...] = ()
    layers: Mapping[Pair, Mapping[LayerKey, Curve]] = field(default_factory=dict)
    aligned: Mapping[Pair, Curve] = field(default_factory=dict)
    moved: Mapping[Pair, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    midpoint: Mapping[str, float] = field(default_factory=dict)

    def errors(self, pair: Pair, *, recalibrated: bool = False, aligned: bool = False) -> list[float]:
        """The monitor as an error along a pair's line: one minus it where it is better when high."""
        return self._as_errors(self._line(pair, recalibrated, aligned))

    @property
    def error_of_ends(self) -> float | None:
        """Mean error of the networks themselves; None where the monitor is no share of samples, such as a loss."""
        ends = [errors[end] for errors in map(self.errors, self.curves) for end in (0, -1)]
        mean = sum(ends) / len(ends)
        return mean if self.mode == "max" or (mean <= 1 and "loss" not in self.monitor) else None

    def measures(self, pair: Pair, *, recalibrated: bool = False, aligned: bool = False) -> dict[str, float]:
        """Barrier, excess, value in the middle, and ratio of the highest to the ends' mean, of error and of losses."""
        curves = self._line(pair, recalibrated, aligned)
        along: dict[str, Sequence[float]] = {"error": self._as_errors(curves)}
        along |= {name: values for name, values in curves.items() if "loss" in name}
        found: dict[str, float] = {}
        for name, values in along.items():
            ends = (values[0] + values[-1]) / 2
            found[f"{name}_barrier"] = error_barrier(values)
            found[f"{name}_excess"] = excess(values, self.alphas)
            if ends:
                found[f"{name}_ratio"] = max(values) / ends
            if 0.5 in self.alphas:
                found[f"{name}_middle"] = values[self.alphas.index(0.5)]
        return found

    def layer_barriers(self, pair: Pair, kind: str = "single") -> dict[str, dict[str, float]]:
        """For each layer how far the error rises above the mean of the two whole networks, worst host first.

        Args:
            pair: Of networks.
            kind: ``"single"`` for one layer at a time, ``"cumulative"`` for all layers up to it.

        Returns:
            Layer to ``sup`` (over places and hosts) and, where 0.5 is a place, ``middle`` (mean of the hosts there).

        Source: Adilova et al. 2023, definition 3; they evaluate the middle only.
        """
        whole = self.errors(pair)
        ends = (whole[0] + whole[-1]) / 2
        found: dict[str, dict[str, float]] = {}
        for (name, _, of_kind), curve in self.layers.get(pair, {}).items():
            if of_kind != kind:
                continue
            rises = [error - ends for error in self._as_errors(curve)]
            own = found.setdefault(name, {"sup": max(rises)})
            own["sup"] = max(own["sup"], *rises)
            if 0.5 in self.layer_alphas:
                own["middle"] = own.get("middle", 0.0) + rises[self.layer_alphas.index(0.5)] / 2
        return found

    def rows(self, seeds: Sequence[int | str] = (), **labels: Any) -> list[dict[str, Any]]:
        """Records: one row for every pair, place and metric, then one for every pair and measure.

        Args:
            seeds: Of the networks, where they were trained with different ones; default: their names.
            labels: What every row says beside: ``stage``, ``parent``, ``step``, ``sparsity``.
        """
        rows: list[dict[str, Any]] = []
        common = {"stage": "path", "parent": None, "step": None, "sparsity": None, **labels}
        ends = seeds or self.names
        for pair in self.curves:
            base = {**common, "seeds": [ends[number] for number in pair], "n": self.samples, "device": self.device}
            for method, alphas, curve in self._curves_of(pair):
                rows += [
                    {**base, "method": method, "alpha": alpha, "metric": metric, "value": value}
                    for metric, values in curve.items()
                    for alpha, value in zip(alphas, values, strict=True)
                ]
            for method, measures in self._measures_of(pair):
                rows += [
                    {**base, "method": method, "alpha": None, "metric": m, "value": v} for m, v in measures.items()
                ]
        base = {**common, "seeds": list(ends), "n": self.samples, "device": self.device, "method": "midpoint"}
        rows += [{**base, "alpha": None, "metric": m, "value": v} for m, v in self.midpoint.items()]
        return rows

    def summary(self) -> dict[str, Any]:
        """Verdict and measures of every pair, plain values."""
        pairs = {f"{i}-{j}": dict(self._measures_of((i, j))) for i, j in self.curves}
        found = {"networks": self.names, "n": self.samples, "stability": asdict(self.stability), "pairs": pairs}
        of_alignment = {"left": dict(self.left)} if self.aligned else {}
        return {**found, **of_alignment, **({"midpoint": dict(self.midpoint)} if self.midpoint else {})}

    def save(self, path: Path) -> None:
        """Write everything to a JSON file that ``load`` reads.

        Raises:
            LotteryError: It cannot be written.
        """
        content = {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "stability": asdict(self.stability)
        }
        for name in _OF_PAIRS:
            content[name] = [[pair, dict(of)] for pair, of in content[name].items()]
        content["layers"] = [
            [pair, [[key, dict(curve)] for key, curve in of.items()]] for pair, of in self.layers.items()
        ]
        write_whole(path, json.dumps(content).encode(), "report")

    @classmethod
    def load(cls, path: Path) -> "PathReport":
        """Read back what ``save`` wrote."""
        content = json.loads(path.read_text())
        for name in ("names", "alphas", "layer_alphas"):
            content[name] = tuple(content[name])
        for name in _OF_PAIRS:
            content[name] = {tuple(pair): of for pair, of in content.get(name, [])}
        content["moved"] = {
            pair: {group: tuple(of) for group, of in moved.items()} for pair, moved in content["moved"].items()
        }
        content["layers"] = {tuple(pair): {tuple(key): curve for key, curve in of} for pair, of in content["layers"]}
        stability = {"threshold": content["threshold"], "parents": 1} | content["stability"]  # older files lack the two
        return cls(**{**content, "stability": Stability(**stability)})

    def _line(self, pair: Pair, recalibrated: bool, aligned: bool) -> Curve:
        return (self.aligned if aligned else self.recalibrated if recalibrated else self.curves)[pair]

    def _as_errors(self, curve: Curve) -> list[float]:
        values = curve[self.monitor]
        return [1 - value for value in values] if self.mode == "max" else list(values)

    def _curves_of(self, pair: Pair) -> Iterator[tuple[str, tuple[float, ...], Curve]]:
        yield "raw", self.alphas, self.curves[pair]
        if pair in self.recalibrated:
            yield "recalibrated", self.alphas, self.recalibrated[pair]
        if pair in self.aligned:
            yield "aligned", self.alphas, self.aligned[pair]
        for (layer, host, kind), curve in self.layers.get(pair, {}).items():
            yield f"{kind} layer {layer} in host {host}", self.layer_alphas, curve

    def _measures_of(self, pair: Pair) -> Iterator[tuple[str, dict[str, float]]]:
        yield "raw", {**self.measures(pair), **self.between[pair]}
        if pair in self.recalibrated:
            yield "recalibrated", self.measures(pair, recalibrated=True)
        if pair in self.aligned:
            yield "aligned", self.measures(pair, aligned=True)
        for group, (moved, size) in self.moved.get(pair, {}).items():
            yield f"aligned group {group}", {"units": size, "units_moved": moved}
        for kind in ("single", "cumulative"):
            for layer, found in self.layer_barriers(pair, kind).items():
                yield f"{kind} layer {layer}", {f"error_barrier_{which}": value for which, value in found.items()}


def write_report(
    report: PathReport, folder: Path, rows: Sequence[Mapping[str, Any]], hparams: Mapping[str, Any]
) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, figures, and curves for TensorBoard.

    The curves are scalars on an axis of 1000 alpha in a run of their own, ``path``, beside figures.

    Args:
        report: What was found.
        folder: Where the files go.
        rows: Records to write, the report's among them.
        hparams: Of the networks' training, for TensorBoard's table of runs.

    Raises:
        LotteryError: A file cannot be written.
    """
    figures = figures_of(report)
    write_results(folder, rows, report.summary(), figures)
    with curves_in(folder / "path", figures) as writer:
        for kind, curves in _kinds_of(report):
            for (i, j), curve in curves.items():
                for metric, values in curve.items():
                    for alpha, value in zip(report.alphas, values, strict=True):
                        writer.add_scalar(f"{kind}/{metric}/{i}-{j}", value, round(1000 * alpha))
        barrier = {"path/error_barrier": report.stability.mean}
        shown = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in hparams.items()}
        writer.add_hparams(shown, barrier, run_name=".")


def figures_of(report: PathReport) -> dict[str, "Figure"]:
    """``path``: error and loss along the lines; ``layers`` where layers were interpolated: a bar for each."""
    losses = [name for name in next(iter(report.curves.values())) if "loss" in name][:1]
    kinds: list[dict[str, Sequence[Sequence[float]]]] = [
        {
            "error": [report.errors(pair, aligned=aligned) for pair in curves],
            **{name: [curve[name] for curve in curves.values()] for name in losses},
        }
        for curves, aligned in ((report.curves, False), (report.aligned, True))
    ]
    figures = {"path": lines_between(report.alphas, kinds[0], report.threshold, {"aligned": kinds[1]})}
    if report.layers:
        bars = {}
        for kind in ("single", "cumulative"):
            of_pairs = [report.layer_barriers(pair, kind) for pair in report.layers]
            bars[kind] = {layer: [found[layer]["sup"] for found in of_pairs] for layer in of_pairs[0]}
        figures["layers"] = layers_between(bars, report.threshold)
    return figures


def _kinds_of(report: PathReport) -> list[tuple[str, Mapping[Pair, Curve]]]:
    return [("path", report.curves), ("recalibrated", report.recalibrated), ("aligned", report.aligned)]


def table_of(report: PathReport) -> Table:
    """A row for each pair: ends, barrier, excess and distance."""
    table = Table(title=f"{report.monitor} over {report.samples} samples")
    are_short = all(len(name) < 12 for name in report.names)
    beside = [kind for kind in ("recalibrated", "aligned") if getattr(report, kind)]
    for column in ("pair", "error at 1", "at 0", "barrier", *beside, "excess", "L2"):
        table.add_column(column, justify="left" if column == "pair" else "right", no_wrap=True)
    for (i, j), between in report.between.items():
        errors, found = report.errors((i, j)), report.measures((i, j))
        again = [report.measures((i, j), **{kind: True})["error_barrier"] for kind in beside]
        numbers = (errors[-1], errors[0], found["error_barrier"], *again, found["error_excess"], between["l2"])
        pair = f"{report.names[i]} - {report.names[j]}" if are_short else f"{i} - {j}"
        table.add_row(pair, *(f"{number:.4f}" for number in numbers))
    notes = [] if are_short else [f"{number}: {name}" for number, name in enumerate(report.names)]
    table.caption = "\n".join([*notes, *_notes_on(report)]) or None
    return table


def _notes_on(report: PathReport) -> list[str]:
    """What the numbers of an alignment and of a midpoint rest on."""
    notes = []
    if report.moved:
        (moved, size) = (sum(n) for n in zip(*(of for g in report.moved.values() for of in g.values()), strict=True))
        groups = len(next(iter(report.moved.values())))
        notes.append(f"aligned: {groups} groups of units, {moved} of {size} units moved over all pairs")
    if report.left:
        shown = ", ".join(list(report.left)[:4]) + (f" and {len(report.left) - 4} more" if len(report.left) > 4 else "")
        notes.append(f"not aligned: {shown} (summary.json says why)")
    if report.aligned and report.recalibrated:
        notes.append("aligned networks are recalibrated as well")
    if report.midpoint:
        notes.append(f"mean of all networks: {report.monitor} {report.midpoint[report.monitor]:.4f}")
    return notes


def verdict_of(report: PathReport) -> str:
    """The verdict in one sentence, and the test set's own standard error."""
    found = report.stability
    said = f"{found.verdict}: mean error barrier {found.mean:.4f}; {found.reason}."
    if found.test_standard_error is not None:
        said += f" Standard error of an error on these {report.samples} samples: {found.test_standard_error:.4f}."
    return said
