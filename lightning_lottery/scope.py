"""Where: which parameters a method prunes, by qualified name and by the type of the module that owns them."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_lottery.errors import LotteryError
from lightning_lottery.shards import is_sharded

DENSE_TYPES = ("Linear", "_ConvNd", "MultiheadAttention", "transformers.pytorch_utils.Conv1D")
"""Module types whose weights are pruned by default: linear and convolution layers, packed attention projections."""


HEADS = r"re:(^|\.)((\w*_)?(classifier|pooler)|(lm_)?head)(\.|$)"
"""Names of classifiers, heads and poolers; a `projection_head` is none."""

IN_WORDS = {HEADS: "classifier, head and pooler"}
"""Patterns that messages say in words."""

FROZEN = "frozen (requires_grad=False)"
UNTRAINED = "in no optimizer"

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")


class Candidate(NamedTuple):
    """One parameter and whether a scope holds it.

    ``reason`` is empty where it does, else says why not; ``is_missed``: one would expect it in, as a frozen backbone.
    """

    name: str
    parameter: nn.Parameter
    module_type: str
    reason: str
    is_missed: bool


@dataclass(frozen=True, repr=False)
class Scope:
    """Which parameters compete: trainable weights of the given module types whose names match.

    By default the weights of linear and convolution layers (Hugging Face's ``Conv1D`` and the packed projections of
    ``nn.MultiheadAttention`` included); never biases, norms or embeddings, nor a weight tied to an embedding, unless
    asked for by ``biases`` or ``types``. Never in scope is a parameter with ``requires_grad=False``, one that no
    optimizer of the fit holds, and one from which a hook or parametrization computes the weight (weight norm, spectral
    norm, ``torch.nn.utils.prune``). Tied weights count once, under the first of their names.

    Args:
        include: Patterns of qualified parameter names such as ``"encoder.*"``; ``*`` also matches dots, ``"re:..."`` is
            a regular expression searched for in the name. A parameter must match one of them.
        exclude: Patterns of names that are left out, stronger than ``include``.
        types: Class names of the modules that own the parameters, bare or dotted, globs allowed; subclasses count.
        biases: Take the biases of these modules as well.

    Raises:
        LotteryError: A pattern list that is a bare string, or a regular expression that does not compile.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
        >>> list(Scope(exclude=("2.*",)).select(net))
        ['0.weight']
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] = DENSE_TYPES
    biases: bool = False

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "types"):
            patterns = getattr(self, name)
            if not isinstance(patterns, (tuple, list)) or not all(isinstance(pattern, str) for pattern in patterns):
                raise LotteryError(f"`{name}` of a Scope is a list of patterns, got {patterns!r}.")
            object.__setattr__(self, name, tuple(patterns))  # a list from Python is as good as one from YAML
        for pattern in (*self.include, *self.exclude):
            if pattern.startswith("re:"):
                try:
                    re.compile(pattern[3:])
                except re.error as error:
                    raise LotteryError(f"'{pattern}' is not a regular expression: {error}.") from error

    def __repr__(self) -> str:
        """The constructor call, defaults left out."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return f"Scope({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def __str__(self) -> str:
        """The same for people to read: the pattern of a default is words."""
        return in_words(repr(self))

    def select(self, module: nn.Module, trained: Iterable[nn.Parameter] | None = None) -> dict[str, nn.Parameter]:
        """The parameters in scope by name, in the order of ``named_parameters``.

        Args:
            module: Whose parameters.
            trained: Those that optimizers hold; None where that is not known, and all may be trained.

        Raises:
            LotteryError: None is; or one in scope has no shape yet.
        """
        candidates = self.explain(module, trained)
        selected = {candidate.name: candidate.parameter for candidate in candidates if not candidate.reason}
        if not selected:
            raise LotteryError(
                f"{self} matches none of the {len(candidates)} parameters of {_describe(module, candidates)}"
            )
        for name, parameter in selected.items():
            if isinstance(parameter, UninitializedParameter):
                raise LotteryError(f"'{name}' has no shape yet: run one batch through the lazy module before fitting.")
        return selected

    def summary(self, module: nn.Module, trained: Iterable[nn.Parameter] | None = None) -> str:
        """How much of a module is in scope, and for which reasons the rest is not, in one line."""
        candidates = self.explain(module, trained)
        selected = [candidate.parameter for candidate in candidates if not candidate.reason]
        entries = sum(parameter.numel() for parameter in selected)
        share = f"{entries:,} of {size_of(module):,} weights in scope, in {len(selected)} parameters."
        return f"{share} {_left_out(candidates)}"

    def explain(self, module: nn.Module, trained: Iterable[nn.Parameter] | None = None) -> list[Candidate]:
        """Every parameter once, in the order of ``named_parameters``: in scope, or why not; ``trained`` as above."""
        owners = _owners(module)
        aliases = ties(module)
        ids = None if trained is None else {id(parameter) for parameter in trained}
        candidates = []
        for name, parameter in named_parameters(module).items():
            names = [name, *(alias for alias, first in aliases.items() if first == name)]
            owned_by = owners[id(parameter)]
            wanted = self._by_name(names)
            reason = self._by_type(owned_by) or wanted or _by_parameter(parameter, owned_by)
            if not reason and ids is not None and id(parameter) not in ids:
                reason = UNTRAINED
            missed = bool(reason) and not wanted and self._is_missed(name, parameter, owned_by, reason)
            candidates.append(Candidate(name, parameter, type(owned_by[0][1]).__name__, reason, missed))
        return candidates

    def _by_type(self, owned_by: list[tuple[str, nn.Module]]) -> str:
        types = sorted({type(owner).__name__ for _, owner in owned_by})
        if not all(any(_is_a(owner, pattern) for pattern in self.types) for _, owner in owned_by):
            return f"owned by {' and '.join(types)}"
        return "bias" if not self.biases and any(_is_bias(leaf) for leaf, _ in owned_by) else ""

    def _by_name(self, names: list[str]) -> str:
        if not any(_matches(name, pattern) for name in names for pattern in self.include):
            return "not included"
        excluding = [pattern for name in names for pattern in self.exclude if _matches(name, pattern)]
        if not excluding:
            return ""
        return (
            f"a {IN_WORDS[excluding[0]].replace('and', 'or')}"
            if excluding[0] in IN_WORDS
            else f"excluded by '{excluding[0]}'"
        )

    def _is_missed(
        self, name: str, parameter: nn.Parameter, owned_by: list[tuple[str, nn.Module]], reason: str
    ) -> bool:
        """Whether a parameter that is left out is of the kind that one thinks of as weights."""
        if isinstance(parameter, UninitializedParameter) or not parameter.is_floating_point():
            return False
        if parameter.ndim < 2 or parameter.numel() == len(parameter):  # biases, scales, the magnitudes of a weight norm
            return False
        if self.types == DENSE_TYPES and reason.startswith("owned by"):
            recurrent = any(isinstance(owner, (nn.RNNBase, nn.RNNCellBase)) for _, owner in owned_by)
            # The weights of a mixture's experts; position embeddings, also of three dimensions, have a first one of 1.
            experts = parameter.ndim == 3 and min(parameter.shape) > 1
            return recurrent or experts or ".parametrizations." in f".{name}"
        return reason == FROZEN or reason.startswith(("reparametrised", "stored as"))


def in_words(text: str) -> str:
    """A text that names patterns of scopes, as people read it.

    Example:
        >>> in_words(repr(Scope(exclude=(HEADS,))))
        'Scope(exclude=(classifier, head and pooler))'
    """
    for pattern, words in IN_WORDS.items():
        text = text.replace(f"({pattern!r},)", f"({words})").replace(repr(pattern), words)
    return text


def _by_parameter(parameter: nn.Parameter, owned_by: list[tuple[str, nn.Module]]) -> str:
    if not parameter.requires_grad:
        return FROZEN
    if not parameter.is_floating_point():
        return f"{parameter.dtype}, not real floating-point"
    # Quantized tensors pose as Parameters, and are not set by entry.
    if nn.Parameter not in type(parameter).__mro__ and not is_sharded(parameter):
        return f"stored as {type(parameter).__name__}"
    if not isinstance(parameter, UninitializedParameter) and not parameter.numel():
        return "empty"
    if any(leaf.rpartition("_")[0] in made_by_hooks(owner) for leaf, owner in owned_by):
        return "reparametrised by a hook"
    return ""


def made_by_hooks(module: nn.Module) -> list[str]:
    """Attributes of a module that a hook makes of its parameters at each call, as ``weight`` of ``weight_v``.

    Old-style weight norm and spectral norm do so, and ``torch.nn.utils.prune``.
    """
    sources = {leaf.rpartition("_")[0] for leaf in module._parameters}
    return [leaf for leaf, value in vars(module).items() if isinstance(value, Tensor) and leaf in sources]


def _is_bias(leaf: str) -> bool:
    return bool(re.search("(^|_)bias(_|$)", leaf))


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Each parameter once by its first name; what wrappers add to names is left out."""
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}


def size_of(module: nn.Module) -> int:
    """Entries of all parameters of a module, tied ones once, those without a shape left out."""
    return sum(p.numel() for p in module.parameters() if not isinstance(p, UninitializedParameter))


def plain_name(name: str) -> str:
    """A qualified name without the marks of ``torch.compile`` and of torch's activation checkpointing.

    Example:
        >>> plain_name("encoder._orig_mod.weight")
        'encoder.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def ties(module: nn.Module) -> dict[str, str]:
    """Further names of tied parameters: each to the first name of the same parameter.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> net[1].weight = net[0].weight
        >>> ties(net)
        {'1.weight': '0.weight'}
    """
    first: dict[int, str] = {}
    aliases = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), plain_name(name)) != plain_name(name):
            aliases[plain_name(name)] = first[id(parameter)]
    return aliases


def _owners(module: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """For the ``id`` of each parameter the modules that hold it, with the attribute it has there."""
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for child in module.modules():
        for leaf, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((leaf, child))
    return owners


def _matches(name: str, pattern: str) -> bool:
    return bool(re.search(pattern[3:], name)) if pattern.startswith("re:") else fnmatchcase(name, pattern)


def _is_a(module: nn.Module, pattern: str) -> bool:
    return any(
        fnmatchcase(cls.__name__, pattern) or fnmatchcase(f"{cls.__module__}.{cls.__qualname__}", pattern)
        for cls in type(module).__mro__
    )


def _describe(module: nn.Module, candidates: list[Candidate]) -> str:
    """The module's type, names to choose from, and the reasons that kept them out."""
    weights = [candidate.name for candidate in candidates if not candidate.name.endswith("bias")] or [
        candidate.name for candidate in candidates
    ]
    names = f"Names look like {', '.join(repr(name) for name in weights[:3])}. " if weights else ""
    return f"{type(module).__name__}. {names}{_left_out(candidates)}"


def _left_out(candidates: list[Candidate]) -> str:
    reasons = Counter(candidate.reason for candidate in candidates if candidate.reason).most_common(6)
    return f"Left out: {'; '.join(f'{n} {reason}' for reason, n in reasons)}." if reasons else ""
