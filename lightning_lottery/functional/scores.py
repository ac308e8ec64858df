"""Scores of weights: higher is more worth keeping.

SynFlow, SNIP and GraSP take a function of the weights, as ``torch.func.functional_call`` makes one of a module: it gets
the weights to be scored by name, and whatever else the network needs it brings itself.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_lottery.checks import check_count, check_word
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, Scores, keep_top, zero_removed_
from lightning_lottery.functional.schedules import Exponential
from lightning_lottery.functional.shares import share

Weights = Mapping[str, Tensor]
"""Qualified parameter name to weight tensor."""

Loss = Callable[[Weights, Any], Tensor]
"""From weights and one batch to the loss, a scalar."""

Average = Callable[[Weights, int], dict[str, Tensor]]
"""From sums over so many batches to means: where several processes have batches of their own, over all of them."""


def magnitude(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The absolute value of every entry, in at least float32.

    Args:
        params: Name to floating-point tensor of any shape.

    Returns:
        Name to tensor of the same shape, entries in [0, inf).

    Example:
        >>> magnitude({"w": torch.tensor([-2.0, 1.0])})
        {'w': tensor([2., 1.])}

    Source: Han et al. 2015, section 3.
    """
    return {
        name: param.detach().abs().to(torch.promote_types(param.dtype, torch.float32)) for name, param in params.items()
    }


def synflow(output: Callable[[Weights], Tensor], weights: Weights, *, out: Scores | None = None) -> dict[str, Tensor]:
    """The flow through every weight: ``|w * dR/dw|``, ``R`` the sum of the network's outputs.

    With non-negative weights, biases and input, and where doubling the weights of one layer doubles ``R``, each layer's
    scores sum to ``R``: no layer is worth less than another.

    Args:
        output: From weights to the network's output, for a fixed non-negative input, all else non-negative.
        weights: Name to non-negative tensor, removed entries zero; float64 where the network is deep, for nothing
            cancels among positive numbers.
        out: Name to tensor of the weight's shape and dtype that a score is written to where a gradient reaches the
            weight; default: new memory, which costs more than the product does.

    Returns:
        Name to tensor of the weight's shape and dtype, entries in [0, inf); zero where the weight is.

    Example:
        >>> weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
        >>> synflow(lambda w: w["b"] * (w["a"] @ torch.ones(2)), weights)
        {'a': tensor([3., 6.]), 'b': tensor(9.)}

    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
    equation 2 and algorithm 1.
    """
    leaves = _leaves(weights)
    with torch.enable_grad():
        flow = output(leaves).sum()
    for name, leaf in leaves.items():
        # A gradient becomes a score when it arrives: it is in the processor's cache, and its memory serves the next.
        score = partial(_score_of_flow, weight=leaf.detach(), out=out[name] if out else None)
        leaf.register_hook(score)  # type: ignore[no-untyped-call]
    return _gradients(flow, leaves)


def _score_of_flow(gradient: Tensor | None, *, weight: Tensor, out: Tensor | None) -> Tensor | None:
    return None if gradient is None else torch.mul(gradient, weight, out=out).abs_()


def iterative_masks(
    score: Callable[[Weights], Scores],
    weights: Weights,
    sparsity: float,
    *,
    iterations: int = 100,
    within: Masks | None = None,
    per: Literal["all", "tensor"] = "all",
) -> Iterator[dict[str, Tensor]]:
    """Masks after each of so many iterations: score, keep the highest, zero the others, score what is left.

    Density falls exponentially to ``1 - sparsity``. What is removed stays removed, where all scores are zero too.

    Args:
        score: From weights, removed entries zero, to their scores.
        weights: Name to tensor; left alone.
        sparsity: Fraction removed after the last iteration, in [0, 1).
        iterations: How many, >= 1.
        within: Masks to begin with (default: everything is kept).
        per: Rank all tensors together (``"all"``), or each by itself (``"tensor"``).

    Returns:
        An iterator of ``iterations`` sets of masks, each within the one before.

    Raises:
        LotteryError: ``iterations`` < 1; whatever ``keep_top`` refuses.

    Example:
        >>> [int(masks["w"].sum()) for masks in iterative_masks(dict, {"w": torch.rand(100)}, 0.75, iterations=2)]
        [50, 25]

    Source: Tanaka et al. 2020, algorithm 1. Until the last iteration fractions of an entry stay, as in the authors'
    code; the last keeps exactly ``round((1 - sparsity) * n)``. Theirs drops all that ties with the lowest kept.
    """
    check_count("iterations", iterations, "a number")
    check_word("per", per, ("all", "tensor"))
    schedule = Exponential(sparsity, begin=0, end=iterations)
    remaining = {name: weight.detach().clone() for name, weight in weights.items()}
    masks: dict[str, Tensor] = dict(within or {}) or {
        name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()
    }
    ranked_together = [list(weights)] if per == "all" else [[name] for name in weights]
    for iteration in range(1, iterations + 1):
        for name, weight in remaining.items():
            zero_removed_(weight, masks[name])
        scores, before, masks = score(remaining), masks, {}
        for names in ranked_together:
            total = sum(weights[name].numel() for name in names)
            # Whole entries, rounded down as in the authors' code: until the last iteration a fraction of one stays.
            whole = math.floor(share(schedule(iteration), total)) / total
            target = whole if iteration < iterations else sparsity
            masks |= keep_top({name: scores[name] for name in names}, target, within=before)
        yield masks


def snip(loss: Loss, weights: Weights, batches: Sequence[Any], *, average: Average | None = None) -> dict[str, Tensor]:
    """How much the loss feels every weight: ``|w * dL/dw|``, ``L`` the mean loss over the batches.

    Args:
        loss: From weights and one batch to a scalar.
        weights: Name to tensor.
        batches: What ``loss`` is asked for, one by one.
        average: How sums over these batches become means; default: divide. Several processes reduce here, before the
            absolute value is taken.

    Returns:
        Name to tensor of the weight's shape, entries in [0, inf); float64 where the device has it.

    Example:
        >>> snip(lambda w, x: (w["w"] * x).sum(), {"w": torch.tensor([1.0, -2.0])}, [torch.tensor([3.0, 1.0])])
        {'w': tensor([3., 2.], dtype=torch.float64)}

    Source: Lee et al. 2019, "SNIP: Single-shot network pruning based on connection sensitivity", equation 6 without its
    normalisation, which changes no mask.
    """
    gradient = _mean_gradient(loss, _leaves(weights), batches, average or _divide)
    return {name: (gradient[name] * weight.detach()).abs() for name, weight in weights.items()}


def grasp(loss: Loss, weights: Weights, batches: Sequence[Any], *, average: Average | None = None) -> dict[str, Tensor]:
    """How much every weight carries of the gradient's flow: ``w * Hg``, with gradient and Hessian of the mean loss.

    Removing the lowest first keeps what the gradient's norm, and with it the fall of the loss, depends on.

    Args:
        loss: From weights and one batch to a scalar, twice differentiable.
        weights: Name to tensor.
        batches: What ``loss`` is asked for, twice each.
        average: As for ``snip``.

    Returns:
        Name to tensor of the weight's shape, entries of either sign; float64 where the device has it.

    Example:
        >>> grasp(lambda w, x: (w["w"] ** 2 * x).sum(), {"w": torch.tensor([1.0, -2.0])}, [torch.tensor([1.0, 0.5])])
        {'w': tensor([4., 4.], dtype=torch.float64)}

    Source: Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", equation 8: theirs
    is ``-w * Hg``, and its highest are removed. They divide the logits by 200; that is up to ``loss``.
    """
    gradient = _mean_gradient(loss, _leaves(weights), batches, average or _divide)
    product = hessian_product(loss, weights, batches, gradient, average=average)
    return {name: product[name] * weight.detach() for name, weight in weights.items()}


def hessian_product(
    loss: Loss, weights: Weights, batches: Sequence[Any], vector: Weights, *, average: Average | None = None
) -> dict[str, Tensor]:
    """The Hessian of the mean loss over the batches, times a vector.

    Args:
        loss: From weights and one batch to a scalar, twice differentiable.
        weights: Name to tensor.
        batches: What ``loss`` is asked for, one by one.
        vector: Name to tensor of the weight's shape.
        average: As for ``snip``.

    Returns:
        Name to tensor of the weight's shape; float64 where the device has it.

    Example:
        >>> hessian_product(lambda w, x: (w["w"] ** 3).sum(), {"w": torch.tensor([2.0])}, [0], {"w": torch.ones(1)})
        {'w': tensor([12.], dtype=torch.float64)}

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    leaves = _leaves(weights)
    products = (_hessian_product(loss, leaves, batch, vector) for batch in batches)
    return (average or _divide)(_total(products, leaves), len(batches))


def widest_dtype(device: torch.device) -> torch.dtype:
    """Float64, or float32 on a device that has no float64.

    Example:
        >>> widest_dtype(torch.device("cpu"))
        torch.float64
    """
    try:
        return torch.zeros(1, dtype=torch.float64, device=device).dtype
    except (TypeError, RuntimeError):
        return torch.float32


def _leaves(weights: Weights) -> dict[str, torch.nn.Parameter]:
    """The same numbers as parameters of their own, so that gradients reach nobody else's."""
    return {name: torch.nn.Parameter(weight.detach()) for name, weight in weights.items()}


def _gradients(value: Tensor, leaves: Weights, *, create_graph: bool = False) -> dict[str, Tensor]:
    """Gradients by name; zero where ``value`` does not depend on a weight."""
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    # Not `materialize_grads`: its zeros require a gradient themselves in torch 2.6.
    gradients = torch.autograd.grad(value, list(leaves.values()), create_graph=create_graph, allow_unused=True)
    pairs = zip(leaves.items(), gradients, strict=True)
    return {name: torch.zeros_like(leaf) if gradient is None else gradient for (name, leaf), gradient in pairs}


def _mean_gradient(loss: Loss, leaves: Weights, batches: Sequence[Any], average: Average) -> dict[str, Tensor]:
    gradients = (_loss_gradient(loss, leaves, batch) for batch in batches)
    return average(_total(gradients, leaves), len(batches))


@torch.enable_grad()
def _loss_gradient(loss: Loss, leaves: Weights, batch: Any) -> dict[str, Tensor]:
    return _gradients(loss(leaves, batch), leaves)


@torch.enable_grad()
def _hessian_product(loss: Loss, leaves: Weights, batch: Any, vector: Weights) -> dict[str, Tensor]:
    gradients = _gradients(loss(leaves, batch), leaves, create_graph=True)
    # H g is the gradient of the number (gradient . g): one more pass backwards, and no Hessian is ever built.
    along = torch.stack([(gradient * vector[name].to(gradient.dtype)).sum() for name, gradient in gradients.items()])
    return _gradients(along.sum(), leaves)


def _total(parts: Iterable[Weights], like: Weights) -> dict[str, Tensor]:
    """Sums by name, in the widest dtype that the device has."""
    total = {name: torch.zeros_like(leaf, dtype=widest_dtype(leaf.device)) for name, leaf in like.items()}
    for part in parts:
        for name, gradient in part.items():
            total[name] += gradient.detach()
    return total


def _divide(sums: Weights, batches: int) -> dict[str, Tensor]:
    return {name: total / batches for name, total in sums.items()}


def fisher(gradients: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information: the mean of the squared gradients, in at least float32.

    Args:
        gradients: For each batch, name to gradient of its loss; the same names and shapes every time.

    Returns:
        Name to tensor of the same shape, entries in [0, inf).

    Raises:
        LotteryError: There is no batch.

    Example:
        >>> fisher([{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([3.0, 0.0])}])
        {'w': tensor([5., 0.])}

    Source: Kwon et al. 2022, equation 6.
    """
    sums: dict[str, Tensor] = {}
    batches = 0
    for batches, by_name in enumerate(gradients, start=1):  # noqa: B007 (read after the loop)
        for name, gradient in by_name.items():
            square = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32)).square()
            sums[name] = sums[name] + square if name in sums else square
    if not batches:
        raise LotteryError("The Fisher information needs at least one batch, got none: check the calibration data.")
    return {name: total / batches for name, total in sums.items()}
