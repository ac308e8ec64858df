"""What is left out of a scope though a user would expect it in, told when the fit begins and when that changes."""

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from lightning_lottery.scope import FROZEN, UNTRAINED, Candidate, plain_name


def held_by(optimizers: Iterable[Optimizer]) -> list[nn.Parameter]:
    """The parameters that optimizers hold."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def missed(candidates: Sequence[Candidate], size: int, apart_from: Iterable[str] = ()) -> str | None:
    """A sentence on weights that one would expect to be pruned and are not, with their share of ``size`` entries.

    Those inside of the submodules ``apart_from`` do not count: something else is said of them.
    """
    inside = tuple(f"{name}." for name in apart_from)
    left = [candidate for candidate in candidates if candidate.is_missed and not candidate.name.startswith(inside)]
    if not left:
        return None
    share = sum(candidate.parameter.numel() for candidate in left) / size
    reasons = Counter(candidate.reason for candidate in left)
    first = {candidate.reason: candidate.name for candidate in reversed(left)}
    listed = "; ".join(f"{n} {reason}, such as '{first[reason]}'" for reason, n in reasons.most_common(4))
    return (
        f"leaves out weights that hold {share:.0%} of the model: {listed}. What it says of sparsity is of the rest. "
        "Exclude them in `scope` if that is meant."
    )


def copies(module: nn.Module, candidates: Sequence[Candidate]) -> dict[str, str]:
    """Submodules that no training reaches and that are built as one whose weights are in scope: copy to original.

    A moving average or a target network: it has the same parameter names and shapes, of several weights. Layers of one
    list do not count, though they are built alike.
    """
    reason = {id(candidate.parameter): candidate.reason for candidate in candidates}  # of a tied one under every name
    trained: dict[object, str] = {}
    untrained: dict[str, object] = {}
    for path, child in module.named_modules():
        inside = {plain_name(name): p for name, p in child.named_parameters()}
        reasons = {reason[id(p)] for p in inside.values()}
        lazy = any(isinstance(p, UninitializedParameter) for p in inside.values())
        if not path or lazy or sum(p.ndim > 1 for p in inside.values()) < 2:
            continue
        signature = tuple((name, tuple(p.shape)) for name, p in inside.items())
        if "" in reasons:
            trained.setdefault(signature, plain_name(path))
        elif reasons & {FROZEN, UNTRAINED}:
            untrained[plain_name(path)] = signature
    pairs = {name: trained[signature] for name, signature in untrained.items() if signature in trained}
    pairs = {name: first for name, first in pairs.items() if _without_numbers(name) != _without_numbers(first)}
    inner = {name for name in pairs for outer in pairs if name.startswith(f"{outer}.")}
    return {name: first for name, first in pairs.items() if name not in inner}


def _without_numbers(name: str) -> str:
    return ".".join("#" if part.isdigit() else part for part in name.split("."))
