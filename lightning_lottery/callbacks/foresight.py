"""Pruning once, before training or early in it: SynFlow, SNIP and GraSP."""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_lottery.callbacks.flow import Flow
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks
from lightning_lottery.functional.schedules import Constant, Schedule
from lightning_lottery.functional.scores import Loss, Weights, grasp, iterative_masks, snip, widest_dtype
from lightning_lottery.hooks.clock import steps_of_fit
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.scoring import cast, state_of, tensors_in, training_batches, untouched, with_state
from lightning_lottery.scope import Scope


class _Foresight(MaskCallback):
    """Prunes once, right after optimizer step ``at_step``; 0 is before the first."""

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int,
        batches: int,
        per: Literal["all", "tensor"],
        scope: Scope | None,
        name: str | None,
    ) -> None:
        _check_number("at_step", at_step, least=0)
        _check_number("batches", batches, least=1)
        super().__init__(Constant(sparsity, begin=at_step), interval=1, scope=scope, name=name, per=per)
        self.at_step = at_step
        self.batches = batches

    def _reset(self) -> None:
        super()._reset()
        self._trainer: Trainer | None = None  # while it fits

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        self._trainer = trainer
        if "dataloader_iter" in signature(trainer.lightning_module.training_step).parameters:
            raise LotteryError(
                f"{self.label} draws batches itself, which `training_step(dataloader_iter)` cannot share."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._trainer = None

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and on how many batches."""
        return {**super().settings(), "batches": self.batches}

    def _resolve(self, schedule: Schedule, trainer: Trainer, pl_module: LightningModule) -> Schedule:
        steps = steps_of_fit(trainer, pl_module)
        if steps is not None and self.at_step > steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise LotteryError(
                f"{self.label} prunes at step {self.at_step}, but this fit ends at step {steps}: choose an earlier "
                "`at_step` or train longer."
            )
        return super()._resolve(schedule, trainer, pl_module)

    def _sum_over_ranks_(self, tensors: Iterable[Tensor]) -> None:
        assert self._trainer is not None
        for tensor in tensors if self._trainer.world_size > 1 else ():
            torch.distributed.all_reduce(tensor)

    def _average(self, sums: Weights, batches: int) -> dict[str, Tensor]:
        """Means over the batches of all ranks."""
        everywhere = next(iter(sums.values())).new_tensor(batches)
        self._sum_over_ranks_((*sums.values(), everywhere))
        return {name: total / everywhere for name, total in sums.items()}

    def _refuse_zeros(self, scores: Weights) -> None:
        if not any(bool(score.any()) for score in scores.values()):
            raise LotteryError(
                f"{self.label}: every score at step {self.step} is zero, so nothing tells one weight from another. No "
                "gradient reaches the scope: look at the loss, or at layers that cancel it."
            )


class _ByLoss(_Foresight):
    """Scores from the gradients of the module's own ``training_step``."""

    method: ClassVar[Callable[..., dict[str, Tensor]]]

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int = 0,
        batches: int = 1,
        train_mode: bool = False,
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(sparsity, at_step=at_step, batches=batches, per=per, scope=scope, name=name)
        self.train_mode = train_mode

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        super().begin_method(trainer, schedule)
        if not trainer.lightning_module.automatic_optimization:
            raise LotteryError(
                f"{self.label} needs the loss alone, and a `training_step` in manual optimization steps the optimizers "
                "itself: use automatic optimization, or SynFlow, which needs no loss."
            )

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and in which mode."""
        return {**super().settings(), "train_mode": self.train_mode}

    def scores(self, params: Mapping[str, nn.Parameter], step: int) -> dict[str, Tensor]:
        assert self._trainer is not None
        dtype = reduce(torch.promote_types, (param.dtype for param in params.values()), torch.float32)
        with untouched(self._trainer, dtype) as module:
            for child in module.modules():
                child.training &= self.train_mode and not isinstance(child, _DropoutNd)
            state = state_of(module, dtype)
            batches = [cast(batch, dtype) for batch in training_batches(self._trainer, self.batches)]
            weights = {name: state[name] for name in params}
            scores = type(self).method(self._loss(module, state, dtype), weights, batches, average=self._average)
        self._refuse_zeros(scores)
        return scores

    def _loss(self, module: LightningModule, state: Weights, dtype: torch.dtype) -> Loss:
        step = with_state(module, "training_step", dtype)

        def loss(weights: Weights, arguments: Mapping[str, Any]) -> Tensor:
            output = step({**state, **weights}, *arguments.values())
            value = output.get("loss") if isinstance(output, Mapping) else output
            if not isinstance(value, Tensor):
                raise LotteryError(f"{self.label} needs the loss, and `training_step` returned {value!r} for a batch.")
            return value

        return loss


class SNIP(_ByLoss):
    """Remove the weights that the loss feels least, at once: before training or after ``at_step`` steps.

    Zeros bring no speed by themselves: see ``shrink``. The score of a weight is ``|w * dL/dw|``, with the loss of the
    module's own ``training_step`` on the first training batches of an epoch; all ranks' batches count. Removed weights
    stay removed. At high sparsity whole layers may lose their weights: a warning names them.

    Args:
        sparsity: Fraction of the scope that is removed, in [0, 1).
        at_step: Optimizer steps before pruning, >= 0.
        batches: Training batches on each rank, >= 1; the authors take one, others ten samples of each class.
        train_mode: Leave the module in the modes it trains in, dropout layers aside; else evaluation mode. Running
            statistics do not move either way.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.

    Raises:
        LotteryError: An argument out of range; in ``fit``, a scope that matches nothing, ``at_step`` beyond the fit,
            manual optimization, a ``training_step`` without loss, or scores that are all zero.

    Example:
        >>> SNIP(0.9).schedule
        Constant(final=0.9, begin=0)

    Source: Lee et al. 2019, "SNIP: Single-shot network pruning based on connection sensitivity", algorithm 1.
    """

    method = staticmethod(snip)


class GraSP(_ByLoss):
    """Remove the weights that the gradient's flow needs least, at once: before training or after ``at_step`` steps.

    Zeros bring no speed by themselves: see ``shrink``. The score of a weight is ``w * Hg``, gradient and Hessian being
    those of the module's own ``training_step`` on the first training batches of an epoch; all ranks' batches count.
    Each batch is differentiated twice, which takes more memory than training does. Removed weights stay removed.

    Args:
        sparsity: Fraction of the scope that is removed, in [0, 1).
        at_step: Optimizer steps before pruning, >= 0.
        batches: Training batches on each rank, >= 1; the authors take ten samples of each class.
        train_mode: Leave the module in the modes it trains in, dropout layers aside; else evaluation mode. Running
            statistics do not move either way.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.

    Raises:
        LotteryError: As for ``SNIP``.

    Example:
        >>> GraSP(0.9, at_step=10).schedule
        Constant(final=0.9, begin=10)

    Source: Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", algorithm 1. The
    authors divide logits by 200 and draw a new classifier; here the loss and the weights are the project's own.
    """

    method = staticmethod(grasp)


class SynFlow(_Foresight):
    """Remove the weights that carry least of the flow through the network, a few at a time: before training or early.

    Zeros bring no speed by themselves: see ``shrink``. ``at_step=0`` is SynFlow, pruning before training; ``at_step=k``
    is AdSynFlow: train ``k`` optimizer steps, prune, train on. Removed weights stay removed. Labels are not used.

    The module's ``forward`` runs in evaluation mode and float64 (scaled float32, with a warning, where device or module
    cannot), all parameters absolute, on a positive input: what the first layers receive, whatever the module does to
    its own input before them. All layers carry the same flow, so none loses its last weight early, in networks of
    linear and convolution layers, ReLU, pooling and neutral batch norm; layer norm, softmax and GELU break that.

    Args:
        sparsity: Fraction of the scope that is removed, in [0, 1).
        at_step: Optimizer steps before pruning, >= 0.
        iterations: Rounds of scoring and removing, >= 1; density falls exponentially over them.
        input: ``"ones"`` of the shape of a sample; the absolute value of one training ``"sample"``; or the ``"mean"``
            absolute value over ``batches`` training batches.
        batches: Training batches on each rank for ``"mean"``, >= 1.
        batch_norm: ``"absolute"``: absolute running statistics, as the authors'; or ``"neutral"``: mean and bias 0, the
            variance kept. Default: ``"neutral"`` for a network that has trained.
        bypass: Class names of layers that hand their input on while scoring, globs allowed: ``("LayerNorm",)``.
        input_fn: From (module, batch) to what ``forward`` gets: a tensor, a tuple of arguments, or a dict of named
            ones; such as embeddings of ones for a model whose inputs are tokens. Takes the place of ``input``.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.

    Raises:
        LotteryError: An argument out of range; in ``fit``, a scope that matches nothing, ``at_step`` beyond the fit, a
            module without ``forward``, token inputs without ``input_fn``, or scores that are all zero.

    Example:
        >>> SynFlow(0.9, at_step=1000).schedule
        Constant(final=0.9, begin=1000)

    Source: Tanaka et al. 2020, algorithm 1; Bolwerk 2021 (AdSynFlow and its inputs). The authors make every buffer
    absolute; here only batch norm's are, for others may hold the minus infinity of an attention mask.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int = 0,
        iterations: int = 100,
        input: Literal["ones", "sample", "mean"] = "ones",
        batches: int = 10,
        batch_norm: Literal["absolute", "neutral"] | None = None,
        bypass: tuple[str, ...] = (),
        input_fn: Callable[[LightningModule, Any], Any] | None = None,
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(sparsity, at_step=at_step, batches=batches, per=per, scope=scope, name=name)
        _check_number("iterations", iterations, least=1)
        if input not in ("ones", "sample", "mean"):
            raise LotteryError(f"`input` is 'ones', 'sample' or 'mean', got {input!r}.")
        if batch_norm not in ("absolute", "neutral", None):
            raise LotteryError(f"`batch_norm` is 'absolute', 'neutral' or None, got {batch_norm!r}.")
        if isinstance(bypass, str):
            raise LotteryError(f"`bypass` is a list of class names, got {bypass!r}.")
        if input_fn is not None and input != "ones":
            raise LotteryError(f"`input_fn` takes the place of `input`: give only one of them, not {input!r} as well.")
        self.iterations = iterations
        self.input = input
        self.batch_norm = batch_norm
        self.bypass = tuple(bypass)
        self.input_fn = input_fn

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        super().begin_method(trainer, schedule)
        if type(trainer.lightning_module).forward is LightningModule.forward:
            name = type(trainer.lightning_module).__name__
            raise LotteryError(f"{self.label} runs the module's `forward`, and {name} has none: define it.")

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and what the flow depends on."""
        input_fn = (
            None if self.input_fn is None else getattr(self.input_fn, "__qualname__", type(self.input_fn).__name__)
        )
        own = {"iterations": self.iterations, "input": self.input, "batch_norm": self.batch_norm, "input_fn": input_fn}
        return {**super().settings(), **own, "bypass": ", ".join(self.bypass)}

    def find_masks(self, params: Mapping[str, nn.Parameter], sparsity: float, within: Masks | None) -> Masks:
        """The masks of the last iteration."""
        device = next(iter(params.values())).device
        if (dtype := widest_dtype(device)) != torch.float64:
            rank_zero_warn(f"{self.label}: {device} has no float64, so scores are computed in scaled float32.")
        try:
            return self._last_masks(dtype, params, sparsity, within)
        except RuntimeError as error:
            if dtype != torch.float64 or "double" not in str(error).lower():
                raise
            said = str(error).splitlines()[0]
            rank_zero_warn(
                f"{self.label}: the module does not run in float64 ('{said}'), so scores are computed in scaled "
                "float32. It has tensors that are no buffers, or a `.float()`."
            )
        return self._last_masks(torch.float32, params, sparsity, within)

    def _last_masks(
        self, dtype: torch.dtype, params: Mapping[str, nn.Parameter], sparsity: float, within: Masks | None
    ) -> Masks:
        assert self._trainer is not None
        with untouched(self._trainer, dtype) as module:
            neutral = (self.batch_norm or ("neutral" if self.step > 0 else "absolute")) == "neutral"
            flow = Flow(module, dtype, neutral=neutral, bypass=self.bypass)
            self._feed(flow, module, dtype)

            def score(weights: Weights) -> dict[str, Tensor]:
                scores = flow.scores(weights)
                self._sum_over_ranks_(scores.values())  # running statistics differ between them
                self._refuse_zeros(scores)
                return scores

            weights = {name: flow.state[name] for name in params}
            every = max(1, self.iterations // 5)
            rounds = iterative_masks(score, weights, sparsity, iterations=self.iterations, within=within, per=self.per)
            masks: dict[str, Tensor] = {}
            for done, masks in enumerate(rounds, 1):  # noqa: B007  the last ones count
                if done % every == 0:
                    rank_zero_info(f"{self.label}: {done} of {self.iterations} iterations of scoring and removing.")
        return masks

    def _feed(self, flow: Flow, module: LightningModule, dtype: torch.dtype) -> None:
        """Give the flow its input, the same on every rank."""
        assert self._trainer is not None
        drawn = training_batches(self._trainer, self.batches if self.input == "mean" else 1)
        batches = [cast(arguments["batch"], dtype) for arguments in drawn]
        if self.input_fn is not None:
            flow.inputs = cast(self.input_fn(module, batches[0]), dtype)
            return
        samples = [self._first_tensor(batch) for batch in batches]
        flow.inputs = samples[0][:1]
        received = flow.received(samples if self.input == "mean" else [flow.inputs])
        if not received:
            raise LotteryError(f"{self.label} finds no layer that sees the input of `forward`: give an `input_fn`.")
        if self.input == "ones":
            received = [torch.ones_like(one) for one in received]
        counts = self.input == "mean" or self._trainer.is_global_zero  # one sample is one rank's
        sums = {str(place): one * counts for place, one in enumerate(received)}
        flow.replace(list(self._average(sums, len(samples) * counts).values()))

    def _first_tensor(self, batch: Any) -> Tensor:
        """The input in a batch: its first tensor, refused unless it is floating-point."""
        first = next(tensors_in(batch), None)
        if first is None or not first.is_floating_point() or first.ndim == 0:
            found = "no tensor" if first is None else f"{first.dtype} of shape {tuple(first.shape)}"
            raise LotteryError(
                f"{self.label} needs a floating-point input, and a batch begins with {found}: give an `input_fn` that "
                "makes one, such as embeddings of ones for tokens."
            )
        return first


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise LotteryError(f"`{name}` is a whole number >= {least}, got {value!r}.")
