"""The network whose flow SynFlow measures: a module with absolute parameters, neutral of data, and a positive input."""

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.scores import Weights, synflow
from lightning_lottery.hooks.scoring import cast, state_of, tensors_in, with_state
from lightning_lottery.scope import plain_name


class Flow:
    """The sum of a module's outputs as a function of its weights, for one positive input.

    Sets modes and hooks of the module, which must be lent by ``untouched``.

    Args:
        module: Whose ``forward`` is run, in evaluation mode.
        dtype: What it runs in.
        neutral: Whether mean and bias of batch norm are zero; else both are absolute values.
        bypass: Class names of layers that hand their input on.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, neutral: bool, bypass: Sequence[str]) -> None:
        self.inputs: Any = ()
        """What ``forward`` gets: a tensor, a tuple of arguments, or a mapping of named ones."""
        self.state = state_of(module.eval(), dtype)
        self._dtype = dtype
        self._additive = _make_positive_(module, self.state, neutral)
        self._call = with_state(module, "__call__", dtype)
        self._layers = [child for child in module.modules() if any(p.ndim > 1 for p in child.parameters(recurse=False))]
        self._first: list[nn.Module] = []
        self._scale = 1.0
        self._scores: dict[str, Tensor] = {}
        for child in module.modules():
            if any(fnmatchcase(cls.__name__, pattern) for cls in type(child).__mro__ for pattern in bypass):
                child.register_forward_hook(lambda layer, args, output: args[0])

    def __call__(self, weights: Weights, scale: float = 1.0) -> Tensor:
        """The sum of all floating-point outputs, times ``scale`` squared where the network is positively homogeneous.

        Input, biases and running means are scaled, which scales every activation alike, and then the sum.
        """
        self._scale = scale
        state = {**self.state, **weights}
        state.update({name: state[name] * scale for name in self._additive if scale != 1})
        args, kwargs = _as_arguments(self.inputs)
        outputs = self._call(state, *cast(args, self._dtype, scale), **cast(kwargs, self._dtype, scale))
        sums = [output.sum() for output in tensors_in(outputs) if output.is_floating_point()]
        if not sums:
            raise LotteryError("There is no flow to measure: `forward` returns no floating-point tensor.")
        return torch.stack(sums).sum() * scale

    def scores(self, weights: Weights) -> dict[str, Tensor]:
        """SynFlow's scores, all scaled by one factor where they would overflow.

        The next call, which must be of the same weights, writes over them.

        Raises:
            LotteryError: They overflow all the same.
        """
        self._scores = self._scores or {name: torch.empty_like(weight) for name, weight in weights.items()}
        octaves = int(math.log2(torch.finfo(self._dtype).max)) // 4
        for exponent in range(4):
            scale = 2.0 ** -(octaves * exponent)
            scores = synflow(lambda lent, scale=scale: self(lent, scale), weights, out=self._scores)  # type: ignore[misc]
            # A sum is fast, but may overflow where no entry does: then look again.
            if all(math.isfinite(score.sum()) or bool(score.isfinite().all()) for score in scores.values()):
                return scores
        raise LotteryError(
            f"SynFlow's scores are not finite, in {self._dtype} and scaled down: the network is too deep without norm "
            "layers, or holds weights that are not finite."
        )

    def received(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """What each layer that sees the input before any other does receives: sums over ``samples`` of absolute means.

        After whatever the module does to its input before them: it may normalise. One tensor a layer, for one sample.
        """
        self._first = list(self._watch(samples[0][:1], self._layers))
        with torch.no_grad():
            seen = [self._watch(sample, self._first) for sample in samples]
        return [torch.stack([one[layer] for one in seen]).sum(0) for layer in self._first]

    def replace(self, received: Sequence[Tensor]) -> None:
        """From now on let those layers receive this instead, in their order."""
        instead = dict(zip(self._first, received, strict=True))

        def lend(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return ((instead[layer] * self._scale).expand_as(args[0]), *args[1:]) if _is_input(args) else None

        for layer in instead:
            layer.register_forward_pre_hook(lend)

    def _watch(self, sample: Tensor, layers: Sequence[nn.Module]) -> dict[nn.Module, Tensor]:
        """The first input of those ``layers`` that depends on no parameter, averaged over the batch."""
        seen: dict[nn.Module, Tensor] = {}

        def see(layer: nn.Module, args: tuple[Any, ...]) -> None:
            if _is_input(args) and layer not in seen:
                seen[layer] = args[0].detach().abs().mean(0, keepdim=True)

        hooks = [layer.register_forward_pre_hook(see) for layer in layers]
        self._call(self.state, sample)
        for hook in hooks:
            hook.remove()
        return seen


def _is_input(args: tuple[Any, ...]) -> bool:
    """Whether a layer's first argument comes from the network's input and no other layer."""
    return bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point() and not args[0].requires_grad


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


@torch.no_grad()
def _make_positive_(module: nn.Module, state: Mapping[str, Tensor], neutral: bool) -> list[str]:
    """Absolute parameters and running means, in place; gives the names of what is added in the network."""
    for name, _ in module.named_parameters():
        state[plain_name(name)].abs_()
    additive = [name for name in state if re.search(r"(^|[._])bias(_|$)", name)]
    for path, child in module.named_modules():
        if isinstance(child, _BatchNorm):
            added = [plain_name(f"{path}.{leaf}") for leaf in ("running_mean", "bias")]
            for name in (name for name in added if name in state):
                state[name].zero_() if neutral else state[name].abs_()
            additive += [name for name in added[:1] if name in state]
    return additive
