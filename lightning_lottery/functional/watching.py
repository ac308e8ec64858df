"""Unit masks watched while a network trains: at several sparsities, by several rules, each kind of unit by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_lottery.functional.detection import Detector, Verdict
from lightning_lottery.functional.masks import Scores, keep_top
from lightning_lottery.functional.settling import Rule, scores_differ
from lightning_lottery.functional.stationarity import layers_by_units, nuclear_norm

Per = Literal["all", "tensor"]

_HISTORY = 64  # masks that are kept for the matrix of distances; then every other one goes


class Probe(NamedTuple):
    """What one rule said of the masks of one kind of unit at one sparsity."""

    rule: str
    kind: str
    sparsity: float
    verdict: Verdict

    @property
    def series(self) -> str:
        """What is watched, as in ``head-0.3``."""
        return f"{self.kind}-{self.sparsity:g}"


class Watch:
    """Detectors for every rule, kind of unit and sparsity, fed with the scores of all units step by step.

    Args:
        layers: Kind of unit to its layers, each with its number of units; scores stand in this order.
        rules: Rules by name.
        sparsities: Fractions of the units of a kind that masks remove.
        per: Kind to whether its units are ranked over all layers or in each.
        kinds: The kinds whose masks the rules watch.

    Example:
        >>> from lightning_lottery.functional.settling import HammingFIFO
        >>> watch = Watch({"head": {"a": 2}}, {"H": HammingFIFO(2, every=1)}, [0.5], {"head": "tensor"}, ["head"])
        >>> [probe.verdict.settled for probe in watch.push([1, 2, 3], torch.tensor([[1, 2], [2, 1], [3, 1.0]]))]
        [False, True]
    """

    def __init__(
        self,
        layers: Mapping[str, Mapping[str, int]],
        rules: Mapping[str, Rule],
        sparsities: Sequence[float],
        per: Mapping[str, Per],
        kinds: Sequence[str],
    ) -> None:
        self.layers, self.rules, self.sparsities, self.per = layers, rules, list(sparsities), per
        self._series = {f"{kind}-{sparsity:g}": (kind, sparsity) for kind in kinds for sparsity in sparsities}
        self._detectors = {(rule, name): Detector(rules[rule]) for rule in rules for name in self._series}
        self.norms: dict[str, list[tuple[int, float]]] = {name: [] for name in self._series}
        """Step and nuclear norm of the masks, for each series."""
        self._history: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in self._series}
        self._stride = min(rule.every for rule in rules.values()) if rules else 1
        self._latest: tuple[int, Tensor] | None = None

    def push(self, steps: Sequence[int], scores: Tensor) -> list[Probe]:
        """The probes that were due at these steps, in order.

        Steps whose scores do not tell the units of a kind apart, or are not finite, say nothing of that kind.

        Args:
            steps: Optimizer steps, rising, also from call to call.
            scores: Of all units at each of them: shape (steps, units), on the CPU.
        """
        probes: list[Probe] = []
        at = [self._split(row) for row in scores]
        for name, (kind, sparsity) in self._series.items():
            told = [i for i, of in enumerate(at) if kind in of]
            masks = [unit_masks_of(at[i][kind], sparsity, self.per[kind]) for i in told]
            if not masks:
                continue
            matrices = layers_by_units({layer: torch.stack([mask[layer] for mask in masks]) for layer in masks[0]})
            norms = nuclear_norm(matrices).tolist()
            self.norms[name] += zip([steps[i] for i in told], norms, strict=True)
            for i, mask, norm in zip(told, masks, norms, strict=True):
                self._remember(name, steps[i], mask)
                for rule, of in self.rules.items():
                    verdict = self._detectors[rule, name].push(steps[i], mask if of.watches == "masks" else norm)
                    if verdict is not None:
                        probes.append(Probe(rule, kind, sparsity, verdict))
        if len(steps):
            self._latest = steps[-1], scores[-1].clone()
        return sorted(probes, key=lambda probe: probe.verdict.step)

    @property
    def last_step(self) -> int:
        """The last step that was pushed; 0 before the first."""
        return self._latest[0] if self._latest else 0

    def masks(self, sparsity: float) -> dict[str, Tensor]:
        """The masks of all layers at the last step that was pushed; without kinds whose scores said nothing."""
        of = self._split(self._latest[1]) if self._latest else {}
        return {n: m for kind in of for n, m in unit_masks_of(of[kind], sparsity, self.per[kind]).items()}

    def emptied(self, sparsity: float) -> list[str]:
        """The layers that would keep no unit at the last step, did not ``masks`` keep their best one."""
        of = self._split(self._latest[1]) if self._latest else {}
        raw = [keep_top(scores, sparsity, per=self.per[kind]) for kind, scores in of.items()]
        return [name for masks in raw for name, mask in masks.items() if not mask.any()]

    def distances(self, series: str) -> tuple[list[int], Tensor]:
        """Steps, and the Hamming distances of their masks to one another, as a square matrix.

        Source: You et al. 2020, figure 2.
        """
        history = self._history[series]
        if not history:
            return [], torch.zeros(0, 0)
        rows = torch.stack([mask for _, mask in history])
        return [step for step, _ in history], torch.stack([(rows ^ row).float().mean(1) for row in rows])

    def state_dict(self) -> dict[str, Any]:
        """Everything that later probes depend on, as plain data and tensors."""
        return {
            "detectors": [detector.state_dict() for detector in self._detectors.values()],
            "norms": {name: _pairs(of) for name, of in self.norms.items()},
            "history": {name: [[step, mask.clone()] for step, mask in of] for name, of in self._history.items()},
            "stride": self._stride,
            "latest": list(self._latest) if self._latest else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken, under the same arguments."""
        for detector, of in zip(self._detectors.values(), state["detectors"], strict=True):
            detector.load_state_dict(of)
        self.norms = {name: [(int(step), norm) for step, norm in of.tolist()] for name, of in state["norms"].items()}
        self._history = {name: [(step, mask.clone()) for step, mask in of] for name, of in state["history"].items()}
        self._stride = state["stride"]
        self._latest = (state["latest"][0], state["latest"][1].clone()) if state["latest"] else None

    def _split(self, row: Tensor) -> dict[str, dict[str, Tensor]]:
        """The scores of each kind's layers, without the kinds that they say nothing of."""
        parts = iter(torch.split(row, [size for layers in self.layers.values() for size in layers.values()]))
        of = {kind: {name: next(parts) for name in layers} for kind, layers in self.layers.items()}
        return {
            kind: scores
            for kind, scores in of.items()
            if scores_differ(scores, self.per[kind]) and all(bool(s.isfinite().all()) for s in scores.values())
        }

    def _remember(self, name: str, step: int, masks: Mapping[str, Tensor]) -> None:
        if step % self._stride:
            return
        self._history[name].append((step, torch.cat(list(masks.values()))))
        if len(self._history[name]) > _HISTORY:
            self._stride *= 2
            for series, kept in self._history.items():
                self._history[series] = [(step, mask) for step, mask in kept if step % self._stride == 0]


def unit_masks_of(scores: Scores, sparsity: float, per: Per) -> dict[str, Tensor]:
    """Masks that keep the units with the highest scores, and of a layer that would be emptied its best one.

    Example:
        >>> unit_masks_of({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, 0.5, "all")
        {'a': tensor([False,  True]), 'b': tensor([True, True])}
    """
    masks = keep_top(scores, sparsity, per=per)
    for name in [name for name, mask in masks.items() if not mask.any()]:
        masks[name] = keep_top({name: scores[name]}, 1 - 1 / len(scores[name]))[name]
    return masks


def names_of(rules: Sequence[Rule]) -> dict[str, Rule]:
    """Rules by the name of their class, and by what tells them apart where there are several of one class.

    Example:
        >>> from lightning_lottery.functional.settling import ADF, SlopeHAC
        >>> list(names_of([ADF(), SlopeHAC(), SlopeHAC(lags=5)]))
        ['ADF', 'SlopeHAC-lags=None', 'SlopeHAC-lags=5']
    """
    named = {}
    for rule in rules:
        alike = [other for other in rules if type(other) is type(rule)]
        differing = [f.name for f in fields(rule) if len({repr(getattr(other, f.name)) for other in alike}) > 1]  # type: ignore[arg-type]
        named["-".join([type(rule).__name__, *(f"{name}={getattr(rule, name)}" for name in differing)])] = rule
    return named


def _pairs(series: Sequence[tuple[int, float]]) -> Tensor:
    return torch.tensor(series, dtype=torch.float64).reshape(-1, 2)
