"""When masks change and what keeps them true: the one place for hooks, masks, state and logging."""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from lightning_lottery.callbacks.loop import StepClock, batches_that_stepped, enter, restore_loader, steps_of_fit
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, Scores, count, density, keep_top
from lightning_lottery.functional.schedules import Cubic, Schedule
from lightning_lottery.scope import Scope, named_parameters, plain_name, ties
from lightning_lottery.ticket import Ticket, hash_of, ticket_of

STATE_VERSION = 1


class MaskCallback(Callback):
    """Owns when masks change; a method says by which scores. Zeros bring no speed: see ``shrink``.

    After an optimizer step that happened: ``observe``, and where a new mask is due: schedule, ``scores``, ``keep_top``,
    install, log. All state is saved in checkpoints; every rank holds the same masks, compared by hash at each change.

    Args:
        schedule: Sparsity by optimizer step, or None for masks that never change.
        interval: Optimizer steps between new masks, >= 1.
        scope: Which parameters compete.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        name: Tells several callbacks of one Trainer apart: in checkpoints, logs and file names.

    Raises:
        LotteryError: ``interval`` < 1, or a name that is no file name.
    """

    frozen: ClassVar[bool] = True
    """A removed weight stays exactly zero: gradients, optimizer state and weights are masked at every step."""

    place: ClassVar[int] = 1
    """Acts after all callbacks that may write weights."""

    role: ClassVar[str] = "pruning"
    """What a checkpoint files the state under: methods share a role, so one does not resume another unnoticed."""

    def __init__(
        self, schedule: Schedule | None, *, interval: int, scope: Scope | None, name: str | None, per: Any = "all"
    ) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise LotteryError(f"`interval` is a number of optimizer steps >= 1, got {interval!r}.")
        if per not in ("all", "tensor"):
            raise LotteryError(f"`per` is 'all' or 'tensor', got {per!r}.")
        if name is not None and (not name or Path(name).name != name):
            raise LotteryError(f"`name` becomes part of file names and must be a plain word, got {name!r}.")
        self.schedule = schedule
        self.interval = interval
        self.scope = scope or Scope()
        self.per = per
        self.name = name
        self.clock = StepClock()
        self._reset()

    def _reset(self) -> None:
        self.clock.step = 0
        self._masks: dict[str, Tensor] = {}
        self._params: dict[str, nn.Parameter] = {}
        self._factors: list[Tensor] = []
        self._hooks: list[RemovableHandle] = []
        self._ties: dict[str, str] = {}
        self._model_size = 0
        self._resolved: Schedule | None = None
        self._restored: Mapping[str, Any] | None = None
        self._weights_hash: dict[str, str] = {}
        self._dead: set[str] = set()
        self._anything_removed = False
        self._is_shown = False

    # What a method says.

    def observe(self, params: Mapping[str, nn.Parameter], step: int) -> None:
        """See one optimizer step that happened: weights are stepped, gradients alive, unscaled and clipped."""

    def scores(self, params: Mapping[str, nn.Parameter], step: int) -> Scores:
        """Scores for the mask that is due after optimizer step ``step``."""
        raise NotImplementedError

    def method_state(self) -> dict[str, Any]:
        """The method's own state for a checkpoint: tensors by parameter name, and primitives."""
        return {}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``method_state`` gave, or start without it where it is missing."""

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that get masks, by name."""
        return self.scope.select(module)

    def starting_masks(self, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """The masks before the first optimizer step: everything is kept."""
        return {name: torch.ones_like(param, dtype=torch.bool) for name, param in params.items()}

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        """Prepare and validate once parameters, masks and the schedule in steps are known, before any step."""

    def provenance(self) -> dict[str, Any]:
        """What a ticket says of its origin: plain JSON values."""
        return {
            "method": type(self).__name__,
            "scope": repr(self.scope),
            "step": self.step,
            "seed": int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None,
            "versions": {package: _version(package) for package in ("torch", "lightning", "lightning_lottery")},
            **self._weights_hash,
        }

    def bytes_per_weight(self, param: nn.Parameter) -> int:
        """Memory the method adds for each entry of a parameter in scope, checkpoints aside."""
        return 1 + (param.element_size() if self.frozen else 0)

    # What anybody may ask.

    @property
    def masks(self) -> dict[str, Tensor]:
        """Parameter name to bool tensor, ``True`` = kept; tied parameters under their first name."""
        return dict(self._masks)

    @property
    def sparsity(self) -> float:
        """Fraction of the scope's entries that is removed, in [0, 1)."""
        return 1 - density(self._masks)

    @property
    def step(self) -> int:
        """Optimizer steps that happened."""
        return self.clock.step

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters in scope by name, while a fit runs."""
        return dict(self._params)

    @property
    def resolved_schedule(self) -> Schedule | None:
        """The schedule in optimizer steps, once a fit has begun."""
        return self._resolved

    def ticket(self) -> Ticket:
        """The present masks and their provenance.

        Raises:
            LotteryError: There are no masks yet.
        """
        if not self._masks:
            raise LotteryError(f"{self.label} has no masks yet: they begin with `fit`.")
        if self._params:
            self._weights_hash["weights"] = hash_of(self._params)
        return ticket_of(self._masks, self._ties, self._model_size, self.provenance())

    # Hooks, in the order in which Lightning calls them.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        enter(self, trainer)
        if stage != TrainerFn.FITTING:
            return
        if trainer.global_step == 0:  # otherwise a second `fit` of the same Trainer, which goes on
            self._reset()
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
            raise MisconfigurationException(
                f"{self.label} needs whole parameters on every rank, and {type(trainer.strategy).__name__} shards "
                "them: use strategy='ddp', or one device."
            )
        others = [other for other in trainer.callbacks if isinstance(other, MaskCallback) and other is not self]  # type: ignore[attr-defined]
        if any(other.name == self.name for other in others):
            raise LotteryError(
                f"Two callbacks would both write {self._ticket_file}: give {self.label} a `name` of its own."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._params = self.select(pl_module)
        self._ties = ties(pl_module)
        self._model_size = sum(param.numel() for param in pl_module.parameters())
        self._check_overlap(trainer)
        if self.frozen and any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            raise LotteryError(
                f"{self.label} cannot freeze weights under LBFGS, whose history mixes all of them: "
                "use an optimizer with state per weight."
            )
        if self.schedule is not None:
            try:
                self._resolved = self.schedule.resolve(steps_of_fit(trainer, pl_module))
            except LotteryError as error:
                raise LotteryError(f"{self.label}: {error}") from error
        if self._masks.keys() != self._params.keys():
            self._masks = self.starting_masks(self._params)
        if self._restored is not None:
            self._restore(self._restored)
        self._masks = {name: mask.to(self._params[name].device) for name, mask in self._masks.items()}
        self._anything_removed = density(self._masks) < 1
        self._weights_hash.setdefault("initial_weights", hash_of(self._params))
        self.begin_method(trainer, self._resolved)
        if self.frozen:
            self._install(trainer)  # now for the sanity check, again when the optimizer's state is restored

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restored is None and self.step == 0 and trainer.global_step > 0:
            self.clock.step = trainer.global_step
            rank_zero_info(f"{self.label} begins with this fit at step {self.step}: the checkpoint has no state of it.")
        self._restored = None
        self.clock.start(trainer)
        restore_loader(trainer)
        self._is_shown = False
        if self.frozen:
            self._install(trainer)
            if self._resolved is not None and self._resolved(self.step) > 0 and not self._anything_removed:
                self._update(trainer)
            else:
                self._log(trainer, self.sparsity, {})
            self._hooks = [
                optimizer.register_step_post_hook(lambda *_: self._mask_weights_()) for optimizer in trainer.optimizers
            ]

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._factors:
            for param, factor in zip(self._params.values(), self._factors, strict=True):
                if param.grad is not None:
                    param.grad.mul_(factor)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self.clock.tick(trainer):
            return
        self.observe(self._params, self.step)
        if self._is_due(self.step):
            self._update(trainer)
        elif self._is_held:
            self._mask_weights_()
            self._mask_averages_(trainer)
        if not self._is_shown:
            pl_module.log(self._key("sparsity/scope"), self.sparsity, prog_bar=True, logger=False)
            self._is_shown = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.frozen and trainer.state.fn == TrainerFn.FITTING:
            self._audit(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.frozen:
            self._audit(trainer)
        self._mask_weights_()
        final = self._resolved.final if self._resolved is not None else None
        if final is not None and self._resolved is not None and self.step < self._resolved.end:
            rank_zero_warn(
                f"{self.label} was to reach sparsity {final} at step {self._resolved.end}, but the fit ended at step "
                f"{self.step} with sparsity {self.sparsity:.4f}."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mask_weights_()  # whatever else wrote weights in its `on_train_end`
        folder = trainer.log_dir or trainer.default_root_dir  # `log_dir` is collective: asked for on every rank
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info(f"{self.label} writes no ticket in a fast_dev_run.")
        elif trainer.is_global_zero:
            self.ticket().save(Path(folder) / self._ticket_file)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._params:
            self._weights_hash["weights"] = hash_of(self._params)
        for hook in self._hooks:
            hook.remove()
        self._params, self._factors, self._hooks = {}, [], []
        self._masks = {name: mask.cpu() for name, mask in self._masks.items()}

    # State.

    @property
    def state_key(self) -> str:
        return f"lightning_lottery.{self.role}" + (f".{self.name}" if self.name else "")

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "method": type(self).__name__,
            "scope": repr(self.scope),
            "step": self.step,
            "masks": cloned(self._masks),
            "weights_hash": dict(self._weights_hash),
            **self.method_state(),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mask what is saved, out of place: another callback may have put averaged weights there."""
        if not self._anything_removed or not (self.frozen or self._is_held):
            return
        masks = self._masks | {alias: self._masks[name] for alias, name in self._ties.items() if name in self._masks}
        for key in checkpoint.keys() & {"state_dict", "current_model_state"}:
            checkpoint[key] = {
                name: value * mask.to(value.device) if (mask := masks.get(plain_name(name))) is not None else value
                for name, value in checkpoint[key].items()
            }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict["masks"]:
            return  # saved before the fit began, by a learning-rate finder for instance
        if state_dict["version"] > STATE_VERSION:
            raise LotteryError(
                f"The checkpoint holds state of {self.label} in version {state_dict['version']}, this "
                f"lightning_lottery reads up to {STATE_VERSION}: upgrade it."
            )
        for key, own in (("method", type(self).__name__), ("scope", repr(self.scope))):
            if state_dict[key] != own:
                raise LotteryError(
                    f"The checkpoint was written with {key} {state_dict[key]}, this fit asks for {own}: "
                    "resume with the same callback, or give this one a `name` to start it afresh."
                )
        self._restored = state_dict

    def _restore(self, state: Mapping[str, Any]) -> None:
        saved = state["masks"]
        shapes = {name: tuple(mask.shape) for name, mask in saved.items()}
        if shapes != (own := {name: tuple(param.shape) for name, param in self._params.items()}):
            odd = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
            raise LotteryError(f"The checkpoint's masks do not fit this module: {', '.join(odd)}.")
        self.clock.step = state["step"]
        self._masks = {name: saved[name].clone() for name in self._params}
        self._weights_hash = dict(state["weights_hash"])
        self.load_method_state(state)

    # Masks.

    @property
    def _is_held(self) -> bool:
        """Whether masks that may regrow have reached their final sparsity, which every later step then keeps."""
        return not self.frozen and self._resolved is not None and self.step >= self._resolved.end

    def _is_due(self, step: int) -> bool:
        """Whether a new mask is to be found after this step."""
        schedule = self._resolved
        if schedule is None or step < schedule.begin:
            return False
        return step == schedule.end or (
            step % self.interval == 0 and step > schedule.begin and (step < schedule.end or not self.frozen)
        )

    def _update(self, trainer: Trainer) -> None:
        """Find a new mask, install it on every rank alike, and log what changed."""
        assert self._resolved is not None
        target = self._resolved(self.step)
        within = self._masks if self.frozen else None
        with torch.no_grad():
            masks = keep_top(self.scores(self._params, self.step), target, within=within, per=self.per)
        check_agreement(trainer, masks, f"{self.label} at step {self.step}")
        changed = sum(int((masks[name] ^ self._masks[name]).sum()) for name in masks)
        regrown = sum(int((masks[name] & ~self._masks[name]).sum()) for name in masks)
        self._masks = masks
        self._install(trainer)
        total = count(masks)[1]
        self._is_shown = False
        self._log(trainer, target, {"mask/change": changed / total, "mask/regrowth": regrown / total})

    @torch.no_grad()
    def _install(self, trainer: Trainer) -> None:
        """Make weights, and where frozen the optimizer's state, agree with masks that have just changed."""
        self._anything_removed = density(self._masks) < 1
        if self.frozen and self._anything_removed:
            self._factors = [self._masks[name].to(param.dtype) for name, param in self._params.items()]
            for optimizer in trainer.optimizers:
                for name, param in self._params.items():
                    for key, value in optimizer.state.get(param, {}).items():
                        if key != "step" and isinstance(value, Tensor) and value.shape == param.shape:
                            value.mul_(self._masks[name].to(value.device))
        self._mask_weights_()
        self._mask_averages_(trainer)

    @torch.no_grad()
    def _mask_weights_(self) -> None:
        if self._factors:
            torch._foreach_mul_(list(self._params.values()), self._factors)
        elif self._anything_removed:
            for name, param in self._params.items():
                param.mul_(self._masks[name])

    @torch.no_grad()
    def _mask_averages_(self, trainer: Trainer) -> None:
        """Mask the averaged copies that EMA, SWA and their like keep: what was removed would live on in them."""
        for average in averaged_copies(trainer):
            params = named_parameters(average)
            for name, mask in self._masks.items():
                if self._anything_removed and name in params:
                    params[name].mul_(mask.to(params[name].device))

    def _audit(self, trainer: Trainer) -> None:
        """Count removed weights that are not zero, log the count, and zero them."""
        revived = {n: int((p.detach().ne(0) & ~self._masks[n]).sum()) for n, p in self._params.items()}
        total = sum(revived.values())
        self._to_loggers(trainer, {"mask/revived": total})
        if total:
            names = ", ".join(name for name, n in revived.items() if n)
            rank_zero_warn(f"{self.label} found {total} removed weights revived in {names}, and zeroed them.")
            self._mask_weights_()

    def _check_overlap(self, trainer: Trainer) -> None:
        others = [other for other in trainer.callbacks if isinstance(other, MaskCallback) and other is not self]  # type: ignore[attr-defined]
        for other in others:
            if shared := sorted(self._params.keys() & other._params.keys()):
                raise LotteryError(f"{other.label} and {self.label} both mask '{shared[0]}': part their scopes.")

    # Records.

    @property
    def label(self) -> str:
        """What messages call it."""
        return type(self).__name__ + (f" '{self.name}'" if self.name else "")

    @property
    def _ticket_file(self) -> str:
        return f"ticket-{self.name}.safetensors" if self.name else "ticket.safetensors"

    def _log(self, trainer: Trainer, target: float, changes: dict[str, float]) -> None:
        layers = {name: count({name: mask}) for name, mask in self._masks.items()}
        removed = sum(total - kept for kept, total in layers.values())
        values = {
            "sparsity/scope": self.sparsity,
            "sparsity/model": removed / self._model_size,
            "sparsity/target": target,
            **{f"sparsity/{name}": 1 - kept / total for name, (kept, total) in layers.items() if total},
            **changes,
        }
        self._to_loggers(trainer, values)
        for name, (kept, total) in layers.items():
            if total and not kept and name not in self._dead:
                self._dead.add(name)
                rank_zero_warn(
                    f"{self.label} removed the last of {total} weights of '{name}' at step {self.step}: nothing "
                    "passes through it. Exclude it from the scope, rank per='tensor', or ask for less sparsity."
                )

    def _to_loggers(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Write values beside the step's own: loggers count batches that stepped, whatever ``log_every_n_steps``."""
        keyed = {self._key(key): float(value) for key, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(keyed, step=batches_that_stepped(trainer))

    def _key(self, key: str) -> str:
        return f"{self.name}/{key}" if self.name else key


def scheduled(
    sparsity: float | Schedule, begin: int | float, end: int | float, defaults: tuple[float, float]
) -> Schedule:
    """The schedule that a method's arguments mean: a cubic one to a number, or the one given.

    Raises:
        LotteryError: A schedule together with ``begin`` or ``end``.
    """
    if not isinstance(sparsity, Schedule):
        return Cubic(sparsity, begin=begin, end=end)
    if (begin, end) != defaults:
        raise LotteryError(f"{sparsity} has its own begin and end: give either a schedule, or `begin` and `end`.")
    return sparsity


def averaged_copies(trainer: Trainer) -> list[nn.Module]:
    """Copies of the module that averaging callbacks keep: WeightAveraging wraps its own once more, SWA does not."""
    kept = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [c.module if isinstance(c, AveragedModel) else c for c in kept if isinstance(c, nn.Module)]


def check_agreement(trainer: Trainer, masks: Masks, what: str) -> None:
    """Refuse to go on where ranks hold different masks.

    Raises:
        LotteryError: They do, on every rank alike.
    """
    if trainer.world_size < 2:
        return
    everyone: list[str] = [""] * trainer.world_size
    torch.distributed.all_gather_object(everyone, hash_of(masks))
    if len(set(everyone)) > 1:
        raise LotteryError(
            f"{what}: the ranks found different masks. Their gradients or weights differ, so something in the training "
            "loop is not synchronised."
        )


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that later steps do not touch."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _version(package: str) -> str | None:
    """The installed version; None for a package that is used from its folder."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
