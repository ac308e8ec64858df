"""Early-bird tickets: drawn while the network trains, as soon as the masks of its units have settled."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_lottery.callbacks.draws import PER, check_arguments, cut_out_, weight_norms, write_records
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.settling.detector import Verdict
from lightning_lottery.functional.settling.rules import Rule
from lightning_lottery.functional.settling.watch import Per, Probe, Watch, names_of
from lightning_lottery.hooks.clock import steps_of_fit
from lightning_lottery.hooks.loggers import draw_to_all, folder_of, log_to_all
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.masked import Masked, check_agreement
from lightning_lottery.hooks.private import batches_that_stepped
from lightning_lottery.scope import named_parameters, ties
from lightning_lottery.ticket import Ticket, ticket_of
from lightning_lottery.units.attention import open_attention_
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.parts import Group
from lightning_lottery.units.removal import parameter_masks

_ROWS = 100  # steps whose scores wait on the device at most


@runtime_checkable
class _GivesCoefficients(Protocol):
    """What NetworkSlimming offers."""

    @property
    def groups(self) -> dict[str, Group]: ...

    @property
    def coefficients(self) -> dict[str, nn.Parameter]: ...


class EarlyBird(MaskCallback):
    """Draw tickets of heads, neurons and channels as soon as a rule says that their masks have settled.

    At every step the units' scores are noted on their device; at each probe they are fetched, together, and made into
    masks at every sparsity. Each rule watches each kind of unit by itself. The first time one has settled, a ticket is
    drawn: the masks of all units at that step, saved as ``early_bird/RULE-KIND-SPARSITY.safetensors`` with step,
    statistic and p-value in its provenance. Beside it when the fit ends: ``norms.csv``, ``probes.csv``, and figures of
    the norms with the draws marked and of the distances of masks to one another.

    Args:
        rules: When have masks settled? ``HammingFIFO``, ``SlopeHAC``, ``MannKendall``, ``ADF``, ``SlopeEquivalence``.
        sparsities: Fractions of the units of each kind that a ticket removes, in [0, 1). A layer keeps one unit at
            least.
        scores: What a unit is worth: the size of its ``NetworkSlimming`` coefficient (``"coefficients"``), the
            coefficient itself, so that negative ones go first (``"signed coefficients"``), or the norm of its weights
            (``"weights"``, without ``NetworkSlimming``).
        per: Kind to ``"tensor"`` (ranked in each layer) or ``"all"``, where it is not as in ``PER``.
        watch: Kinds whose masks the rules watch (default: all there are); tickets hold all kinds.
        action: What the first draw does. ``"record"``: nothing; later draws follow, and a rule that never settles
            leaves a ticket of the last step, which says so (``settled: false``). ``"stop"``: the fit ends.
            ``"prune"``: its units are removed, for good, and training goes on. ``"shrink"``: the same, and when the fit
            has ended they are cut out of the module, which then loads no checkpoint of the fit any more. If several
            draw at once, the first sparsity, then rule, acts.
        at: Where tickets are drawn whatever the rules say, as baselines, ``at=0.2-SPARSITY.safetensors``: optimizer
            steps (int), fractions of the fit (float, 1.0 is its last step), or ``"random"``, a step that the seed of
            ``seed_everything`` draws uniformly from the fit.
        patterns: For ``"weights"``: names of blocks to look for, as ``groups_of`` takes them.
        name: Tells several callbacks of one Trainer apart.

    Raises:
        LotteryError: No rule and no ``at``, the same rule twice, an unknown word, or a fraction out of range; in
            ``fit``, no ``NetworkSlimming`` where its coefficients are asked for, a kind that is not there, or no rule
            that can settle within the fit.

    Example:
        >>> from lightning_lottery.functional import HammingFIFO
        >>> EarlyBird([HammingFIFO()], [0.3, 0.8], at=[0.2]).action
        'record'

    Source: You et al. 2020 (the rule on distances, batch-norm scales); Chen et al. 2021, "EarlyBERT" (heads and
    neurons, a fixed 20 % of the steps); a case study on ViTs (rules on the nuclear norm). Unlike the authors' code:
    masks keep exactly ``round((1 - sparsity) * n)`` units, and scores that are all equal draw nothing.
    """

    role = "early_bird"

    def __init__(
        self,
        rules: Sequence[Rule],
        sparsities: Sequence[float],
        *,
        scores: Literal["coefficients", "signed coefficients", "weights"] = "coefficients",
        per: dict[str, Per] | None = None,
        watch: Sequence[str] | None = None,
        action: Literal["record", "stop", "prune", "shrink"] = "record",
        at: Sequence[int | float | Literal["random"]] = (),
        patterns: dict[str, list[Any]] | None = None,
        name: str | None = None,
    ) -> None:
        check_arguments(rules, sparsities, scores, {} if per is None else per, watch, action, at)
        self.rules = names_of(rules)
        self.sparsities = tuple(sparsities)
        self.source = scores
        self.per_kind: dict[str, Per] = {**PER, **(per or {})}
        self.watch = tuple(watch) if watch else None
        self.action = action
        self.at = tuple(at)
        self.patterns = patterns
        super().__init__(None, interval=1, scope=None, name=name)

    def _reset(self) -> None:
        super()._reset()
        self._trainer: Trainer
        self._groups: dict[str, Group] = {}
        self._coefficients: list[Tensor] = []
        self._watch: Watch | None = None
        self._saved: Mapping[str, Any] | None = None
        self._rows: Tensor | None = None  # of scores that wait on the device
        self._waiting: list[tuple[int, int]] = []  # their steps, and what loggers call those
        self._probes: list[Probe] = []
        self._tickets: dict[str, Ticket] = {}
        self._acted: str | None = None  # the ticket by which the first draw acted
        self._baselines: dict[int, list[str]] = {}
        self._random_step = 0  # not drawn yet

    # What anybody may ask.

    @property
    def tickets(self) -> dict[str, Ticket]:
        """Every ticket drawn so far, by the name of its file."""
        return dict(self._tickets)

    @property
    def probes(self) -> list[Probe]:
        """What the rules said, in order."""
        return list(self._probes)

    @property
    def norms(self) -> dict[str, list[tuple[int, float]]]:
        """Step and nuclear norm of the masks, for each kind and sparsity, up to the last probe."""
        return {} if self._watch is None else {name: list(of) for name, of in self._watch.norms.items()}

    def ticket(self) -> Ticket:
        """The first ticket that a rule drew.

        Raises:
            LotteryError: None has.
        """
        for ticket in self._tickets.values():
            if ticket.provenance["settled"]:
                return ticket
        raise LotteryError(f"{self.label} has drawn no ticket: no rule has found settled masks. See `tickets`.")

    # What the base asks.

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that read the units, where they are going to be masked."""
        return self._readers(module) if self.action in ("prune", "shrink") else {}

    def summary(self, module: nn.Module) -> str:
        """What is watched, for the log."""
        sizes = {kind: sum(layers.values()) for kind, layers in self._layers.items()}
        units = ", ".join(f"{size} {kind}s" for kind, size in sizes.items())
        return f"watches {units} at {', '.join(map(str, self.sparsities))} by {', '.join(self.rules) or 'no rule'}."

    def settings(self) -> dict[str, str | int | float | None]:
        """What must be alike in a resumed fit."""
        own = (self.rules, self.sparsities, self.source, self.per_kind, self.watch, self.action, self.at)
        words = ("rules", "sparsities", "scores", "per", "watch", "action", "at")
        return {word: str(value) for word, value in zip(words, own, strict=True)}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._find_units(trainer, pl_module)
        if self._watch is None or self._watch.layers != self._layers:  # not a fit that goes on
            self._watch, self._masked = None, Masked()
        super().on_fit_start(trainer, pl_module)

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        module = trainer.lightning_module
        total = steps_of_fit(trainer, module)
        if self._saved is not None:
            self._random_step = self._saved["random_step"]
        if self._restored is None:
            self._weights_hash["initial_weights"] = hash_of_tensors(self._readers(module))
        self._refuse_late(trainer, total)
        self._baselines = {}
        for when in self.at:
            self._baselines.setdefault(self._step_of(when, total, trainer), []).append(f"at={when}")
        self._say_floors()
        watched = self.watch or tuple(self._layers)
        if self._watch is None:
            self._watch = Watch(self._layers, self.rules, self.sparsities, self.per_kind, watched)
        if self._saved is not None:
            self._take_back(self._saved, module)
            self._saved = None

    def observe(self, params: Mapping[str, nn.Parameter], step: int) -> None:
        if not self._is_watching or not (self._sees_every_step or self._is_probe(step)):
            return
        now = self._scores_now()
        if self._rows is None or self._rows.device != now.device:
            waiting = self._rows
            self._rows = now.new_empty(_ROWS, len(now))
            if waiting is not None:
                self._rows[: len(waiting)] = waiting
        self._rows[len(self._waiting)] = now
        self._waiting.append((step, batches_that_stepped(self._trainer)))

    def method_state(self) -> dict[str, Any]:
        waiting = 0 if self._rows is None else len(self._waiting)
        return {
            "watch": None if self._watch is None else self._watch.state_dict(),
            "rows": None if self._rows is None else self._rows[:waiting].detach().to("cpu", copy=True),
            "waiting": [list(pair) for pair in self._waiting],
            "probes": [[probe.rule, probe.kind, probe.sparsity, list(probe.verdict)] for probe in self._probes],
            "tickets": {n: {"units": dict(t.units), "from": dict(t.provenance)} for n, t in self._tickets.items()},
            "acted": self._acted,
            "random_step": self._random_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._is_fitting and state_dict["watch"] is not None:
            self._restored = state_dict

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        self._saved = state  # until the units are known

    # Hooks.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._is_watching:
            self._update(trainer)
            self._finish()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._masked.mask_weights_()
        folder = folder_of(trainer)  # collective: asked for on every rank
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for name, ticket in self._tickets.items():
                ticket.save(folder / self._folder / f"{name}.safetensors")
            if any(ticket.provenance["settled"] for ticket in self._tickets.values()):
                self.ticket().save(folder / self._ticket_file)
            self._write_records(folder / self._folder, trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if self.action == "shrink" and self._acted and stage == "fit":
            cut_out_(pl_module, self._groups, self._tickets[self._acted].units, self.patterns)
            rank_zero_info(f"{self.label}: the module is smaller now, by the units that '{self._acted}' removes.")
            self._acted = self._watch = None
            self._masked = Masked()  # nothing is masked any more: whoever saves now saves the smaller module

    # Units and their scores.

    @property
    def _layers(self) -> dict[str, dict[str, int]]:
        """Kind to the sizes of its layers, kinds in the order of ``PER``."""
        of = {kind: {n: g.size for n, g in self._groups.items() if g.kind == kind} for kind in PER}
        return {kind: layers for kind, layers in of.items() if layers}

    def _find_units(self, trainer: Trainer, module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        slimming = [callback for callback in callbacks if isinstance(callback, _GivesCoefficients)]
        if self.source != "weights" and not slimming:
            raise LotteryError(
                f"{self.label} reads slimming coefficients, and this Trainer has no NetworkSlimming: add one to its "
                "callbacks, or read scores='weights'."
            )
        found = slimming[0].groups if slimming else groups_of(module, self.patterns)
        self._groups = {name: group for kind in PER for name, group in found.items() if group.kind == kind}
        if missing := [kind for kind in self.watch or () if kind not in self._layers]:
            raise LotteryError(
                f"{self.label} is to watch '{missing[0]}', and {type(module).__name__} has units of the kind "
                f"{' and '.join(self._layers)} only."
            )
        if self.source != "weights":
            self._coefficients = [slimming[0].coefficients[name].detach() for name in self._groups]
        open_attention_(module)

    def _scores_now(self) -> Tensor:
        """The scores of all units, kind by kind and layer by layer, on their device."""
        if self.source == "weights":
            return torch.cat([norm.float() for norm in weight_norms(self._trainer.lightning_module, self._groups)])
        flat = torch.cat([coefficients.float() for coefficients in self._coefficients])
        return flat if self.source == "signed coefficients" else flat.abs()

    def _readers(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that read the units, by their first names."""
        first = ties(module)
        names = {part.parameter for group in self._groups.values() for part in group.consumers}
        wanted = {first.get(name, name) for name in names}
        return {name: param for name, param in named_parameters(module).items() if name in wanted}

    # When.

    @property
    def _is_watching(self) -> bool:
        return self._watch is not None and (self.action == "record" or self._acted is None)

    @property
    def _sees_every_step(self) -> bool:
        return any(rule.watches == "norms" for rule in self.rules.values())

    def _is_probe(self, step: int) -> bool:
        return step in self._baselines or any(step % rule.every == 0 for rule in self.rules.values())

    def _is_due(self, step: int) -> bool:
        return bool(self._waiting) and (self._is_probe(step) or len(self._waiting) == _ROWS)

    def _update(self, trainer: Trainer) -> None:
        """Fetch the scores that wait, let the rules judge them, and draw."""
        if not self._waiting or self._watch is None or self._rows is None:
            return
        rows = self._rows[: len(self._waiting)].cpu()  # the one transfer
        steps, labels = ([pair[i] for pair in self._waiting] for i in (0, 1))
        self._waiting = []
        check_agreement(trainer, {"scores": rows}, f"{self.label} at step {self.step}")
        before = {name: len(of) for name, of in self._watch.norms.items()}
        probes = self._watch.push(steps, rows)
        self._probes += probes
        self._log_norms(trainer, dict(zip(steps, labels, strict=True)), before)
        self._log_probes(trainer, probes)
        for name in self._baselines.get(steps[-1], ()):
            for sparsity in self.sparsities:
                self._draw(f"{name}-{sparsity:g}", sparsity, {"rule": name, "settled": False})
        for probe in sorted(probes, key=lambda probe: self.sparsities.index(probe.sparsity)):
            name = f"{probe.rule}-{probe.series}"
            if probe.verdict.settled and not self._has_settled(name) and self._is_watching:
                self._draw(name, probe.sparsity, self._origin(probe))
                if self.action != "record" and name in self._tickets:
                    self._acted = name
        if self._acted:
            self._act(trainer, self._tickets[self._acted])

    def _has_settled(self, name: str) -> bool:
        return name in self._tickets and bool(self._tickets[name].provenance["settled"])

    def _origin(self, probe: Probe) -> dict[str, Any]:
        verdict = probe.verdict._asdict()
        del verdict["holds"]
        return {"rule": repr(self.rules[probe.rule]), "watched": probe.kind, **verdict}

    def _draw(self, name: str, sparsity: float, origin: Mapping[str, Any]) -> None:
        """Make the ticket of the last step that was pushed."""
        assert self._watch is not None
        module = self._trainer.lightning_module
        units = self._watch.masks(sparsity)
        if not units:
            rank_zero_warn(
                f"{self.label} draws no '{name}': the scores at step {self.step} are all equal, or not finite."
            )
            return
        self._say_what_is_otherwise(sparsity, units)
        self._weights_hash["weights"] = hash_of_tensors(self._readers(module))
        provenance = {
            **self.provenance(),
            "step": self._watch.last_step,
            "scope": None,
            "unit_sparsity": sparsity,
            "scores": self.source,
            **origin,
        }
        self._tickets[name] = self._ticket_of(module, units, provenance)
        if origin["settled"]:
            p_value = "" if origin["p_value"] is None else f", p-value {origin['p_value']:.4g}"
            rank_zero_info(
                f"{self.label}: '{name}' drawn at step {origin['step']} (statistic {origin['statistic']:.4g}{p_value})."
            )

    def _ticket_of(self, module: nn.Module, units: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> Ticket:
        masks, first = parameter_masks(module, units, self._groups), ties(module)
        masks = {first.get(name, name): mask for name, mask in masks.items()}
        return replace(ticket_of(masks, first, self._model_size, provenance), units=dict(units))

    def _act(self, trainer: Trainer, ticket: Ticket) -> None:
        if self.action == "stop":
            trainer.should_stop = True
            return
        masks = {name: mask for name, mask in ticket.masks.items() if name in self._masked.params}
        check_agreement(trainer, masks, f"{self.label} at step {self.step}")
        self._masked = Masked({**self._masked.masks, **masks}, self._masked.params)
        self._target = float(ticket.provenance["unit_sparsity"])
        self._make_true(trainer)
        self._is_shown = False
        self._log(trainer, self._target, {})

    def _finish(self) -> None:
        """What the rules that never settled leave behind when the fit ends."""
        assert self._watch is not None
        names = {f"{r}-{k}-{s:g}": (r, k, s) for s in self.sparsities for r in self.rules for k in self._watched}
        never = [name for name in names if not self._has_settled(name)]
        if never and self.action == "record":
            rank_zero_info(
                f"{self.label}: never settled: {', '.join(never)}. Their tickets are those of the last step."
            )
            for name in never:
                rule, kind, sparsity = names[name]
                self._draw(name, sparsity, {"rule": repr(self.rules[rule]), "watched": kind, "settled": False})
        elif self.action != "record":
            rank_zero_warn(
                f"{self.label} was to {self.action} at the first draw, and no rule has found settled masks in the "
                f"{self.step} steps of this fit: nothing was done. Train longer, or ask for less certainty."
            )

    @property
    def _watched(self) -> tuple[str, ...]:
        return self.watch or tuple(self._layers)

    def _refuse_late(self, trainer: Trainer, total: int | None) -> None:
        """Say which rules cannot settle within the fit; refuse where none can."""
        if total is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        late = {name: rule.earliest for name, rule in self.rules.items() if rule.earliest > total}
        listed = ", ".join(f"{name} (step {earliest})" for name, earliest in late.items())
        what = (
            f"{self.label}: this fit ends at step {total}, before these rules can settle: {listed}. Train longer, or "
        )
        what += "give them a smaller `every`, `smoothing`, `window`, `length`, `patience` or `min_steps`."
        if late and len(late) == len(self.rules) and not self.at:
            raise LotteryError(what)
        if late:
            rank_zero_warn(what)

    def _step_of(self, when: int | float | str, total: int | None, trainer: Trainer) -> int:
        if isinstance(when, int):
            step = when
        elif total is None:
            raise LotteryError(
                f"{self.label} is to draw at {when} of a fit whose number of steps nobody knows beforehand: give `at` "
                "in optimizer steps, or the Trainer `max_steps`."
            )
        elif isinstance(when, str):
            step = self._random_step = self._random_step or self._drawn_from(total)
        else:
            step = max(1, round(when * total))
        if total is not None and step > total and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise LotteryError(f"{self.label} is to draw at step {step}, but this fit ends at step {total}.")
        return step

    def _drawn_from(self, total: int) -> int:
        """A step of the fit, uniformly by the seed of the run alone: no other random number changes by it."""
        if (seed := os.environ.get("PL_GLOBAL_SEED")) is None:
            raise LotteryError(
                f"{self.label} is to draw at a random step, and this run has no seed: call `seed_everything(0)` first, "
                "or give the command `--seed_everything 0`."
            )
        return int(np.random.default_rng(int(seed)).integers(1, total + 1))

    def _say_floors(self) -> None:
        """Warn where a layer of few units would be emptied."""
        for kind, layers in self._layers.items():
            for sparsity in self.sparsities:
                emptied = [n for n, size in layers.items() if round((1 - sparsity) * size) == 0]
                if emptied and self.per_kind[kind] == "tensor":
                    rank_zero_warn(
                        f"{self.label}: sparsity {sparsity} leaves no {kind} of '{emptied[0]}' and {len(emptied) - 1} "
                        f"more layers: one each is kept. Ask for less, or rank {kind}s over all layers (per 'all')."
                    )

    def _say_what_is_otherwise(self, sparsity: float, units: Mapping[str, Tensor]) -> None:
        """Warn where a ticket is not what was asked: a kind left whole, layers kept from being emptied."""
        assert self._watch is not None
        at, emptied = f"{self.label} at step {self._watch.last_step}", self._watch.emptied(sparsity)
        for kind, layers in self._layers.items():
            if not layers.keys() & units.keys():
                rank_zero_warn(
                    f"{at} removes no {kind}s: their scores do not tell those of a layer apart, or are not finite."
                )
            if self.per_kind[kind] == "all" and (names := [name for name in layers if name in emptied]):
                rank_zero_warn(
                    f"{at}: sparsity {sparsity} over all layers leaves no {kind} of {', '.join(names)}: one each is "
                    f"kept. Ask for less, or rank {kind}s in each layer (per 'tensor')."
                )

    def _take_back(self, state: Mapping[str, Any], module: nn.Module) -> None:
        assert self._watch is not None
        self._watch.load_state_dict(state["watch"])
        self._waiting = [(step, label) for step, label in state["waiting"]]
        if state["rows"] is not None:
            self._rows = torch.empty(_ROWS, state["rows"].shape[1], dtype=state["rows"].dtype)
            self._rows[: len(state["rows"])] = state["rows"]
        self._probes = [Probe(r, k, s, Verdict(*v)) for r, k, s, v in state["probes"]]
        self._acted = state["acted"]
        own = {name: (t["units"], t["from"]) for name, t in state["tickets"].items()}
        self._tickets = {name: self._ticket_of(module, units, origin) for name, (units, origin) in own.items()}

    # Records.

    @property
    def _folder(self) -> str:
        return f"early_bird-{self.name}" if self.name else "early_bird"

    def _log_norms(self, trainer: Trainer, labels: Mapping[int, int], before: Mapping[str, int]) -> None:
        """Every step's norms, under what loggers called that step."""
        assert self._watch is not None
        at: dict[int, dict[str, float]] = {}
        for name, of in self._watch.norms.items():
            for step, norm in of[before[name] :]:
                at.setdefault(step, {})[self._key(f"early_bird/norm/{name}")] = norm
        for step, values in at.items():
            log_to_all(trainer, values, labels[step])

    def _log_probes(self, trainer: Trainer, probes: Sequence[Probe]) -> None:
        values: dict[str, float] = {}
        for probe in probes:
            found = {**probe.verdict._asdict(), "step": None, "holds": None}
            place = f"early_bird/{probe.rule}/{probe.series}"
            values |= {f"{place}/{word}": float(value) for word, value in found.items() if value is not None}
        if values:
            self._to_loggers(trainer, values)

    def _write_records(self, folder: Path, trainer: Trainer) -> None:
        """The norms of every step, what every probe said, and both as figures, also for loggers that take them."""
        if self._watch is None:
            return
        draws: dict[str, dict[str, int]] = {name: {} for name in self._watch.norms}
        for rule in self.rules:
            for name in draws:
                if self._has_settled(f"{rule}-{name}"):
                    draws[name][rule] = self._tickets[f"{rule}-{name}"].provenance["step"]
        for name, figure in write_records(folder, self._watch, self._probes, draws).items():
            draw_to_all(trainer, self._key(f"early_bird/{name}"), figure, self.step)
