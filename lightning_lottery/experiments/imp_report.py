"""What iterative pruning found: every level beside the dense network, its controls beside their ticket."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from lightning_lottery.children.records import curves_in, write_results
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.drawing import accuracy_against_density
from lightning_lottery.functional.matching import Matching, judge_matching

Row = Mapping[str, Any]


@dataclass(frozen=True)
class LevelResult:
    """One level, or one control of a level, over all seeds.

    Args:
        name: ``level-3``, or ``level-3-shuffled`` for a control.
        density: Fraction of the scope that is kept.
        values: The judged metric for each seed.
        reference: The name it is judged against: ``level-0``, and for a control the ticket of its level.
        matching: What the differences from the reference say, better when high; None for the dense network itself.
    """

    name: str
    density: float
    values: tuple[float, ...]
    reference: str | None = None
    matching: Matching | None = None

    @property
    def mean(self) -> float:
        """Of the values."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the values; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class ImpReport:
    """What iterative pruning found.

    Args:
        seeds: Of the runs.
        monitor: The metric that is judged.
        mode: Whether it is better when high (``"max"``) or low (``"min"``).
        margin: Loss that still counts as a match.
        results: Level 0 first, then every level followed by its controls.
    """

    seeds: tuple[int, ...]
    monitor: str
    mode: Literal["max", "min"]
    margin: float
    results: tuple[LevelResult, ...]

    def __getitem__(self, name: str) -> LevelResult:
        """The result of a name, such as ``level-3-shuffled``."""
        return {result.name: result for result in self.results}[name]

    @classmethod
    def of_records(
        cls,
        records: Mapping[str, Sequence[Sequence[Row]]],
        seeds: Sequence[int],
        monitor: str,
        mode: Literal["max", "min"],
        margin: float,
    ) -> "ImpReport":
        """The report of what children recorded.

        Args:
            records: Name of a level or control to the rows of each seed's child, in the order of the seeds.
            seeds: Of the runs.
            monitor: The metric that is judged.
            mode: Whether it is better when high (``"max"``) or low (``"min"``).
            margin: Loss that still counts as a match.

        Raises:
            LotteryError: A child did not record the monitor.
        """
        found = {name: [row_of(rows, monitor) for rows in of_seeds] for name, of_seeds in records.items()}
        values = {name: tuple(row["value"] for row in rows) for name, rows in found.items()}
        sign = 1 if mode == "max" else -1
        signed = {name: [sign * value for value in of] for name, of in values.items()}
        results = []
        for name, rows in found.items():
            reference = _reference_of(name)
            judged = None if reference is None else judge_matching(signed[name], signed[reference], margin)
            results.append(LevelResult(name, 1 - rows[0]["sparsity"], values[name], reference, judged))
        return cls(tuple(seeds), monitor, mode, margin, tuple(results))

    def summary(self) -> dict[str, Any]:
        """Every level with its verdict, plain values."""
        levels = {
            result.name: {
                "density": result.density,
                "mean": result.mean,
                "sd": result.sd,
                "values": list(result.values),
                "reference": result.reference,
                "matching": None if result.matching is None else asdict(result.matching),
            }
            for result in self.results
        }
        return {"seeds": list(self.seeds), "monitor": self.monitor, "margin": self.margin, "levels": levels}


def row_of(rows: Sequence[Row], monitor: str) -> Row:
    """The row of a metric among a child's.

    Raises:
        LotteryError: There is none.
    """
    for row in rows:
        if row["metric"] == monitor:
            return row
    logged = ", ".join(row["metric"] for row in rows)
    raise LotteryError(f"The project does not log '{monitor}', it logs {logged}: name one of these as `monitor`.")


def write_report(report: ImpReport, folder: Path, rows: Sequence[Row]) -> None:
    """Write ``results.jsonl``, ``results.csv``, ``summary.json``, ``levels.png``, and curves for TensorBoard.

    Raises:
        LotteryError: A file cannot be written.
    """
    dense, *others = report.results
    curves: dict[str, list[LevelResult]] = {}
    for result in others:
        curves.setdefault(_kind_of(result.name), []).append(result)
    lines = {kind: {result.density: result.values for result in of} for kind, of in curves.items()}
    figures = {"levels": accuracy_against_density(lines, dense.values, report.monitor)}
    write_results(folder, rows, report.summary(), figures)
    with curves_in(folder / "levels", figures) as writer:
        for kind, of in {"ticket": [dense, *curves.pop("ticket")], **curves}.items():
            for result in of:
                level = int(result.name.split("-")[1])
                for seed, value in zip(report.seeds, result.values, strict=True):
                    writer.add_scalar(f"levels/{report.monitor}/{kind}/seed-{seed}", value, level)
                writer.add_scalar(f"levels/density/{kind}", result.density, level)


def table_of(report: ImpReport) -> Table:
    """A row for each level and control: density, metric over seeds, difference from its reference, verdict."""
    seeds = ", ".join(map(str, report.seeds))
    table = Table(
        title=f"{report.monitor}, seed{'s' if len(report.seeds) > 1 else ''} {seeds}",
        caption=f"Levels against level 0, controls against their ticket; margin {report.margin}.",
    )
    for column in ("level", "density", report.monitor, "difference", "verdict"):
        table.add_column(column, no_wrap=True)
    for result in report.results:
        kind = _kind_of(result.name)
        name = result.name.removeprefix("level-") if kind == "ticket" else kind
        value = f"{result.mean:.4f}" + ("" if result.sd is None else f" ± {result.sd:.4f}")
        cells = [name, f"{result.density:.4f}", value]
        if (found := result.matching) is not None:
            bounds = f"{found.mean:+.4f}" if found.low is None else f"{found.low:+.4f} to {found.high:+.4f}"
            cells += [bounds, found.verdict]
        table.add_row(*cells)
    return table


def _kind_of(name: str) -> str:
    """``ticket``, or the control that the name says."""
    return name.split("-")[2] if name.count("-") > 1 else "ticket"


def _reference_of(name: str) -> str | None:
    if name == "level-0":
        return None
    return "level-0" if _kind_of(name) == "ticket" else name.rpartition("-")[0]
