"""What draws of early-bird tickets are made of: scores from weights, records, units that are cut out of a module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.figures.drawing import mask_distances, norms_with_draws
from lightning_lottery.files import write_image, write_table
from lightning_lottery.functional.masks import check_sparsity
from lightning_lottery.functional.settling.detector import Verdict
from lightning_lottery.functional.settling.rules import Rule
from lightning_lottery.functional.settling.watch import Per, Probe, Watch, names_of
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import survey
from lightning_lottery.units.parts import Group, owners_of, tensor_at
from lightning_lottery.units.removal import shrink, shrink_

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER: dict[str, Per] = {"head": "tensor", "neuron": "all", "channel": "all"}
"""Heads are ranked in each layer, neurons and channels over all layers."""


def weight_norms(module: nn.Module, groups: Mapping[str, Group]) -> list[Tensor]:
    """The Euclidean norm of every unit's weights (biases and norms aside), for each group in turn."""
    owners, norms = owners_of(module), []
    for group in groups.values():
        squares: Tensor | float = 0.0
        for part in (*group.producers, *group.consumers):
            weight = tensor_at(owners, part.parameter).detach()
            if weight.dim() > 1:
                own = weight.narrow(part.dim, part.start, group.size * part.block).movedim(part.dim, 0)
                squares = squares + own.reshape(group.size, -1).square().sum(1)
        norms.append(torch.as_tensor(squares).sqrt())
    return norms


def cut_out_(
    module: nn.Module,
    groups: Mapping[str, Group],
    units: Mapping[str, Tensor],
    patterns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Remove units of a module in place; the configurations of Hugging Face networks in it say their new shapes."""
    rest = dict(units)
    for name, child in module.named_children():
        own = {n: group for n, group in survey(child, patterns).groups.items() if f"{name}.{n}" in rest}
        inner = {n: rest.pop(f"{name}.{n}") for n in own}
        if inner:
            setattr(module, name, shrink(child, Ticket({}, units=inner), groups=own))
    if rest:  # blocks whose parts are children of the module itself
        shrink_(module, groups, rest)


def write_records(
    folder: Path, watch: Watch, probes: Sequence[Probe], draws: Mapping[str, Mapping[str, int]]
) -> "dict[str, Figure]":
    """Write ``norms.csv``, ``probes.csv`` and the figures ``norms.png`` and ``distances.png`` into a folder.

    Args:
        folder: Where to.
        watch: What was watched.
        probes: What the rules said.
        draws: Series to rule to the step at which it drew.

    Returns:
        The figures by name.
    """
    norms = sorted((step, name, norm) for name, of in watch.norms.items() for step, norm in of)
    rows = [{"step": step, "series": name, "norm": norm} for step, name, norm in norms]
    write_table(folder / "norms.csv", rows, "norms", columns=("step", "series", "norm"))
    said = [{"rule": p.rule, "kind": p.kind, "sparsity": p.sparsity, **p.verdict._asdict()} for p in probes]
    write_table(folder / "probes.csv", said, "probes", columns=("rule", "kind", "sparsity", *Verdict._fields))
    matrices = {name: watch.distances(name) for name in draws}
    figures = {
        "norms": norms_with_draws({name: of for name, of in watch.norms.items() if of}, draws),
        "distances": mask_distances({name: (steps, d.tolist()) for name, (steps, d) in matrices.items()}),
    }
    for name, figure in figures.items():
        write_image(folder / f"{name}.png", figure)
    return figures


def check_arguments(
    rules: Sequence[Rule],
    sparsities: Sequence[float],
    scores: str,
    per: Mapping[str, str],
    watch: Sequence[str] | None,
    action: str,
    at: Sequence[int | float | str],
) -> None:
    """Refuse what an EarlyBird cannot mean.

    Raises:
        LotteryError: Which argument, and why.
    """
    if not isinstance(rules, Sequence) or any(not isinstance(rule, Rule) for rule in rules):
        raise LotteryError(f"`rules` is a list of rules such as HammingFIFO(), SlopeHAC(), got {rules!r}.")
    if len(names_of(rules)) < len(rules):
        raise LotteryError(f"`rules` names the same rule twice: {list(rules)}.")
    if not rules and not at:
        raise LotteryError("EarlyBird without a rule and without steps `at` which to draw has nothing to do.")
    if not isinstance(sparsities, Sequence) or not sparsities or len(set(sparsities)) < len(sparsities):
        raise LotteryError(f"`sparsities` is a list of different fractions to remove, got {sparsities!r}.")
    for sparsity in sparsities:
        check_sparsity(sparsity)
    choices = ("coefficients", "signed coefficients", "weights")
    actions = ("record", "stop", "prune", "shrink")
    for word, value, known in (("scores", scores, choices), ("action", action, actions)):
        if value not in known:
            raise LotteryError(f"`{word}` is one of {', '.join(map(repr, known))}, got {value!r}.")
    if not isinstance(per, Mapping):
        raise LotteryError(f"`per` gives {', '.join(map(repr, PER))} 'all' or 'tensor', got {per!r}.")
    for kind, value in per.items():
        if kind not in PER or value not in ("all", "tensor"):
            raise LotteryError(f"`per` gives {', '.join(map(repr, PER))} 'all' or 'tensor', got '{kind}': {value!r}.")
    if watch is not None and (isinstance(watch, str) or not watch or any(kind not in PER for kind in watch)):
        raise LotteryError(f"`watch` is a list of {', '.join(map(repr, PER))}, got {watch!r}.")
    if isinstance(at, str) or not isinstance(at, Sequence):
        raise LotteryError(f"`at` is a list of steps and fractions of the fit, got {at!r}.")
    for when in at:
        is_step = isinstance(when, int) and not isinstance(when, bool) and when >= 1
        if not is_step and not (isinstance(when, float) and 0 < when <= 1) and when != "random":
            raise LotteryError(
                f"`at` is optimizer steps >= 1 (int), fractions of the fit in (0, 1] or 'random', got {when!r}."
            )
