"""Which heads, neurons and channels are worth keeping: scores of units, from a few batches and no training."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import check_sparsity, keep_top
from lightning_lottery.functional.scores import fisher
from lightning_lottery.functional.shares import share
from lightning_lottery.functional.train_mode import modes_kept
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.parts import Group, Groups, owners_of, tensor_at

Loss = Callable[[nn.Module, Any], Tensor]
"""A module and a batch to the scalar loss."""


def unit_masks(
    model: nn.Module,
    calibration: Iterable[Any],
    *,
    heads: float = 0.0,
    neurons: float = 0.0,
    channels: float = 0.0,
    per: Literal["all", "tensor"] = "all",
    flops: float | None = None,
    groups: Groups | None = None,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """Which units to keep, by the diagonal of their Fisher information, without training.

    The score of a unit is the mean over batches of the squared gradient of the loss by its mask. The model is scored
    in evaluation mode, and left as it was.

    Args:
        model: Any module that ``groups_of`` recognises.
        calibration: Batches on any device. Batches of one example give the mean over examples.
        heads: Fraction of the attention heads to remove, in [0, 1).
        neurons: The same for the neurons of feed-forward networks.
        channels: The same for the channels of convolutions.
        per: Rank the units of a kind over all layers (``"all"``), or those of each layer by themselves (``"tensor"``),
            so that layers stay alike.
        flops: Instead of the three: fraction of the multiply-adds per token in the weights of heads and neurons to
            remove; how many of which is chosen so that the sum of the scores removed is smallest.
        groups: What to score (default: ``groups_of(model)``).
        loss: Model and batch to a scalar (default: ``loss_of``).

    Returns:
        Name of each group of a kind that is cut to its mask.

    Raises:
        LotteryError: A fraction outside [0, 1) or of a kind that the model does not have, or scores that cannot be
            computed: no batch, a batch that ``loss_of`` does not understand, a NaN.

    Source: Kwon et al. 2022, equation 6 and algorithm 1, whose code takes batches of several examples as here; without
    its mask rearrangement and tuning.
    """
    fractions = {"head": heads, "neuron": neurons, "channel": channels}
    groups = groups_of(model) if groups is None else groups
    for kind, fraction in fractions.items():
        check_sparsity(fraction)
        if fraction and not any(group.kind == kind for group in groups.values()):
            raise LotteryError(f"{fraction} of the {kind}s were to be removed, but {type(model).__name__} has none.")
    if flops is not None and any(fractions.values()):
        raise LotteryError("`flops` chooses how many heads and neurons go: give it, or `heads`, `neurons`, `channels`.")
    scores = unit_scores(model, calibration, groups, loss)
    by_kind = {kind: {n: s for n, s in scores.items() if groups[n].kind == kind} for kind in fractions}
    masks: dict[str, Tensor] = {}
    if flops is not None:
        masks = _within_budget(by_kind["head"], by_kind["neuron"], _costs(model, groups), flops)
    for kind, fraction in fractions.items():
        masks |= keep_top(by_kind[kind], fraction, per=per) if fraction else {}
    for name in [name for name, mask in masks.items() if not mask.any()]:  # ranked over all layers, one may lose all
        warn_of_last_unit(name, groups[name])
        masks[name] = keep_top({name: scores[name]}, 1 - 1 / groups[name].size)[name]
    return masks


def unit_scores(
    model: nn.Module, calibration: Iterable[Any], groups: Groups, loss: Loss | None = None
) -> dict[str, Tensor]:
    """The diagonal Fisher information of every unit's mask, on the CPU: name of a group to tensor of shape (size,).

    Raises:
        LotteryError: No batch, or one that ``loss_of`` does not understand.
    """
    with _undisturbed(model, {part.parameter for group in groups.values() for part in group.consumers}) as weights:
        return fisher(_mask_gradients(weights, groups, (loss or loss_of)(model, batch)) for batch in calibration)


def weight_norms(model: nn.Module, groups: Groups) -> list[Tensor]:
    """The Euclidean norm of every unit's weights (biases and norms aside), for each group in turn."""
    owners, norms = owners_of(model), []
    for group in groups.values():
        squares: Tensor | float = 0.0
        for part in group.parts:
            weight = tensor_at(owners, part.parameter).detach()
            if weight.dim() > 1:
                squares = squares + part.entries_by_unit(weight, group.size).square().sum(1)
        norms.append(torch.as_tensor(squares).sqrt())
    return norms


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    """The mean loss of a batch: the model's own for a mapping with labels, cross-entropy for (inputs, targets).

    Raises:
        LotteryError: A batch of another form, or a model that returns no loss for a mapping.
    """
    device = next(model.parameters()).device
    if isinstance(batch, Mapping):
        output = model(**{name: x.to(device) if isinstance(x, Tensor) else x for name, x in batch.items()})
        loss = getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            return loss
    elif isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch):
        output = model(batch[0].to(device))
        logits: Tensor = getattr(output, "logits", output)
        return nn.functional.cross_entropy(logits, batch[1].to(device))
    raise LotteryError(
        "A calibration batch is (inputs, targets), or a mapping with labels for which the model returns a loss; got "
        f"{type(batch).__name__}. Give `unit_masks` a `loss` of your own."
    )


def warn_of_last_unit(name: str, group: Group) -> None:
    """Warn that a layer keeps one unit although none was to be kept."""
    warnings.warn(
        f"No {group.kind} of '{name}' was to be kept: one of its {group.size} stays, as a layer cannot be empty.",
        stacklevel=4,
    )


def _mask_gradients(weights: Mapping[str, Tensor], groups: Groups, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of a loss by the mask of every unit, where all masks are 1.

    A mask m multiplies the weights w that read the unit, so dL/dm at m = 1 is the sum of w * dL/dw over them: one
    backward pass gives the gradients of all masks, and none has to be put into the model.
    """
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    products = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        precise = torch.promote_types(weight.dtype, torch.float32)  # half precision loses the sum below
        products[name] = weight.detach().to(precise) * (0 if gradient is None else gradient.to(precise))
    mask_gradients = {}
    for name, group in groups.items():
        total = torch.zeros(group.size, dtype=torch.float64)
        for part in group.consumers:
            total += part.entries_by_unit(products[part.parameter], group.size).sum(1).cpu()
        mask_gradients[name] = total
    return mask_gradients


@contextmanager
def _undisturbed(model: nn.Module, names: set[str]) -> Iterator[dict[str, Tensor]]:
    """Lend the named weights, the only ones with gradients, in evaluation mode; afterwards nothing has changed."""
    owners = owners_of(model)
    weights = {name: tensor_at(owners, name) for name in sorted(names)}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    devices = {p.device for p in flags if p.device.type == "cuda"}
    # A model may draw also in evaluation mode, and whoever calls must get the same random numbers afterwards.
    with torch.random.fork_rng(devices=list(devices)), modes_kept(model), torch.enable_grad():
        try:
            model.eval().requires_grad_(False)
            for weight in weights.values():
                weight.requires_grad_(True)
            yield weights
        finally:
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)


def _costs(model: nn.Module, groups: Groups) -> dict[str, float]:
    """Multiply-adds per token in the weights of one unit of each group: the entries it has in matrices."""
    owners = owners_of(model)
    costs = {}
    for name, group in groups.items():
        matrices = [(part, tensor) for part in group.parts if (tensor := tensor_at(owners, part.parameter)).dim() > 1]
        costs[name] = float(sum(m.numel() // m.shape[part.dim] * part.block for part, m in matrices))
    return costs


def _within_budget(
    heads: Mapping[str, Tensor], neurons: Mapping[str, Tensor], costs: Mapping[str, float], flops: float
) -> dict[str, Tensor]:
    """Of the ways to split a budget between heads and neurons, the one that removes the least score."""
    check_sparsity(flops)
    total_heads, total_neurons = (sum(len(s) for s in scores.values()) for scores in (heads, neurons))
    if not total_heads or not total_neurons:
        raise LotteryError("`flops` splits a budget between heads and neurons, and the model lacks one of the two.")
    whole = sum(costs[name] * len(score) for name, score in (*heads.items(), *neurons.items()))
    per_neuron = max(costs[name] for name in neurons)
    best: tuple[float, dict[str, Tensor]] | None = None
    for kept in range(1, total_heads + 1):
        masks = keep_top(heads, 1 - kept / total_heads)
        left = share(1 - flops, whole) - sum(costs[name] * int(mask.sum()) for name, mask in masks.items())
        if left < per_neuron:
            break
        masks |= keep_top(neurons, max(0.0, 1 - int(left / per_neuron) / total_neurons))
        lost = sum(float(score[~masks[name]].sum()) for name, score in (*heads.items(), *neurons.items()))
        if best is None or lost < best[0]:
            best = lost, masks
    if best is None:
        raise LotteryError(f"Removing {flops} of the operations leaves no head and neuron: ask for less.")
    return best[1]
