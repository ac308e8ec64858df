"""Which units of a fit compete: those with slimming coefficients, or those whose readers an optimizer trains."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.left_out import held_by
from lightning_lottery.units.draws import readers
from lightning_lottery.units.groups import groups_of, survey
from lightning_lottery.units.parts import Group

Patterns = Mapping[str, Sequence[Any]]
"""Names of blocks to look for, as ``groups_of`` takes them."""


def slimming_in(trainer: Trainer) -> list[Any]:
    """The callbacks that give units coefficients, known by what they offer: a method file imports no other."""
    return [c for c in trainer.callbacks if hasattr(c, "coefficients") and hasattr(c, "groups")]  # type: ignore[attr-defined]


def competing_groups(
    trainer: Trainer, module: LightningModule, patterns: Patterns | None, label: str
) -> dict[str, Group]:
    """The groups of a fit whose units compete, in the module's order or that of their coefficients.

    Raises:
        LotteryError: No optimizer trains the readers of any.
    """
    slimmed = {name: group for slimming in slimming_in(trainer) for name, group in slimming.groups.items()}
    return slimmed or _trained(trainer, module, patterns, label)


def every_group(trainer: Trainer, module: LightningModule, patterns: Patterns | None) -> dict[str, Group]:
    """All groups of a module, by the patterns of whoever names the units of its fit."""
    by = [slimming.patterns for slimming in slimming_in(trainer)] or [patterns]
    return {name: group for each in by for name, group in survey(module, each).groups.items()}


def _trained(trainer: Trainer, module: LightningModule, patterns: Patterns | None, label: str) -> dict[str, Group]:
    """The groups whose readers an optimizer trains: a target network's or an average's units do not compete."""
    groups = groups_of(module, patterns)
    held = {id(parameter) for parameter in held_by(trainer.optimizers) if parameter.requires_grad}
    if not held:  # a module that steps an optimizer of its own
        return groups
    trained = {
        name: group
        for name, group in groups.items()
        if any(id(reader) in held for reader in readers(module, {name: group}).values())
    }
    if not trained:
        raise LotteryError(
            f"{label}: no optimizer trains what reads the units of '{next(iter(groups))}', or of any other of "
            f"the {len(groups)} groups of {type(module).__name__}."
        )
    if left_out := [name for name in groups if name not in trained]:
        rank_zero_info(f"{label}: leaves out units that are in no optimizer: {', '.join(left_out)}.")
    return trained
