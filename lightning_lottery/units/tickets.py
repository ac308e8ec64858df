"""Tickets of units: made of their masks, and cut out of a module that goes on being used."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from lightning_lottery.scope import named_parameters, size_of, ties
from lightning_lottery.ticket import Ticket, ticket_of
from lightning_lottery.units.groups import survey
from lightning_lottery.units.parts import Groups
from lightning_lottery.units.removal import Units, parameter_masks, shrink, shrink_


def readers(model: nn.Module, groups: Groups) -> dict[str, nn.Parameter]:
    """The weights that read the units of groups, by their first names, in the model's order."""
    aliases = ties(model)
    names = {aliases.get(part.parameter, part.parameter) for group in groups.values() for part in group.consumers}
    return {name: parameter for name, parameter in named_parameters(model).items() if name in names}


def unit_ticket(model: nn.Module, groups: Groups, units: Units, provenance: Mapping[str, Any]) -> Ticket:
    """A ticket with masks of units and of the weights that read them.

    Raises:
        LotteryError: A mask of no group, or of another size.
    """
    aliases = ties(model)
    masks = {aliases.get(name, name): mask for name, mask in parameter_masks(model, units, groups).items()}
    return replace(ticket_of(masks, aliases, size_of(model), provenance), units=dict(units))


def cut_out_(
    model: nn.Module, groups: Groups, units: Units, patterns: Mapping[str, Sequence[Any]] | None = None
) -> None:
    """Remove units of a module in place; the configurations of Hugging Face networks in it say their new shapes."""
    rest = dict(units)
    for name, child in model.named_children():
        # `shrink` also rewrites configurations, but it gives a copy, which nobody could put where the model itself is:
        # each child is replaced by its own.
        inside = {n: group for n, group in survey(child, patterns).groups.items() if f"{name}.{n}" in rest}
        if inner := {n: rest.pop(f"{name}.{n}") for n in inside}:
            setattr(model, name, shrink(child, Ticket({}, units=inner), groups=inside))
    if rest:  # blocks whose parts are children of the model itself
        shrink_(model, groups, rest)
