"""Early-bird tickets: drawn while the network trains, as soon as the masks of its units have settled."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_lottery.checks import check_word, check_words
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import Location, location, write_image, write_table
from lightning_lottery.functional.settling.detector import described
from lightning_lottery.functional.settling.rules import Rule
from lightning_lottery.functional.settling.watch import Per, Probe, names_of
from lightning_lottery.hooks.boards import Charts, lay_out
from lightning_lottery.hooks.clock import StepClock, comes_later, put_in_order, refuse_another_module, steps_of_fit
from lightning_lottery.hooks.competing import competing_groups, slimming_in
from lightning_lottery.hooks.cutting import Cutting
from lightning_lottery.hooks.explaining import Explanation
from lightning_lottery.hooks.late_freezing import LateFreezing
from lightning_lottery.hooks.loggers import draw_to_all, folder_of, log_to_all
from lightning_lottery.hooks.masked import check_agreement
from lightning_lottery.hooks.named import NamedCallback
from lightning_lottery.hooks.private import batches_that_stepped
from lightning_lottery.hooks.resuming import check_state, reading_state, start_clock
from lightning_lottery.hooks.strategies import refuse_sharding
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.draws import COLUMNS, Draws, check_what_draws, frame_of, name_of, readers
from lightning_lottery.units.open_attention import open_attention_
from lightning_lottery.units.parts import KINDS, Group
from lightning_lottery.units.score_log import FILE, ScoreLog
from lightning_lottery.units.scores import weight_norms
from lightning_lottery.units.watcher import PER, Judged, Noted, UnitWatcher, check_per, in_order, layers_by_kind

STATE_VERSION = 2
"""In version 1 the masks of a draw lay here; they are the freezing callback's now."""


class EarlyBird(NamedCallback):
    """Draw tickets of heads, neurons and channels as soon as a rule says that their masks have settled.

    At every step the units' scores are noted on their device; at each probe they are fetched, together, and made into
    masks at every sparsity. Each rule watches each kind of unit by itself. The first time one has settled, a ticket is
    drawn: the masks of all units at that step, saved as ``early_bird/RULE-KIND-SPARSITY.safetensors`` with step,
    statistic and p-value in its provenance, the first of all also as ``early_bird/first.safetensors``.

    Beside them when the fit ends, each picture as PNG and SVG: ``settling`` (how far masks move, their norms, what each
    rule said with its threshold, where ``SlopeEquivalence`` is one the smallest margin that would have held, and the
    draws, on one axis of steps), ``distances`` (of every two masks), ``coefficients`` (the scores of all units over
    steps); the tables ``draws.csv``, ``norms.csv``, ``distances.csv`` and ``probes.csv``. While it trains,
    ``scores.log`` grows: the scores of every step that is noted, bit for bit, two to four bytes a unit and step, 1 GiB
    at most. From it ``replay_draws`` says what other rules, at other sparsities, would have drawn.

    Where the first draw removes units, that ticket is ``ticket.safetensors``, as of every callback that masks. Where it
    cuts them out of the running fit (``"shrink"``), module, gradients, optimizer state, averages and coefficients are
    smaller from that step on, and so are checkpoints, which say so under ``lightning_lottery.units_left``; one from
    before loads into a whole module only, one from after into any, in a Trainer with this callback. ``shrunk.csv`` has
    parameters, multiply-adds of a batch's forward pass and seconds of a step, before and after. Training is that of
    ``"prune"`` up to rounding, but for dropout, which draws fewer random numbers, and clipping by norm, to which L1
    penalties of removed coefficients add nothing.

    Args:
        rules: When have masks settled? ``HammingFIFO``, ``SlopeHAC``, ``MannKendall``, ``SlopeEquivalence``; ``ADF``,
            with a warning that it draws on trends.
        sparsities: Fractions of the units of each kind that a ticket removes, in [0, 1). A layer keeps one unit at
            least.
        scores: What a unit is worth: the size of its ``NetworkSlimming`` coefficient (``"coefficients"``), the
            coefficient itself, so that negative ones go first (``"signed coefficients"``), or the norm of its weights
            (``"weights"``, without ``NetworkSlimming``).
        per: Kind to ``"tensor"`` (ranked in each layer) or ``"all"``, where it is not as in ``PER``.
        watch: Kinds whose masks the rules watch (default: all there are); tickets hold all kinds.
        action: What the first draw does. ``"record"``: nothing; later draws follow, and a rule that never settles
            leaves a ticket of the last step, which says so (``settled: false``). ``"stop"``: the fit ends.
            ``"prune"``: its units are masked, for good, and training goes on. ``"shrink"``: they are cut out of the
            module there and then, and the smaller one trains on. If several draw at once, the first sparsity, then
            rule, acts.
        at: Where tickets are drawn whatever the rules say, as baselines, ``at=0.2-SPARSITY.safetensors``: optimizer
            steps (int), fractions of the fit (float, 1.0 is its last step), or ``"random"``, a step that the seed of
            ``seed_everything`` draws uniformly from the fit. None of them acts, and none follows once a rule's draw has
            ended the fit or shrunk the module.
        patterns: For ``"weights"``: names of blocks to look for, as ``groups_of`` takes them.
        name: Tells several callbacks of one Trainer apart; the folder is then ``early_bird-NAME``.

    Raises:
        LotteryError: No rule and no ``at``, the same rule twice, an unknown word, or a fraction out of range; in
            ``fit``, no ``NetworkSlimming`` where its coefficients are asked for, a kind that is not there, or no rule
            that can settle within the fit; for ``"shrink"``, whoever would go on with tensors of the whole module: an
            optimizer that keeps others than one of the parameter's shape for each (LBFGS, Adafactor, wrappers), a list
            of parameters in an attribute, a hook on one, an average of a part, a mask on them, spawned ranks.

    Example:
        >>> from lightning_lottery.functional import HammingFIFO
        >>> EarlyBird([HammingFIFO()], [0.3, 0.8], at=[0.2]).action
        'record'

    Source: You et al. 2020 (the rule on distances, batch-norm scales); Chen et al. 2021, "EarlyBERT" (heads and
    neurons, a fixed 20 % of the steps); a case study on ViTs (rules on the nuclear norm). Unlike the authors' code:
    masks keep exactly ``round((1 - sparsity) * n)`` units, and scores that are all equal draw nothing.
    """

    lottery_order: ClassVar[int] = 1
    """Looks at weights after all callbacks that may write them."""

    role = "early_bird"

    network = "pruned"
    """What records call the network that a draw made smaller."""

    lottery_charts: ClassVar[Charts] = {
        "early bird": {
            "nuclear norm of the masks": ("(.+/)?early_bird/norm/",),
            "p-values of the rules": ("(.+/)?early_bird/p_value/",),
            "distances of the masks": ("(.+/)?early_bird/statistic/",),
        }
    }

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
        check_what_draws(rules, sparsities, at)
        check_per({} if per is None else per)
        check_word("scores", scores, ("coefficients", "signed coefficients", "weights"))
        check_word("action", action, ("record", "stop", "prune", "shrink"))
        if watch is not None:
            check_words("watch", watch, KINDS)
        super().__init__(name)
        self.rules = names_of(rules)
        self.sparsities = tuple(sparsities)
        self.source = scores
        self.per_kind: dict[str, Per] = {**PER, **(per or {})}
        self.watch = None if watch is None else tuple(watch)
        self.action = action
        self.at = tuple(at)
        self.patterns = patterns
        self.clock = StepClock()
        self.freezing = LateFreezing("EarlyBird", self._readers, name=name) if action == "prune" else None
        """The callback that keeps removed units at zero, where a draw masks some."""
        self.cutting = Cutting(self.label, name, patterns) if action == "shrink" else None
        """Who cuts units out of the running fit, where a draw does."""
        self._is_fitting = True
        self._reset()

    def _reset(self) -> None:
        self.clock.reset()
        self._fitted: weakref.ref[LightningModule] | None = None
        self._watcher: UnitWatcher | None = None
        self._coefficients: list[Tensor] = []
        self._restored: Mapping[str, Any] | None = None
        self._draws = Draws(self.source)
        self._log_file: ScoreLog | None = None
        self._acted: str | None = None  # the ticket by which the first draw acted
        if self.cutting is not None:
            self.cutting.reset()

    # What anybody may ask.

    @property
    def tickets(self) -> dict[str, Ticket]:
        """Every ticket drawn so far, by the name of its file."""
        return dict(self._draws.tickets)

    @property
    def probes(self) -> list[Probe]:
        """What the rules said, in order."""
        return [] if self._watcher is None else list(self._watcher.probes)

    @property
    def norms(self) -> dict[str, list[tuple[int, float]]]:
        """Step and nuclear norm of the masks, for each kind and sparsity, up to the last probe."""
        norms = {} if self._watcher is None else self._watcher.watch.norms
        return {name: list(series) for name, series in norms.items()}

    def ticket(self) -> Ticket:
        """The first ticket that a rule drew.

        Raises:
            LotteryError: None has.
        """
        for ticket in self._draws.settled().values():
            return ticket
        raise LotteryError(f"{self.label} has drawn no ticket: no rule has found settled masks. See `tickets`.")

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that read units which the first draw has cut out of the module, in [0, 1)."""
        if self.cutting is None or self._acted is None:
            return 0.0
        return self.tickets[self._acted].sparsity

    def explanation(self, trainer: Trainer, module: LightningModule) -> Explanation:
        """Which units a draw may cut out of the module, once a fit has begun; raises as that fit would."""
        assert self.cutting is not None and self._watcher is not None
        self.cutting.check(trainer, module, self._watcher.groups)
        return self.cutting.explanation(module, self._watcher.groups)

    # Hooks, in the order in which Lightning calls them.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if self._is_fitting:
            if trainer.global_step == 0:  # otherwise a second `fit` of the same Trainer, which goes on
                self._reset()
            refuse_another_module(self._fitted, pl_module, self.label)
            self._fitted = weakref.ref(pl_module)
            refuse_sharding(trainer, self.label)
        if self.freezing is not None:
            self.freezing.join(trainer, pl_module, stage)
        if self.cutting is not None:
            self.cutting.listen(trainer, pl_module, is_fitting=self._is_fitting)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state, whole = self._restored, None if self.cutting is None else self.cutting.whole
        if whole is None:
            whole = frame_of(pl_module, self._find_units(trainer, pl_module))
        with reading_state(self.label):
            groups = in_order({name: whole.groups[name] for name in (state or {}).get("units", whole.groups)})
            if state is not None and self.cutting is not None and state["acted"]:
                self.cutting.take_up(groups, state)
        if self._watcher is None or self._watcher.groups != groups:  # otherwise a fit that goes on
            self._watcher = UnitWatcher(groups, self.rules, self.sparsities, self.per_kind, self.watch)
        if state is None:
            self._draws.begin(pl_module, self._watcher)
        else:
            with reading_state(self.label):
                self.clock.load_state_dict(state["clock"])
                self._watcher.load_state_dict(state)
                self._draws.load_state_dict(state, whole)
                self._acted = state["acted"]
        if self.freezing is not None and self._acted:
            with reading_state(self.label):
                self.freezing.installed = self.tickets[self._acted]  # its masks lie in its own state
        if not comes_later(pl_module):
            self._find_times(trainer, pl_module, self._watcher)
        units = ", ".join(f"{sum(sizes.values())} {kind}s" for kind, sizes in layers_by_kind(groups).items())
        by = f"{', '.join(map(str, self.sparsities))} by {', '.join(self.rules) or 'no rule'}"
        rank_zero_info(f"{self.label}: watches {units} at {by}.")
        self._warn(self._watcher.scarce())
        cautions = {type(rule).__name__: rule.caution for rule in self.rules.values() if rule.caution}
        self._warn(f": {rule} {caution}" for rule, caution in cautions.items())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state, self._restored = self._restored, None
        if self.cutting is not None and self._watcher is not None:
            self.cutting.begin(trainer, pl_module, self._watcher.groups)
        if self._watcher is not None and comes_later(pl_module):
            self._find_times(trainer, pl_module, self._watcher)
        lay_out(trainer, self, is_new=self.clock.is_new)
        start_clock(self.clock, trainer, self.label)
        folder = folder_of(trainer)  # collective: asked for on every rank
        if trainer.is_global_zero and not trainer.fast_dev_run and self._watcher is not None:  # type: ignore[attr-defined]
            self._open_log(folder, trainer.ckpt_path, self._watcher, state)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.cutting is not None:
            self.cutting.costs.start(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any = None,
        batch: Any = None,
        batch_idx: int = 0,
        *_: Any,
    ) -> None:
        watcher, has_stepped = self._watcher, self.clock.tick(trainer)
        if self.cutting is not None:
            self.cutting.costs.stop(pl_module.device, has_stepped=has_stepped)
        if not has_stepped or watcher is None or not self._is_watching:
            return
        if watcher.looks_at(self.clock.step):
            watcher.note(self.clock.step, batches_that_stepped(trainer), self._scores(pl_module, watcher))
        if watcher.is_due(self.clock.step):
            self._update(trainer, pl_module, watcher, (batch, batch_idx))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._watcher is not None and self._is_watching:
            self._update(trainer, pl_module, self._watcher)
            self._finish(pl_module, self._watcher)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = folder_of(trainer) / self.named("early_bird")  # collective: asked for on every rank
        if self.cutting is not None and self._acted:
            self.cutting.write(trainer, self._acted, self.tickets[self._acted])
        if self._watcher is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for name, ticket in self.tickets.items():
            ticket.save(folder / f"{name}.safetensors")
        if self._draws.settled():
            self.ticket().save(folder / "first.safetensors")
        self._watcher.write(folder)
        write_table(folder / "draws.csv", self._draws.rows(), "draws", columns=COLUMNS)
        self._write_pictures(trainer, folder, self._watcher)
        if self._log_file is not None:
            self._log_file.end()

    def _write_pictures(self, trainer: Trainer, folder: Location, watcher: UnitWatcher) -> None:
        """Write the pictures of the fit, and hand them to the loggers that take figures."""
        figures = watcher.figures({name: ticket.provenance["step"] for name, ticket in self._draws.settled().items()})
        if self._log_file is not None and (scores := self._log_file.read()):
            figures["coefficients"] = scores.figure()
        for name, figure in figures.items():
            write_image(folder, name, figure)
            draw_to_all(trainer, self._key(name), figure, self.clock.step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.cutting is not None:
            self.cutting.say_in(checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.cutting is not None:
            self.cutting.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.cutting is not None:
            self.cutting.end()

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "method": "EarlyBird",
            "settings": self._settings(),
            "clock": self.clock.state_dict(),
            **(self._watcher.state_dict() if self._watcher is not None else {"watch": None}),
            **self._draws.state_dict(),
            "acted": self._acted,
            **(self.cutting.state_dict(self._watcher.groups) if self.cutting and self._watcher and self._acted else {}),
            "score_log": None if self._log_file is None else self._log_file.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._is_fitting:
            return  # a checkpoint is tested or validated: that is no reason to go on from it
        with reading_state(self.label):
            if state_dict["version"] < STATE_VERSION:
                raise LotteryError(
                    f"The checkpoint holds state of {self.label} in version {state_dict['version']}, which this "
                    "lightning_lottery reads no more: finish that fit with the one that began it, or start it afresh."
                )
            check_state(state_dict, STATE_VERSION, self.label, {"method": "EarlyBird", **self._settings()})
            if state_dict["watch"] is not None:  # nothing was watched yet when a learning-rate finder saved
                self._restored = state_dict

    def _settings(self) -> dict[str, str]:
        """What must be alike in a resumed fit."""
        words = ("rules", "sparsities", "scores", "per", "watch", "action", "at")
        settings = (self.rules, self.sparsities, self.source, self.per_kind, self.watch, self.action, self.at)
        return {word: str(value) for word, value in zip(words, settings, strict=True)}

    # Units and their scores.

    def _find_units(self, trainer: Trainer, module: LightningModule) -> dict[str, Group]:
        slimming = slimming_in(trainer)
        if not slimming and self.source != "weights":
            raise LotteryError(
                f"{self.label} reads slimming coefficients, and this Trainer has no NetworkSlimming: add one to its "
                "callbacks, or read scores='weights'."
            )
        groups = in_order(competing_groups(trainer, module, self.patterns, self.label))
        kinds = layers_by_kind(groups)
        if missing := [kind for kind in self.watch or () if kind not in kinds]:
            raise LotteryError(
                f"{self.label} is to watch '{missing[0]}', and {type(module).__name__} has units of the kind "
                f"{' and '.join(kinds)} only."
            )
        if slimming and self.source != "weights":
            # Parameters for the whole fit: optimizers and checkpoints write into them in place.
            coefficients = {name: c for callback in slimming for name, c in callback.coefficients.items()}
            self._coefficients = [coefficients[name].detach() for name in groups]
        open_attention_(module)
        return groups

    def _scores(self, module: nn.Module, watcher: UnitWatcher) -> Tensor:
        """Coefficients or norms of all units in the watcher's order, on their device."""
        parts = weight_norms(module, watcher.groups) if self.source == "weights" else self._coefficients
        return torch.cat([part.float() for part in parts])

    def _readers(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that a draw may mask, once the units are known."""
        return {} if self._watcher is None else readers(module, self._watcher.groups)

    # The log of scores.

    def _open_log(
        self, folder: Location, ckpt_path: Any, watcher: UnitWatcher, state: Mapping[str, Any] | None
    ) -> None:
        """Begin the log, or go on with that of the fit whose checkpoint has this state."""
        if self._log_file is not None:
            return  # a second fit of the same Trainer
        self._log_file = ScoreLog(
            {
                "scores": self.source,
                "layers": watcher.watch.layers,
                "per": self.per_kind,
                "watch": watcher.kinds,
                "rules": {name: described(rule) for name, rule in self.rules.items()},
                "sparsities": self.sparsities,
            }
        )
        name = self.named("early_bird")
        if state is None:
            self._log_file.begin(folder / name / FILE)
            return
        with reading_state(self.label):
            saved = state.get("score_log")  # earlier versions kept none
            self._log_file.load_state_dict(saved or {"checksum": -1, "why_ended": None})
        parents = [*Path(str(ckpt_path)).parents][:2] if isinstance(location(ckpt_path or ""), Path) else []
        step = watcher.watch.last_step
        if not self._log_file.go_on(folder / name / FILE, [parent / name / FILE for parent in parents], step):
            rank_zero_info(
                f"{self.label}: {FILE} begins anew after step {step}: what was logged until then lies neither in this "
                "run's folder nor beside the checkpoint."
            )

    def _append(self, noted: Noted) -> None:
        if self._log_file is not None and self._log_file.why_ended is None:
            self._log_file.append(noted.steps, noted.rows)
            if self._log_file.why_ended is not None:
                self._warn([f": {FILE} {self._log_file.why_ended}, and ends before step {noted.steps[0]}."])

    # Draws.

    @property
    def _is_watching(self) -> bool:
        return self.action == "record" or self._acted is None

    def _find_times(self, trainer: Trainer, module: LightningModule, watcher: UnitWatcher) -> None:
        """When tickets are drawn whatever the rules say; refuse times and rules that come after the end."""
        total, is_cut_short = steps_of_fit(trainer, module), bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        ends = float("inf") if total is None or is_cut_short else total
        late = {name: rule.earliest for name, rule in self.rules.items() if rule.earliest > ends}
        if late:
            listed = ", ".join(f"{name} (step {earliest})" for name, earliest in late.items())
            sentence = (
                f": this fit ends at step {total}, before these rules can settle: {listed}. Train longer, or give them "
                "a smaller `interval`, `smoothing`, `window`, `length`, `patience` or `min_steps`."
            )
            if len(late) == len(self.rules) and not self.at:
                raise LotteryError(f"{self.label}{sentence}")
            self._warn([sentence])
        try:
            self._draws.plan(self.at, total, is_cut_short=is_cut_short)
        except LotteryError as error:
            raise LotteryError(f"{self.label} is to {error}") from error
        watcher.times = self._draws.times.keys()

    def _update(
        self, trainer: Trainer, module: LightningModule, watcher: UnitWatcher, batch: tuple[Any, int] = (None, 0)
    ) -> None:
        """Fetch the scores that wait, let the rules judge them, draw, and act; ``batch``: the present, its number."""
        noted = watcher.take()
        if not noted.steps:
            return
        # Before anything is judged: ranks with other scores would draw at other steps, and the next collective of one
        # would meet none of the others.
        check_agreement(trainer, {"scores": noted.rows}, f"{self.label} at step {self.clock.step}")
        self._append(noted)
        # The log holds coefficients as they are, signs and all; where their size counts it is taken here.
        judged = watcher.judge(noted._replace(rows=noted.rows.abs()) if self.source == "coefficients" else noted)
        self._log(trainer, noted, judged)
        # Everything is drawn from the masks of the last step that was noted. That is the probe's own step: whatever
        # waits is fetched as soon as a probe is due, so none lies among the steps before.
        self._warn(self._draws.draw_at_times(module, watcher))
        # By sparsity, then by rule, as the user lists them: which of several draws acts depends on nothing else.
        for probe in sorted(judged.probes, key=lambda probe: self.sparsities.index(probe.sparsity)):
            name = name_of(probe.rule, probe.kind, probe.sparsity)
            if not probe.verdict.settled or self._draws.has_settled(name) or not self._is_watching:
                continue
            self._warn(self._draws.draw_by(probe, module, watcher))
            if name in self.tickets:
                p_value = "" if probe.verdict.p_value is None else f", p-value {probe.verdict.p_value:.4g}"
                evidence = f"statistic {probe.verdict.statistic:.4g}{p_value}"
                rank_zero_info(
                    f"{self.label}: the masks of {probe.kind}s have settled at step {probe.verdict.step} "
                    f"by {probe.rule}, {100 * probe.sparsity:g} % removed ({evidence}): ticket '{name}'."
                )
                if self.action != "record":
                    self._acted = name
                    self._act(trainer, module, watcher, probe.sparsity, batch)

    def _act(
        self,
        trainer: Trainer,
        module: LightningModule,
        watcher: UnitWatcher,
        sparsity: float,
        batch: tuple[Any, int],
    ) -> None:
        ticket = self.tickets[str(self._acted)]
        if self.freezing is not None:
            self.freezing.install(ticket, sparsity)
        elif self.cutting is not None:
            self._coefficients = []  # those of the whole module would outlive it
            self.cutting.cut_(trainer, module, watcher.groups, ticket.units, step=self.clock.step, batch=batch)
            self.cutting.write(trainer, str(self._acted), ticket)
        else:
            trainer.should_stop = True

    def _finish(self, module: nn.Module, watcher: UnitWatcher) -> None:
        """What the rules that never settled leave behind when the fit ends."""
        never = self._draws.never_settled(watcher)
        if self.action != "record":
            rank_zero_warn(
                f"{self.label} was to {self.action} at the first draw, and no rule has found settled masks in the "
                f"{self.clock.step} steps of this fit: nothing was done. Train longer, or ask for less certainty."
            )
        elif never:
            names = ", ".join(never)
            rank_zero_info(f"{self.label}: never settled: {names}. Their tickets are those of the last step.")
            for name, (rule, kind, sparsity) in never.items():
                origin = {"rule": repr(rule), "watched": kind, "settled": False}
                self._warn(self._draws.draw(module, watcher, name, sparsity, origin))

    def _warn(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            rank_zero_warn(f"{self.label}{sentence}")

    # Records.

    def _key(self, key: str) -> str:
        return super()._key(f"early_bird/{key}")

    def _log(self, trainer: Trainer, noted: Noted, judged: Judged) -> None:
        """Every step's norms under what loggers called that step, and of each probe what its rule judged by.

        ``probes.csv`` has all else.
        """
        labels = dict(zip(noted.steps, noted.labels, strict=True))
        # In order: TensorBoard takes back what it has of a curve where a smaller step comes.
        for step, norms in sorted(judged.norms.items()):
            log_to_all(trainer, {self._key(f"norm/{series}"): norm for series, norm in norms.items()}, labels[step])
        values = {}
        for probe in judged.probes:
            word = "statistic" if probe.verdict.p_value is None else "p_value"
            values[self._key(f"{word}/{probe.rule}/{probe.series}")] = float(getattr(probe.verdict, word))
        if values:
            log_to_all(trainer, values)
