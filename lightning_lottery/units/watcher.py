"""Units watched while a network trains: scores wait on their device, then rules judge the masks made of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.settling import Judgement, Margins, mask_distances, settling_over_steps
from lightning_lottery.files import Location, write_table
from lightning_lottery.functional.settling.detector import Settled
from lightning_lottery.functional.settling.rules import Rule, SlopeEquivalence
from lightning_lottery.functional.settling.watch import Per, Probe, Watch
from lightning_lottery.functional.shares import share
from lightning_lottery.units.parts import KINDS, Group, Groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER: dict[str, Per] = {"head": "tensor", "neuron": "all", "channel": "all"}
"""Heads are ranked in each layer, neurons and channels over all layers."""

_ROWS = 100  # steps whose scores wait on the device at most


class Noted(NamedTuple):
    """Scores that were fetched: a row for each step, and what loggers call that step."""

    steps: list[int]
    labels: list[int]
    rows: Tensor


class Judged(NamedTuple):
    """The probes of some steps, in order, and for each of those steps the norm of every series of masks."""

    probes: list[Probe]
    norms: dict[int, dict[str, float]]


class UnitWatcher:
    """Notes the scores of all units step by step, and lets rules judge the masks made of them.

    Scores stand kind by kind and layer by layer, in the order of ``groups``. They are noted where they are; ``take``
    fetches all that wait at once, since asking a GPU for a row in every step would stop it in every step.

    Args:
        groups: The units, ``in_order``.
        rules: Rules by name.
        sparsities: Fractions of the units of a kind that masks remove.
        per: Kind to ``"tensor"`` (ranked in each layer) or ``"all"``.
        kinds: Kinds whose masks the rules watch (default: all there are).

    Example:
        >>> from lightning_lottery.functional.settling.rules import HammingFIFO
        >>> from lightning_lottery.units.groups import groups_of
        >>> net = torch.nn.TransformerEncoderLayer(4, nhead=2, dim_feedforward=2, batch_first=True)
        >>> per = {"head": "tensor", "neuron": "all"}
        >>> watcher = UnitWatcher(in_order(groups_of(net)), {"H": HammingFIFO(2, interval=1)}, [0.5], per, ["head"])
        >>> for step in (1, 2):
        ...     watcher.note(step, step - 1, torch.tensor([1.0, 2.0, 3.0, 4.0]))
        >>> [probe.verdict.settled for probe in watcher.judge(watcher.take()).probes]
        [True]
    """

    def __init__(
        self,
        groups: Groups,
        rules: Mapping[str, Rule],
        sparsities: Sequence[float],
        per: Mapping[str, Per],
        kinds: Sequence[str] | None = None,
    ) -> None:
        self.groups = dict(groups)
        self.kinds = tuple(kinds or layers_by_kind(groups))
        self.watch = Watch(layers_by_kind(groups), rules, sparsities, per, self.kinds)
        self.probes: list[Probe] = []
        """What the rules said, in order."""
        self.times: Collection[int] = ()
        """Steps whose masks are asked for whatever the rules say."""
        self._rows: Tensor | None = None  # a buffer that stays; the first rows of it wait
        self._waiting: list[tuple[int, int]] = []  # their steps and labels

    # Noting.

    def looks_at(self, step: int) -> bool:
        """Whether the scores of this step are to be noted: rules on norms see every step, those on masks their own."""
        sees_all = any(rule.watches == "norms" for rule in self.watch.rules.values())
        return sees_all or self._is_probe(step)

    def note(self, step: int, label: int, scores: Tensor) -> None:
        """Keep the scores of a step, which loggers call ``label``, until they are fetched."""
        if self._rows is None or self._rows.device != scores.device:
            # Rows of a checkpoint are on the CPU, and the fit that goes on from it may be elsewhere.
            waiting, self._rows = self._rows, scores.new_empty(_ROWS, len(scores))
            if waiting is not None:
                self._rows[: len(waiting)] = waiting
        self._rows[len(self._waiting)] = scores
        self._waiting.append((step, label))

    def is_due(self, step: int) -> bool:
        """Whether what waits is to be fetched after this step."""
        return bool(self._waiting) and (self._is_probe(step) or len(self._waiting) == _ROWS)

    def take(self) -> Noted:
        """Fetch all that waits; nothing waits any more."""
        waiting = torch.empty(0) if self._rows is None else self._rows[: len(self._waiting)]
        rows = waiting.to("cpu", copy=True)  # the one transfer; a copy also on a CPU, where later rows overwrite these
        steps, labels = ([pair[i] for pair in self._waiting] for i in (0, 1))
        self._waiting = []
        return Noted(steps, labels, rows)

    def _is_probe(self, step: int) -> bool:
        return step in self.times or any(step % rule.interval == 0 for rule in self.watch.rules.values())

    # Judging.

    def judge(self, noted: Noted) -> Judged:
        """What the rules say at the probes that were due at these steps, and the norms of them all."""
        lengths = {name: len(series) for name, series in self.watch.norms.items()}
        probes = self.watch.push(noted.steps, noted.rows)
        self.probes += probes
        norms: dict[int, dict[str, float]] = {}
        for name, series in self.watch.norms.items():
            for step, norm in series[lengths[name] :]:
                norms.setdefault(step, {})[name] = norm
        return Judged(probes, norms)

    def scarce(self) -> Iterator[str]:
        """Sentences about layers that a sparsity would empty whatever the scores will be."""
        for kind, layers in self.watch.layers.items():
            for sparsity in self.watch.sparsities:
                emptied = [name for name, size in layers.items() if round(share(1 - sparsity, size)) == 0]
                if emptied and self.watch.per[kind] == "tensor":
                    yield (
                        f": sparsity {sparsity} leaves no {kind} of '{emptied[0]}' and {len(emptied) - 1} more layers: "
                        f"one each is kept. Ask for less, or rank {kind}s over all layers (per 'all')."
                    )

    def shortfalls(self, sparsity: float, units: Mapping[str, Tensor]) -> Iterator[str]:
        """Sentences about what the masks of the last step are not as asked for: a kind left whole, a layer refilled."""
        emptied = self.watch.emptied(sparsity)
        for kind, layers in self.watch.layers.items():
            if not layers.keys() & units.keys():
                yield f" removes no {kind}s: their scores do not tell those of a layer apart, or are not finite."
            if self.watch.per[kind] == "all" and (names := [name for name in layers if name in emptied]):
                yield (
                    f": sparsity {sparsity} over all layers leaves no {kind} of {', '.join(names)}: one each is kept. "
                    f"Ask for less, or rank {kind}s in each layer (per 'tensor')."
                )

    # Keeping.

    def write(self, folder: Location) -> None:
        """Write the tables ``norms.csv``, ``distances.csv`` (of each mask to the one before) and ``probes.csv``."""
        for name, word, by_series in (("norms", "norm", self.watch.norms), ("distances", "distance", self.watch.moves)):
            rows = sorted((step, series, value) for series, curve in by_series.items() for step, value in curve)
            table = [{"step": step, "series": series, word: value} for step, series, value in rows]
            write_table(folder / f"{name}.csv", table, name, columns=("step", "series", word))
        table = [{"rule": p.rule, "kind": p.kind, "sparsity": p.sparsity, **p.verdict._asdict()} for p in self.probes]
        write_table(folder / "probes.csv", table, "probes", columns=("rule", "kind", "sparsity", *Settled._fields))

    def figures(self, steps: Mapping[str, int]) -> "dict[str, Figure]":
        """``settling``: how masks settle, and ``distances``: of every two of them.

        Args:
            steps: ``RULE-KIND-SPARSITY`` to the step at which that rule drew.
        """
        watch = self.watch
        draws = {
            name: {rule: steps[f"{rule}-{name}"] for rule in watch.rules if f"{rule}-{name}" in steps}
            for name in watch.norms
        }
        matrices = {name: watch.distances(name) for name in draws}
        return {
            "settling": settling_over_steps(watch.moves, watch.norms, self._judgements(), draws, self._margins()),
            "distances": mask_distances({name: (steps, d.tolist()) for name, (steps, d) in matrices.items()}),
        }

    def _judgements(self) -> dict[str, Judgement]:
        """What each rule said of each series: its p-values, or what else it looks at."""
        judgements = {}
        for name, rule in self.watch.rules.items():
            curves: dict[str, list[tuple[int, float]]] = {}
            for probe in self.probes:
                p_value = probe.verdict.p_value
                value = probe.verdict.statistic if p_value is None else p_value
                if probe.rule == name:
                    curves.setdefault(probe.series, []).append((probe.verdict.step, value))
            judgements[name] = Judgement(rule.looks_at, rule.threshold, rule.holds_above, curves)
        return judgements

    def _margins(self) -> dict[str, dict[str, Margins]]:
        """Of each series and each rule that has a margin, the smallest that would have held at its probes."""
        margins: dict[str, dict[str, Margins]] = {name: {} for name in self.watch.norms}
        for probe in self.probes:
            rule = self.watch.rules[probe.rule]
            if isinstance(rule, SlopeEquivalence):
                word = rule.bound_by
                least = getattr(probe.verdict, f"least_{word}")
                of_rule = margins[probe.series].setdefault(probe.rule, Margins(word, getattr(rule, word), []))
                of_rule.least.append((probe.verdict.step, least))
        return margins

    def state_dict(self) -> dict[str, Any]:
        """Everything that later probes depend on, as plain data and tensors on the CPU."""
        waiting = None if self._rows is None else self._rows[: len(self._waiting)]
        return {
            "watch": self.watch.state_dict(),
            "rows": None if waiting is None else waiting.detach().to("cpu", copy=True),
            "waiting": [list(pair) for pair in self._waiting],
            "probes": [[probe.rule, probe.kind, probe.sparsity, list(probe.verdict)] for probe in self.probes],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken, under the same arguments."""
        self.watch.load_state_dict(state["watch"])
        self._waiting = [(index(step), index(label)) for step, label in state["waiting"]]
        if state["rows"] is not None:
            self._rows = torch.empty(_ROWS, state["rows"].shape[1], dtype=state["rows"].dtype)
            self._rows[: len(state["rows"])] = state["rows"]
        self.probes = [Probe(rule, kind, sparsity, Settled(*v)) for rule, kind, sparsity, v in state["probes"]]


def in_order(groups: Groups) -> dict[str, Group]:
    """Groups kind by kind, in the order of ``KINDS``: that of ``layers_by_kind``, and so of the scores."""
    return {name: group for kind in KINDS for name, group in groups.items() if group.kind == kind}


def layers_by_kind(groups: Groups) -> dict[str, dict[str, int]]:
    """Each kind that is there to its groups and their sizes, kinds in the order of ``KINDS``."""
    layers = {kind: {name: g.size for name, g in groups.items() if g.kind == kind} for kind in KINDS}
    return {kind: sizes for kind, sizes in layers.items() if sizes}


def check_per(per: Any) -> None:
    """Refuse what says of no kind how it is ranked.

    Raises:
        LotteryError: No mapping, an unknown kind, or another word than "all" and "tensor".
    """
    if not isinstance(per, Mapping) or per.keys() - PER.keys() or any(v not in ("all", "tensor") for v in per.values()):
        raise LotteryError(f"`per` gives {', '.join(map(repr, PER))} 'all' or 'tensor', got {per!r}.")
