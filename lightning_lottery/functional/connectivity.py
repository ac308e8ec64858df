"""The straight line between two networks: interpolation, barriers, distances, recalibration."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.train_mode import modes_kept

State = Mapping[str, Tensor]
"""A module's state: name to parameter or buffer."""


def interpolate_(target: State, a: State, b: State, alpha: float) -> None:
    """Set ``target`` to ``alpha * a + (1 - alpha) * b``, in place.

    What is neither floating-point nor complex comes from ``a``. Computed in at least float32. Exactly ``a`` at 1,
    exactly ``b`` at 0, and wherever they are equal their common value: two equal networks stay what they are all along
    the line.

    Args:
        target: What is written: tensors of the same names and shapes, on any device.
        a: State at ``alpha = 1``.
        b: State at ``alpha = 0``.
        alpha: Fraction of the line, in [0, 1].

    Example:
        >>> target = {"w": torch.empty(1)}
        >>> interpolate_(target, {"w": torch.tensor([4.0])}, {"w": torch.tensor([0.0])}, alpha=0.25)
        >>> target["w"]
        tensor([1.])

    Source: Frankle et al. 2020, section 2; buffers of batch norm are interpolated as weights are.
    """
    with torch.no_grad():
        for name in target:
            tensor = as_real(target[name])
            if not tensor.is_floating_point():
                tensor.copy_(a[name])
                continue
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            end, start = (as_real(state[name]).to(device=tensor.device, dtype=dtype) for state in (a, b))
            # `lerp` adds a multiple of end - start to the nearer one: exact at both, and wherever they are equal.
            mixed = torch.lerp(start, end, alpha)
            # Except where both are infinite, as in a mask of attention: their difference is NaN. To compare takes long,
            # so it is done only where the sum shows that something is not finite.
            if not mixed.sum().isfinite():
                mixed = torch.where(end == start, end, mixed)
            tensor.copy_(mixed)


def as_real(tensor: Tensor) -> Tensor:
    """A tensor as real numbers, a view: real and imaginary part of complex ones along a last dimension."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def error_barrier(values: Sequence[float]) -> float:
    """Highest value on the line minus the mean of its ends; the ends count, so it is never negative. NaN stays NaN.

    Example:
        >>> error_barrier([0.25, 0.75, 0.25])
        0.5

    Source: Frankle et al. 2020, section 2 (linear interpolation instability).
    """
    return float(np.max(values)) - (values[0] + values[-1]) / 2


def excess(values: Sequence[float], alphas: Sequence[float]) -> float:
    """Highest rise above the straight line between the ends' values: 0 for whatever is convex along the line.

    Args:
        values: One for each alpha, in the order of ``alphas``.
        alphas: Fractions of the line, from 0 to 1.

    Example:
        >>> excess([0.0, 1.0, 1.0], [0.0, 0.5, 1.0])
        0.5

    Source: Entezari et al. 2022, definition 3.1.
    """
    line = [(1 - x) * values[0] + x * values[-1] for x in alphas]
    return float(np.max(np.subtract(values, line)))


def distances(a: State, b: State) -> dict[str, float]:
    """Euclidean and cosine distance of two states' floating-point and complex entries, all taken together, in float64.

    Returns:
        ``l2`` in [0, inf), ``cosine`` in [0, 2].

    Example:
        >>> distances({"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([0.0, 4.0])})
        {'l2': 5.0, 'cosine': 1.0}
    """
    difference, product, length_a, length_b = 0.0, 0.0, 0.0, 0.0  # squares and an inner product, tensor by tensor
    for name in a:
        tensor = as_real(a[name])
        if tensor.is_floating_point():
            x, y = tensor.double().flatten(), as_real(b[name]).double().flatten().to(tensor.device)
            difference += float((x - y).square().sum())
            product += float(x @ y)
            length_a += float(x @ x)
            length_b += float(y @ y)
    norm = (length_a * length_b) ** 0.5
    return {"l2": difference**0.5, "cosine": 1 - product / norm if norm else 0.0}


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a module keeps running statistics of batches."""
    return any(isinstance(child, _BatchNorm) and child.track_running_stats for child in module.modules())


@torch.no_grad()
def recalibrate_batch_norm_(module: nn.Module, forward: Callable[[object], object], batches: Iterable[object]) -> None:
    """Estimate the running statistics of batch norm anew: the plain mean over the given batches, in place.

    Everything but batch norm is in evaluation mode meanwhile (no dropout); modes and momenta are as before afterwards.

    Args:
        module: Holds the batch norms.
        forward: Runs one batch through the module.
        batches: What to run through it.

    Source: Izmailov et al. 2018 (SWA), section 3; used for interpolated networks by Jordan et al. 2023 (REPAIR).
    """
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with modes_kept(module):
        module.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch then keeps the plain mean of all batches since the reset
                norm.train()
            for batch in batches:
                forward(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def layers_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Each module with parameters of its own to the names of its parameters and buffers; tied ones under the first.

    Example:
        >>> layers_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        {'0': ('0.weight', '0.bias')}

    Source: Adilova et al. 2023, section 3 (a layer is what shares a module's path).
    """
    layers: dict[str, tuple[str, ...]] = {}
    # Asked for all at once, tied tensors are listed under their first name only; child by child, under all of them.
    first_names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    for path, child in module.named_modules():
        direct = [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]
        names = tuple(name for leaf, _ in direct if (name := f"{path}.{leaf}" if path else leaf) in first_names)
        if names and any(True for _ in child.parameters(recurse=False)):
            layers[path or type(module).__name__] = names
    return layers


def check_alphas(alphas: Sequence[float]) -> tuple[float, ...]:
    """Fractions of the line in rising order, both ends included.

    Raises:
        LotteryError: One is outside [0, 1], twice, or an end is missing.

    Example:
        >>> check_alphas([1, 0, 0.5])
        (0.0, 0.5, 1.0)
    """
    ordered = tuple(sorted(float(alpha) for alpha in alphas))
    inside = all(0 <= alpha <= 1 for alpha in ordered)
    if not inside or not {0.0, 1.0} <= set(ordered) or len(set(ordered)) < len(ordered):
        raise LotteryError(f"`alphas` are different places in [0, 1] with both ends 0 and 1, got {list(alphas)}.")
    return ordered
