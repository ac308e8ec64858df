"""What the lines between networks look like: measures, records, table, figures and curves."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from lightning_lottery.figures import layers_between, lines_between
from lightning_lottery.functional.connectivity import Stability, error_barrier, excess
from lightning_lottery.ticket import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[int, int]
Curve = Mapping[str, Sequence[float]]
"""Metric to its value at every place on a line."""

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

    def errors(self, pair: Pair, *, recalibrated: bool = False) -> list[float]:
        """The monitor as an error along a pair's line: one minus it where it is better when high."""
        return self._as_errors((self.recalibrated if recalibrated else self.curves)[pair])

    def measures(self, pair: Pair, *, recalibrated: bool = False) -> dict[str, float]:
        """Barrier, excess, value in the middle, and ratio of the highest to the ends' mean, of error and of losses."""
        curves = (self.recalibrated if recalibrated else self.curves)[pair]
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
        return rows

    def summary(self) -> dict[str, Any]:
        """Verdict and measures of every pair, plain values."""
        pairs = {f"{i}-{j}": dict(self._measures_of((i, j))) for i, j in self.curves}
        return {"networks": self.names, "n": self.samples, "stability": asdict(self.stability), "pairs": pairs}

    def save(self, path: Path) -> None:
        """Write everything to a JSON file that ``load`` reads.

        Raises:
            LotteryError: It cannot be written.
        """
        content = {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "stability": asdict(self.stability)
        }
        for name in ("curves", "between", "recalibrated"):
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
        for name in ("curves", "between", "recalibrated"):
            content[name] = {tuple(pair): of for pair, of in content[name]}
        content["layers"] = {tuple(pair): {tuple(key): curve for key, curve in of} for pair, of in content["layers"]}
        return cls(**{**content, "stability": Stability(**content["stability"])})

    def _as_errors(self, curve: Curve) -> list[float]:
        values = curve[self.monitor]
        return [1 - value for value in values] if self.mode == "max" else list(values)

    def _curves_of(self, pair: Pair) -> Iterator[tuple[str, tuple[float, ...], Curve]]:
        yield "raw", self.alphas, self.curves[pair]
        if pair in self.recalibrated:
            yield "recalibrated", self.alphas, self.recalibrated[pair]
        for (layer, host, kind), curve in self.layers.get(pair, {}).items():
            yield f"{kind} layer {layer} in host {host}", self.layer_alphas, curve

    def _measures_of(self, pair: Pair) -> Iterator[tuple[str, dict[str, float]]]:
        yield "raw", {**self.measures(pair), **self.between[pair]}
        if pair in self.recalibrated:
            yield "recalibrated", self.measures(pair, recalibrated=True)
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
    from torch.utils.tensorboard import SummaryWriter

    write_whole(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), "records")
    write_whole(folder / "results.csv", csv_of(rows), "records")
    write_whole(folder / "summary.json", json.dumps(report.summary(), indent=1).encode(), "summary")
    figures = figures_of(report)
    for name, figure in figures.items():
        image = BytesIO()
        figure.savefig(image, format="png", dpi=120)
        write_whole(folder / f"{name}.png", image.getvalue(), "figure")
    for stale in (folder / "path").glob("events.out.*"):
        stale.unlink()  # of a run before this one: the curves would show twice
    with SummaryWriter(str(folder / "path")) as writer:
        for kind, curves in (("path", report.curves), ("recalibrated", report.recalibrated)):
            for (i, j), curve in curves.items():
                for metric, values in curve.items():
                    for alpha, value in zip(report.alphas, values, strict=True):
                        writer.add_scalar(f"{kind}/{metric}/{i}-{j}", value, round(1000 * alpha))
        for name, figure in figures.items():
            writer.add_figure(name, figure)
        barrier = {"path/error_barrier": report.stability.mean}
        shown = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in hparams.items()}
        writer.add_hparams(shown, barrier, run_name=".")


def figures_of(report: PathReport) -> dict[str, "Figure"]:
    """``path``: error and loss along the lines; ``layers`` where layers were interpolated: a bar for each."""
    losses = [name for name in next(iter(report.curves.values())) if "loss" in name][:1]
    along: dict[str, Sequence[Sequence[float]]] = {
        "error": [report.errors(pair) for pair in report.curves],
        **{name: [curve[name] for curve in report.curves.values()] for name in losses},
    }
    figures = {"path": lines_between(report.alphas, along, report.threshold)}
    if report.layers:
        bars = {}
        for kind in ("single", "cumulative"):
            of_pairs = [report.layer_barriers(pair, kind) for pair in report.layers]
            bars[kind] = {layer: [found[layer]["sup"] for found in of_pairs] for layer in of_pairs[0]}
        figures["layers"] = layers_between(bars, report.threshold)
    return figures


def table_of(report: PathReport) -> Table:
    """A row for each pair: ends, barrier, excess and distance."""
    table = Table(title=f"{report.monitor} over {report.samples} samples")
    are_short = all(len(name) < 12 for name in report.names)
    recalibrated = ["recalibrated"] if report.recalibrated else []
    for column in ("pair", "error at 1", "at 0", "barrier", *recalibrated, "excess", "L2"):
        table.add_column(column, justify="left" if column == "pair" else "right", no_wrap=True)
    for (i, j), between in report.between.items():
        errors, found = report.errors((i, j)), report.measures((i, j))
        again = [report.measures((i, j), recalibrated=True)["error_barrier"]] if recalibrated else []
        numbers = (errors[-1], errors[0], found["error_barrier"], *again, found["error_excess"], between["l2"])
        pair = f"{report.names[i]} - {report.names[j]}" if are_short else f"{i} - {j}"
        table.add_row(pair, *(f"{number:.4f}" for number in numbers))
    if not are_short:
        table.caption = "\n".join(f"{number}: {name}" for number, name in enumerate(report.names))
    return table


def verdict_of(report: PathReport) -> str:
    """The verdict in one sentence, and the test set's own standard error."""
    found = report.stability
    said = f"{found.verdict}: mean error barrier {found.mean:.4f}; {found.reason}."
    if found.test_standard_error is not None:
        said += f" Standard error of an error on these {report.samples} samples: {found.test_standard_error:.4f}."
    return said


def csv_of(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as a table: a column for every key, several seeds in one cell."""
    text = StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows({**row, "seeds": " ".join(map(str, row["seeds"]))} for row in rows)
    return text.getvalue().encode()
