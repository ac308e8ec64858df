"""Unit masks watched while a network trains: at several sparsities, by several rules, each kind of unit by itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from operator import index
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_lottery.functional.masks import keep_top_rows
from lightning_lottery.functional.settling.detector import Detector, Settled
from lightning_lottery.functional.settling.rules import Rule
from lightning_lottery.functional.settling.tests import layers_by_units, nuclear_norm

Per = Literal["all", "tensor"]

_HISTORY = 64  # masks that are kept for the matrix of distances; then every other one goes


class Probe(NamedTuple):
    """What one rule said of the masks of one kind of unit at one sparsity."""

    rule: str
    kind: str
    sparsity: float
    verdict: Settled

    @property
    def series(self) -> str:
        """What is watched, as in ``head-0.3``."""
        return series_of(self.kind, self.sparsity)


def series_of(kind: str, sparsity: float) -> str:
    """What a series of masks is called: ``head-0.3``."""
    return f"{kind}-{sparsity:g}"


class Watch:
    """Detectors for every rule, kind of unit and sparsity, fed with the scores of all units step by step.

    Args:
        layers: Kind of unit to its layers, each with its number of units; scores stand in this order.
        rules: Rules by name.
        sparsities: Fractions of the units of a kind that masks remove.
        per: Kind to whether its units are ranked over all layers or in each.
        kinds: The kinds whose masks the rules watch.

    Example:
        >>> from lightning_lottery.functional.settling.rules import HammingFIFO
        >>> watch = Watch({"head": {"a": 2}}, {"H": HammingFIFO(2, interval=1)}, [0.5], {"head": "tensor"}, ["head"])
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
        self._series = {series_of(kind, sparsity): (kind, sparsity) for kind in kinds for sparsity in sparsities}
        self._detectors = {(rule, name): Detector(rules[rule]) for rule in rules for name in self._series}
        self.norms: dict[str, list[tuple[int, float]]] = {name: [] for name in self._series}
        """Step and nuclear norm of the masks, for each series."""
        self._history: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in self._series}
        self._interval = self._stride = min(rule.interval for rule in rules.values()) if rules else 1
        self.moves: dict[str, list[tuple[int, float]]] = {name: [] for name in self._series}
        """For each series steps, the shortest interval of the rules apart, and the distance to the mask before."""
        self._before: dict[str, tuple[int, Tensor]] = {}
        self._latest: tuple[int, Tensor] | None = None

    def push(self, steps: Sequence[int], scores: Tensor) -> list[Probe]:
        """The probes that were due at these steps, in order.

        Steps whose scores do not tell the units of a kind apart, or are not finite, say nothing of that kind.

        Args:
            steps: Optimizer steps, rising, also from call to call.
            scores: Of all units at each of them: shape (steps, units), on the CPU.
        """
        probes: list[Probe] = []
        by_kind = self._split(scores)
        differ = {kind: tells_apart(rows, self.layers[kind].values(), self.per[kind]) for kind, rows in by_kind.items()}
        for name, (kind, sparsity) in self._series.items():
            numbers, layers = differ[kind].nonzero().flatten().tolist(), self.layers[kind]
            if not numbers:
                continue
            # All steps at once: ranking and eigenvalues are each one call for a whole batch of steps.
            masks = unit_masks_of(by_kind[kind][numbers], layers.values(), sparsity, self.per[kind])
            norms = nuclear_norm(layers_by_units(_by_layer(masks, layers))).tolist()
            self.norms[name] += zip([steps[i] for i in numbers], norms, strict=True)
            for i, mask, norm in zip(numbers, masks, norms, strict=True):
                self._remember(name, steps[i], mask)
                for rule_name, rule in self.rules.items():
                    observed = _by_layer(mask.clone(), layers) if rule.watches == "masks" else norm
                    verdict = self._detectors[rule_name, name].push(steps[i], observed)
                    if verdict is not None:
                        probes.append(Probe(rule_name, kind, sparsity, verdict))
        if len(steps):
            self._latest = steps[-1], scores[-1].clone()
        return sorted(probes, key=lambda probe: probe.verdict.step)

    @property
    def last_step(self) -> int:
        """The last step that was pushed; 0 before the first."""
        return self._latest[0] if self._latest else 0

    def masks(self, sparsity: float) -> dict[str, Tensor]:
        """The masks of all layers at the last step that was pushed; without kinds whose scores said nothing."""
        return self._latest_masks(unit_masks_of, sparsity)

    def emptied(self, sparsity: float) -> list[str]:
        """The layers that would keep no unit at the last step, did not ``masks`` keep their best one."""
        return [name for name, mask in self._latest_masks(_ranked, sparsity).items() if not mask.any()]

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
            "norms": {name: _pairs(series) for name, series in self.norms.items()},
            "history": {name: [[step, mask.clone()] for step, mask in kept] for name, kept in self._history.items()},
            "stride": self._stride,
            "moves": {name: _pairs(series) for name, series in self.moves.items()},
            "before": {name: [step, mask.clone()] for name, (step, mask) in self._before.items()},
            "latest": list(self._latest) if self._latest else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken, under the same arguments."""
        for detector, saved in zip(self._detectors.values(), state["detectors"], strict=True):
            detector.load_state_dict(saved)
        self.norms = {name: _series(pairs) for name, pairs in state["norms"].items()}
        if "moves" in state:  # earlier versions kept none: then they begin here
            self.moves = {name: _series(pairs) for name, pairs in state["moves"].items()}
            self._before = {name: (index(step), mask.clone()) for name, (step, mask) in state["before"].items()}
        # `index` takes whole numbers alone: a checkpoint may hold anything.
        saved_masks = state["history"].items()
        self._history = {name: [(index(step), mask.clone()) for step, mask in kept] for name, kept in saved_masks}
        self._stride = index(state["stride"])
        self._latest = (index(state["latest"][0]), state["latest"][1].clone()) if state["latest"] else None

    def _split(self, scores: Tensor) -> dict[str, Tensor]:
        """The scores of each kind's units."""
        sizes = [sum(layers.values()) for layers in self.layers.values()]
        return dict(zip(self.layers, torch.split(scores, sizes, dim=-1), strict=True))

    def _latest_masks(self, rank: Callable[..., Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks of the last step's scores, of those kinds whose units they tell apart."""
        masks: dict[str, Tensor] = {}
        for kind, row in self._split(self._latest[1][None]).items() if self._latest else ():
            layers, per = self.layers[kind], self.per[kind]
            if tells_apart(row, layers.values(), per):
                masks |= _by_layer(rank(row, layers.values(), sparsity, per)[0], layers)
        return masks

    def _remember(self, name: str, step: int, mask: Tensor) -> None:
        if step % self._interval:
            return
        if name in self._before and self._before[name][0] == step - self._interval:
            self.moves[name].append((step, (mask ^ self._before[name][1]).float().mean().item()))
        self._before[name] = step, mask.clone()
        if step % self._stride:
            return
        self._history[name].append((step, mask.clone()))
        if len(self._history[name]) > _HISTORY:
            # One stride for all series, so that their matrices of distances show the same steps.
            self._stride *= 2
            for series, kept in self._history.items():
                self._history[series] = [(step, mask) for step, mask in kept if step % self._stride == 0]


def unit_masks_of(scores: Tensor, sizes: Iterable[int], sparsity: float, per: Per) -> Tensor:
    """Masks that keep the units with the highest scores, and of a layer that would be emptied its best one.

    Args:
        scores: Of the units of one kind at several steps, shape (steps, units), layer after layer.
        sizes: How many units each layer has.
        sparsity: Fraction removed, in [0, 1).
        per: Rank the units of all layers together, or each layer's by themselves.

    Returns:
        Bool tensor of the scores' shape.

    Example:
        >>> unit_masks_of(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (2, 2), 0.5, "all")
        tensor([[False,  True,  True,  True]])
    """
    masks, sizes = _ranked(scores, sizes, sparsity, per), list(sizes)
    # The splits are views: what is written to one layer's mask is written to `masks`.
    for mask, layer in zip(torch.split(masks, sizes, -1), torch.split(scores, sizes, -1), strict=True):
        if not (kept := mask.any(-1)).all():
            mask[~kept] = keep_top_rows(layer[~kept], 1 - 1 / layer.shape[-1])
    return masks


def tells_apart(scores: Tensor, sizes: Iterable[int], per: Per) -> Tensor:
    """For each step whether its scores are finite and differ (see ``scores_differ``): a bool tensor of shape (steps,).

    Takes what ``unit_masks_of`` takes.
    """
    ranked = [part for part in _together(scores, sizes, per) if per == "all" or part.shape[-1] > 1]
    differ = [(part != part[:, :1]).any(-1) for part in ranked]
    return torch.stack([scores.isfinite().all(-1), *differ]).all(0)


def _ranked(scores: Tensor, sizes: Iterable[int], sparsity: float, per: Per) -> Tensor:
    return torch.cat([keep_top_rows(part, sparsity) for part in _together(scores, sizes, per)], -1)


def _together(scores: Tensor, sizes: Iterable[int], per: Per) -> Sequence[Tensor]:
    """The columns that are ranked together: all, or a layer's."""
    return [scores] if per == "all" else torch.split(scores, list(sizes), -1)


def _by_layer(masks: Tensor, layers: Mapping[str, int]) -> dict[str, Tensor]:
    return dict(zip(layers, torch.split(masks, list(layers.values()), -1), strict=True))


def names_of(rules: Sequence[Rule]) -> dict[str, Rule]:
    """Rules by the name of their class, and by what tells them apart where there are several of one class.

    Example:
        >>> from lightning_lottery.functional.settling.rules import ADF, SlopeHAC
        >>> list(names_of([ADF(), SlopeHAC(), SlopeHAC(lags=5)]))
        ['ADF', 'SlopeHAC-lags=None', 'SlopeHAC-lags=5']
    """
    named = {}
    for rule in rules:
        alike = [one for one in rules if type(one) is type(rule)]
        differing = [f.name for f in fields(rule) if len({repr(getattr(one, f.name)) for one in alike}) > 1]  # type: ignore[arg-type]
        named["-".join([type(rule).__name__, *(f"{name}={getattr(rule, name)}" for name in differing)])] = rule
    return named


def _series(pairs: Tensor) -> list[tuple[int, float]]:
    return [(int(step), value) for step, value in pairs.tolist()]


def _pairs(series: Sequence[tuple[int, float]]) -> Tensor:
    return torch.tensor(series, dtype=torch.float64).reshape(-1, 2)
