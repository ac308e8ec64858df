"""What iterative pruning found: every level beside the dense network, its controls beside their ticket."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from lightning_lottery.children.frames import frame_of
from lightning_lottery.children.records import Row
from lightning_lottery.connectivity.judging import is_share
from lightning_lottery.errors import LotteryError
from lightning_lottery.experiments.imp_blocks import BlocksOfTest, Tested, blocks_of_test
from lightning_lottery.figures.density import Levels, accuracy_against_density
from lightning_lottery.figures.style import in_words
from lightning_lottery.functional.matching import (
    Compared,
    Matching,
    Superiority,
    judge_controls,
    judge_matching,
    matches_down_to,
)
from lightning_lottery.functional.verdicts import MOST, POWER
from lightning_lottery.notebook import html_of_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class LevelResult:
    """One level, or one control of a level, over all seeds.

    Args:
        name: ``level-3``, or ``level-3-shuffled`` for a control.
        density: Fraction of the scope that is kept.
        values: The judged metric for each seed.
        reference: The name it is judged against: ``level-0``, and for a control the ticket of its level.
        matching: Of a ticket, what the differences from the dense network say, better when high; else None.
        superiority: Of a control, whether its ticket is better; else None.
    """

    name: str
    density: float
    values: tuple[float, ...]
    reference: str | None = None
    matching: Matching | None = None
    superiority: Superiority | None = None

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
        seeds_alone: Why test samples are not judged, so that verdicts are about these alone; empty where they are.
        records: Of all children.
    """

    seeds: tuple[int, ...]
    monitor: str
    mode: Literal["max", "min"]
    margin: float
    results: tuple[LevelResult, ...]
    seeds_alone: str = ""
    records: Sequence[Row] = field(default=(), compare=False, repr=False)

    def __repr__(self) -> str:
        density, levels = self.matches_down_to, len(self._tickets)
        matches = "matches at no level" if density is None else f"matches down to density {density:.4g}"
        return f"ImpReport({levels} levels, {self.monitor}, seeds {', '.join(map(str, self.seeds))}: {matches})"

    def _repr_html_(self) -> str:
        return html_of_table(self.table(), self.sentences())

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
        tested: Mapping[str, Sequence[Tested]] | None = None,
    ) -> "ImpReport":
        """The report of what children recorded: name of a level or control to the rows of each seed's child, in order.

        Tickets are judged by ``judge_matching``, with ``tested`` on seeds and test samples, else on seeds alone; over
        their controls by ``judge_controls``, whose family is all controls of all levels.

        Args:
            records: Name to each seed's rows.
            seeds: In their order.
            monitor: The metric that is judged.
            mode: Whether it is better when high or low.
            margin: Loss that still counts as a match.
            tested: Name to what each seed's test logged batch by batch.

        Raises:
            LotteryError: A child did not record the monitor, or a seed is missing.
        """
        judged = {name: [row_of(rows, monitor) for rows in of_seeds] for name, of_seeds in records.items()}
        values = {name: tuple(row["value"] for row in rows) for name, rows in judged.items()}
        if missing := [name for name, of_seeds in values.items() if len(of_seeds) != len(seeds)]:
            raise LotteryError(f"{missing[0]} has {len(values[missing[0]])} children for {len(seeds)} seeds.")
        blocks, seeds_alone = blocks_of_test(tested or {}, values, seeds, monitor)
        comparisons = _comparisons(values, blocks, monitor, mode)
        controls = judge_controls({name: each for name, each in comparisons.items() if kind_of(name) != "ticket"})
        results = []
        for name, rows in judged.items():
            density, reference, matching = rows[0]["density"], _reference_of(name), None
            if name in comparisons and name not in controls:
                signed, dense, its_blocks, samples = comparisons[name]
                matching = judge_matching(signed, dense, margin, blocks=its_blocks, samples=samples)
            results.append(LevelResult(name, density, values[name], reference, matching, controls.get(name)))
        every = [row for of_seeds in records.values() for rows in of_seeds for row in rows]
        return cls(tuple(seeds), monitor, mode, margin, tuple(results), seeds_alone, every)

    @property
    def matches_down_to(self) -> float | None:
        """The density down to which every level matches, the densest tested first; None where the first does not."""
        return matches_down_to([(level.density, level.matching) for level in self._tickets if level.matching])

    def rows(self) -> list[Row]:
        """The records of all children."""
        return list(self.records)

    def to_frame(self) -> "DataFrame":
        """The records as a data frame, in the columns of ``results``.

        Raises:
            LotteryError: pandas is not installed.
        """
        return frame_of(self.rows())

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
                "superiority": None if result.superiority is None else asdict(result.superiority),
            }
            for result in self.results
        }
        return {
            "seeds": list(self.seeds),
            "monitor": self.monitor,
            "margin": self.margin,
            "matches_down_to": self.matches_down_to,
            "seeds_alone": self.seeds_alone,
            "levels": levels,
        }

    def figure(self) -> "Figure":
        """The metric against the density: tickets, their controls, the dense network."""
        curves = {kind: {each.density: each.values for each in results} for kind, results in self._by_kind().items()}
        levels = Levels(self.results[0].values, curves, self.matches_down_to)
        return draw_levels({"": levels}, self.monitor)

    def figures(self) -> dict[str, "Figure"]:
        """``levels``: the metric against the density, beside the dense network's."""
        return {"levels": self.figure()}

    def table(self) -> Table:
        """A row for each level and control: density, metric over seeds, difference from its reference, verdict."""
        seeds = ", ".join(map(str, self.seeds))
        controls = " A control's row: its ticket minus it, p by Holm." if len(self._by_kind()) > 1 else ""
        spread = " ±: standard deviation over seeds." if len(self.seeds) > 1 else ""
        table = Table(
            title=f"{self.monitor}, seed{'s' if len(self.seeds) > 1 else ''} {seeds}",
            caption=f"Levels against level 0, margin {self.margin}.{controls}{spread}",
        )
        for column in ("level", "weights kept", self.monitor, "difference", "verdict"):
            table.add_column(column, no_wrap=True)
        for result in self.results:
            kind = kind_of(result.name)
            name = result.name.removeprefix("level-") if kind == "ticket" else kind
            value = f"{result.mean:.4f}" + ("" if result.sd is None else f" ± {result.sd:.4f}")
            table.add_row(name, f"{result.density:.2%}", value, *_cells(result))
        return table

    def sentences(self) -> list[str]:
        """Down to which density it matches, the power there, over which controls tickets are superior, and of what."""
        sentences = [self._on_matching(), *self._on_power(), *self._on_controls()]
        if self.seeds_alone:
            return [*sentences, f"Seeds alone are judged, on these test samples and no others: {self.seeds_alone}."]
        if len(self.seeds) == 1:
            sentences.append("This is about the networks of this seed; of other seeds it says nothing.")
        return sentences

    def _on_matching(self) -> str:
        density = self.matches_down_to
        where = "at no level" if density is None else f"down to density {density:.4g}"
        return (
            f"{self.monitor} matches {where} (margin {self.margin}; levels are tested from the densest down, and what "
            "is below the first that does not match counts no more)."
        )

    def _on_power(self) -> Iterator[str]:
        """How likely a true match is found at the level that ended the sequence, or at the last."""
        judged = [(level.name, level.matching) for level in self._tickets if level.matching]
        name, matching = next((each for each in judged if each[1].verdict != "matching"), judged[-1])
        if matching.power is None:
            yield f"{name}: {matching.reason}, so nothing says how likely a true match is found."
            return
        seeds = "this seed" if len(self.seeds) == 1 else f"these {len(self.seeds)} seeds"
        likely = f"{100 * POWER:.0f} %"
        if len(self.seeds) == 1:
            needed = ""
        elif matching.seeds_needed is None:
            needed = f"; not even {MOST} seeds would reach {likely} on this test set"
        else:
            needed = f"; {matching.seeds_needed} seeds for {likely}"
        yield (
            f"{name} is {matching.verdict}: with {seeds} a true match is found with probability "
            f"{matching.power:.2f} there{needed}, the variance staying as it is."
        )

    def _on_controls(self) -> Iterator[str]:
        """Over which controls tickets are superior."""
        controls = {result.name: result.superiority for result in self.results if result.superiority is not None}
        number = "1 control" if len(controls) == 1 else f"all {len(controls)} controls"
        for is_superior, says in ((True, "The ticket is superior to"), (False, "Not shown to be superior to")):
            names = [name for name, verdict in controls.items() if verdict.superior == is_superior]
            if names:
                yield f"{says} {', '.join(names)} (one-sided, p by Holm over {number})."

    @property
    def _tickets(self) -> list[LevelResult]:
        return [result for result in self.results if kind_of(result.name) == "ticket"]

    def _by_kind(self) -> dict[str, list[LevelResult]]:
        """The ticket's levels after level 0, and those of each control."""
        by_kind: dict[str, list[LevelResult]] = {}
        for result in self.results[1:]:
            by_kind.setdefault(kind_of(result.name), []).append(result)
        return by_kind


def draw_levels(runs: Mapping[str, Levels], monitor: str, notes: Sequence[str] = ()) -> "Figure":
    """The metric against the density for one run of iterative pruning or several.

    Args:
        runs: What a run is called to its levels.
        monitor: The metric.
        notes: What is missing.
    """
    values = [
        value
        for run in runs.values()
        for of_seeds in (run.dense, *(of_seeds for curve in run.curves.values() for of_seeds in curve.values()))
        for value in of_seeds
        if math.isfinite(value)
    ]
    are_shares = is_share(monitor, "min", values)  # a loss by its name is none, wherever its values lie
    return accuracy_against_density(runs, in_words(monitor), are_shares=are_shares, notes=notes)


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


def _comparisons(
    values: Mapping[str, Sequence[float]], blocks: BlocksOfTest | None, monitor: str, mode: Literal["max", "min"]
) -> dict[str, Compared]:
    """Each ticket beside the dense network, and the ticket beside each of its controls; better when high."""
    sign = 1 if mode == "max" else -1
    every = [value for of_seeds in values.values() for value in of_seeds]
    samples = blocks.samples if blocks is not None and is_share(monitor, mode, every) else 0
    comparisons = {}
    for name in values:
        if (reference := _reference_of(name)) is not None:
            better, worse = (name, reference) if kind_of(name) == "ticket" else (reference, name)
            comparisons[name] = Compared(
                [sign * value for value in values[better]],
                [sign * value for value in values[worse]],
                None if blocks is None else blocks.between(better, worse, sign),
                samples,
            )
    return comparisons


def _cells(result: LevelResult) -> list[str]:
    """Of a level its difference and verdict, of a control whether its ticket is superior."""
    if (matching := result.matching) is not None:
        bounds = [f"{bound:+.4f}" for bound in (matching.low, matching.high) if bound is not None]
        return [" to ".join(bounds) or f"{matching.mean:+.4f}", matching.verdict]
    if (superiority := result.superiority) is not None:
        p = "" if superiority.adjusted is None else f", p {superiority.adjusted:.3g}"
        return [f"{superiority.mean:+.4f}{p}", "superior" if superiority.superior else "not shown"]
    return []


def kind_of(name: str) -> str:
    """``ticket``, or the control that the name says."""
    return name.split("-")[2] if name.count("-") > 1 else "ticket"


def _reference_of(name: str) -> str | None:
    if name == "level-0":
        return None
    return "level-0" if kind_of(name) == "ticket" else name.rpartition("-")[0]
