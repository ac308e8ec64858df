"""What the lines between networks look like: measures, records, table, figures and curves."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.table import Table

from lightning_lottery.checks import is_count, is_number
from lightning_lottery.children.frames import frame_of
from lightning_lottery.children.reading import again
from lightning_lottery.children.records import LINE, Row, metric_of_line, record
from lightning_lottery.connectivity.averaging import Averaging
from lightning_lottery.connectivity.blocks import LineBlocks
from lightning_lottery.connectivity.judging import Judging, is_share
from lightning_lottery.connectivity.stability import (
    barrier_in_words,
    on_constant,
    on_train_split,
    sentences_on,
    stability_of,
    unit_of,
)
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.between import layers_between, lines_between
from lightning_lottery.figures.style import error_in_words, in_words
from lightning_lottery.files import read_text, write_whole
from lightning_lottery.functional.connectivity import error_barrier, excess
from lightning_lottery.functional.verdicts import Stability
from lightning_lottery.hooks.means import ROUNDING
from lightning_lottery.notebook import html_of_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Pair = tuple[int, int]
"""Numbers of two networks, the first of which is the line's end at alpha 1."""

Curve = Mapping[str, Sequence[float]]
"""Metric to its value at every alpha of a line."""


Extent = Literal["single", "cumulative"]
EXTENTS: tuple[Extent, ...] = ("single", "cumulative")
"""How much of a network is interpolated: a layer alone, or all layers up to it."""


class Layer(NamedTuple):
    """A line on which one layer, or all layers up to it, differ, and everything else is the host's.

    Host 0 is the pair's first network, 1 its second.
    """

    name: str
    host: int
    extent: Extent

    def __str__(self) -> str:
        return f"{self.extent} layer {self.name} in host {self.host}"


Kind = str | Layer
"""A kind of line: ``"raw"``, ``"recalibrated"``, ``"aligned"``, or a layer's."""


TRAIN = "train"
"""The kind of a line in records that was evaluated on the training split."""


LONGEST = 16
"""Characters of a network's name that fit into a picture."""


MOST = 2**63
"""Above all whole numbers that a report holds: those beyond are damage, and no float holds them."""


@dataclass(frozen=True)
class PathReport:
    """What the lines between several networks look like.

    Args:
        names: Of the networks, in the order of the pairs' numbers.
        judging: Which metric was judged, where on the lines, and against what.
        curves: For each kind of line and each pair every metric along the line. ``"raw"``: the straight line;
            ``"recalibrated"``: with batch norm's statistics estimated anew at each alpha; ``"aligned"``: to the second
            network with its units in the order of the first's, recalibrated where there are recalibrated ones; a
            ``Layer``: with only a part of the network interpolated. Kinds that were not asked for are not there.
        distances: For each pair ``l2`` and ``cosine``, ``disagreement`` where predictions were compared, and where
            networks with masks were aligned ``mask_overlap`` and ``mask_overlap_aligned``.
        samples: In the evaluation set, over all ranks.
        device: What computed it.
        moved: For each aligned pair, group of units to how many of them changed places, and how many there are.
        left: Modules whose weights an alignment leaves in their order, and why.
        midpoint: Every metric of the average that was written; empty where none was.
        averaging: Whether the networks may be averaged; None where that was not asked.
        is_null_control: The networks are children of one seed, whose barrier of 0 says nothing.
        blocks: The monitor along the raw lines, block by block of the samples; None where ``networks_alone`` says why.
        networks_alone: Why there are no blocks, so that verdicts are about these samples alone.
        noise: By what the networks differ, in words, where they are children of one checkpoint.
        train: The same lines on the training split; None where it was not evaluated.
    """

    names: tuple[str, ...]
    judging: Judging
    curves: Mapping[Kind, Mapping[Pair, Curve]]
    distances: Mapping[Pair, Mapping[str, float]]
    samples: int
    device: str
    moved: Mapping[Pair, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    midpoint: Mapping[str, float] = field(default_factory=dict)
    is_null_control: bool = False
    blocks: LineBlocks | None = None
    networks_alone: str = ""
    noise: str = ""
    train: "PathReport | None" = None
    averaging: Averaging | None = None

    def __repr__(self) -> str:
        judged, what = self.stability, f"{self.judging.monitor} over {self.samples} samples"
        barrier = f"{judged.in_words}, mean error barrier {judged.mean:.4f}"
        return f"PathReport({len(self.names)} networks, {what}: {barrier})"

    def _repr_html_(self) -> str:
        return html_of_table(self.table(), self.sentences())

    def of_children(self, noise: str, *, is_null_control: bool) -> "PathReport":
        """The same of networks that are children of one checkpoint, and differ by this noise."""
        train = self.train and self.train.of_children(noise, is_null_control=is_null_control)
        return replace(self, noise=noise, is_null_control=is_null_control, train=train)

    def called(self, names: Iterable[str]) -> "PathReport":
        """The same with other names of the networks, in their order."""
        named = tuple(names)
        return replace(self, names=named, train=self.train and self.train.called(named))

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of networks, in order."""
        return list(self.curves["raw"])

    @property
    def stability(self) -> Stability:
        """The verdict on the raw barriers."""
        return stability_of({0: self})

    def stability_of_pair(self, pair: Pair) -> Stability:
        """The verdict on one pair's two networks, which needs the lines in blocks."""
        blocks = None if self.blocks is None else replace(self.blocks, values={pair: self.blocks.values[pair]})
        return stability_of({0: replace(self, curves={"raw": {pair: self.curves["raw"][pair]}}, blocks=blocks)})

    @property
    def error_of_ends(self) -> float | None:
        """Mean error of the networks themselves; None where the monitor is no share of samples, such as a loss."""
        ends = [errors[end] for errors in map(self.errors, self.pairs) for end in (0, -1)]
        mean = sum(ends) / len(ends)
        return mean if is_share(self.judging.monitor, self.judging.mode, [mean]) else None

    @property
    def constant_error(self) -> float | None:
        """The error of different networks and of every place between, where that is one number and not 0; else None."""
        first, *others = {error for pair in self.pairs for error in self.errors(pair)}
        differ = any(between["l2"] > 0 for between in self.distances.values())
        return first if differ and first and not others else None

    def errors(self, pair: Pair, kind: Kind = "raw") -> list[float]:
        """The monitor as an error along a pair's line: one minus it where it is better when high."""
        return self.judging.errors(self.curves[kind][pair])

    def measures(self, pair: Pair, kind: Kind = "raw") -> dict[str, float]:
        """Barrier, excess, value in the middle, and ratio of the highest to the ends' mean, of error and of losses."""
        alphas, curve = self.judging.alphas, self.curves[kind][pair]
        along: dict[str, Sequence[float]] = {"error": self.errors(pair, kind)}
        along |= {metric: values for metric, values in curve.items() if "loss" in metric}
        measures: dict[str, float] = {}
        for name, values in along.items():
            ends = (values[0] + values[-1]) / 2
            measures[f"{name}_barrier"] = error_barrier(values)
            measures[f"{name}_excess"] = excess(values, alphas)
            if ends:
                measures[f"{name}_ratio"] = max(values) / ends
            if 0.5 in alphas:
                measures[f"{name}_middle"] = values[alphas.index(0.5)]
        return measures

    def layer_barriers(self, pair: Pair, extent: Extent = "single") -> dict[str, dict[str, float]]:
        """For each layer how far the error rises above the mean of the two whole networks, worst host first.

        Args:
            pair: Of networks.
            extent: ``"single"`` for one layer at a time, ``"cumulative"`` for all layers up to it.

        Returns:
            Layer to ``sup`` (over alphas and hosts) and, where 0.5 is an alpha, ``middle`` (mean of the hosts there).

        Source: Adilova et al. 2023, definition 3; they evaluate the middle only.
        """
        whole, alphas = self.errors(pair), self.judging.layer_alphas
        ends = (whole[0] + whole[-1]) / 2
        barriers: dict[str, dict[str, float]] = {}
        for layer in self._layers(extent):
            rises = [error - ends for error in self.errors(pair, layer)]
            barrier = barriers.setdefault(layer.name, {"sup": max(rises)})
            barrier["sup"] = max(barrier["sup"], *rises)
            if 0.5 in alphas:
                barrier["middle"] = barrier.get("middle", 0.0) + rises[alphas.index(0.5)] / 2
        return barriers

    def rows(self, seeds: Sequence[int | str] = (), **labels: Any) -> list[Row]:
        """Records: one row for every pair, alpha and metric, then one for every pair and measure.

        A point on a line is called ``line/METRIC``, and where the line is not the raw one, ``line/KIND/METRIC``; a
        measure of another line than the raw one ``KIND/MEASURE``. On the training split the kind is ``train``.

        Args:
            seeds: Of the networks, where they were trained with different ones; default: their names.
            labels: What every row says beside: ``stage``, ``parent``, ``step``, ``density``.
        """
        rows: list[Row] = []
        ends = list(seeds or self.names)
        about = {"stage": "path", "n": self.samples, "device": self.device, **labels}

        def add(pair: Pair | None, kind: str, metrics: Mapping[str, float], alpha: float | None = None) -> None:
            children = {} if pair is None else {"child_a": ends[pair[0]], "child_b": ends[pair[1]], "alpha": alpha}
            for name, value in metrics.items():
                metric = metric_of_line(kind, name) if alpha is None else LINE + metric_of_line(kind, name)
                rows.append(record(**about, **children, metric=metric, value=value))

        for pair in self.pairs:
            for kind, curves in self.curves.items():
                for metric, values in curves[pair].items():
                    for alpha, value in zip(self._alphas_of(kind), values, strict=True):
                        add(pair, str(kind), {metric: value}, alpha)
            for kind, measures in self._measures_of(pair):
                add(pair, kind, measures)
        add(None, "midpoint", self.midpoint)
        for recipe, gains in self.averaging.rows() if self.averaging else ():
            add(None, recipe, gains)
        if self.train is not None:
            about["n"] = self.train.samples
            for pair, curve in self.train.curves["raw"].items():
                for metric, values in curve.items():
                    for alpha, value in zip(self.judging.alphas, values, strict=True):
                        add(pair, TRAIN, {metric: value}, alpha)
                add(pair, TRAIN, self.train.measures(pair))
        return rows

    def to_frame(self) -> "DataFrame":
        """The records as a data frame, in the columns of ``results``.

        Raises:
            LotteryError: pandas is not installed.
        """
        return frame_of(self.rows())

    def summary(self) -> dict[str, Any]:
        """Verdict and measures of every pair, plain values."""
        pairs = {f"{i}-{j}": dict(self._measures_of((i, j))) for i, j in self.pairs}
        summary = {"networks": self.names, "n": self.samples, "stability": asdict(self.stability), "pairs": pairs}
        if self.blocks is not None:
            summary["of_pairs"] = {f"{i}-{j}": asdict(self.stability_of_pair((i, j))) for i, j in self.pairs}
        else:
            summary["networks_alone"] = self.networks_alone
        if self.noise:
            summary["noise"] = self.noise
        if self.train is not None:
            measures = {f"{i}-{j}": self.train.measures((i, j)) for i, j in self.pairs}
            summary["train"] = {"n": self.train.samples, "stability": asdict(self.train.stability), "pairs": measures}
        if "aligned" in self.curves:
            summary["left"] = dict(self.left)
        if self.midpoint:
            summary["midpoint"] = dict(self.midpoint)
        if self.averaging:
            summary["averaging"] = {"verdict": self.averaging.verdict, **asdict(self.averaging)}
        return summary

    def figure(self) -> "Figure":
        """Error and loss along the lines, each pair by its name, with the verdict."""
        losses = [
            metric
            for metric in self.curves["raw"][self.pairs[0]]
            if "loss" in metric and metric != self.judging.monitor
        ]
        error, are_shares = error_in_words(self.judging.monitor, self.judging.mode), self.error_of_ends is not None
        stability = self.stability

        def along(kind: Kind, report: PathReport = self) -> dict[str, dict[str, Sequence[float]]]:
            curves = report.curves.get(kind, {})
            errors: dict[str, Sequence[float]] = {self.name_of(pair): report.errors(pair, kind) for pair in curves}
            of_loss = {
                in_words(loss): {self.name_of(p): curve[loss] for p, curve in curves.items()} for loss in losses[:1]
            }
            return {error: errors, **of_loss}

        beside = {kind: along(kind) for kind in ("recalibrated", "aligned") if kind in self.curves}
        if self.train is not None:
            beside["on the training split"] = along("raw", self.train)
        return lines_between(
            self.judging.alphas,
            along("raw"),
            self.judging.bound * unit_of({0: self}),
            beside=beside,
            title=f"{stability.in_words}: mean barrier {barrier_in_words(stability, are_shares=are_shares)}",
            shares=[error] if are_shares else [],
        )

    def figures(self) -> dict[str, "Figure"]:
        """``path``: error and loss along the lines; ``layers`` where layers were interpolated: a bar for each."""
        figures = {"path": self.figure()}
        if self._layers("single"):
            bars: dict[str, dict[str, list[float]]] = {}
            for extent in EXTENTS:
                barriers = [self.layer_barriers(pair, extent) for pair in self.pairs]
                bars[extent] = {layer: [pair[layer]["sup"] for pair in barriers] for layer in barriers[0]}
            are_shares = self.error_of_ends is not None
            threshold = self.judging.bound * unit_of({0: self})
            figures["layers"] = layers_between(bars, threshold, are_shares=are_shares)
        return figures

    def rises(self) -> dict[str, list[float]]:
        """Each pair, by its name, to the error above the mean of its ends at each alpha, in the verdict's unit."""
        errors, unit = {pair: self.errors(pair) for pair in self.pairs}, unit_of({0: self})
        middles = {pair: (along[0] + along[-1]) / 2 for pair, along in errors.items()}
        return {self.name_of(p): [(error - middles[p]) / unit for error in along] for p, along in errors.items()}

    def name_of(self, pair: Pair) -> str:
        """What a pair is called: by its children's seeds, by its networks' names, or, where these are long, numbers."""
        seeds = [re.fullmatch(r"seed (\d+)|.*/seed-(\d+)/[^/]*", self.names[number]) for number in pair]
        if seeds[0] and seeds[1]:
            return f"seeds {' - '.join(match[1] or match[2] for match in seeds if match)}"
        is_long = max(map(len, self.names)) > LONGEST
        return " - ".join(str(number) if is_long else self.names[number] for number in pair)

    def table(self) -> Table:
        """A row for each pair: both errors, barrier, rise, what samples alone would show, and its own verdict.

        The barrier on the training split takes the place of the rise: a terminal of 80 columns has no room for both.
        """
        title = f"error along lines: {self.judging.monitor} over {self.samples} samples"
        title += f"; children differ by {self.noise}" if self.noise else ""
        table = Table(title=title, caption_justify="left")
        are_short = all(len(name) < 12 for name in self.names)
        beside = [kind for kind in ("recalibrated", "aligned") if kind in self.curves]
        of_pairs = {pair: self.stability_of_pair(pair) for pair in self.pairs} if self.blocks else {}
        judged = ("by\nchance", "verdict") if of_pairs else ()
        end = "rise" if self.train is None else "on\ntrain"
        for column in ("pair", "error of\nthe first", "of the\nsecond", "barrier", *beside, end, *judged):
            table.add_column(column, justify="left" if column in ("pair", "verdict") else "right", no_wrap=True)
        for i, j in self.pairs:
            errors, measures = self.errors((i, j)), self.measures((i, j))
            barriers = [self.measures((i, j), kind)["error_barrier"] for kind in ("raw", *beside)]
            in_training = self.train and self.train.measures((i, j))["error_barrier"]
            last = measures["error_excess"] if in_training is None else in_training
            numbers = (errors[-1], errors[0], *barriers, last)
            verdict = [f"{of_pairs[i, j].noise_floor or 0:.4f}", of_pairs[i, j].verdict] if of_pairs else []
            pair = f"{self.names[i]} - {self.names[j]}" if are_short else f"{i} - {j}"
            table.add_row(pair, *(f"{number:.4f}" for number in numbers), *verdict)
        notes = [] if are_short else [f"{number}: {name}" for number, name in enumerate(self.names)]
        meaning = "Barrier: the highest error on the line minus the mean of both."
        rise = "Rise: the same above the straight line from one error to the other."
        training = "On train: the barrier on the training split."
        table.caption = "\n".join([meaning, rise if self.train is None else training, *notes, *self._notes()])
        return table

    def sentences(self) -> list[str]:
        """The verdict, what it is about, and what would decide it; whether the networks may be averaged."""
        judged = (self.stability, self.judging, self.samples, self.networks_alone)
        sentences = sentences_on(*judged, are_children=bool(self.noise)) + self._on_ends()
        if self.train is not None:
            sentences.append(on_train_split(self.train.stability, self.train.samples))
        if self.averaging:
            sentences += self.averaging.sentences(self.names, self.judging.monitor, self.samples)
        return sentences

    def save(self, path: Path) -> None:
        """Write everything to a JSON file that ``load`` reads.

        Raises:
            LotteryError: It cannot be written.
        """
        write_whole(path, json.dumps(self._content()).encode(), "report")

    def _content(self) -> dict[str, Any]:
        """What JSON holds of it."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["judging"] = asdict(self.judging)
        content["train"] = self.train and self.train._content()
        content["averaging"] = asdict(self.averaging) if self.averaging else None
        if self.blocks is not None:
            content["blocks"] = {"weights": self.blocks.weights, "values": list(self.blocks.values.items())}
        # JSON has no keys but strings: mappings from kinds and pairs become lists of their entries.
        content["curves"] = [(kind, *entry) for kind, curves in self.curves.items() for entry in curves.items()]
        for name in ("distances", "moved"):
            content[name] = list(content[name].items())
        return content

    @classmethod
    def load(cls, path: Path) -> "PathReport":
        """Read back what ``save`` wrote.

        Raises:
            LotteryError: It is not there, or holds something else.
        """
        try:
            text = read_text(path, "report")
        except LotteryError as error:
            raise LotteryError(f"{error} {again(path.parent)}") from error
        try:
            report = cls._from(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LotteryError(
                f"'{path}' is no report of lines between networks ({error!r}): judge them anew. {again(path.parent)}"
            ) from error
        return report

    @classmethod
    def _from(cls, content: dict[str, Any]) -> "PathReport":
        """From what JSON holds of one, checked.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: It is of none.
        """
        curves: dict[Kind, dict[Pair, Curve]] = {}
        for kind, pair, curve in content["curves"]:
            curves.setdefault(Layer(*kind) if isinstance(kind, list) else kind, {})[tuple(pair)] = curve
        content |= {"names": tuple(content["names"]), "judging": Judging(**content["judging"]), "curves": curves}
        content["distances"] = {tuple(pair): values for pair, values in content["distances"]}
        content["moved"] = {
            tuple(pair): {group: tuple(counts) for group, counts in groups.items()} for pair, groups in content["moved"]
        }
        if (blocks := content.get("blocks")) is not None:
            values = {tuple(pair): line for pair, line in blocks["values"]}
            content["blocks"] = LineBlocks(blocks["weights"], values)
        elif "blocks" not in content:
            content["networks_alone"] = "an older version of this package judged them"
        if content.get("averaging") is not None:
            content["averaging"] = Averaging.read(content["averaging"])
        if content.get("train") is not None:
            content["train"] = cls._from(content["train"])
        report = cls(**content)
        report._check()
        return report

    def _check(self) -> None:
        """Refuse a report whose curves do not fit its networks, or whose numbers are none.

        Raises:
            ValueError: It is one.
        """
        numbers = [value for values in (*self.distances.values(), self.midpoint) for value in values.values()]
        for kind, curves in self.curves.items():
            for curve in curves.values():
                numbers += [value for values in curve.values() for value in values]
                if any(len(values) != len(self._alphas_of(kind)) for values in curve.values()):
                    raise ValueError(f"a line of kind '{kind}' has another number of points than alphas")
                if self.judging.monitor not in curve:
                    raise ValueError(f"a line of kind '{kind}' lacks '{self.judging.monitor}'")
        if not all(is_number(number) and (isinstance(number, float) or abs(number) < MOST) for number in numbers):
            raise ValueError("something is no number")
        words = (*self.names, self.device, self.judging.monitor, self.noise)
        if not all(isinstance(word, str) for word in words) or not is_count(self.samples):
            raise ValueError("names, device, noise or samples are none")
        if self.samples >= MOST:
            raise ValueError(f"{self.samples} samples")
        if not self.pairs or any(len(pair) != 2 or not {*pair} <= {*range(len(self.names))} for pair in self.pairs):
            raise ValueError("its pairs are none of its networks")
        if any(curves.keys() != self.curves["raw"].keys() for curves in self.curves.values()):
            raise ValueError("its kinds of lines are of different pairs")
        if self.blocks is not None:
            self.blocks.check(len(self.judging.alphas), self.pairs)
        if not isinstance(self.networks_alone, str):
            raise ValueError("why networks are judged alone is no text")
        if self.averaging is not None:
            self.averaging.check(len(self.names))
        if self.distances.keys() != self.curves["raw"].keys():
            raise ValueError("its distances are of other pairs than its lines")
        if self.train is not None and self.train.pairs != self.pairs:
            raise ValueError("its training split is of other pairs")

    def _alphas_of(self, kind: Kind) -> Sequence[float]:
        return self.judging.layer_alphas if isinstance(kind, Layer) else self.judging.alphas

    def _layers(self, extent: Extent) -> list[Layer]:
        return [kind for kind in self.curves if isinstance(kind, Layer) and kind.extent == extent]

    def _measures_of(self, pair: Pair) -> Iterator[tuple[str, dict[str, float]]]:
        """What kind of line, or part of a network, to its measures."""
        yield "raw", {**self.measures(pair), **self.distances[pair]}
        for kind in ("recalibrated", "aligned"):
            if kind in self.curves:
                yield kind, self.measures(pair, kind)
        for group, (moved, size) in self.moved.get(pair, {}).items():
            yield f"aligned group {group}", {"units": size, "units_moved": moved}
        for extent in EXTENTS:
            for layer, barrier in self.layer_barriers(pair, extent).items():
                yield f"{extent} layer {layer}", {f"error_barrier_{which}": value for which, value in barrier.items()}

    def _on_ends(self) -> list[str]:
        """Where a barrier is nothing but a difference of the ends, and where none is, as nothing was learnt."""
        straight = [pair for pair in self.pairs if self.measures(pair)["error_excess"] <= ROUNDING]
        least = self.judging.bound * unit_of({0: self})
        high = [
            f"{self.names[i]} and {self.names[j]}"
            for i, j in straight
            if self.measures((i, j))["error_barrier"] >= least
        ]
        return [
            f"{names}: one is worse than the other, and the error goes straight from one to the other."
            for names in high
        ] + ([] if self.constant_error is None else [on_constant(self.constant_error)])

    def _notes(self) -> list[str]:
        """What the numbers of an alignment and of a midpoint rest on."""
        notes = []
        if self.moved:
            counts = [count for groups in self.moved.values() for count in groups.values()]
            moved, size = (sum(numbers) for numbers in zip(*counts, strict=True))
            groups = len(next(iter(self.moved.values())))
            noun = "group" if groups == 1 else "groups"
            notes.append(f"aligned: {groups} {noun} of units, {moved} of {size} units moved over all pairs")
        if shared := [between for between in self.distances.values() if "mask_overlap" in between]:
            before, after = (
                sum(between[name] for between in shared) / len(shared)
                for name in ("mask_overlap", "mask_overlap_aligned")
            )
            notes.append(f"masks overlap by {before:.1%}, aligned by {after:.1%}: a line mixes what both keep")
        if self.left:
            more = f" and {len(self.left) - 4} more" if len(self.left) > 4 else ""
            notes.append(f"not aligned: {', '.join(list(self.left)[:4])}{more} (summary.json says why)")
        if {"aligned", "recalibrated"} <= self.curves.keys():
            notes.append("aligned networks are recalibrated as well")
        if self.midpoint:
            what = "the average that was written" if self.averaging else "mean of all networks"
            notes.append(f"{what}: {self.judging.monitor} {self.midpoint[self.judging.monitor]:.4f}")
        return notes
