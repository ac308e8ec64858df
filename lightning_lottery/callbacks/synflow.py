"""SynFlow: prune once by the flow through a network made positive, before training or early in it."""

import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from lightning_lottery.checks import check_count, check_word, check_words
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.scores import Loss, Weights, iterative_masks, snip, synflow, widest_dtype
from lightning_lottery.hooks.one_shot import OneShot, first_line
from lightning_lottery.hooks.scoring import (
    cast,
    loss_in,
    optimizers_untouched,
    state_of,
    tensors_in,
    training_batches,
    untouched,
    with_state,
)
from lightning_lottery.scope import Scope, plain_name

LIFTABLE = ("weights", "inputs", "activations", "labels")


class SynFlow(OneShot):
    """Remove the weights that carry least of the flow through the network, a few at a time: before training or early.

    Zeros bring no speed by themselves: see ``shrink``. ``at_step=0`` is SynFlow, pruning before training; ``at_step=k``
    is AdSynFlow: train ``k`` optimizer steps, prune, train on. Removed weights stay removed. Labels are not used.

    The module's ``forward`` runs in evaluation mode and float64 (scaled float32, with a warning, where device or module
    cannot), all parameters absolute, on a positive input: what the first layers receive, whatever the module does to
    its own input before them. All layers carry the same flow, so none loses its last weight early, in networks of
    linear and convolution layers, ReLU, pooling and neutral batch norm; layer norm, softmax and GELU break that.

    ``lifted`` leaves out restrictions that a network which has trained may do without, each at a price. Signed
    ``"weights"``: contributions cancel, and layers no longer sum to the same. Signed ``"inputs"``: ReLUs close, and the
    first layers alone sum to more than others. Real ``"activations"``, every layer receiving what it receives in
    the network as it is: nothing cancels, but layers sum to different flows. ``"labels"``, the loss of the module's
    ``training_step`` instead of the sum of outputs: its gradients have either sign, so that contributions cancel, and
    labelled data are needed. All four at once are SNIP in one iteration, iterative SNIP in several.

    When the fit ends, the run's folder holds ``ticket.safetensors`` and the picture ``pruning.png``, also as ``.svg``
    and its numbers as ``.csv``: what each layer lost when, over sparsity, over loss and mask change.

    Args:
        sparsity: Fraction of the scope that is removed, in [0, 1).
        at_step: Optimizer steps before pruning, >= 0.
        iterations: Rounds of scoring and removing, >= 1; density falls exponentially over them.
        input: ``"ones"`` of the shape of a sample; the absolute value of one training ``"sample"``; the ``"mean"``
            absolute value over ``batches`` training batches; or a function from (module, batch) to what ``forward``
            gets: a tensor, a tuple of arguments, or a dict of named ones, such as embeddings of ones for tokens.
        batches: Training batches on each rank for ``"mean"`` and for labels, >= 1.
        batch_norm: ``"absolute"``: absolute running statistics, as the authors'; or ``"neutral"``: mean and bias 0, the
            variance kept. Default: ``"neutral"`` for a network that has trained, as it is if weights keep their signs.
        bypass: Class names of layers that hand their input on while scoring, globs allowed: ``("LayerNorm",)``.
        lifted: Restrictions to leave out, of ``"weights"``, ``"inputs"``, ``"activations"`` and ``"labels"``. Signed
            inputs are a ``"sample"`` or the ``"mean"``; labels are those of every ``"sample"`` of ``batches`` batches.
        per: Rank all parameters together (``"all"``), or each by itself (``"tensor"``).
        scope: Which parameters compete; default: the weights of linear and convolution layers.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: An argument out of range; in ``fit``, a scope that matches nothing, ``at_step`` beyond the fit, a
            module without ``forward``, tokens where ``input`` is no function, or scores that are all zero.

    Example:
        >>> SynFlow(0.9, at_step=1000).schedule
        Constant(final=0.9, begin=1000)

    Source: Tanaka et al. 2020, algorithm 1; Bolwerk 2021 (AdSynFlow, its inputs and that restrictions can be left out);
    de Jorge et al. 2021 (iterative SNIP). The authors make every buffer absolute; here only batch norm's are, for
    others may hold the minus infinity of an attention mask.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        at_step: int = 0,
        iterations: int = 100,
        input: Literal["ones", "sample", "mean"] | Callable[[LightningModule, Any], Any] = "ones",
        batches: int = 10,
        batch_norm: Literal["absolute", "neutral"] | None = None,
        bypass: tuple[str, ...] = (),
        lifted: tuple[Literal["weights", "inputs", "activations", "labels"], ...] = (),
        per: Literal["all", "tensor"] = "all",
        scope: Scope | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        about: dict[str, Any] = {"per": per, "scope": scope, "name": name, "log_layers": log_layers}
        super().__init__(sparsity, at_step=at_step, batches=batches, **about)
        check_count("iterations", iterations, "a whole number")
        word = "" if callable(input) else input  # of a function none
        if not callable(input):
            check_word("input", input, ("ones", "sample", "mean"))
        check_word("batch_norm", batch_norm, ("absolute", "neutral", None))
        if isinstance(bypass, str):
            raise LotteryError(f"`bypass` is a list of class names, got {bypass!r}.")
        if lifted != ():
            check_words("lifted", lifted, LIFTABLE)
        if "weights" in lifted and batch_norm == "absolute":
            raise LotteryError("Batch norm keeps its signs where `lifted` holds 'weights': leave `batch_norm` out.")
        if "inputs" in lifted and word not in ("sample", "mean"):
            raise LotteryError(
                "`lifted` 'inputs' keep the signs of a sample or of the mean: say `input='sample'` or 'mean', for ones "
                "are positive, and a function gives what signs it likes."
            )
        if "labels" in lifted and word != "sample":
            raise LotteryError(f"`lifted` 'labels' are those of samples: say `input='sample'`, not {input!r}.")
        self.lifted = tuple(word for word in LIFTABLE if word in lifted)
        self.iterations = iterations
        self.input = input
        self.batch_norm = batch_norm
        self.bypass = tuple(bypass)

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        super().begin_method(trainer, schedule)
        if type(trainer.lightning_module).forward is LightningModule.forward:
            name = type(trainer.lightning_module).__name__
            raise LotteryError(f"{self.label} runs the module's `forward`, and {name} has none: define it.")
        if "labels" in self.lifted:
            self._refuse_manual(trainer, "score without labels")

    def settings(self) -> dict[str, str | int | float | None]:
        """As of every callback, and what the flow depends on; ``lifted`` only if it is: older checkpoints lack it."""
        is_function = callable(self.input)
        return {
            **super().settings(),
            "iterations": self.iterations,
            # Two settings, for checkpoints of when they were two arguments.
            "input": "ones" if is_function else str(self.input),
            "input_fn": getattr(self.input, "__qualname__", type(self.input).__name__) if is_function else None,
            "batch_norm": self.batch_norm,
            "bypass": ", ".join(self.bypass),
            **({"lifted": ", ".join(self.lifted)} if self.lifted else {}),
        }

    def find_masks(self, params: Mapping[str, Tensor], sparsity: float, within: Masks | None) -> Masks:
        """The masks of the last iteration."""
        first = next(iter(params.values()))
        if (widest := widest_dtype(first.device)) != torch.float64:
            rank_zero_warn(f"{self.label}: {first.device} has no float64, so scores are computed in scaled float32.")
        errors: list[Exception] = []
        for dtype in dict.fromkeys((widest, torch.float32, None)):
            try:
                masks = self._last_masks(dtype, params, sparsity, within)
            except (LotteryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # the project's own code runs here
                errors.append(error)
                # torch has no error class for mixed dtypes: "expected scalar type Float but found Double" and its like.
                if not re.search("double|float|half|dtype", str(error).lower()):
                    break
                continue
            if errors:
                instead = "scaled float32" if dtype else "the dtypes of its own weights"
                rank_zero_warn(
                    f"{self.label}: the module does not run in {str(widest).removeprefix('torch.')} "
                    f"('{first_line(errors[0])}'), so scores are computed in {instead}. It has tensors that are no "
                    "buffers, or casts to a dtype."
                )
            return masks
        example = "what `input` gives" if callable(self.input) else "a sample of the first training batch"
        raise LotteryError(
            f"{self.label} runs the module's `forward` on {example}, and it fails: {first_line(errors[0])}. Give a "
            "function as `input` that makes what `forward` takes."
        ) from errors[0]

    def _hint_of_zeros(self) -> str:
        closed = "inputs" in self.lifted and "weights" not in self.lifted
        return "; a sample that is mostly negative closes every ReLU unless 'weights' are lifted too" if closed else ""

    def _last_masks(
        self, dtype: torch.dtype | None, params: Mapping[str, Tensor], sparsity: float, within: Masks | None
    ) -> Masks:
        assert self._trainer is not None
        with untouched(self._trainer, dtype) as module:
            # In a fresh network means and biases are zero, and both ways are one. Those of a network that has trained
            # would add to the flow, which then is no longer the same in every layer.
            late = self.step > 0 and "weights" not in self.lifted
            batch_norm = self.batch_norm or ("neutral" if late else "absolute")
            flow = Flow(module, dtype, neutral=batch_norm == "neutral", bypass=self.bypass, lifted=self.lifted)
            batches = self._feed(flow, module, dtype)

            def score(weights: Weights) -> dict[str, Tensor]:
                if "labels" in self.lifted:
                    scores = snip(self._loss(flow), weights, batches, average=self._average)
                else:
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

    def _feed(self, flow: "Flow", module: LightningModule, dtype: torch.dtype | None) -> list[OrderedDict[str, Any]]:
        """Give the flow its input, the same on every rank unless labels count; gives the batches it is from."""
        assert self._trainer is not None
        several = self.input == "mean" or "labels" in self.lifted
        drawn = [cast(each, dtype) for each in training_batches(self._trainer, self.batches if several else 1)]
        if {"inputs", "labels"} <= {*self.lifted}:
            return drawn  # what `training_step` gets is what it takes, also tokens
        if callable(self.input):
            flow.inputs = as_arguments(cast(self.input(module, drawn[0]["batch"]), dtype))
            return drawn
        samples: list[Arguments] = []
        for arguments in drawn:
            with optimizers_untouched(self._trainer):
                sample = flow.arguments_of_forward(module, list(arguments.values()))
            samples.append(sample or ((self._first_tensor(arguments["batch"]),), {}))
            self._first_tensor(samples[-1])
        flow.inputs = flow.one_of(samples[0])
        received = flow.received(samples if self.input == "mean" else [flow.inputs])
        if not received:
            raise LotteryError(
                f"{self.label} finds no layer that sees the input of `forward`: give a function as `input`."
            )
        if "labels" in self.lifted:
            flow.replace(None)
            return drawn
        if self.input == "ones":
            received = [torch.ones_like(total) for total in received]
        # One sample is rank 0's alone: the other ranks take part in the sum with zeros, and count no batch.
        counts = self.input == "mean" or self._trainer.is_global_zero
        sums = {str(number): total * counts for number, total in enumerate(received)}
        flow.replace(list(self._average(sums, len(samples) * counts).values()))
        return drawn

    def _loss(self, flow: "Flow") -> Loss:
        def loss(weights: Weights, arguments: Mapping[str, Any]) -> Tensor:
            return loss_in(flow.training_step(weights, *arguments.values()), self.label)

        return loss

    def _first_tensor(self, batch: Any) -> Tensor:
        """The input in a batch: its first tensor, refused unless it is floating-point."""
        first = next(tensors_in(batch), None)  # of a list of images the first one
        if first is None or not first.is_floating_point() or first.ndim == 0:
            beginning = "no tensor" if first is None else f"{first.dtype} of shape {tuple(first.shape)}"
            raise LotteryError(
                f"{self.label} needs a floating-point input, and a batch begins with {beginning}: give a function "
                "as `input` that makes one, such as embeddings of ones for tokens."
            )
        return first


class Flow:
    """The sum of a module's outputs as a function of its weights, for one input; all positive but for what is lifted.

    Sets modes and hooks of the module, which must be lent by ``untouched``.

    Args:
        module: Whose ``forward`` is run, in evaluation mode.
        dtype: What it runs in; None: what its parameters have.
        neutral: Whether mean and bias of batch norm are zero; else both are absolute values.
        bypass: Class names of layers that hand their input on.
        lifted: As of ``SynFlow``.
    """

    def __init__(
        self,
        module: nn.Module,
        dtype: torch.dtype | None,
        *,
        neutral: bool,
        bypass: Sequence[str],
        lifted: Collection[str] = (),
    ) -> None:
        self.inputs: Arguments = ((), {})
        """What ``forward`` gets."""
        dtypes = {param.dtype for param in module.parameters() if param.is_floating_point()}
        self._largest = min(torch.finfo(each).max for each in ([dtype] if dtype else dtypes))
        self.state = state_of(module.eval(), dtype or torch.float32)
        self._dtype = dtype
        # Where weights keep their signs, the network that scores already is the network as it is.
        real = "activations" in lifted and "weights" not in lifted
        self._real = {name: value.clone() for name, value in self.state.items()} if real else {}
        self._additive = _make_positive_(module, self.state, neutral, signed="weights" in lifted)
        self._keeps_sign_of_input = "inputs" in lifted
        self._call = with_state(module, "__call__", dtype)
        self._step = with_state(module, "training_step", dtype)
        self._failed: Exception | None = None  # how `training_step` ended before it called `forward`
        self._layers = [
            child
            for child in module.modules()
            if is_parametrized(child) or any(p.ndim > 1 for p in child.parameters(recurse=False))
        ]
        self._first: list[nn.Module] = []
        self._scale = 1.0
        self._scores: dict[str, Tensor] = {}
        for child in module.modules():
            if any(fnmatchcase(cls.__name__, pattern) for cls in type(child).__mro__ for pattern in bypass):
                child.register_forward_hook(lambda layer, args, output: args[0])
        self._activations: deque[Tensor] = deque()
        self._lends = False
        for layer in self._layers if real else ():
            layer.register_forward_pre_hook(self._receive_real)

    def __call__(self, weights: Weights, scale: float = 1.0) -> Tensor:
        """The sum of all floating-point outputs; ``scale`` keeps it from overflowing.

        Input, biases and running means are scaled, which scales every activation of a positively homogeneous network
        alike, and then the sum: by ``scale`` squared altogether.
        """
        self._scale = scale
        args, kwargs = self.inputs
        outputs = self._run(self._call, weights, *cast(args, self._dtype, scale), **cast(kwargs, self._dtype, scale))
        sums = [output.sum() for output in tensors_in(outputs) if output.is_floating_point()]
        if not sums:
            raise LotteryError("There is no flow to measure: `forward` returns no floating-point tensor.")
        return torch.stack(sums).sum() * scale

    def training_step(self, weights: Weights, *args: Any) -> Any:
        """What the module's ``training_step`` returns."""
        self._scale = 1.0
        return self._run(self._step, weights, *args)

    def _run(self, call: Callable[..., Any], weights: Weights, *args: Any, **kwargs: Any) -> Any:
        if self._real:
            self._activations.clear()
            signed = {name: weight.detach() * self._real[name].sign() for name, weight in weights.items()}
            call(self._scaled({**self._real, **signed}), *args, **kwargs)
        self._lends = True
        try:
            return call(self._scaled({**self.state, **weights}), *args, **kwargs)
        finally:
            self._lends = False

    def _scaled(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state.update({name: state[name] * self._scale for name in self._additive if self._scale != 1})
        return state

    def _receive_real(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """In the network as it is note what layers have made for this one; then let it receive that instead."""
        return tuple(map(self._real_of, args))

    def _real_of(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.requires_grad:  # the network's own input
            return value
        if self._lends:
            # Plus a zero that has the gradient: the flow goes on to the layers before, as if this were theirs.
            return self._activations.popleft() + (value - value.detach())
        self._activations.append(value.detach())
        return value

    def scores(self, weights: Weights) -> dict[str, Tensor]:
        """SynFlow's scores, all scaled by one factor where they would overflow.

        The next call, which must be of the same weights, writes over them.

        Raises:
            LotteryError: They overflow all the same.
        """
        # One memory for all iterations: a hundred rounds of new memory for every weight cost more than the products.
        self._scores = self._scores or {name: torch.empty_like(weight) for name, weight in weights.items()}
        # A quarter of the exponent's range at a time, no further than is needed: far down the smallest scores vanish.
        octaves = int(math.log2(self._largest)) // 4
        for exponent in range(4):
            scale = 2.0 ** -(octaves * exponent)
            scores = synflow(lambda lent, scale=scale: self(lent, scale), weights, out=self._scores)  # type: ignore[misc]
            # A sum is fast, but may overflow where no entry does: only then is every entry looked at.
            if all(math.isfinite(score.sum()) or bool(score.isfinite().all()) for score in scores.values()):
                return scores
        raise LotteryError(
            f"SynFlow's scores are not finite, in {self._dtype} and scaled down: the network is too deep without norm "
            "layers, or holds weights that are not finite."
        )

    def arguments_of_forward(self, module: nn.Module, arguments: Sequence[Any]) -> "Arguments | None":
        """What ``training_step`` calls ``forward`` with first; None where it fails before, or never does."""
        seen: list[Arguments] = []

        def note(*args: Any, **kwargs: Any) -> None:
            seen.append((args, kwargs))
            raise _Seen

        attributes = dict(vars(module))
        # In the module itself, where both `self(x)` and `self.forward(x)` look; a hook sees the first way alone.
        vars(module)["forward"] = note
        try:
            with torch.no_grad():
                self._step(self.state, *arguments)
        except (_Seen, Exception) as error:
            self._failed = None if isinstance(error, _Seen) else error
        finally:
            vars(module).pop("forward")
            vars(module).update({name: value for name, value in attributes.items() if name == "forward"})
        return seen[0] if seen else None

    def one_of(self, batch: "Arguments") -> "Arguments":
        """The arguments of one sample, or all where the network does not run on one, as on one node of a graph."""
        sample = _first_sample(batch)
        try:
            with torch.no_grad():
                self._call(self.state, *sample[0], **sample[1])
        except torch.OutOfMemoryError:
            raise
        except Exception:
            try:
                with torch.no_grad():
                    self._call(self.state, *batch[0], **batch[1])
            except Exception as error:
                # What went wrong first is the cause: then this was not what `forward` takes.
                raise self._failed or error from None
            return batch
        return sample

    def received(self, samples: Sequence["Arguments"]) -> list[Tensor]:
        """The input of each first layer, as the sum over ``samples`` of its means, absolute unless signs are kept.

        It is of one sample's shape.

        A first layer has weights, and its input has passed no other layer that has. Whatever the module does to its own
        input, such as normalising it, has happened by then.
        """
        self._first = list(self._inputs_of(self._layers, self.inputs))
        with torch.no_grad():
            inputs = [self._inputs_of(self._first, sample) for sample in samples]
        return [torch.stack([by_layer[layer] for by_layer in inputs]).sum(0) for layer in self._first]

    def replace(self, received: Sequence[Tensor] | None) -> None:
        """From now on let the first layers receive this instead, in their order; None: its absolute value."""
        replacements = dict(zip(self._first, received, strict=True)) if received else {}

        def lend(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not _is_input(args):
                return None
            if layer not in replacements:
                return (args[0].abs(), *args[1:])
            return ((replacements[layer] * self._scale).expand_as(args[0]), *args[1:])

        for layer in self._first:
            layer.register_forward_pre_hook(lend)

    def _inputs_of(self, layers: Sequence[nn.Module], sample: "Arguments") -> dict[nn.Module, Tensor]:
        """The absolute mean over the batch of each layer's input, for those ``layers`` that see the network's input."""
        inputs: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module, args: tuple[Any, ...]) -> None:
            if _is_input(args) and layer not in inputs:  # a layer that is called again: its first input
                values = args[0].detach()
                inputs[layer] = (values if self._keeps_sign_of_input else values.abs()).mean(0, keepdim=True)

        hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
        self._call(self.state, *sample[0], **sample[1])
        for hook in hooks:
            hook.remove()
        return inputs


def _is_input(args: tuple[Any, ...]) -> bool:
    """Whether a layer's first argument comes from the network's input and no other layer."""
    # Samples need no gradient and all parameters do, so whatever a layer with weights has made needs one.
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point() and not args[0].requires_grad


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named ones of a call."""


class _Seen(BaseException):
    """``training_step`` has called the module; no ``except Exception`` of a project stops it."""


def _first_sample(arguments: Arguments) -> Arguments:
    """The same arguments of the batch's first sample alone: of tensors and lists that are as long as the batch."""
    args, kwargs = arguments
    batch = next(value for value in (*args, *kwargs.values()) if next(tensors_in(value), None) is not None)
    size = len(batch) if not isinstance(batch, Mapping) else len(next(tensors_in(batch)))

    def cut(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        is_batch = isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)
        return value[:1] if is_batch and len(value) == size else value

    return tuple(map(cut, args)), cut(kwargs)


def as_arguments(inputs: Any) -> Arguments:
    """What a function as ``input`` gives: a tensor, a sequence of arguments, or a mapping of named ones."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


@torch.no_grad()
def _make_positive_(module: nn.Module, state: Mapping[str, Tensor], neutral: bool, signed: bool) -> list[str]:
    """Absolute parameters and running means unless ``signed``, in place; gives the names of what is added."""
    # Of a complex parameter or a bool one it is not the same kind of number.
    absolute = [plain_name(name) for name, param in module.named_parameters() if param.is_floating_point()]
    # A weight's spectral norm is a product with these two buffers, of any sign until they are absolute.
    for name in state:
        old = re.fullmatch(r"(.*)_[uv]", name)
        if (old and f"{old[1]}_orig" in state) or re.search(r"\bparametrizations\.\w+\.\d+\._[uv]$", name):
            absolute.append(name)
    # By name, for torch marks no parameter as one that is added: 'bias', 'attn.in_proj_bias', 'bias_ih_l0'.
    additive = [name for name in state if re.search(r"(^|[._])bias(_|$)", name)]
    for path, child in module.named_modules():
        if isinstance(child, _BatchNorm):
            added = [plain_name(f"{path}.{leaf}") for leaf in ("running_mean", "bias")]
            # Absent where a norm is not affine or tracks nothing; buffers of other layers keep their sign, for they
            # may hold the minus infinity of an attention mask.
            absolute += [name for name in added if name in state]
            for name in (name for name in added if name in state and neutral):
                state[name].zero_()
            additive += [name for name in added[:1] if name in state]
    for name in () if signed else absolute:
        state[name].abs_()
    return additive
