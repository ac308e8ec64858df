"""Which heads, neurons and channels are worth keeping: scores of units, from a few batches and no training."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_lottery.checks import check_fraction, is_number
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import keep_top
from lightning_lottery.functional.rearranging import rearrange as swapped
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
    tokens: float | None = None,
    rearrange: bool = False,
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
            remove, at least; how many of which is chosen so that the sum of the scores removed is smallest. The unit
            that a layer keeps in any case counts.
        tokens: Mean length of a sequence: attention's products of queries with keys and with values count in ``flops``
            as well, 2 * tokens for each entry of a head (default: they do not).
        rearrange: Of each layer remove as many units, but swap them where the squared gradient of removing all of them
            together becomes smaller: see ``functional.rearrange``. It holds the gradients of all batches.
        groups: What to score (default: ``groups_of(model)``).
        loss: Model and batch to a scalar (default: ``loss_of``).

    Returns:
        Name of each group of a kind that is cut to its mask.

    Raises:
        LotteryError: A fraction outside [0, 1) or of a kind that the model does not have, ``tokens`` <= 0 or without
            ``flops``, or scores that cannot be computed: no batch, a batch that ``loss_of`` does not understand, a NaN;
            or ``flops`` that leave less than a unit of each layer.

    Source: Kwon et al. 2022, equation 6, algorithm 1 and section 4.2 (``rearrange``), whose code takes batches of
    several examples as here, and has no last unit of a layer; ``unit_factors`` is its tuning.
    """
    check_fractions(heads=heads, neurons=neurons, channels=channels, flops=flops, tokens=tokens)
    fractions = {"head": heads, "neuron": neurons, "channel": channels}
    groups = groups_of(model) if groups is None else groups
    for kind, fraction in fractions.items():
        if fraction and not any(group.kind == kind for group in groups.values()):
            raise LotteryError(f"{fraction} of the {kind}s were to be removed, but {type(model).__name__} has none.")
    if flops is not None and any(fractions.values()):
        raise LotteryError("`flops` chooses how many heads and neurons go: give it, or `heads`, `neurons`, `channels`.")
    gradients: list[dict[str, Tensor]] = []
    scores = _scored(model, calibration, groups, loss, gradients if rearrange else None)
    by_kind = {kind: {n: s for n, s in scores.items() if groups[n].kind == kind} for kind in fractions}
    masks, last = dict[str, Tensor](), list[str]()
    if flops is not None:
        masks, last = _within_budget(by_kind["head"], by_kind["neuron"], _costs(model, groups, tokens), flops)
    for kind, fraction in fractions.items():
        if fraction:
            kept, alone = _with_last_units(keep_top(by_kind[kind], fraction, per=per), by_kind[kind])
            masks, last = masks | kept, [*last, *alone]
    for name in last:  # ranked over all layers, one may lose all
        warn_of_last_unit(name, groups[name])
    if rearrange:
        masks = {n: swapped(torch.stack([batch[n] for batch in gradients]), mask) for n, mask in masks.items()}
    return masks


def check_fractions(*, flops: float | None, tokens: float | None, **fractions: float) -> None:
    """Refuse fractions of units or of multiply-adds that are none, and a length of sequences that counts nowhere.

    Raises:
        LotteryError: A fraction outside [0, 1); ``tokens`` that are no positive number, or are given without ``flops``.
    """
    for name, fraction in {**fractions, **({} if flops is None else {"flops": flops})}.items():
        check_fraction(name, fraction, "the fraction removed")
    if tokens is not None and not (is_number(tokens) and 0 < tokens < math.inf):
        raise LotteryError(f"`tokens` is the mean length of a sequence, > 0, got {tokens!r}.")
    if tokens is not None and flops is None:
        raise LotteryError("`tokens` says what attention costs, which counts in `flops` alone: give both, or neither.")


def unit_scores(
    model: nn.Module, calibration: Iterable[Any], groups: Groups, loss: Loss | None = None
) -> dict[str, Tensor]:
    """The diagonal Fisher information of every unit's mask, on the CPU: name of a group to tensor of shape (size,).

    Raises:
        LotteryError: No batch, or one that ``loss_of`` does not understand.
    """
    return _scored(model, calibration, groups, loss, None)


def _scored(
    model: nn.Module,
    calibration: Iterable[Any],
    groups: Groups,
    loss: Loss | None,
    memory: list[dict[str, Tensor]] | None,
) -> dict[str, Tensor]:
    """As ``unit_scores``; ``memory`` gets the gradient of each batch's loss by the masks."""

    def gradients(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        for batch in calibration:
            of_batch = _mask_gradients(weights, groups, (loss or loss_of)(model, batch))
            if memory is not None:
                memory.append(of_batch)
            yield of_batch

    with _undisturbed(model, {part.parameter for group in groups.values() for part in group.consumers}) as weights:
        return fisher(gradients(weights))


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


def _costs(model: nn.Module, groups: Groups, tokens: float | None) -> dict[str, float]:
    """Multiply-adds per token of one unit of each group: the entries it has in matrices, and a head's attention."""
    owners = owners_of(model)
    costs = {}
    for name, group in groups.items():
        matrices = [(part, tensor) for part in group.parts if (tensor := tensor_at(owners, part.parameter)).dim() > 1]
        costs[name] = float(sum(m.numel() // m.shape[part.dim] * part.block for part, m in matrices))
        if tokens and group.kind == "head":  # of each token with all of them: scores, and the values they weigh
            costs[name] += 2 * tokens * sum(part.block for part in group.consumers)
    return costs


def _within_budget(
    heads: Mapping[str, Tensor], neurons: Mapping[str, Tensor], costs: Mapping[str, float], flops: float
) -> tuple[dict[str, Tensor], list[str]]:
    """Of the ways to split a budget between heads and neurons, the one that removes the least score."""
    total_heads = sum(len(scores) for scores in heads.values())
    if not heads or not neurons:
        raise LotteryError("`flops` splits a budget between heads and neurons, and the model lacks one of the two.")
    budget = share(1 - flops, sum(costs[name] * len(score) for name, score in (*heads.items(), *neurons.items())))
    best: tuple[float, dict[str, Tensor], list[str]] | None = None
    for kept in range(1, total_heads + 1):
        masks, last = _with_last_units(keep_top(heads, 1 - kept / total_heads), heads)
        left = budget - sum(costs[name] * int(mask.sum()) for name, mask in masks.items())
        affordable = _as_many(neurons, int(left / max(costs[name] for name in neurons)))
        if affordable is None:
            break
        masks, last = masks | affordable[0], last + affordable[1]
        lost = sum(float(score[~masks[name]].sum()) for name, score in (*heads.items(), *neurons.items()))
        if best is None or lost < best[0]:
            best = lost, masks, last
    if best is None:
        raise LotteryError(f"Removing {flops} of the operations leaves no head and neuron in each layer: ask for less.")
    return best[1:]


def _as_many(scores: Mapping[str, Tensor], number: int) -> tuple[dict[str, Tensor], list[str]] | None:
    """Masks of at most so many units with those that layers keep in any case; None where these alone are more."""
    total = sum(len(score) for score in scores.values())
    number, kept = min(number, total), min(number, total)
    while kept > 0:
        masks, last = _with_last_units(keep_top(scores, 1 - kept / total), scores)
        excess = kept + len(last) - number
        if excess <= 0:
            return masks, last
        kept -= excess  # never too far: with one unit less, no more than one layer gets its own back
    return None


def _with_last_units(masks: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Masks where each layer keeps at least its best unit, and the layers that had none."""
    last = [name for name, mask in masks.items() if not mask.any()]
    return {**masks, **{n: keep_top({n: scores[n]}, 1 - 1 / len(scores[n]))[n] for n in last}}, last
