"""Tickets drawn from the masks that a watcher sees: when rules find them settled, at stated steps, and at the end."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from lightning_lottery.checks import is_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.functional.masks import check_sparsity
from lightning_lottery.functional.schedules import in_steps
from lightning_lottery.functional.settling.rules import Rule
from lightning_lottery.functional.settling.watch import Probe, names_of, series_of
from lightning_lottery.scope import named_parameters, size_of, ties
from lightning_lottery.ticket import Ticket, ticket_of, versions
from lightning_lottery.units.cuts import Shapes, shapes_in
from lightning_lottery.units.parts import Groups, owners_of
from lightning_lottery.units.removal import Units, masks_of
from lightning_lottery.units.watcher import UnitWatcher

Time = int | float | str
"""An optimizer step, a fraction of the fit, or ``"random"``."""


COLUMNS = ("ticket", "rule", "kind", "sparsity", "step", "settled", "statistic", "p_value", "seed")
"""Of the table of draws."""


class Draws:
    """Tickets by the names of their files: ``RULE-KIND-SPARSITY`` and ``at=TIME-SPARSITY``.

    Args:
        scores: What the units are ranked by, for the tickets' provenance.
    """

    def __init__(self, scores: str) -> None:
        self.scores = scores
        self.tickets: dict[str, Ticket] = {}
        self.times: dict[int, list[str]] = {}
        """Steps to the beginnings of the names of what is drawn there whatever the rules say."""
        self._random_step = 0  # not drawn yet
        self._weights_hash: dict[str, str] = {}

    def begin(self, module: nn.Module, watcher: UnitWatcher) -> None:
        """Remember with which weights a fit begins that goes on from no checkpoint."""
        self._weights_hash["initial_weights"] = hash_of_tensors(readers(module, watcher.groups))

    def plan(self, at: Sequence[Time], total: int | None, *, is_cut_short: bool) -> None:
        """Find the steps of stated times.

        Args:
            at: The times.
            total: Optimizer steps of the fit; None where nobody knows.
            is_cut_short: Whether it ends earlier on purpose, so that later times are no mistake.

        Raises:
            LotteryError: A time after the end, one that needs ``total``, or a random one without a seed.
        """
        self.times = {}
        for time in at:
            step = self._step_of(time, total)
            if total is not None and step > total and not is_cut_short:
                raise LotteryError(f"draw at step {step}, but this fit ends at step {total}.")
            self.times.setdefault(step, []).append(f"at={time}")

    def has_settled(self, name: str) -> bool:
        """Whether a rule has drawn this ticket."""
        return name in self.tickets and bool(self.tickets[name].provenance["settled"])

    def settled(self) -> dict[str, Ticket]:
        """The tickets that rules have drawn, in order."""
        return {name: ticket for name, ticket in self.tickets.items() if self.has_settled(name)}

    def draw_at_times(self, module: nn.Module, watcher: UnitWatcher) -> list[str]:
        """Draw what is due at the last step that was judged whatever the rules say; sentences as of ``draw``."""
        sentences = []
        for time in self.times.get(watcher.watch.last_step, ()):
            for sparsity in watcher.watch.sparsities:
                origin = {"rule": time, "settled": False}
                sentences += self.draw(module, watcher, f"{time}-{sparsity:g}", sparsity, origin)
        return sentences

    def draw_by(self, probe: Probe, module: nn.Module, watcher: UnitWatcher) -> list[str]:
        """Draw what a probe has found settled; sentences as of ``draw``."""
        verdict = {word: value for word, value in probe.verdict._asdict().items() if word != "holds"}
        origin = {"rule": repr(watcher.watch.rules[probe.rule]), "watched": probe.kind, **verdict}
        name = name_of(probe.rule, probe.kind, probe.sparsity)
        return self.draw(module, watcher, name, probe.sparsity, origin)

    def never_settled(self, watcher: UnitWatcher) -> dict[str, tuple[Rule, str, float]]:
        """The names of tickets that no rule has drawn, each with its rule, kind and sparsity."""
        names = {
            name_of(name, kind, sparsity): (rule, kind, sparsity)
            for sparsity in watcher.watch.sparsities
            for name, rule in watcher.watch.rules.items()
            for kind in watcher.kinds
        }
        return {name: series for name, series in names.items() if not self.has_settled(name)}

    def draw(
        self, module: nn.Module, watcher: UnitWatcher, name: str, sparsity: float, origin: Mapping[str, Any]
    ) -> list[str]:
        """Make the ticket of the last step that was judged; sentences say what is not as asked for."""
        units, step = watcher.watch.masks(sparsity), watcher.watch.last_step
        if not units:
            return [f" draws no '{name}': the scores at step {step} are all equal, or not finite."]
        self._weights_hash["weights"] = hash_of_tensors(readers(module, watcher.groups))
        provenance = {
            "method": "EarlyBird",
            "scope": None,
            "step": step,
            "seed": int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None,
            "versions": versions("torch", "lightning", "lightning_lottery"),
            **self._weights_hash,
            "unit_sparsity": sparsity,
            "scores": self.scores,
            **origin,
        }
        self.tickets[name] = unit_ticket(module, watcher.groups, units, provenance)
        return [f" at step {step}{sentence}" for sentence in watcher.shortfalls(sparsity, units)]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each ticket, in order: who drew it when, and what the rule said."""
        rows = []
        for name, ticket in self.tickets.items():
            saved = ticket.provenance
            kind, sparsity = saved.get("watched", ""), saved["unit_sparsity"]
            ending = name_of("", kind, sparsity) if kind else f"-{sparsity:g}"
            known = {word: saved.get(word) for word in ("step", "settled", "statistic", "p_value", "seed")}
            rows.append(
                {"ticket": name, "rule": name.removesuffix(ending), "kind": kind, "sparsity": sparsity, **known}
            )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Everything drawn so far, as plain data and unit masks."""
        return {
            "weights_hash": dict(self._weights_hash),
            "tickets": {n: {"units": dict(t.units), "from": dict(t.provenance)} for n, t in self.tickets.items()},
            "random_step": self._random_step,
        }

    def load_state_dict(self, state: Mapping[str, Any], frame: "Frame") -> None:
        """Go on from where ``state_dict`` was taken; masks of weights follow from those of units."""
        self._weights_hash, self._random_step = dict(state["weights_hash"]), state["random_step"]
        for name, saved in state["tickets"].items():
            origin = {**saved["from"], "step": index(saved["from"]["step"])}
            self.tickets[name] = frame.ticket(saved["units"], origin)

    def _step_of(self, time: Time, total: int | None) -> int:
        if isinstance(time, int):
            return time
        if total is None:
            raise LotteryError(
                f"draw at {time} of a fit whose number of steps nobody knows beforehand: give `at` in optimizer steps, "
                "or the Trainer `max_steps`."
            )
        if isinstance(time, float):
            return max(1, in_steps(time, total))
        if not self._random_step:
            # By a generator of its own: every other random number of the run stays what it was without this draw.
            if (seed := os.environ.get("PL_GLOBAL_SEED")) is None:
                raise LotteryError(
                    "draw at a random step, and this run has no seed: call `seed_everything(0)` first, or give the "
                    "command `--seed_everything 0`."
                )
            self._random_step = int(np.random.default_rng(int(seed)).integers(1, total + 1))
        return self._random_step


def readers(model: nn.Module, groups: Groups) -> dict[str, nn.Parameter]:
    """The weights that read the units of groups, by their first names, in the model's order."""
    aliases = ties(model)
    names = {aliases.get(part.parameter, part.parameter) for group in groups.values() for part in group.consumers}
    return {name: parameter for name, parameter in named_parameters(model).items() if name in names}


class Frame(NamedTuple):
    """What a ticket says of a model besides its masks: groups of units, shapes of tensors, further names, weights."""

    groups: Groups
    shapes: Shapes
    ties: Mapping[str, str]
    size: int

    def ticket(self, units: Units, provenance: Mapping[str, Any]) -> Ticket:
        """A ticket with masks of units and of the weights that read them.

        Raises:
            LotteryError: A mask of no group, or of another size.
        """
        masks = dict[str, Tensor]()
        for name, mask in masks_of(self.shapes, units, self.groups).items():
            # A tied weight may read units under each of its names: then it loses both.
            first = self.ties.get(name, name)
            masks[first] = masks[first] & mask if first in masks else mask
        return replace(ticket_of(masks, self.ties, self.size, provenance), units=dict(units))


def frame_of(model: nn.Module, groups: Groups) -> Frame:
    """That of a model as it is now; it stays true of a ticket's model when units were cut out."""
    return Frame(dict(groups), shapes_in(owners_of(model)), ties(model), size_of(model))


def unit_ticket(model: nn.Module, groups: Groups, units: Units, provenance: Mapping[str, Any]) -> Ticket:
    """As ``Frame.ticket``, of a model as it is."""
    return frame_of(model, groups).ticket(units, provenance)


def name_of(rule: str, kind: str, sparsity: float) -> str:
    """The name of the ticket that a rule draws from the masks of a kind of unit."""
    return f"{rule}-{series_of(kind, sparsity)}"


def check_what_draws(rules: Sequence[Rule], sparsities: Sequence[float], at: Sequence[Time]) -> None:
    """Refuse what draws nothing, or cannot be meant.

    Raises:
        LotteryError: Which argument, and why.
    """
    if not isinstance(rules, Sequence) or any(not isinstance(rule, Rule) for rule in rules):
        raise LotteryError(f"`rules` is a list of rules such as HammingFIFO(), SlopeHAC(), got {rules!r}.")
    if len(names_of(rules)) < len(rules):
        raise LotteryError(f"`rules` names the same rule twice: {list(rules)}.")
    if not rules and not at:
        raise LotteryError("EarlyBird without a rule and without steps `at` which to draw has nothing to do.")
    if not isinstance(sparsities, Sequence) or not sparsities or len(set(sparsities)) < len(sparsities):
        raise LotteryError(f"`sparsities` is a list of different fractions to remove, got {sparsities!r}.")
    for sparsity in sparsities:
        check_sparsity(sparsity)
    if isinstance(at, str) or not isinstance(at, Sequence):
        raise LotteryError(f"`at` is a list of steps and fractions of the fit, got {at!r}.")
    for time in at:
        if not is_count(time, least=1) and not (isinstance(time, float) and 0 < time <= 1) and time != "random":
            raise LotteryError(
                f"`at` is optimizer steps >= 1 (int), fractions of the fit in (0, 1] or 'random', got {time!r}."
            )
