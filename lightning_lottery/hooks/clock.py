"""What callbacks ask of Lightning's loop: which step it is, how many there will be, who acts before whom."""

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop

from lightning_lottery.checks import is_count, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import location
from lightning_lottery.functional.schedules import Schedule


class StepClock:
    """Counts optimizer steps that happened, once per batch that stepped.

    ``trainer.global_step`` only says when to look: it also advances when a gradient scaler skips the step, and by the
    number of optimizers in manual optimization.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing has happened yet."""
        self.step = 0
        self._seen: int | None = None
        self._scale: float | None = None

    @property
    def is_new(self) -> bool:
        """Whether it has never looked, in this run or in the one whose checkpoint it was loaded from."""
        return self._seen is None

    def start(self, trainer: Trainer) -> bool:
        """Look for the first time, in ``on_train_start``: only there a resumed run's counters are right.

        Returns:
            Whether a step had happened that was not looked at: somebody saved between it and our hook. It is counted.
        """
        optimizers = max(1, len(trainer.optimizers))
        scale = _loss_scale(trainer)
        if self._seen is None:
            manual = not trainer.lightning_module.automatic_optimization
            # In manual optimization `global_step` counts every optimizer's steps (Lightning 2.6.6).
            self.step = trainer.global_step // (optimizers if manual else 1)
            missed = False
        else:
            skipped = scale is not None and self._scale is not None and scale < self._scale
            # One batch at most lies between a save and our hook, and in it every optimizer may have stepped.
            missed = 0 < trainer.global_step - self._seen <= optimizers and not skipped
        self.step += missed
        self._seen, self._scale = trainer.global_step, scale
        return missed

    def state_dict(self) -> dict[str, int | float | None]:
        """Plain numbers for a checkpoint."""
        return {"step": self.step, "seen": self._seen, "scale": self._scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave.

        Raises:
            LotteryError: It never counted so.
        """
        step, seen, scale = state["step"], state["seen"], state["scale"]
        if not is_count(step) or not (seen is None or is_count(seen)) or not (scale is None or is_number(scale)):
            raise LotteryError(f"The checkpoint's count of optimizer steps is none: {dict(state)}.")
        self.step, self._seen, self._scale = step, seen, scale

    def tick(self, trainer: Trainer) -> bool:
        """Whether an optimizer step happened since the last look; asked in ``on_train_batch_end``."""
        # A scaler that finds infinities skips the optimizer's step and halves its scale; `global_step` advances all the
        # same (Lightning 2.6.6). Growing the scale is no sign of a skip.
        advanced = trainer.global_step != self._seen
        self._seen = trainer.global_step
        before, self._scale = self._scale, _loss_scale(trainer)
        skipped = before is not None and self._scale is not None and self._scale < before
        happened = advanced and not skipped
        self.step += happened
        return happened


def _loss_scale(trainer: Trainer) -> float | None:
    """The gradient scaler's scale, which falls across a skipped step; None without a scaler (no device is asked)."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())


@runtime_checkable
class ActsLate(Protocol):
    """A callback that must act after all others: by ascending ``lottery_order`` (> 0); 0 is everybody else's."""

    lottery_order: ClassVar[int]


def put_in_order(callback: Callback, trainer: Trainer) -> None:
    """What our callbacks do first in ``setup``: check whose Trainer this is and where it writes, sort its callbacks.

    Masks are made after everything else that writes weights, snapshots are taken after that, and only then come the
    Checkpoint callbacks, which Lightning keeps last. A new list: Lightning is iterating over the old one.

    Raises:
        LotteryError: The Trainer is of the ``pytorch_lightning`` package, or its root is a URL of no known kind.
    """
    if not isinstance(trainer, Trainer):
        raise LotteryError(
            f"{type(callback).__name__} is a callback for `lightning`, and this Trainer is of the package "
            f"`{type(trainer).__module__.split('.')[0]}`: import `lightning.pytorch` instead, everywhere alike."
        )
    location(trainer.default_root_dir)  # refuses it
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = sorted(callbacks, key=_order)  # type: ignore[attr-defined]


def _order(callback: Callback) -> float:
    if isinstance(callback, Checkpoint):
        return float("inf")
    return callback.lottery_order if isinstance(callback, ActsLate) else 0


# Compared by exact type: a class that inherits from Adam may mix entries, as by a norm over all parameters.
_ENTRY_BY_ENTRY = (ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop)


def gradients_matter(trainer: Trainer, callback: Callback) -> bool:
    """Whether gradients of removed weights can change kept ones between a callback's hook and the optimizer's step.

    They cannot in automatic optimization, where nothing clips, scales or reads gradients in between (neither the module
    nor a later callback nor a precision plugin of the user's) and the optimizer treats every entry by itself. Masking
    gradients then changes nothing, takes as long as masking weights, and makes Adam's step twice as long on a CPU:
    roots of zeros are slow.
    """
    module, precision = trainer.lightning_module, trainer.precision_plugin
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    # A callback that is not in the list gets its hooks from another one that is: then all may come later.
    later = callbacks[callbacks.index(callback) + 1 if callback in callbacks else 0 :]
    return (
        not module.automatic_optimization
        or bool(trainer.gradient_clip_val)
        or getattr(precision, "scaler", None) is not None
        or not type(precision).__module__.startswith("lightning.")  # it may clip by itself
        or any(is_overridden(hook, module) for hook in ("configure_gradient_clipping", "clip_gradients"))
        or any(is_overridden("on_before_optimizer_step", onlooker) for onlooker in (module, *later))
        or any(type(optimizer) not in _ENTRY_BY_ENTRY for optimizer in trainer.optimizers)
    )


def weights_may_be_written(trainer: Trainer) -> bool:
    """Whether somebody may write weights between the optimizer's step and the next batch, as Lightning's loop allows.

    Hooks of Lightning's callbacks and of ours do not; a project's may, and so may its loop in manual optimization.
    """
    module = trainer.lightning_module
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    foreign = [c for c in callbacks if type(c).__module__.partition(".")[0] not in ("lightning", "lightning_lottery")]
    ends = ("on_train_batch_end", "on_before_zero_grad", "on_train_batch_start")
    return (
        not module.automatic_optimization
        or any(is_overridden(hook, module) for hook in ("optimizer_step", "lr_scheduler_step", *ends))
        or any(is_overridden(hook, callback) for callback in foreign for hook in ends)
    )


def comes_later(module: LightningModule) -> bool:
    """Whether a module may make its loaders in its own ``on_fit_start``: it comes after that of callbacks."""
    return is_overridden("on_fit_start", module)


def refuse_another_module(before: weakref.ref[LightningModule] | None, module: LightningModule, label: str) -> None:
    """Refuse a Trainer that goes on with a module other than the one of its first fit.

    Raises:
        LotteryError: It is another one.
    """
    if before is not None and before() is not module:
        raise LotteryError(
            f"{label}: this Trainer has fitted another module before, whose steps and masks it would go on with: make "
            "a new Trainer and new callbacks for each module."
        )


def steps_of_fit(trainer: Trainer, module: LightningModule) -> int | None:
    """Optimizer steps of this fit as our clock counts them, or None where nobody knows beforehand.

    Raises:
        LotteryError: The training loader has no batch.
    """
    if _counts_each_optimizer(trainer, module) or _accumulation_changes(trainer):
        return None
    steps = trainer.estimated_stepping_batches
    if trainer.num_training_batches == 0 and trainer.limit_train_batches != 0:
        raise LotteryError(
            "The training loader has no batch, so there is nothing to prune by: has it fewer samples than one batch, "
            "and `drop_last`?"
        )
    return int(steps) if 0 < steps < float("inf") else None


def why_unknown(trainer: Trainer, module: LightningModule) -> str:
    """Why nobody knows the number of steps though ``max_steps`` may be set, and what to do; empty where that helps."""
    if _counts_each_optimizer(trainer, module):
        why = "With several optimizers in manual optimization `max_steps` counts the steps of each"
    elif _accumulation_changes(trainer):
        why = "Accumulation changes from epoch to epoch, which Lightning's estimate leaves out"
    else:
        return ""
    return f"{why}: give `begin` and `end` as optimizer steps (int)."


def resolve(schedule: Schedule, trainer: Trainer, module: LightningModule, label: str) -> Schedule:
    """A schedule in the optimizer steps of this fit; a fast_dev_run may end before it.

    Args:
        schedule: In steps or fractions of the fit.
        trainer: The fit's.
        module: The fit's.
        label: What messages call the callback.

    Raises:
        LotteryError: Fractions of a fit of unknown length; what ``Schedule.resolve`` refuses.
    """
    in_steps = isinstance(schedule.begin, int) and isinstance(schedule.end, int)
    try:
        cut_short = trainer.fast_dev_run and in_steps  # type: ignore[attr-defined]
        steps = None if cut_short else steps_of_fit(trainer, module)
        if steps is None and not in_steps and (why := why_unknown(trainer, module)):
            raise LotteryError(
                f"{schedule} asks for fractions of the fit, but it has no known number of optimizer steps. {why}"
            )
        return schedule.resolve(steps)
    except LotteryError as error:
        raise LotteryError(f"{label}: {error}") from error


def _counts_each_optimizer(trainer: Trainer, module: LightningModule) -> bool:
    return len(trainer.optimizers) > 1 and not module.automatic_optimization and trainer.max_steps != -1


def _accumulation_changes(trainer: Trainer) -> bool:
    """Whether Lightning's estimate, which takes the first factor for all epochs, is wrong."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(c, GradientAccumulationScheduler) and len(c.scheduling) > 1 for c in callbacks)
