"""Multiply-adds of one forward pass: of the whole, and of each weight."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_lottery.functional.train_mode import modes_kept

_AFTER_A_SUMMAND = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)


class MultiplyAdds(NamedTuple):
    """How many a forward pass takes: in all, and those in which each weight is multiplied by something, by name."""

    total: int
    by_weight: dict[str, int]


def multiply_adds(module: nn.Module, weights: Mapping[str, Tensor], forward: Callable[[], Any]) -> MultiplyAdds:
    """Count the multiply-adds of a forward pass in evaluation mode, zeros included; nothing is changed.

    Counted are products of matrices, convolutions and attention, as PyTorch's own counter does, and those of recurrent
    layers, whose fused kernels it passes over; sums, activations and norms are not.

    Args:
        module: Whose mode is evaluation while it runs.
        weights: Of the module, by the names that ``by_weight`` shall have.
        forward: Runs it.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> multiply_adds(layer, {"weight": layer.weight}, lambda: layer(torch.ones(5, 3)))
        MultiplyAdds(total=30, by_weight={'weight': 30})
    """
    uses_fused_layer = torch.backends.mha.get_fastpath_enabled()
    with modes_kept(module), torch.no_grad():
        module.eval()
        try:
            # PyTorch's fused transformer layer and fused attention are no products that could be counted.
            torch.backends.mha.set_fastpath_enabled(False)
            has_recurrence = any(isinstance(child, nn.RNNBase) for child in module.modules())
            unfused = _without_fused_recurrence() if has_recurrence else nullcontext()
            with unfused, _Counter(weights) as counter, sdpa_kernel(SDPBackend.MATH):
                forward()
        finally:
            torch.backends.mha.set_fastpath_enabled(uses_fused_layer)
    return MultiplyAdds(counter.total, counter.by_weight)


@contextmanager
def _without_fused_recurrence() -> Iterator[None]:
    """Let recurrent layers multiply step by step: kernels of whole sequences hide their products."""
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    enabled = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        for backend, is_enabled in zip(backends, enabled, strict=True):
            backend.enabled = is_enabled


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.by_weight = dict.fromkeys(weights, 0)
        # A layer multiplies by a view of its weight: transposed, or a third of a packed projection.
        self._names = {weight.untyped_storage().data_ptr(): name for name, weight in weights.items()}

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry

        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            with self:  # an operation made of others, such as `linear` without gradients
                output = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if output is NotImplemented else output
        output = func(*args, **kwargs)
        products = count(*args, **kwargs, out_val=output) // 2  # a product and a sum are two operations there
        self.total += products
        # A bias is added, and multiplied by nothing: the first of these arguments, the third of a convolution.
        factors = args[1:3] if func._overloadpacket in _AFTER_A_SUMMAND else args[:2]
        tensors = (value for value in factors if isinstance(value, Tensor))
        for name in {self._names.get(tensor.untyped_storage().data_ptr()) for tensor in tensors} - {None}:
            self.by_weight[str(name)] += products
        return output
