"""PLATON: prune by sensitivity and its uncertainty while training."""

import math
from collections.abc import Mapping
from operator import index
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_lottery.checks import check_fraction, check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, Scores, ScoresOnDemand
from lightning_lottery.functional.schedules import Schedule, scheduled
from lightning_lottery.functional.sensitivity import Averages, add_, averages_like, check_decay, fold_, score
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.masked import cloned
from lightning_lottery.hooks.private import saves_folders
from lightning_lottery.hooks.resuming import check_tensors
from lightning_lottery.scope import HEADS, Scope

BODY = Scope(exclude=(HEADS,))
"""The default scope without classifier, head and pooler, as in the authors' experiments; `projection_head` is in."""


class PLATON(MaskCallback):
    """Remove the weights whose sensitivity is low and certain, a little more at every interval, while training.

    Zeros bring no speed by themselves: see ``shrink``. The score of a weight is its running sensitivity
    ``|theta * grad|`` times its running uncertainty. Removed weights are set to zero at each update (every
    ``interval`` steps from ``begin`` on, then at every step from ``end`` to the last), but gradients and optimizer
    state are left alone, so a removed weight may come back: between updates validation and checkpoints see weights
    that drift, as in the authors' code. From ``end`` on they see exactly the asked sparsity.

    When the fit ends, the run's folder holds ``ticket.safetensors`` and the picture ``pruning.png``, also as ``.svg``
    and its numbers as ``.csv``: what each layer lost when, over sparsity, over loss and mask change.

    Args:
        sparsity: Final fraction of the scope that is removed, in [0, 1), reached by a cubic schedule; or a Schedule.
        beta1: Decay of the sensitivity, in [0, 1).
        beta2: Decay of the uncertainty, in [0, 1]. 1 ranks by sensitivity alone, as in the authors' code. 0 has the
            latest window's deviation alone as the uncertainty, which is noisy (the authors' code for SQuAD takes 0 for
            that of the newest step, which is noisier).
        interval: Optimizer steps in a window, and between updates; >= 1.
        begin: When pruning begins: optimizer steps (int), or a fraction of the fit (float).
        end: When the final sparsity is reached, and held to the last step; as ``begin``.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: linear and convolution weights but classifier, head and pooler.
        save_state: Save the three averages in checkpoints (12 bytes per weight). Without them a resumed run keeps its
            masks but starts the averages anew, and says so.
        averages_dtype: Of the three averages; default: each weight's own, but at least float32. ``"bfloat16"`` halves
            the memory (8 instead of 14 bytes per weight at the peak, masks included; 10 instead of 18 once, where
            ``end`` is no multiple of ``interval``) and changes the masks a little: see the benchmarks.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: An argument out of range, or a Schedule together with ``begin`` or ``end``; in ``fit``, a scope
            that matches nothing, or a schedule that cannot end in this fit.

    Example:
        >>> PLATON(sparsity=0.8, begin=100, end=2000).schedule
        Cubic(final=0.8, begin=100, end=2000)

    Source: Zhang et al. 2022, "PLATON: Pruning Large Transformer Models with Upper Confidence Bound of Weight
    Importance", algorithm 1. Unlike the authors' code, exactly ``round((1 - sparsity) * n)`` weights are kept (theirs
    keeps one more, and all ties), biases are left out, and nothing is ranked before one window has been seen.
    """

    frozen = False
    knows_shards = True

    def __init__(
        self,
        sparsity: float | Schedule,
        *,
        beta1: float = 0.85,
        beta2: float = 0.95,
        interval: int = 10,
        begin: int | float = 0.05,
        end: int | float = 0.7,
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        save_state: bool = True,
        averages_dtype: Literal["float32", "bfloat16"] | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        schedule = scheduled(sparsity, begin, end, defaults=(0.05, 0.7))
        scope = scope or BODY
        super().__init__(schedule, interval=interval, scope=scope, name=name, per=per, log_layers=log_layers)
        check_decay("beta1", beta1)
        check_fraction("beta2", beta2, "the decay of a running average", one=True)
        self.beta1 = beta1
        self.beta2 = beta2
        self.save_state = save_state
        check_word("averages_dtype", averages_dtype, ("float32", "bfloat16", None))
        self.averages_dtype = averages_dtype
        self._dtype: torch.dtype | None = getattr(torch, averages_dtype) if averages_dtype else None

    def _reset(self) -> None:
        super()._reset()
        self._averages: dict[str, Averages] = {}
        self._folder: str | None = None  # the checkpoint that a fit of shards goes on from
        self._averages_in: str | None = None  # where checkpoints that are folders have the averages
        self._observed_from: int | None = None  # the first step that the averages hold
        self._without_gradient: set[str] = set()
        self._saw_gradients = False  # whether the present batch's optimizer step was given any
        self._is_blind = True  # whether exact zeros count as none there: until a window has an observation
        self._has_warned = False
        self._counts: Tensor | None = None  # 1 where the present step's gradients are finite, else 0; None without any
        self._unread: list[tuple[int, Tensor]] = []  # steps, whether finite and whether not all zero; on the device
        self._silent: set[int] = set()  # steps of the present window whose gradients were all exactly zero

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        first = max(2, self.interval)  # the step that folds in the first window with an observation
        if schedule is not None and schedule.end < first and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise LotteryError(
                f"{self.label} sees its first window of {self.interval} steps at step {first}, but is to reach "
                f"sparsity {schedule.final} at step {schedule.end}: shorten `interval`, or train longer."
            )
        if self._masked.shards and saves_folders(trainer):
            self._averages_in = f"optimizer_{len(trainer.optimizers)}"
        # Copied into memory of the fit's device and dtype: tensors of a checkpoint are not written into.
        saved = self._averages
        self._averages = {}
        for name, param in self._masked.parts.items():
            self._averages[name] = averages_like(param, self._dtype)
            if self.beta2 == 1:  # an uncertainty that never moves: sensitivity alone ranks
                self._averages[name].uncertainty.fill_(1)
            if name in saved:
                for average, value in zip(self._averages[name], saved.pop(name), strict=True):
                    average.copy_(value)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not self._saw_gradients:
            grads = (_dense(param.grad) for param in self._masked.parts.values() if param.grad is not None)
            # Without looking at entries it ends at the first gradient, and costs nothing.
            self._saw_gradients = any(not self._is_blind or _has_entries(grad) for grad in grads)

    def observe(self, params: Mapping[str, Tensor], step: int) -> None:
        grads = {name: _dense(param.grad) for name, param in params.items()}
        present = [grad for grad in grads.values() if grad is not None]
        if self._saw_gradients and not (any(map(_has_entries, present)) if self._is_blind else present):
            raise LotteryError(
                f"{self.label} finds no gradient at the batch's end, though the optimizer was given some: call "
                "`zero_grad()` before `backward()`, not after `step()`."
            )
        self._saw_gradients = False
        self._counts = None
        if present:  # else `training_step` gave no loss for this batch
            # A step counts for all shards or for none: 8 bytes are sent.
            odd, filled = self._masked.shards.sum(torch.stack(_looked_at(present)))
            self._counts, is_any = odd.eq(0).int(), filled.ne(0).int()
            self._unread.append((step, torch.stack((self._counts, is_any))))
            missing = {name for name, grad in grads.items() if grad is None} - self._without_gradient
            if missing and bool(self._counts):
                self._without_gradient |= missing
                rank_zero_warn(
                    f"{self.label}: no gradient reaches {', '.join(sorted(missing))}; that counts as sensitivity 0."
                )
        ends = step % self.interval == 0
        if ends or all(_on_host(grad) for grad in present):
            self._read()
        # In the authors' order: the window that ends is folded in, then this step's observation opens the next. Where
        # masks are due it is `find_masks` that opens it, for until then scores stand in the window's memory.
        due = ends and self._is_due(step)
        # A window of nothing but exact zeros, as a frozen phase gives, says nothing of the weights: averages stay.
        is_window = ends and not self._silent.issuperset(range(max(1, step - self.interval), step))
        if ends:
            self._silent &= {step}
            self._is_blind = self._is_blind or not is_window
        for averages in self._averages.values() if ends else ():
            if is_window:
                fold_(averages, interval=self.interval, beta1=self.beta1, beta2=self.beta2)
            if due:  # at once, while the averages are in the processor's cache
                score(averages, out=averages.window)
        if not due:
            self._add(params, opens=ends)

    def find_masks(self, params: Mapping[str, Tensor], sparsity: float, within: Masks | None) -> Masks:
        """As of every callback; where windows ended, the next ones open afterwards."""
        masks = super().find_masks(params, sparsity, within)
        if self.step % self.interval == 0:
            self._add(params, opens=True)
        return masks

    def scores(self, params: Mapping[str, Tensor], step: int) -> Scores:
        """Where windows have ended, their memory holds the scores: four bytes per weight less at the peak."""
        if step % self.interval == 0:
            return {name: averages.window for name, averages in self._averages.items()}
        return ScoresOnDemand(self._averages, lambda name: score(self._averages[name]))

    def bytes_per_weight(self, param: Tensor) -> int:
        average = averages_like(param.new_empty(0), self._dtype).window.element_size()
        return super().bytes_per_weight(param) + 3 * average

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, the decays, and another dtype than a weight's own."""
        # The default is left out: checkpoints of before there was the argument resume.
        dtype = {"averages_dtype": self.averages_dtype} if self.averages_dtype else {}
        return {**super().settings(), "beta1": self.beta1, "beta2": self.beta2, **dtype}

    def method_state(self) -> dict[str, Any]:
        self._read()
        if not self.save_state:
            return {}
        noted = {"observed_from": self._observed_from, "silent": sorted(self._silent)}
        if self._averages_in is not None:
            return {"averages_in": self._averages_in, **noted}
        shards = self._masked.shards
        gathered = {f: dict(shards.on_first(each)) if shards else cloned(each) for f, each in self._fields().items()}
        return {"averages": gathered, **noted}

    def _fields(self) -> dict[str, dict[str, Tensor]]:
        return {field: {n: getattr(a, field) for n, a in self._averages.items()} for field in Averages._fields}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """As of every callback; in a folder each rank saves its part of the averages, as optimizers do."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.save_state and self._averages_in is not None:
            states = checkpoint["optimizer_states"]
            if len(states) == len(trainer.optimizers):  # one more, of all callbacks together
                states.append({})
            states[-1][self.state_key] = self._sharded()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which checkpoint it is."""
        self._folder = str(trainer.ckpt_path)

    def _sharded(self) -> dict[str, dict[str, Any]]:
        sharded = self._masked.shards.sharded
        return {field: {n: sharded(n, part) for n, part in each.items()} for field, each in self._fields().items()}

    def _load_from_folder(self, key: str) -> None:
        """Read this rank's part of the averages from a checkpoint that is a folder, of any number of ranks."""
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_loader import load

        self._averages = {name: averages_like(part, self._dtype) for name, part in self._masked.parts.items()}
        # In place: what is sharded shares the averages' memory.
        try:
            load({key: {self.state_key: self._sharded()}}, checkpoint_id=self._folder)
        except CheckpointException as error:  # no Exception
            raise LotteryError(f"The checkpoint '{self._folder}' does not have {self.label}'s averages.") from error
        for field, tensors in self._fields().items():
            if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
                raise LotteryError(f"The checkpoint's averages are finite numbers, the {field} of '{odd[0]}' is not.")

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        if "averages_in" in state and self._masked.shards:
            self._load_from_folder(state["averages_in"])
            self._note(state)
            return
        if "averages" not in state:
            self._averages, self._observed_from = {}, None
            rank_zero_warn(f"{self.label} resumes at step {self.step} with its masks, but without its averages.")
            return
        fields = [state["averages"][field] for field in Averages._fields]
        for tensors in fields:
            check_tensors(tensors, self._masked.params, "averages")
        part = self._masked.shards.part
        self._averages = {name: Averages(*(part(name, each[name]) for each in fields)) for name in self._masked.params}
        self._note(state)

    def _note(self, state: Mapping[str, Any]) -> None:
        self._observed_from = (
            state["observed_from"] if state["observed_from"] is None else index(state["observed_from"])
        )
        self._silent = set(state.get("silent", ()))  # earlier versions did not note them

    def _is_due(self, step: int) -> bool:
        """Only once a window that holds an observation was folded in: before, all scores are zero and say nothing."""
        last_fold = step - step % self.interval
        return super()._is_due(step) and self._observed_from is not None and last_fold > self._observed_from

    def _add(self, params: Mapping[str, Tensor], *, opens: bool) -> None:
        """This step's observation; a step without finite gradients has none."""
        counts = self._counts
        # On the host the number is known now, and a step that does not count adds no gradient. On a device nobody waits
        # for it: `add_` multiplies by it there.
        if counts is not None and _on_host(counts):
            counts, skipped = None, not counts
        else:
            skipped = counts is None
        for name, param in params.items():
            grad = None if skipped else _dense(param.grad)
            add_(self._averages[name].window, param, grad, opens=opens, counts=counts)

    def _read(self) -> None:
        """Take note of which steps were observed: once in a window where reading waits for a device."""
        # Stacked first: one transfer from the device, not one for each step.
        looks = torch.stack([looked for _, looked in self._unread]).tolist() if self._unread else []
        for (step, _), (is_finite, is_any) in zip(self._unread, looks, strict=True):
            if is_finite and is_any:
                self._observed_from = step if self._observed_from is None else self._observed_from
                self._is_blind = False
            elif is_finite:
                self._silent.add(step)
            elif not self._has_warned:
                rank_zero_warn(f"{self.label} does not observe step {step}: its gradients are not finite. Said once.")
                self._has_warned = True
        self._unread = []


def _looked_at(grads: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Whether any entry is not finite, and whether any is not zero, as 1 or 0: on the device, so that no step waits.

    The largest absolute value tells. On the host sums are faster, but may overflow or cancel, so that one has to look
    again.
    """
    if not _on_host(grads[0]):
        largest = torch.nn.utils.get_total_norm(
            [grad for grad in grads if grad.numel()] or [grads[0].new_zeros(1)], torch.inf
        )
        return largest.isfinite().logical_not().int(), largest.ne(0).int()
    sums = [float(grad.sum()) for grad in grads]
    finite = all(math.isfinite(total) or bool(grad.isfinite().all()) for total, grad in zip(sums, grads, strict=True))
    is_any = any(sums) or any(map(_has_entries, grads))
    return torch.tensor(int(not finite), dtype=torch.int32), torch.tensor(int(is_any), dtype=torch.int32)


def _has_entries(grad: Tensor | None) -> bool:
    return grad is not None and bool(grad.any())


def _on_host(tensor: Tensor) -> bool:
    """Whether looking at a tensor waits for nobody."""
    return tensor.device.type == "cpu"


def _dense(grad: Tensor | None) -> Tensor | None:
    return grad.to_dense() if grad is not None and grad.is_sparse else grad
