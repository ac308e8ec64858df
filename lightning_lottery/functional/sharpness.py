"""How curved the loss is where a network stands."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.scores import Loss, Weights, hessian_product


def sharpness(
    loss: Loss, weights: Weights, batches: Sequence[Any], *, scale: Weights | None = None, tolerance: float = 0.01
) -> float:
    """The largest eigenvalue of the Hessian of the mean loss over the batches, by Lanczos' method.

    Gradient descent with learning rate ``lr`` leaves a minimum along whose steepest direction ``sharpness * lr / 2``
    is above 1. What an optimizer does that scales each entry is told by ``scale``.

    Args:
        loss: From weights and one batch to a scalar, twice differentiable.
        weights: Name to tensor.
        batches: What ``loss`` is asked for, some tens of times each.
        scale: Name to what the optimizer multiplies each entry of a gradient by, >= 0: then it is the largest
            eigenvalue of ``diag(scale) H``. 0 leaves an entry out, as a mask does. Default: 1 everywhere.
        tolerance: Relative, > 0, of the eigenvalue.

    Raises:
        LotteryError: The loss is not finite here.

    Example:
        >>> round(sharpness(lambda w, x: (x * w["w"] ** 2).sum(), {"w": torch.ones(2)}, [torch.tensor([1.0, 3.0])]), 6)
        6.0

    Source: Lanczos 1950, by ARPACK (scipy); Cohen et al. 2021, "Gradient descent on neural networks typically occurs at
    the edge of stability"; for ``scale`` Cohen et al. 2022, "Adaptive gradient methods at the edge of stability".
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    device = next(iter(weights.values())).device
    root = _flat(scale).sqrt() if scale else torch.ones(sum(weight.numel() for weight in weights.values())).double()

    def times(vector: np.ndarray) -> np.ndarray:
        scaled = torch.from_numpy(vector.reshape(-1)) * root
        parts = torch.split(scaled, [weight.numel() for weight in weights.values()])
        named = {
            name: part.view(weight.shape).to(device, weight.dtype)
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }
        product = _flat(hessian_product(loss, weights, batches, named)) * root
        if not product.isfinite().all():
            raise LotteryError("The sharpness is that of a finite loss, and here its second derivative is not finite.")
        return np.asarray(product.numpy())

    # A fixed start, so that the same network has the same sharpness.
    start = np.random.default_rng(0).standard_normal(len(root))
    if not root.any():  # nothing moves, and ARPACK would find no direction
        return 0.0
    if len(root) == 1:  # ARPACK wants more entries than eigenvalues
        return float(times(np.ones(1))[0])
    operator = LinearOperator((len(root), len(root)), matvec=times, dtype=np.float64)
    (largest,) = eigsh(operator, k=1, which="LA", tol=tolerance, v0=start, return_eigenvectors=False)
    return float(largest)


def adam_scale(state: Mapping[str, Any], beta2: float, eps: float) -> Tensor:
    """What Adam multiplies each entry of its averaged gradient by, the learning rate aside.

    Args:
        state: The optimizer's of one parameter, as ``torch.optim.Adam`` and ``AdamW`` keep it; with ``amsgrad`` their
            largest squares count.
        beta2: Decay of the averaged squares, in [0, 1).
        eps: Added to their root.

    Returns:
        The shape of the parameter, > 0.

    Example:
        >>> adam_scale({"step": 1, "exp_avg_sq": torch.tensor([0.001, 0.004])}, beta2=0.999, eps=0.0)
        tensor([1.0000, 0.5000])

    Source: Kingma & Ba 2015, algorithm 1; Reddi et al. 2018 (AMSGrad).
    """
    squares: Tensor = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    return torch.reciprocal((squares / (1 - beta2 ** float(state["step"]))).sqrt() + eps)


def _flat(tensors: Weights) -> Tensor:
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors.values()])
