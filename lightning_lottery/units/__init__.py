"""What a model is made of, and what can be taken out: heads, neurons and channels."""

from lightning_lottery.units.attention import OpenAttention, open_attention_
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.parts import Group, Part
from lightning_lottery.units.patterns import PATTERNS
from lightning_lottery.units.removal import parameter_masks, shrink
from lightning_lottery.units.residual import coupled_channels
from lightning_lottery.units.saved import Size, comparison, load_shrunk, measure, save_shrunk
from lightning_lottery.units.scores import unit_masks, unit_scores, weight_norms
from lightning_lottery.units.tickets import cut_out_, unit_ticket
from lightning_lottery.units.tracing import permutable

__all__ = [
    "groups_of",
    "Group",
    "Part",
    "PATTERNS",
    "coupled_channels",
    "permutable",
    "unit_scores",
    "weight_norms",
    "unit_masks",
    "unit_ticket",
    "parameter_masks",
    "shrink",
    "cut_out_",
    "save_shrunk",
    "load_shrunk",
    "Size",
    "measure",
    "comparison",
    "OpenAttention",
    "open_attention_",
]
