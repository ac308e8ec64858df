"""The sections that runners read from a project's YAML, beside what ``fit`` reads."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.iterative import check_prune_fraction, levels_to
from lightning_lottery.functional.matching import check_margin
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.scope import Scope


@dataclass(frozen=True)
class InstabilitySettings:
    """Section ``instability`` of a YAML.

    Args:
        seeds: Of the children; at least two, all different, or all equal for a null control.
        monitor: The logged metric that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss.
        threshold: Error barrier below which networks are called stable, a fraction.
        alphas: Places on the line, evenly spaced, both ends included; >= 2.
        recalibrate: Training batches for estimating batch norm's statistics anew at each place; 0 for none.
        layer_alphas: Places at which single layers are interpolated, in [0, 1]; empty for none.
        ticket: Path of a ticket that every child trains.
        pruner: A callback that prunes once, at the checkpoint: every child trains its ticket.
        predict: ``package.module:function`` that gives predicted classes for (module, batch), to compare predictions.
    """

    seeds: tuple[int, ...] = (1, 2)
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    threshold: float = 0.02
    alphas: int = 21
    recalibrate: int = 0
    layer_alphas: tuple[float, ...] = ()
    ticket: str | None = None
    pruner: MaskCallback | None = None
    predict: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min") or not self.threshold > 0:
            raise LotteryError(
                f"`mode` is 'max' or 'min' and `threshold` above 0, got {self.mode!r} and {self.threshold!r}."
            )
        if self.alphas < 2 or self.recalibrate < 0 or any(not 0 <= alpha <= 1 for alpha in self.layer_alphas):
            raise LotteryError(
                "`alphas` is a number of places >= 2, both ends 0 and 1 among them, `recalibrate` one of batches >= 0, "
                f"and `layer_alphas` are places in [0, 1], got {self.alphas}, {self.recalibrate}, {self.layer_alphas}."
            )


@dataclass(frozen=True)
class SweepSettings:
    """Section ``sweep`` of a YAML: from which step on a network is stable to SGD noise.

    Args:
        steps: Candidates: optimizer steps, rising, at least two; with ``snapshots`` default: all that they have.
        parents: Seeds of the parents, each an initialisation, trained and saved at these steps.
        seeds: Of the children of the first parent, at least two; further parents' are 1000 more each.
        snapshots: Folders of ``step=K.ckpt``, each of a parent trained before, in place of ``parents``.
        search: ``"grid"`` for every step, ``"bisect"`` for few.
        precision: Of k*, relative, where it is searched: 1 ends where neighbours are a factor of 2 apart.
        pruners: Name of a network to a callback that prunes it once, at the step.
        tickets: Name of a network to the path of the ticket that its children train.
        beside: Name to the folder of another sweep, drawn in the same picture.
        monitor: The logged metric that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss.
        threshold: Error barrier below which networks are called stable, a fraction.
        alphas: Places on each line, evenly spaced, both ends included; >= 2.
        recalibrate: Training batches for estimating batch norm's statistics anew at each place; 0 for none.
        margin: Error of a pruned network above the dense one's that still counts as a match, > 0.
    """

    steps: tuple[int, ...] = ()
    parents: tuple[int, ...] = (0, 1, 2)
    seeds: tuple[int, ...] = (1, 2, 3)
    snapshots: tuple[str, ...] = ()
    search: Literal["grid", "bisect"] = "grid"
    precision: float = 1.0
    pruners: dict[str, MaskCallback] = field(default_factory=dict)
    tickets: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    threshold: float = 0.02
    alphas: int = 21
    recalibrate: int = 0
    margin: float = 0.01

    def __post_init__(self) -> None:
        check_margin(self.margin)
        if self.search not in ("grid", "bisect"):
            raise LotteryError(f"`search` is 'grid' or 'bisect', got {self.search!r}.")
        if not self.snapshots and (not self.parents or len(set(self.parents)) != len(self.parents)):
            raise LotteryError(f"`parents` are different seeds, at least one, got {list(self.parents)}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise LotteryError(f"`seeds` of a sweep are all different, got {list(self.seeds)}.")
        names = ["dense", *self.pruners, *self.tickets]
        if len(set(names)) < len(names) or any("/" in name for name in names):
            raise LotteryError(
                f"Networks have names of their own, fit for folders, and 'dense' is the whole one: {names}."
            )

    @property
    def judging(self) -> InstabilitySettings:
        """How the children at each step are judged."""
        names = ("monitor", "mode", "threshold", "alphas", "recalibrate")
        return InstabilitySettings(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class ImpSettings:
    """Section ``imp`` of a YAML: iterative pruning with rewinding.

    Args:
        seeds: Each trains all levels; different, at least one.
        prune_fraction: Fraction of what remains that each level removes, in (0, 1).
        levels: How many levels are pruned; give either this or ``sparsity``.
        sparsity: Prune to the first level that removes at least this fraction, in (0, 1).
        rewind_step: Optimizer step that every level begins again at; 0 for the initialisation.
        rewind: To that step go the weights and buffers (``"weights"``), or, these kept, only the learning-rate schedule
            (``"learning_rate"``).
        optimizer: Its state is forgotten at every level (``"fresh"``), or goes back to that step's (``"restored"``).
        per: Rank all weights together (``"all"``), or remove the fraction of each tensor by itself (``"tensor"``).
        scope: Which weights compete; default: those of linear and convolution layers.
        controls: Trained at every level beside the ticket: ``"shuffled"`` (as many weights kept in each layer, at
            places drawn anew) and ``"reinitialised"`` (its masks, from another initialisation).
        monitor: The logged metric that is judged, a fraction.
        mode: ``"max"`` for an accuracy, ``"min"`` for an error or a loss.
        margin: Loss of the metric that still counts as a match, > 0.
    """

    seeds: tuple[int, ...] = (0,)
    prune_fraction: float = 0.2
    levels: int | None = None
    sparsity: float | None = None
    rewind_step: int = 0
    rewind: Literal["weights", "learning_rate"] = "weights"
    optimizer: Literal["fresh", "restored"] = "fresh"
    per: Literal["all", "tensor"] = "all"
    scope: Scope | None = None
    controls: tuple[Literal["shuffled", "reinitialised"], ...] = ()
    monitor: str = "test_acc"
    mode: Literal["max", "min"] = "max"
    margin: float = 0.01

    def levels_to_prune(self) -> int:
        """How many levels are pruned; every setting is checked, before anything is trained.

        Raises:
            LotteryError: One is out of its range, or two contradict each other.
        """
        check_prune_fraction(self.prune_fraction)
        check_margin(self.margin)
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise LotteryError(f"`{name}` is '{allowed[0]}' or '{allowed[1]}', got {value!r}.")
        if odd := [control for control in self.controls if control not in ("shuffled", "reinitialised")]:
            raise LotteryError(f"`controls` are 'shuffled' and 'reinitialised', got {odd[0]!r}.")
        if not _is_count(self.rewind_step, least=0):
            raise LotteryError(f"`rewind_step` is an optimizer step >= 0, got {self.rewind_step!r}.")
        if self.rewind == "learning_rate" and self.optimizer == "restored":
            raise LotteryError(
                "With rewind='learning_rate' the weights are kept, and the optimizer state of `rewind_step` belongs to "
                "others: take optimizer='fresh'."
            )
        if self.rewind == "learning_rate" and self.controls:
            raise LotteryError(
                "Controls begin where their ticket does, at rewound weights: they need rewind='weights'."
            )
        if (self.levels is None) == (self.sparsity is None):
            raise LotteryError("Give either `levels` or a target `sparsity`: each says where pruning ends.")
        if self.sparsity is not None:
            return levels_to(self.sparsity, self.prune_fraction)
        if not _is_count(self.levels, least=1):
            raise LotteryError(f"`levels` is how many levels are pruned, >= 1, got {self.levels!r}.")
        return self.levels or 0


CHOICES = {
    "rewind": ("weights", "learning_rate"),
    "optimizer": ("fresh", "restored"),
    "per": ("all", "tensor"),
    "mode": ("max", "min"),
}


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
