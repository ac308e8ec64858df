"""What iterative pruning found: every level beside the dense network, its controls beside their ticket."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from lightning_lottery.children.reading import Row
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.density import accuracy_against_density
from lightning_lottery.functional.matching import Matching, judge_matching

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        records: Of all children.
    """

    seeds: tuple[int, ...]
    monitor: str
    mode: Literal["max", "min"]
    margin: float
    results: tuple[LevelResult, ...]
    records: Sequence[Row] = field(default=(), compare=False, repr=False)

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
        """The report of what children recorded: name of a level or control to the rows of each seed's child, in order.

        Raises:
            LotteryError: A child did not record the monitor.
        """
        judged = {name: [row_of(rows, monitor) for rows in of_seeds] for name, of_seeds in records.items()}
        values = {name: tuple(row["value"] for row in rows) for name, rows in judged.items()}
        sign = 1 if mode == "max" else -1
        signed = {name: [sign * value for value in seeds_values] for name, seeds_values in values.items()}
        results = []
        for name, rows in judged.items():
            reference = _reference_of(name)
            matching = None if reference is None else judge_matching(signed[name], signed[reference], margin)
            results.append(LevelResult(name, 1 - rows[0]["sparsity"], values[name], reference, matching))
        every = [row for of_seeds in records.values() for rows in of_seeds for row in rows]
        return cls(tuple(seeds), monitor, mode, margin, tuple(results), every)

    def rows(self) -> list[Row]:
        """The records of all children."""
        return list(self.records)

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

    def figures(self) -> dict[str, "Figure"]:
        """``levels``: the metric against the density, beside the dense network's."""
        dense, *_ = self.results
        curves = {
            kind: {result.density: result.values for result in results} for kind, results in self._by_kind().items()
        }
        return {"levels": accuracy_against_density(curves, dense.values, self.monitor)}

    def scalars(self) -> Iterator[tuple[str, float, int]]:
        """Each seed's metric and the density on an axis of levels; the ticket's curve begins with the dense network."""
        by_kind = self._by_kind()
        for kind, results in {**by_kind, "ticket": [self.results[0], *by_kind["ticket"]]}.items():
            for result in results:
                level = int(result.name.split("-")[1])
                for seed, value in zip(self.seeds, result.values, strict=True):
                    yield f"levels/{self.monitor}/{kind}/seed-{seed}", value, level
                yield f"levels/density/{kind}", result.density, level

    def table(self) -> Table:
        """A row for each level and control: density, metric over seeds, difference from its reference, verdict."""
        seeds = ", ".join(map(str, self.seeds))
        table = Table(
            title=f"{self.monitor}, seed{'s' if len(self.seeds) > 1 else ''} {seeds}",
            caption=f"Levels against level 0, controls against their ticket; margin {self.margin}.",
        )
        for column in ("level", "density", self.monitor, "difference", "verdict"):
            table.add_column(column, no_wrap=True)
        for result in self.results:
            kind = _kind_of(result.name)
            name = result.name.removeprefix("level-") if kind == "ticket" else kind
            value = f"{result.mean:.4f}" + ("" if result.sd is None else f" ± {result.sd:.4f}")
            cells = [name, f"{result.density:.4f}", value]
            if (matching := result.matching) is not None:
                bounds = [f"{bound:+.4f}" for bound in (matching.low, matching.high) if bound is not None]
                cells += [" to ".join(bounds) or f"{matching.mean:+.4f}", matching.verdict]
            table.add_row(*cells)
        return table

    def sentences(self) -> list[str]:
        """Nothing beside the table, whose every row has its verdict."""
        return []

    def _by_kind(self) -> dict[str, list[LevelResult]]:
        """The ticket's levels after level 0, and those of each control."""
        by_kind: dict[str, list[LevelResult]] = {}
        for result in self.results[1:]:
            by_kind.setdefault(_kind_of(result.name), []).append(result)
        return by_kind


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


def _kind_of(name: str) -> str:
    """``ticket``, or the control that the name says."""
    return name.split("-")[2] if name.count("-") > 1 else "ticket"


def _reference_of(name: str) -> str | None:
    if name == "level-0":
        return None
    return "level-0" if _kind_of(name) == "ticket" else name.rpartition("-")[0]
