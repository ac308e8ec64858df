"""Removes units for good: heads, neurons and channels, so that what is left is a smaller ordinary module."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.random_numbers import random_numbers_kept
from lightning_lottery.scope import plain_name
from lightning_lottery.shards import refuse_shards
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.coefficients import is_coefficient
from lightning_lottery.units.cuts import Cut, Shapes, cut_, kept_entries, shapes_in
from lightning_lottery.units.groups import groups_of, survey
from lightning_lottery.units.open_attention import OpenAttention, open_attention_
from lightning_lottery.units.parts import (
    Groups,
    Module,
    computed_tensors,
    copy_of,
    is_pretrained,
    owners_of,
    shared_weights,
    tensor_at,
)
from lightning_lottery.units.rescaling import rescale_, unit_factors
from lightning_lottery.units.scores import Loss, check_fractions, unit_masks, warn_of_last_unit

Units = Mapping[str, Tensor]
"""Name of a group to bool tensor of shape (size,): ``True`` is kept."""

KEPT = "kept_units"
"""The key of a Hugging Face configuration under which the sizes of the groups stand, where it has no keys for them."""


def shrink(
    model: Module,
    ticket: Ticket | str | PathLike[str] | None = None,
    *,
    heads: float = 0.0,
    neurons: float = 0.0,
    channels: float = 0.0,
    flops: float | None = None,
    tokens: float | None = None,
    tune: bool = False,
    first_token: bool = False,
    calibration: Iterable[Any] | None = None,
    groups: Groups | None = None,
    loss: Loss | None = None,
    prefix: str = "",
) -> Module:
    """A smaller copy of a model, without the heads, neurons and channels that a ticket or a fraction removes.

    What is left computes what the model computed with these units masked. Without a ticket nothing is trained: the
    units of each kind are ranked together over all layers by their Fisher information on ``calibration``. A layer
    keeps at least one unit, with a warning; where a ticket keeps none, that one adds nothing.

    Args:
        model: Any module that ``groups_of`` recognises; it is not changed. Device, dtype and mode are kept.
        ticket: A ticket or the path of one. Its masks of units say what is kept; those of parameters are not looked at.
        heads: Fraction of the attention heads to remove, in [0, 1).
        neurons: Fraction of the neurons of feed-forward networks to remove, in [0, 1).
        channels: Fraction of the channels of convolutions to remove, in [0, 1).
        flops: Instead of the three: fraction of the multiply-adds of heads and neurons to remove, as ``unit_masks``.
        tokens: Mean length of a sequence, so that ``flops`` counts attention's own products.
        tune: Swap units that are better removed together, and scale what is left so that each block adds what it added
            before, as ``unit_masks(rearrange=True)`` and ``unit_factors``; of a ticket only the latter.
        first_token: As of ``unit_factors``, where it tunes.
        calibration: Batches to score the units on and to tune by, as ``unit_masks`` takes them.
        groups: What to cut (default: ``groups_of(model)``; ``coupled_channels`` finds more).
        loss: Model and batch to a scalar (default: ``loss_of``).
        prefix: What to strip from the ticket's names, such as ``"model."`` for the network in a LightningModule.

    Raises:
        LotteryError: Both or neither of a ticket and fractions, a ticket without masks of units or with one that does
            not fit, fractions or ``tune`` without ``calibration``, fractions of a kind that the model does not have, or
            nothing to cut, or parameters that are sharded.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
        >>> small = shrink(layer, Ticket({}, units={"linear1": torch.arange(16) < 4}))
        >>> small.linear1, small.linear2.in_features
        (Linear(in_features=8, out_features=4, bias=True), 4)
    """
    refuse_shards(model, "`shrink`")
    fractions = {"heads": heads, "neurons": neurons, "channels": channels}
    check_fractions(**fractions, flops=flops, tokens=tokens)
    if (ticket is None) == (flops is None and not any(fractions.values())):
        raise LotteryError(
            "`shrink` takes either a ticket or fractions of heads, neurons, channels or `flops` to remove: give one."
        )
    if calibration is None and (tune or ticket is None):
        raise LotteryError("Fractions need `calibration`: batches on which the units are scored. Or give a ticket.")
    groups = groups_of(model) if groups is None else groups
    batches = list(calibration or ())

    def masks_at(density_to: float, *, rearrange: bool) -> dict[str, Tensor]:
        removed = {kind: 1 - (1 - fraction) ** density_to for kind, fraction in fractions.items()}
        budget = None if flops is None else 1 - (1 - flops) ** density_to
        more: Any = {"tokens": tokens, "rearrange": rearrange, "groups": groups, "loss": loss}
        return unit_masks(model, batches, **removed, flops=budget, **more)

    if ticket is not None:
        ticket = ticket if isinstance(ticket, Ticket) else Ticket.load(ticket)
        units = _units_in(ticket, model, groups, prefix)
    else:
        units = masks_at(1, rearrange=tune)
    small = copy_of(model)
    if tune:
        teacher = {} if ticket is not None else masks_at(0.5, rearrange=False)
        more: Any = {"teacher": teacher, "first_token": first_token, "groups": groups, "loss": loss}
        rescale_(small, unit_factors(model, units, batches, **more), groups)
    cut_out_(small, groups, units)
    return small


def parameter_masks(model: nn.Module, units: Units, groups: Groups | None = None) -> dict[str, Tensor]:
    """Masks of the weights that read the units: a removed unit's entries are False, so that it does nothing.

    Args:
        model: The module the masks are for.
        units: Name of a group to its mask.
        groups: The groups (default: ``groups_of(model)``).

    Returns:
        Qualified parameter name to bool tensor of the parameter's shape.

    Raises:
        LotteryError: A mask of no group, or of another size.

    Example:
        >>> net = nn.TransformerEncoderLayer(2, nhead=1, dim_feedforward=2, batch_first=True)
        >>> parameter_masks(net, {"linear1": torch.tensor([True, False])})["linear2.weight"]
        tensor([[ True, False],
                [ True, False]])
    """
    return masks_of(shapes_in(owners_of(model)), units, groups_of(model) if groups is None else groups)


def masks_of(shapes: Shapes, units: Units, groups: Groups) -> dict[str, Tensor]:
    """As ``parameter_masks``, of a model whose tensors have, or had, these shapes.

    Raises:
        LotteryError: As there.
    """
    _check_units(units, groups)
    masks = dict[str, Tensor]()
    for (name, dim), keep in kept_entries(shapes, groups, units, producers=False).items():
        view = [-1 if d == dim else 1 for d in range(len(shapes[name]))]
        masks[name] = masks.get(name, torch.ones(shapes[name], dtype=torch.bool, device="cpu")) & keep.view(view)
    return masks


def shrink_(model: nn.Module, groups: Groups, units: Units) -> list[Cut]:
    """Remove units of a model in place; a group that keeps none keeps its first, with zero weight.

    Returns:
        The tensors that were replaced, each once.

    Raises:
        LotteryError: A mask of no group, or of another size; or units in a weight that other modules share, or that a
            parametrization or hook computes.
    """
    _check_units(units, groups)
    refuse_uncuttable(model, groups, units)
    units = dict(units)
    for name in [name for name, mask in units.items() if not mask.any()]:
        warn_of_last_unit(name, groups[name])
        _zero(model, {name: units[name]}, groups)
        units[name] = first_of(1, groups[name].size)
    cut = {name: mask for name, mask in units.items() if not mask.all()}
    cuts = cut_(owners_of(model), groups, cut)
    modules = {plain_name(name): module for name, module in model.named_modules()}
    for name, mask in cut.items():
        for count in groups[name].counts:
            module, _, attribute = count.rpartition(".")
            value = getattr(modules[module], attribute)
            # A count can be a multiple of the units: query heads, or a width of `size * head_dim`.
            setattr(modules[module], attribute, value // groups[name].size * int(mask.sum()))
        if isinstance(modules[name], nn.MultiheadAttention):
            open_attention_(modules[name])
    for module in modules.values():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, OpenAttention) for m in module.modules()):
            module.use_nested_tensor = False  # its layers cannot read one outside of the fused kernels
    return cuts


def cut_out_(model: nn.Module, groups: Groups, units: Units) -> list[Cut]:
    """As ``shrink_``; the configurations of Hugging Face networks inside say their new shapes."""
    cuts = shrink_(model, groups, units)
    for network in _pretrained_in(model):
        _update_config(network)
    return cuts


@torch.no_grad()
def _zero(model: nn.Module, units: Units, groups: Groups) -> None:
    """Set the weights that read removed units to zero."""
    owners = owners_of(model)
    for name, mask in parameter_masks(model, units, groups).items():
        weight = tensor_at(owners, name)
        weight.masked_fill_(~mask.to(weight.device), 0)


def _update_config(network: nn.Module) -> None:
    """Write the new shapes into the configuration of a Hugging Face model: under its own keys where they suffice.

    The configuration is tried, not trusted: each candidate must build a model of exactly these shapes. Its own keys
    come first, since ``from_pretrained`` then loads the model without us.
    """
    config: Any = network.config
    groups = survey(network).groups
    vars(config).pop(KEPT, None)
    if _builds(config, network, groups):
        return
    candidate, sizes = deepcopy(config), _sizes_by_key(config, groups)
    for key, value in sizes.items():
        setattr(candidate, key, value)
    if _builds(candidate, network, groups):
        for key, value in sizes.items():
            setattr(config, key, value)
        return
    setattr(config, KEPT, {name: group.size for name, group in groups.items()})
    if not _builds(config, network, groups):
        warnings.warn(
            f"The configuration of {type(network).__name__} cannot say its new shapes: save the module itself, as "
            "`save_pretrained` writes a folder that does not load.",
            stacklevel=3,
        )


def cut_to_(model: nn.Module, sizes: Mapping[str, int]) -> None:
    """Shrink a model in place to given sizes of its groups: for weights that are yet to be loaded."""
    groups = survey(model).groups
    shrink_(model, groups, {name: first_of(sizes.get(name, g.size), g.size) for name, g in groups.items()})


def first_of(kept: int, size: int) -> Tensor:
    """A mask that keeps the first units, on the CPU also where a context says another device."""
    return torch.arange(size, device="cpu") < kept


def _sizes_by_key(config: Any, groups: Groups) -> dict[str, int]:
    """Sizes of the groups under a configuration's own keys, as far as all groups of a kind have one size."""
    heads, neurons = ({g for g in groups.values() if g.kind == kind} for kind in ("head", "neuron"))
    head_dims = {group: min(part.block for part in group.producers) for group in heads}
    sizes_by_key = {
        "intermediate_size": {group.size for group in neurons},
        "hidden_dim": {group.size for group in neurons},
        "n_inner": {group.size for group in neurons},
        "num_key_value_heads": {group.size for group in heads},
        "num_attention_heads": {group.size * group.consumers[0].block // head_dims[group] for group in heads},
        "head_dim": set(head_dims.values()),
    }
    # `head_dim` also where the configuration lacks it: models that look for it otherwise compute
    # hidden_size / num_attention_heads, which is wrong as soon as heads are gone.
    return {
        key: sizes.pop()
        for key, sizes in sizes_by_key.items()
        if len(sizes) == 1 and (hasattr(config, key) or key == "head_dim")
    }


def _builds(config: Any, network: nn.Module, groups: Groups) -> bool:
    """Whether a configuration builds a model of the shapes that a network has."""
    try:
        twin = _built(type(network), config)
    except (TypeError, ValueError):
        return False
    cut_to_(twin, getattr(config, KEPT, None) or {})
    shapes, shapes_of_twin = (
        {name: p.shape for name, p in module.named_parameters() if not is_coefficient(name)}
        for module in (network, twin)
    )
    # Equal shapes are not enough: 2 heads of 4 and 4 heads of 2 have the same.
    return shapes == shapes_of_twin and survey(twin).groups == groups


def _built(cls: type[nn.Module], config: Any) -> nn.Module:
    """A model without memory for its weights, where its constructor allows it."""
    try:
        with torch.device("meta"):
            return cls(config)
    except NotImplementedError:  # in transformers 4.50, ConvNeXt's constructor computes with tensors
        with random_numbers_kept():
            return cls(config)


def _units_in(ticket: Ticket, model: nn.Module, groups: Groups, prefix: str) -> dict[str, Tensor]:
    if not ticket.units:
        raise LotteryError(
            "The ticket has masks of parameters only, which remove no head, neuron or channel: shrinking needs masks "
            "of units. `apply` sets the weights to zero."
        )
    if strangers := [name for name in ticket.units if not name.startswith(prefix)]:
        raise LotteryError(f"The ticket's unit '{strangers[0]}' does not begin with the prefix '{prefix}'.")
    units = {name.removeprefix(prefix): mask for name, mask in ticket.units.items()}
    reasons = survey(model).unrecognised
    if refused := [name for name in units if name not in groups and name in reasons]:
        raise LotteryError(f"'{refused[0]}' cannot be shrunk, as it is not recognised: {reasons[refused[0]]}.")
    _check_units(units, groups)
    return units


def _check_units(units: Units, groups: Groups) -> None:
    if unknown := [name for name in units if name not in groups]:
        known = ", ".join(repr(name) for name in list(groups)[:4])
        raise LotteryError(
            f"There is no group of units '{unknown[0]}' ({len(unknown)} of {len(units)} names are unknown). There are "
            f"{known}; a ticket of a LightningModule may need `prefix`."
        )
    for name, mask in units.items():
        if mask.dtype != torch.bool or mask.shape != (groups[name].size,):
            raise LotteryError(
                f"The mask of '{name}' is {mask.dtype} of shape {tuple(mask.shape)}, but the group has "
                f"{groups[name].size} {groups[name].kind}s: give one bool for each."
            )


def refuse_uncuttable(model: nn.Module, groups: Groups, names: Iterable[str]) -> None:
    """Refuse groups whose units cannot be cut out.

    Raises:
        LotteryError: Units in a weight that other modules share, or that a parametrization or hook computes.
    """
    # What a parametrization or hook makes of other tensors would be made anew in its old shape.
    layers = {name.rpartition(".")[0]: name for name in computed_tensors(model)}
    shared = shared_weights(model)
    for name in names:
        for part in groups[name].parts:
            # Of the same layer is enough: with the weight computed, the bias alone would be cut.
            if tensor := layers.get(part.parameter.rpartition(".")[0]):
                reason = f"'{tensor}' is computed by a parametrization or a hook: remove that first"
                raise LotteryError(f"'{name}' cannot be shrunk: {reason}.")
        tensors = {part.parameter for part in groups[name].parts}
        for alias, first in shared.items():
            if {alias, first} & tensors:
                raise LotteryError(f"'{name}' cannot be shrunk: '{alias}' is tied to '{first}', of another module.")


def _pretrained_in(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost models of transformers: those inside of them share their configuration."""
    if is_pretrained(module):
        yield module
    else:
        for child in module.children():
            yield from _pretrained_in(child)
