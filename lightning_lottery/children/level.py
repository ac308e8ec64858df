"""What a level of iterative pruning adds to a fit: the masks of what is left, and the start that it is rewound to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_lottery.callbacks import EarlyBird, MaskFreezing, Snapshots
from lightning_lottery.children.folders import load_checkpoint
from lightning_lottery.children.options import DenseLevelOptions, LevelOptions
from lightning_lottery.children.reading import again
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.iterative import prune_further
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.functional.scores import magnitude
from lightning_lottery.hooks.clock import steps_of_fit
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.scope import Scope, plain_name
from lightning_lottery.ticket import Ticket


def with_level(
    callbacks: Sequence[Callback], options: DenseLevelOptions | LevelOptions, *, resumed: bool
) -> list[Callback]:
    """A project's callbacks, and those of a level; a resumed fit has its start in the child's own checkpoint.

    Raises:
        LotteryError: The project prunes by itself, a file is missing, or nothing is left to prune.
    """
    # An EarlyBird that masks units brings the callback that does only when the fit is set up.
    for callback in callbacks:
        removes = isinstance(callback, EarlyBird) and (callback.freezing or callback.cutting)
        if isinstance(callback, MaskCallback) or removes:
            raise LotteryError(f"The project has a callback that masks by itself: leave out {type(callback).__name__}.")
    if isinstance(options, DenseLevelOptions):
        dense = Dense(options.scope, rewind_step=options.rewind_step)
        return [*with_snapshots(callbacks, [options.rewind_step]), dense]
    freezing = MaskFreezing(ticket_of_level(options), options.shuffle_seed, shuffle_layers=options.shuffle_layers)
    if resumed or options.begin is None:
        return [*callbacks, freezing]
    rewound = Rewound(options.begin.weights, is_fresh=options.begin.optimizer == "fresh")
    # First: averaging callbacks copy the weights out of the checkpoint, which has to be changed by then.
    return [rewound, *callbacks, freezing]


def ticket_of_level(options: LevelOptions) -> Ticket:
    """The ticket of a level: what is left of the level before, by the magnitude of its final weights.

    Raises:
        LotteryError: A file is missing, or nothing is left to prune.
    """
    prune = options.prune
    before, state = Ticket.load(prune.within), _weights_of(prune.weights)
    # A compiled module's checkpoint says `_orig_mod.` in its names; a ticket never does.
    weights = {plain_name(name): weight for name, weight in state.items()}
    remaining = before.distinct
    scores = magnitude({name: weights[name] for name in remaining})
    try:
        masks = prune_further(scores, remaining, prune.prune_fraction, per=prune.per)
    except LotteryError as error:
        raise LotteryError(f"Level {options.level}: {error}") from error
    provenance = {
        "method": "IterativePruning",
        "scope": before.provenance.get("found_by", before.provenance)["scope"],
        "level": options.level,
        "prune_fraction": prune.prune_fraction,
        "per": prune.per,
    }
    return Ticket(masks | {alias: masks[name] for alias, name in before.ties.items()}, {}, before.ties, provenance)


class Dense(MaskCallback):
    """Removes nothing: the level 0 whose ticket, that of the whole scope, the first level prunes.

    Args:
        scope: Which parameters compete, at every level.
        rewind_step: Refused in ``fit`` where it is not before its end.
    """

    role = "dense"
    network = "dense"

    def __init__(self, scope: Scope, *, rewind_step: int) -> None:
        super().__init__(None, interval=1, scope=scope, name=None)
        self.rewind_step = rewind_step

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        """Refuse to rewind past the end, before any step."""
        steps = steps_of_fit(trainer, trainer.lightning_module)
        if steps is not None and self.rewind_step >= steps:
            raise LotteryError(
                f"`rewind_step` {self.rewind_step} is past the end: this fit ends at step {steps}, and a level trains "
                "from there to the end. Rewind to an earlier step, or train longer."
            )


class Rewound(Callback):
    """Changes the snapshot that a fit begins with: other weights, or optimizers without their state.

    It stands before all callbacks that read weights from a checkpoint.

    Args:
        weights: Checkpoint whose weights and buffers take the place of the snapshot's; None for the snapshot's own.
        is_fresh: Leave out the state of the optimizers; their settings, such as the learning rate, stay.
    """

    def __init__(self, weights: str | None, *, is_fresh: bool) -> None:
        self.weights, self.is_fresh = weights, is_fresh

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Change the checkpoint, also for the averaging callbacks that read it next."""
        if self.weights is not None:
            state = _weights_of(self.weights)
            # WeightAveraging keeps the averaged weights as `state_dict` and the trained ones beside (Lightning 2.6).
            for key in checkpoint.keys() & {"state_dict", "current_model_state"}:
                checkpoint[key] = state
            # Lightning restored the module before it called this hook; the optimizers it restores afterwards.
            trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
        if self.is_fresh:
            # Emptied here and not in `on_fit_start`, after which Lightning restores the optimizers.
            for optimizer in checkpoint["optimizer_states"]:
                optimizer["state"] = {}


def with_snapshots(callbacks: Sequence[Callback], steps: Sequence[int]) -> list[Callback]:
    """Save at ``steps`` too: one callback for the project's own steps and these."""
    saved = [step for callback in callbacks if isinstance(callback, Snapshots) for step in callback.steps]
    rest = [callback for callback in callbacks if not isinstance(callback, Snapshots)]
    return [*rest, Snapshots([*saved, *steps])]


def _weights_of(ckpt_path: str) -> dict[str, Any]:
    if not Path(ckpt_path).exists():
        raise LotteryError(f"There is no checkpoint '{ckpt_path}': the level before has to be trained first.")
    try:
        return dict(load_checkpoint(Path(ckpt_path), "cpu")["state_dict"])
    except Exception as error:  # torch has many for a file that is no checkpoint
        raise LotteryError(f"'{ckpt_path}' does not load as a checkpoint. {again(Path(ckpt_path).parent)}") from error
