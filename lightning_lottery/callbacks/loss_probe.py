"""What each step, and each change of masks, does to the loss on batches that stay the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from lightning_lottery.checks import check_count
from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.loss_probe import loss_by_steps_and_changes
from lightning_lottery.files import write_image, write_table
from lightning_lottery.functional.masks import hamming
from lightning_lottery.functional.schedules import Constant
from lightning_lottery.functional.scores import Loss
from lightning_lottery.functional.sharpness import adam_scale, sharpness
from lightning_lottery.hooks.clock import StepClock, put_in_order, resolve
from lightning_lottery.hooks.loggers import draw_to_all, folder_of, log_to_all
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.named import NamedCallback
from lightning_lottery.hooks.resuming import reading_state
from lightning_lottery.hooks.scoring import cast, loss_of, state_of, training_batches, untouched
from lightning_lottery.hooks.strategies import refuse_sharding
from lightning_lottery.scope import named_parameters


class Probed(NamedTuple):
    """One optimizer step: the loss after it and, where masks were made, after them too; what changed, and how much."""

    step: int
    loss_before_masks: float
    loss: float
    mask_change: float
    """Fraction of all masked entries that another mask holds than before."""
    lr: float
    sharpness: float | None
    """Times the learning rate over two; None where it was not measured."""


class LossProbe(NamedCallback):
    """Watch the loss on the same training batches after every optimizer step, before and after masks are made.

    Training loss jumps from batch to batch; this one moves only where weights do. A change of the masks is told apart
    from the optimizer's step, and the sharpness says whether the learning rate is too high for where the network
    stands: ``eigenvalue * lr / 2`` above 1 for plain gradient descent, above 19 for Adam with its default momentum of
    0.9 (there the Hessian is scaled entry by entry as Adam scales gradients, and only kept weights count).

    Nothing of the fit changes: module, random numbers and loaders stay as they are. Each step costs two forward passes
    over ``batches``, without dropout. A fit that is resumed lacks the step that it was saved at, and takes other
    batches from there on.

    When the fit ends, the run's folder holds ``probe.csv`` and the picture ``probe.png``; the test after it logs
    ``test_probe_step`` and ``test_probe_masks``, the mean absolute change of the loss by a step and by masks,
    ``test_probe_churn``, the mean fraction of masks that changed, and ``test_probe_sharpness``.

    Args:
        begin: When to begin: optimizer steps (int), or a fraction of the fit (float).
        batches: Training batches, the first of an epoch, >= 1.
        sharpness_every: Optimizer steps between measurements of the sharpness, each some tens of forward and backward
            passes twice differentiated; default 0: never.
        name: Tells several callbacks of one Trainer apart.

    Raises:
        LotteryError: An argument out of range; in ``fit``, several devices, manual optimization, or a
            ``training_step`` without loss.

    Example:
        >>> LossProbe(begin=0.75, sharpness_every=100)
        LossProbe(begin=0.75, sharpness_every=100)

    Source: Cohen et al. 2021 and 2022, the edge of stability, for the sharpness.
    """

    def __init__(
        self, begin: int | float = 0.5, *, batches: int = 1, sharpness_every: int = 0, name: str | None = None
    ) -> None:
        super().__init__(name)
        check_count("batches", batches, "a number of training batches")
        check_count("sharpness_every", sharpness_every, "a number of optimizer steps, or 0 for never", least=0)
        self.schedule = Constant(0.0, begin=begin)
        self.batches, self.sharpness_every = batches, sharpness_every
        self.clock = StepClock()
        self._is_fitting = True
        self._reset()

    def _reset(self) -> None:
        self.clock.reset()
        self.rows: list[Probed] = []
        """What was measured, a row for each optimizer step."""
        self._before: float | None = None  # the loss after the optimizer's step, until masks have been made
        self._masks: dict[str, Tensor] = {}
        self._batches: list[Any] = []
        self._fresh: list[int] = [0]  # rows that are the first on their batches

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        put_in_order(self, trainer)
        self._is_fitting = stage == TrainerFn.FITTING
        if not self._is_fitting:
            return
        refuse_sharding(trainer, self.label)
        if trainer.world_size > 1:
            raise LotteryError(f"{self.label} looks at one process's batches, and this fit has {trainer.world_size}.")
        if not pl_module.automatic_optimization:
            raise LotteryError(
                f"{self.label} needs the loss alone, and a `training_step` in manual optimization steps the optimizers "
                "itself: use automatic optimization."
            )
        if trainer.global_step == 0:
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.start(trainer)
        self._begin = int(resolve(self.schedule, trainer, pl_module, self.label).begin)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._note(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.clock.tick(trainer) and self.clock.step >= self._begin:
            # Pruners act after everybody else: here the optimizer has stepped, and they have not.
            with self._loss(trainer) as (loss, weights, batches):
                self._before = _mean_loss(loss, weights, batches)
            self._masks = {name: mask.clone() for name, mask in _masks(trainer).items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer)

    def _note(self, trainer: Trainer) -> None:
        """Measure what the pruners have left of the last step, before anything else happens."""
        if self._before is None:
            return
        step, masks = self.clock.step, _masks(trainer)
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        with self._loss(trainer) as (loss, weights, batches):
            after = _mean_loss(loss, weights, batches)
            curved = None
            if self.sharpness_every and step % self.sharpness_every == 0:
                curved = sharpness(loss, weights, batches, scale=_scale(trainer, masks)) / 2
        same = masks.keys() == self._masks.keys()
        change = hamming(masks, self._masks) if masks and same else 0.0
        row = Probed(step, self._before, after, change, lr, curved)
        self._before = None
        self.rows.append(row)
        values = {"loss": row.loss, "loss before masks": row.loss_before_masks, "sharpness": row.sharpness}
        log_to_all(trainer, {self._key(f"probe/{key}"): value for key, value in values.items() if value is not None})

    @contextmanager
    def _loss(self, trainer: Trainer) -> Iterator[tuple[Loss, dict[str, Tensor], list[Any]]]:
        """The loss of ``training_step`` as a function, without dropout; trained weights; the batches."""
        if not self._batches:
            self._batches = [cast(batch, torch.float32) for batch in training_batches(trainer, self.batches)]
        with untouched(trainer, torch.float32) as module:
            for child in module.modules():
                child.training &= not isinstance(child, _DropoutNd)
            state = state_of(module, torch.float32)
            weights = {name: state[name] for name, param in named_parameters(module).items() if param.requires_grad}
            yield loss_of(module, state, torch.float32, self.label), weights, self._batches

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = folder_of(trainer)
        if not self.rows or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = folder / f"{self.named('probe')}.csv"
        write_table(path, [row._asdict() for row in self.rows], "loss by steps and masks", columns=Probed._fields)
        steps, before, after, changes, _, curved = zip(*self.rows, strict=True)
        figure = loss_by_steps_and_changes(steps, before, after, changes, curved)
        write_image(folder, self.named("probe"), figure)
        draw_to_all(trainer, self._key("probe"), figure, self.clock.step)
        rank_zero_info(f"{self.label}: {self.sentence}")

    @property
    def means(self) -> dict[str, float]:
        """What the rows say in the mean: ``step``, ``masks``, ``churn`` and ``sharpness``; nothing without rows."""
        by_step = [
            abs(row.loss_before_masks - self.rows[number - 1].loss)
            for number, row in enumerate(self.rows)
            if number not in self._fresh
        ]
        parts = {
            "step": by_step,
            "masks": [abs(row.loss - row.loss_before_masks) for row in self.rows],
            "churn": [row.mask_change for row in self.rows],
            "sharpness": [row.sharpness for row in self.rows if row.sharpness is not None],
        }
        return {name: sum(values) / len(values) for name, values in parts.items() if values}

    @property
    def sentence(self) -> str:
        """What moved the loss."""
        means = self.means
        sharp = f", sharpness times learning rate over two {means['sharpness']:.3g}" if "sharpness" in means else ""
        return (
            f"after step {self.rows[0].step} an optimizer step changed the loss by {means.get('step', 0):.4g} in the "
            f"mean, masks changed it by {means['masks']:.4g}{sharp}."
        )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self.means.items():
            pl_module.log(self.named(f"test_probe_{name}"), value)

    def state_dict(self) -> dict[str, Any]:
        rows = [[float("nan") if value is None else float(value) for value in row] for row in self.rows]
        return {
            "clock": self.clock.state_dict(),
            "rows": torch.tensor(rows, dtype=torch.float64).reshape(-1, len(Probed._fields)),
            "fresh": list(self._fresh),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._is_fitting:
            return
        with reading_state(self.label):
            self.clock.load_state_dict(state_dict["clock"])
            rows = [Probed(*row) for row in state_dict["rows"].tolist()]
            self.rows = [
                row._replace(step=int(row.step), sharpness=None if row.sharpness != row.sharpness else row.sharpness)
                for row in rows
            ]
            self._fresh = [*state_dict["fresh"], len(rows)]


def _mean_loss(loss: Loss, weights: Mapping[str, Tensor], batches: list[Any]) -> float:
    with torch.no_grad():
        return float(sum(map(partial(loss, weights), batches))) / len(batches)


def _pruners(trainer: Trainer) -> list[MaskCallback]:
    return [callback for callback in trainer.callbacks if isinstance(callback, MaskCallback)]  # type: ignore[attr-defined]


def _masks(trainer: Trainer) -> dict[str, Tensor]:
    return {name: mask for pruner in _pruners(trainer) for name, mask in pruner.masks.items()}


def _scale(trainer: Trainer, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the optimizer multiplies gradients by, the learning rate among it, entry by entry; 0 for removed weights."""
    scale = {}
    groups = [(optimizer.state, group) for optimizer in trainer.optimizers for group in optimizer.param_groups]
    of_param = {param: (state.get(param, {}), group) for state, group in groups for param in group["params"]}
    for name, param in named_parameters(trainer.lightning_module).items():
        if not param.requires_grad:
            continue
        scale[name] = torch.ones_like(param, dtype=torch.float32, requires_grad=False)
        state, group = of_param.get(param, ({}, {}))
        if "exp_avg_sq" in state:  # Adam's and AdamW's
            scale[name] = adam_scale(state, group["betas"][1], group["eps"])
        scale[name] *= group.get("lr", 0.0)
        if name in masks:
            scale[name] *= masks[name]
    return scale
