"""What a child's command needs beside the project: a small dataclass for each kind of child.

In ``child.json`` an options' fields are the keys; by them the kind is known again.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.perturbation import Perturbation
from lightning_lottery.scope import Scope


@dataclass(frozen=True)
class NoiseOptions:
    """By what a child differs from its siblings, where that is not all that the seed of its training changes.

    Args:
        order_seed: Seed of the order of the data; None where it is the training's.
        perturbation: A change of its weights before the first step.
        perturbation_seed: Seed of that.
    """

    order_seed: int | None = None
    perturbation: Perturbation | None = None
    perturbation_seed: int | None = None


@dataclass(frozen=True)
class TicketOptions:
    """A fit that keeps the masks of the ticket at a path, where there is one.

    Args:
        end_step: Optimizer step at which it ends; None for the project's own end.
        noise: What its siblings do not share beside the seed.
    """

    ticket: str | None = None
    end_step: int | None = None
    noise: NoiseOptions | None = None


@dataclass(frozen=True)
class StartOptions:
    """A fit that ends, saved, before its first step; where ``prunes``, a callback has to have pruned by then."""

    prunes: bool = False


@dataclass(frozen=True)
class SnapshotOptions:
    """A fit that saves its state at some optimizer steps."""

    snapshots: tuple[int, ...]


@dataclass(frozen=True)
class DenseLevelOptions:
    """Level 0 of iterative pruning: nothing is removed.

    Args:
        scope: Which weights compete, at every level.
        rewind_step: Optimizer step that the levels after it begin again at, saved there.
        level: 0.
    """

    scope: Scope
    rewind_step: int
    level: Literal[0] = 0


@dataclass(frozen=True)
class Prune:
    """How the masks of a level are made.

    Args:
        weights: Checkpoint that the level before ended with: the smallest of its weights go.
        within: Ticket of the level before.
        prune_fraction: Fraction of what remains that is removed, in (0, 1).
        per: Rank all weights together (``"all"``), or each tensor by itself (``"tensor"``).
    """

    weights: str
    within: str
    prune_fraction: float
    per: Literal["all", "tensor"]


@dataclass(frozen=True)
class Begin:
    """What of the snapshot that a level begins with is not taken as it is.

    Args:
        weights: Checkpoint whose weights and buffers take the place of the snapshot's; None for the snapshot's.
        optimizer: Its state is forgotten (``"fresh"``), or that of the snapshot (``"restored"``).
    """

    weights: str | None
    optimizer: Literal["fresh", "restored"]


@dataclass(frozen=True)
class LevelOptions:
    """A level of iterative pruning after level 0, or one of its controls.

    Args:
        level: Its number, >= 1.
        prune: How its masks are made.
        begin: Where it begins at a snapshot: what is not the snapshot's; None where it begins as built.
        shuffle_seed: For a control: seed by which the masks' places are drawn anew; None for the ticket's own.
        shuffle_layers: For another control than the plain shuffle: as of ``MaskFreezing``.
    """

    level: int
    prune: Prune
    begin: Begin | None
    shuffle_seed: int | None
    shuffle_layers: Literal["erk", "uniform", "effective"] | None = None


@dataclass(frozen=True)
class LinesOptions:
    """The judge of the lines between finished children: the settings of ``connectivity.judging``, and what it judges.

    Args:
        predict: Address of a function of predicted classes; None or "" for none that can be imported.
        checkpoints: Of the children.
        is_null_control: The children have one seed, or a perturbation of 0.
        noise: By what the children differ, in words; None for all that a seed changes.
        train_split: Whether the training split is judged beside.
    """

    monitor: str
    mode: Literal["max", "min"]
    threshold: float
    alphas: tuple[float, ...]
    recalibrate: int
    layer_alphas: tuple[float, ...]
    predict: str | None
    checkpoints: tuple[str, ...]
    is_null_control: bool = False
    threshold_ratio: float | None = None
    noise: str | None = None
    train_split: bool | None = None


@dataclass(frozen=True)
class LinesTrialOptions:
    """A trial, before anything is trained, of what judges lines: fields as in ``LinesOptions``.

    Args:
        child: The noise of a child.
    """

    monitor: str
    mode: Literal["max", "min"]
    recalibrate: int
    predict: str | None
    threshold_ratio: float | None = None
    train_split: bool | None = None
    child: NoiseOptions | None = None


@dataclass(frozen=True)
class RecordsTrialOptions:
    """A trial, before anything is trained, of whether children will record the metric that is judged."""

    monitor: str
    mode: Literal["max", "min"]


Options = (
    TicketOptions
    | StartOptions
    | SnapshotOptions
    | DenseLevelOptions
    | LevelOptions
    | LinesOptions
    | LinesTrialOptions
    | RecordsTrialOptions
)

MOST_ALPHAS = 100_000
"""More than anybody evaluates a line at: so many are damage."""


def plain(options: Options | None) -> dict[str, Any]:
    """Options as the plain values of ``child.json``."""
    return {} if options is None else asdict(options)


def read_options(values: Mapping[str, Any]) -> Options | None:
    """The options that plain values are of.

    Raises:
        LotteryError: They are of no kind.
    """
    if not values:
        return None
    known = {name: value for name, value in values.items() if name != "fast"}  # a judge's, before it was taken out
    for kind in get_args(Options):
        names = {field.name: field.default is MISSING for field in fields(kind)}
        if {name for name, is_needed in names.items() if is_needed} <= known.keys() <= names.keys():
            options: Options = kind(**{name: _typed(name, value) for name, value in known.items()})
            return options
    raise LotteryError(f"A child has no options {', '.join(values)}: another version of this package wrote them.")


def perturbation_of(values: Mapping[str, Any]) -> Perturbation:
    """A perturbation as JSON and YAML hold it."""
    scope = values.get("scope")
    return Perturbation(**{**values, "scope": scope and _typed("scope", scope)})


def _typed(name: str, value: Any) -> Any:
    """The value of a field of options: JSON has lists and mappings only."""
    if name == "scope":
        return Scope(**{key: _typed("", part) for key, part in value.items()})
    if name == "prune":
        return Prune(**value)
    if name == "begin":
        return value and Begin(**value)
    if name == "perturbation":
        return value and perturbation_of(value)
    if name == "child" or (name == "noise" and isinstance(value, Mapping)):
        return value and NoiseOptions(**{key: _typed(key, part) for key, part in value.items()})
    if name == "alphas" and isinstance(value, int):  # written when `alphas` was how many, evenly spaced
        if not 2 <= value <= MOST_ALPHAS:
            raise ValueError(f"{value} alphas")
        return tuple(k / (value - 1) for k in range(value))
    return tuple(value) if isinstance(value, list) else value
