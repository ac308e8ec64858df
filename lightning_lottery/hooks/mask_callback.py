"""When masks change: the one place for hooks, schedule, state and records of every callback that makes masks."""

import os
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lottery.checks import check_count, check_word, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import Location, write_image, write_table
from lightning_lottery.functional.masks import Masks, Scores, keep_top, overlap
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.sharded import keep_top_of_shards
from lightning_lottery.hooks.boards import Charts, lay_out, write_text
from lightning_lottery.hooks.clock import (
    StepClock,
    comes_later,
    gradients_matter,
    put_in_order,
    refuse_another_module,
    resolve,
)
from lightning_lottery.hooks.explaining import Explanation, Sheet, parameters_sheet, schedule_sheet
from lightning_lottery.hooks.history import COLUMNS, History
from lightning_lottery.hooks.left_out import copies, missed
from lightning_lottery.hooks.loggers import draw_to_all, folder_of, log_to_all, takes_figures
from lightning_lottery.hooks.masked import Masked, check_agreement, cloned
from lightning_lottery.hooks.named import NamedCallback
from lightning_lottery.hooks.resuming import check_hashes, check_state, masks_in, reading_state, start_clock
from lightning_lottery.hooks.strategies import refuse_copies, refuse_other_sharding, refuse_sharding, restores_late
from lightning_lottery.hooks.upkeep import Upkeep
from lightning_lottery.scope import Candidate, Scope, named_parameters, size_of, ties
from lightning_lottery.shards import is_sharded, local, reshard
from lightning_lottery.ticket import Ticket, ticket_of, versions

STATE_VERSION = 1


class MaskCallback(NamedCallback):
    """Owns when masks change; a method says by which scores. Zeros bring no speed: see ``shrink``.

    After an optimizer step that happened: ``observe``, and where a new mask is due: schedule, ``scores``, ``keep_top``,
    install, log. All state is saved in checkpoints. Every rank holds the same masks, compared by hash at each change,
    or parts of one whole, whose hash is the same on any number of ranks.

    When the fit ends, the run's folder holds ``ticket.safetensors``, and where masks changed ``pruning.png``,
    ``pruning.svg`` and their numbers ``pruning.csv``: the fraction removed of each layer over steps, above target and
    achieved sparsity, above training loss and mask change (the loss in at most 1,000 points, each a mean; at most 500
    updates). Loggers that take figures get the picture at validations too, each time the fit is half as long again.

    Args:
        schedule: Sparsity by optimizer step, or None for masks that never change.
        interval: Optimizer steps between new masks, >= 1.
        scope: Which parameters compete.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        name: Tells several callbacks of one Trainer apart: in checkpoints, logs and file names.
        log_layers: Log the sparsity of each parameter in scope as well, a curve for each.

    Raises:
        LotteryError: ``interval`` < 1, another ``per``, or a name that is no file name.
    """

    frozen: ClassVar[bool] = True
    """A removed weight stays exactly zero: weights are masked at every step, gradients where that matters."""

    follows_scope: ClassVar[bool] = True
    """Whether the scope says which parameters get masks; otherwise a ticket does."""

    knows_shards: ClassVar[bool] = False
    """Whether the method works by entries, so that under FSDP2 each rank can do it for its shards."""

    lottery_order: ClassVar[int] = 1
    """Acts after all callbacks that may write weights."""

    role = "pruning"

    network = "pruned"
    """What records call the network that it masks."""

    lottery_charts: ClassVar[Charts] = {
        "pruning": {
            "sparsity: target and achieved": ("(.+/)?sparsity/target$", "(.+/)?sparsity/scope$"),
            "training loss and mask change": ("(?!.*([Vv]al|[Tt]est)).*[Ll]oss", "(.+/)?mask/change$"),
        }
    }

    def __init__(
        self,
        schedule: Schedule | None,
        *,
        interval: int,
        scope: Scope | None,
        name: str | None,
        per: Literal["all", "tensor"] = "all",
        log_layers: bool = False,
    ) -> None:
        check_count("interval", interval, "a number of optimizer steps")
        check_word("per", per, ("all", "tensor"))
        if scope is not None and not isinstance(scope, Scope):
            raise LotteryError(f"`scope` is a Scope, such as Scope(include=('encoder.*',)), got {scope!r}.")
        super().__init__(name)
        self.schedule = schedule
        self.interval = interval
        self.scope = scope or Scope()
        self.per: Literal["all", "tensor"] = per
        self.log_layers = log_layers
        self.clock = StepClock()
        self._is_fitting = True
        self._reset()

    def _reset(self) -> None:
        self.clock.reset()
        self._upkeep = Upkeep(self.label, frozen=self.frozen)
        self._fitted: weakref.ref[LightningModule] | None = None
        self._is_planned = False
        self._ties: dict[str, str] = {}
        self._model_size = 0
        self._resolved: Schedule | None = None
        self._target = 0.0  # the sparsity that the present masks were made for
        self._restored: Mapping[str, Any] | None = None
        self._weights_hash: dict[str, str] = {}
        self._dead: set[str] = set()
        self._is_shown = False
        self._history = History()
        self._written: Location | None = None  # the ticket, once a fit of shards has ended

    # What a method says.

    def observe(self, params: Mapping[str, Tensor], step: int) -> None:
        """See one optimizer step that happened: weights are stepped, gradients alive, unscaled and clipped.

        Where removed weights are frozen, their gradients may be anything. Of sharded parameters it sees this rank's
        parts, as ``scores`` does.
        """

    def look_at_gradients(self, params: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        """See gradients before an optimizer's step, those of removed weights too: not yet clipped, nor masked."""

    def scores(self, params: Mapping[str, Tensor], step: int) -> Scores:
        """Scores for the mask that is due after optimizer step ``step``."""
        raise NotImplementedError

    def find_masks(self, params: Mapping[str, Tensor], sparsity: float, within: Masks | None) -> Masks:
        """The masks that are due now; removed entries come back only where ``within`` is None.

        Of shards they take the memory of the present ones.
        """
        scores = self.scores(params, self.step)
        if scores.keys() != params.keys():
            odd = sorted(scores.keys() ^ params.keys())
            raise LotteryError(
                f"{self.label}: `scores` gives one tensor for each weight in scope, which '{odd[0]}' is not."
            )
        if shards := self._masked.shards:
            masks, self._masked.stayed = keep_top_of_shards(
                scores,
                sparsity,
                sum_over_ranks=shards.sum,
                rank=shards.rank,
                ranks=shards.ranks,
                within=within,
                per=self.per,
                into=self._masked.masks,
            )
            return masks
        return keep_top(dict(scores), sparsity, within=within, per=self.per)

    def method_state(self) -> dict[str, Any]:
        """The method's own state for a checkpoint: tensors by parameter name, and primitives."""
        return {}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``method_state`` gave, or start without it where it is missing."""

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that get masks, by name."""
        return self.scope.select(module, self._upkeep.trained)

    def summary(self, module: nn.Module) -> str:
        """What gets masks and what does not, for the log."""
        return self.scope.summary(module, self._upkeep.trained)

    def candidates(self, module: nn.Module) -> list[Candidate]:
        """Every parameter of the fit's module, in scope or why not; optimizers are known once a fit has begun."""
        return self.scope.explain(module, self._upkeep.trained)

    def warnings(self, module: nn.Module) -> list[str]:
        """What is not pruned though one would expect it to be, in sentences."""
        if not self.follows_scope:
            return []
        candidates = self.candidates(module)
        twins = copies(module, candidates)
        left_out = missed(candidates, size_of(module), apart_from=twins)
        return ([f"{self.label} {left_out}"] if left_out else []) + [
            f"{self.label}: '{copy}' is built as '{original}' is and is not trained, so it is not masked. Where it is "
            "what validation uses, a dense network is measured. Exclude it in `scope` if that is meant."
            for copy, original in twins.items()
        ]

    def starting_masks(self, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """The masks before the first optimizer step, this rank's parts: everything is kept."""
        return {name: torch.ones_like(local(param), dtype=torch.bool) for name, param in params.items()}

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        """Prepare and validate once parameters, masks and the schedule in steps are known, before any step."""

    def provenance(self) -> dict[str, Any]:
        """What a ticket says of its origin: plain JSON values."""
        return {
            "method": self.method_name,
            "scope": repr(self.scope),
            "step": self.step,
            "seed": int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None,
            "versions": versions("torch", "lightning", "lightning_lottery"),
            **self._weights_hash,
        }

    def settings(self) -> dict[str, str | int | float | None]:
        """What a resumed fit must ask for as the first one did: plain values by name."""
        return {"scope": repr(self.scope), "schedule": repr(self.schedule), "interval": self.interval, "per": self.per}

    def plan_sheet(self, schedule: Schedule) -> Sheet:
        """What is removed when: a table."""
        return schedule_sheet(schedule, self.interval, self.parameters)

    def bytes_per_weight(self, param: Tensor) -> int:
        """Memory the method adds for each entry of a parameter in scope, checkpoints aside."""
        return 1

    # What anybody may ask.

    def explanation(self, module: nn.Module) -> Explanation:
        """What is about to be pruned, when, and at what cost, once a fit has begun."""
        masked, schedule = self.parameters, self._resolved
        weights = {name: local(param).numel() for name, param in masked.items()}
        added = sum(weights[name] * self.bytes_per_weight(local(param)) for name, param in masked.items())
        each = added / max(1, sum(weights.values()))
        where = f" to this rank of {self._masked.shards.ranks}" if self._masked.shards else ""
        return Explanation(
            self.label,
            parameters_sheet(self.label, self.candidates(module), masked, self._ties),
            self.warnings(module),
            None if schedule is None else self.plan_sheet(schedule),
            f"Memory that {self.label} adds{where}: {added / 2**20:.2f} MiB ({each:.1f} bytes per weight).",
        )

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name to bool tensor, ``True`` = kept; tied parameters under their first name.

        Of sharded ones what this rank holds, in memory that the next masks take: clone what you keep.
        """
        return dict(self._masked.masks)

    @property
    def sparsity(self) -> float:
        """Fraction of the scope's entries that is removed, in [0, 1]: few entries may all be rounded away."""
        return self._masked.sparsity

    @property
    def step(self) -> int:
        """Optimizer steps that happened."""
        return self.clock.step

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters in scope by name, while a fit runs."""
        return dict(self._masked.params)

    @property
    def resolved_schedule(self) -> Schedule | None:
        """The schedule in optimizer steps, once a fit has begun."""
        return self._resolved

    @property
    def _masked(self) -> Masked:
        return self._upkeep.masked

    def ticket(self) -> Ticket:
        """The present masks and their provenance; of sharded ones, those that the fit ended with.

        Raises:
            LotteryError: There are no masks yet, or no file of sharded ones.
        """
        if not self._model_size:
            raise LotteryError(
                f"{self.label} has no masks yet: they begin with `fit`. One in spawned processes leaves them in the "
                f"run's {self._ticket_file} only."
            )
        if not self._masked.shards:
            self._hash_weights()
            return ticket_of(self._masked.masks, self._ties, self._model_size, self.provenance())
        if self._written is None:
            raise LotteryError(f"{self.label}: ranks hold parts of the masks, and put them together when the fit ends.")
        return Ticket.load(self._written)

    # Hooks, in the order in which Lightning calls them.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if not self._is_fitting:
            return
        if trainer.global_step == 0:  # otherwise a second `fit` of the same Trainer, which goes on
            self._reset()
        refuse_another_module(self._fitted, pl_module, self.label)
        (refuse_other_sharding if self.knows_shards else refuse_sharding)(trainer, self.label)
        if any(pruner.name == self.name for pruner in self._pruners_beside(trainer)):
            raise LotteryError(
                f"Two callbacks would both write {self._ticket_file}: give {self.label} a `name` of its own."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._fitted is None:  # otherwise a second `fit` of the same Trainer, which goes on
            self._history = History(is_kept=trainer.is_global_zero)
        self._fitted = weakref.ref(pl_module)
        self._upkeep.meet(trainer.optimizers)
        self._take_up(trainer, pl_module)
        if "initial_weights" not in self._weights_hash:
            self._weights_hash["initial_weights"] = self._masked.shards.hash(self._masked.params)
        rank_zero_info(f"{self.label}: {self.summary(pl_module)}")
        for sentence in self.warnings(pl_module):
            rank_zero_warn(sentence)
        self._is_planned = False
        if not comes_later(pl_module) and not restores_late(trainer):
            self.plan(trainer, pl_module)
        if self.frozen:
            self._upkeep.make_true(trainer)  # now for the sanity check, again when the optimizer's state is restored

    def _take_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the parameters and put masks on them: new ones, those of a fit that goes on, or a checkpoint's."""
        reshard(pl_module)
        if self._restored is not None and self.follows_scope:
            params = self._saved_params(pl_module, self._restored)
        else:
            params = self.select(pl_module)
        self._ties = ties(pl_module)
        self._model_size = size_of(pl_module)
        for pruner in self._pruners_beside(trainer):
            if shared := sorted(params.keys() & pruner.parameters.keys()):
                raise LotteryError(f"{pruner.label} and {self.label} both mask '{shared[0]}': part their scopes.")
        self._upkeep.bind(
            pl_module, params, trainer.optimizers, self.candidates(pl_module) if self.follows_scope else ()
        )
        # A second `fit` of the same Trainer goes on with the masks that it has; a ticket's are whole before the first.
        has_masks = self._masked.masks.keys() == params.keys()
        has_masks &= bool(self._masked.shards) == any(map(is_sharded, params.values()))
        known = self._masked.masks if has_masks else self.starting_masks(params)
        self._upkeep.masked = Masked(known, params)
        refuse_copies(trainer, self._masked.shards, self.label)
        if self._restored is not None:
            with reading_state(self.label):
                self._restore(self._restored)

    def plan(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the schedule into the optimizer steps of this fit and refuse what cannot end in it, before any step.

        In ``on_fit_start``; where a module makes its loaders in that hook of its own, in ``on_train_start``.
        """
        if self._is_planned:
            return
        if self._resolved is None and self.schedule is not None:
            self._resolved = self._resolve(self.schedule, trainer, module)
        if self._resolved is not None and self._resolved.end > 0 and self._upkeep.trained is None:
            raise LotteryError(
                f"{self.label} counts optimizer steps, and Lightning knows no optimizer of this fit: return it from "
                "`configure_optimizers`, and step it by `self.optimizers()`."
            )
        self.begin_method(trainer, self._resolved)
        self._is_planned = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restored is not None and restores_late(trainer):
            self._take_up(trainer, pl_module)
        self._upkeep.follow(trainer, self.step, is_promised=self._is_promised)
        self.plan(trainer, pl_module)
        is_new = self.clock.is_new
        self._restored = None
        self._is_shown = False
        lay_out(trainer, self, is_new=is_new)
        write_text(trainer, self._key("what is pruned"), self.explanation(pl_module).markdown(), is_new=is_new)
        start_clock(self.clock, trainer, self.label)
        self._upkeep.begin(trainer)
        if is_new:
            self._history.update(self.step, self._target, list(self._masked.counts.values()), None)
        if not self.frozen:
            return
        self._upkeep.make_true(trainer)
        # The schedule may ask for sparsity before any batch of ours: at step 0, or in a run that is further on.
        if is_new and self._resolved is not None and self._resolved(self.step) > 0:
            self._update(trainer)
        elif is_new:  # a fit that goes on has logged it
            self._log(trainer, self.sparsity, {})
        self._upkeep.hook(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._upkeep.is_unsure = True  # many a project loads weights at an epoch's start

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._upkeep.follow(trainer, self.step, is_promised=self._is_promised)
        self._upkeep.before_batch(is_promised=self._is_promised)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not self.frozen:
            return
        self.look_at_gradients(self._masked.parts, optimizer)
        # A method that overrides this hook reads gradients itself, which `gradients_matter` cannot know.
        # Of shards what is saved is gathered before anybody is asked, so that there must be nothing to forget.
        does_more = (
            bool(self._masked.shards)
            or type(self).on_before_optimizer_step is not MaskCallback.on_before_optimizer_step
        )
        if does_more or gradients_matter(trainer, self):
            self._masked.mask_gradients_()
        else:
            self._upkeep.remembers_removed = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any = None, *_: Any) -> None:
        self._upkeep.follow(trainer, self.step, is_promised=self._is_promised)
        if not self.clock.tick(trainer):
            self._upkeep.after_batch()
            return
        # Where Lightning steps, it hands on the loss divided by what it accumulates.
        scale = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        self._history.see(self.step, outputs, trainer.log_every_n_steps, scale)  # type: ignore[attr-defined]
        self.observe(self._masked.parts, self.step)
        if self._is_due(self.step):
            self._update(trainer)
        elif self._is_held:
            self._upkeep.make_true(trainer)
        else:
            self._upkeep.after_batch()
        # For the progress bar alone: loggers got it when it changed.
        if not self._is_shown:
            pl_module.log(self._key("sparsity/scope"), self.sparsity, prog_bar=True, logger=False)
            self._is_shown = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._upkeep.follow(trainer, self.step, is_promised=self._is_promised)
        if self.frozen:
            self._to_loggers(trainer, {"mask/revived": self._upkeep.audit(trainer)})
        elif self._is_held:
            self._upkeep.make_true(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Once more before the first batch: a module may have swapped weights in a hook of its own, which comes later.
        if batch_idx == dataloader_idx == 0 and trainer.state.fn == TrainerFn.FITTING and self._is_promised:
            self._masked.mask_weights_()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._upkeep.is_unsure = True  # who swapped weights for validation swaps them back
        is_worth_it = self._has_pruned and self._history.is_longer(self.step)
        if is_worth_it and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._upkeep.follow(trainer, self.step, is_promised=self._is_promised)
        if self.frozen:
            self._to_loggers(trainer, {"mask/revived": self._upkeep.audit(trainer)})
        self._masked.mask_weights_()
        schedule = self._resolved
        if schedule is None or self._target == schedule.final or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        rank_zero_warn(
            f"{self.label} was to reach sparsity {schedule.final} at step {schedule.end}, but the fit ended at step "
            f"{self.step} with sparsity {self.sparsity:.4f}."
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._masked.mask_weights_()  # whatever else wrote weights in its `on_train_end`
        folder = folder_of(trainer)  # collective: asked for on every rank
        if self.clock.is_new:  # not where a finished fit is resumed: that has a clock
            rank_zero_warn(f"{self.label}: this fit had no batch to train on, so there is no ticket.")
        elif trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info(f"{self.label} writes no ticket in a fast_dev_run.")
        else:
            self._write_ticket(trainer, folder)

    def _write_ticket(self, trainer: Trainer, folder: Location) -> None:
        """Write the ticket, and the picture where there is one. Collective where parameters are sharded."""
        shards, path = self._masked.shards, folder / self._ticket_file
        masks = {}
        if shards:
            self._masked.refuse_changed(f"{self.label} at step {self.step}")
            self._hash_weights()
            masks = dict(shards.on_first(self._masked.masks))
        if trainer.is_global_zero:
            whole = ticket_of(masks, self._ties, self._model_size, self.provenance()) if shards else self.ticket()
            whole.save(path)
            rank_zero_info(f"{self.label}: sparsity {self.sparsity:.4f} of the scope; the ticket is '{path}'.")
            if self._has_pruned:
                rows = self._history.rows([*self._masked.counts])
                write_table(folder / f"{self.named('pruning')}.csv", rows, "history of masks", columns=COLUMNS)
                self._write_pictures(trainer, folder)
        if shards:
            trainer.strategy.barrier()  # no rank reads the file before it is there
            self._written = path

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mask what is saved: another callback may have put averaged weights there."""
        self._upkeep.forget_removed(trainer)  # what Lightning's strategies save shares its memory
        if self._is_promised:
            self._masked.mask_checkpoint(checkpoint, self._ties)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self._masked.shards:  # of those it was done when the ticket was written: every rank has to take part
            self._hash_weights()
        self._upkeep.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._upkeep.unhook()  # `teardown` does not come: the optimizer may live on, in a fit that is not ours

    # State.

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "method": self.method_name,
            "settings": self.settings(),
            "clock": self.clock.state_dict(),
            **self._saved_masks(),
            "target": self._target,
            "between": None if self._resolved is None else [int(self._resolved.begin), int(self._resolved.end)],
            "weights_hash": dict(self._weights_hash),
            "history": self._history.state_dict(),
            **self.method_state(),
        }

    def _saved_masks(self) -> dict[str, Any]:
        """Whole masks; of sharded ones packed to bits, on the first rank, and hashes of all parts. Collective there."""
        if not (shards := self._masked.shards):
            return {"masks": cloned(self._masked.masks)}
        self._masked.refuse_changed(f"{self.label} at step {self.step}")
        packed, shapes = {}, {}
        for name, mask in shards.on_first(self._masked.masks):
            packed[name], shapes[name] = torch.from_numpy(np.packbits(mask.numpy())), list(mask.shape)
        return {"masks": packed, "shapes": shapes, "hashes": self._masked.hashes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._is_fitting:
            return  # a checkpoint is tested or validated: that is no reason to go on from it
        with reading_state(self.label):
            check_state(state_dict, STATE_VERSION, self.label, {"method": self.method_name, **self.settings()})
            # Kept until `on_fit_start`: the parameters, whose names and shapes it must fit, are not known yet.
            if state_dict["masks"]:  # none were there yet when a learning-rate finder saved in `on_fit_start`
                self._restored = state_dict

    def _resolve(self, schedule: Schedule, trainer: Trainer, pl_module: LightningModule) -> Schedule:
        return resolve(schedule, trainer, pl_module, self.label)

    def _saved_params(self, module: LightningModule, state: Mapping[str, Any]) -> dict[str, nn.Parameter]:
        """The parameters that a checkpoint has masks of, whatever is frozen by now; what is missing `_restore` says."""
        with reading_state(self.label):
            return {name: param for name, param in named_parameters(module).items() if name in state["masks"]}

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state, known to be of this method and scope, once the parameters are known."""
        params, masks = self._masked.params, masks_in(state, self._masked)
        self.clock.load_state_dict(state["clock"])
        self._target = state["target"]
        if not is_number(self._target) or not 0 <= self._target <= 1:
            raise LotteryError(f"The checkpoint's sparsity is none: {self._target!r}.")
        if self.schedule is not None:  # in the steps of the fit it began in: a longer one does not bring weights back
            self._resolved = self.schedule.over(*state["between"])
        self._upkeep.masked = Masked(masks, params)
        check_hashes(state.get("hashes", {}), self._masked)
        self._weights_hash = dict(state["weights_hash"])
        if "history" in state:  # earlier versions kept none: then it begins here
            self._history.load_state_dict(state["history"], len(params))
        self.load_method_state(state)

    # Masks.

    @property
    def _is_held(self) -> bool:
        """Whether masks that may regrow have reached their final sparsity, which every later step then keeps."""
        return not self.frozen and self._resolved is not None and self.step >= self._resolved.end

    @property
    def _is_promised(self) -> bool:
        """Whether removed weights are zero whenever somebody looks."""
        return self.frozen or self._is_held

    def _is_due(self, step: int) -> bool:
        """Whether a new mask is to be found after this step."""
        schedule = self._resolved
        if schedule is None:
            return False
        # From `end` on frozen masks are final; those that may regrow follow their scores at the same sparsity.
        if step >= schedule.end:
            return self._target != schedule.final or (not self.frozen and step % self.interval == 0)
        return step > schedule.begin and step % self.interval == 0

    def _update(self, trainer: Trainer) -> None:
        """Find a new mask, install it on every rank alike, and log what changed."""
        assert self._resolved is not None
        previous, before = self._masked, self._masked.masks
        previous.refuse_changed(f"{self.label} at step {self.step}")  # frozen masks go into the next ones
        target = self._resolved(self.step)
        with torch.no_grad():
            masks = self.find_masks(previous.parts, target, before if self.frozen else None)
        self._install(trainer, masks, target)
        here = overlap(masks, before) if previous.stayed is None else previous.stayed
        stayed = int(previous.shards.sum(torch.tensor(here)))
        total = sum(total for _, total in previous.counts.values())
        kept, kept_before = (sum(m.counts[name][0] for name in masks) for m in (self._masked, previous))
        changes = {"mask/change": (kept + kept_before - 2 * stayed) / total}
        if not self.frozen or kept > stayed:
            changes["mask/regrowth"] = (kept - stayed) / total
        self._log(trainer, target, changes)

    def _install(self, trainer: Trainer, masks: Masks, target: float) -> None:
        """Take over masks that every rank has found alike, made for the sparsity ``target``."""
        if not self._masked.shards:
            check_agreement(trainer, masks, f"{self.label} at step {self.step}")
        self._target = target
        self._upkeep.masked = Masked(masks, self._masked.params)
        if self._masked.shards:  # one threshold stands for all: what may differ is what ranks were asked for
            asked = {"asked": torch.tensor([self.step, target], dtype=torch.float64)}
            check_agreement(trainer, asked, f"{self.label} at step {self.step}")
        self._upkeep.make_true(trainer)
        self._is_shown = False

    # Records.

    @property
    def _ticket_file(self) -> str:
        return f"{self.named('ticket')}.safetensors"

    def _pruners_beside(self, trainer: Trainer) -> list["MaskCallback"]:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return [pruner for pruner in callbacks if isinstance(pruner, MaskCallback) and pruner is not self]

    def _hash_weights(self) -> None:
        if self._masked.params:
            self._weights_hash["weights"] = self._masked.shards.hash(self._masked.params)

    def _log(self, trainer: Trainer, target: float, changes: dict[str, float]) -> None:
        layers = self._masked.counts
        removed = sum(total - kept for kept, total in layers.values())
        values = {
            "sparsity/scope": self.sparsity,
            "sparsity/model": removed / self._model_size,
            "sparsity/target": target,
            **changes,
        }
        if self.log_layers:
            values |= {f"sparsity_of/{name}": 1 - kept / total for name, (kept, total) in layers.items() if total}
        self._to_loggers(trainer, values)
        self._history.update(self.step, target, list(layers.values()), changes.get("mask/change"))
        if new := sorted({name for name, (kept, total) in layers.items() if total and not kept} - self._dead):
            self._dead.update(new)
            rank_zero_warn(
                f"{self.label} keeps no weight of {', '.join(new)} at step {self.step}: nothing passes through there. "
                "Exclude it from the scope, rank per='tensor', or ask for less sparsity."
            )

    @property
    def _has_pruned(self) -> bool:
        """Whether masks have changed, or are to: a ticket that is only trained has no picture."""
        return len(self._history.updates) > 1 or self.schedule is not None

    def _draw(self, trainer: Trainer) -> None:
        """Hand the picture of the fit so far to the loggers that take figures."""
        self._history.drawn_at = self.step
        if takes_figures(trainer) and trainer.is_global_zero:
            draw_to_all(
                trainer, self._key("pruning"), self._history.figure([*self._masked.counts], self.step), self.step
            )

    def _write_pictures(self, trainer: Trainer, folder: Location) -> None:
        """Write the picture of the whole fit, and hand it to the loggers that take figures."""
        figure = self._history.figure([*self._masked.counts], self.step)
        write_image(folder, self.named("pruning"), figure)
        draw_to_all(trainer, self._key("pruning"), figure, self.step)

    def _to_loggers(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Write values beside the step's own, whatever ``log_every_n_steps`` leaves out."""
        log_to_all(trainer, {self._key(key): float(value) for key, value in values.items()})
