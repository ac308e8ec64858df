"""Train a ticket: its masks are there from the start and stay."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.functional.dynamic import Layers
from lightning_lottery.functional.effective import places_on_paths, positive, shuffle_on_paths
from lightning_lottery.functional.masks import count_each
from lightning_lottery.functional.schedules import Schedule
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.hooks.masked import Masked, check_agreement
from lightning_lottery.hooks.one_shot import first_line
from lightning_lottery.hooks.scoring import outputs_of, training_batches
from lightning_lottery.scope import named_parameters, size_of, ties
from lightning_lottery.shards import Shards
from lightning_lottery.ticket import Ticket


class MaskFreezing(MaskCallback):
    """Train only what a ticket keeps: removed weights are exactly zero from before the first step to after the last.

    Zeros bring no speed by themselves: see ``shrink``. Weights are masked again after every step; gradients before it
    where they are clipped, judged by a gradient scaler, looked at by the module before the step, or mixed by an
    optimizer: elsewhere they change removed weights alone. What optimizers remember of removed weights is cleared when
    the fit begins, is validated, saved and ends. Weights that came back all the same are counted (``mask/revived``,
    always 0 unless something else writes weights).

    Controls: ``shuffle_seed`` (as many weights kept in each layer, at random places) from the same checkpoint, also
    with as many as ``shuffle_layers`` says, or with as many on a path from input to output as the ticket has, where a
    plain shuffle breaks paths; the re-initialised one is the same ticket in a fit under another seed and without a
    checkpoint. ``IterativePruning`` trains them beside its tickets.

    Args:
        ticket: A ticket, or the path of one; it is read when the callback is built.
        shuffle_seed: Train the layer-wise shuffle of the ticket that this seed draws: the control.
        shuffle_layers: As many weights in all as the ticket keeps, but parted among layers by ``"erk"`` or
            ``"uniform"`` densities: the random control. ``"effective"``: as many in each layer as the ticket, of which
            as many lie on a path (``functional.shuffle_on_paths``, on the first training batch, when the fit begins).
            Default: as many in each layer as the ticket keeps there.
        name: Tells several callbacks of one Trainer apart.
        log_layers: Log the sparsity of each layer as well, a curve for each.

    Raises:
        LotteryError: No such file or not a ticket; in ``fit``, a ticket that does not fit the module.

    Example:
        >>> import torch
        >>> MaskFreezing(Ticket({"weight": torch.tensor([True, False])})).sparsity
        0.5

    Source: Frankle & Carbin 2019; Frankle et al. 2021, section 4 (the shuffled control).
    """

    role = "freezing"
    follows_scope = False
    knows_shards = True

    # `Path` in the hint keeps a path what it is: where a hint has a class and no path, jsonargparse (4.53) puts the
    # content of the file that a string names in place of the string.
    def __init__(
        self,
        ticket: str | Path | Ticket,
        shuffle_seed: int | None = None,
        *,
        shuffle_layers: Layers | Literal["effective"] | None = None,
        name: str | None = None,
        log_layers: bool = False,
    ) -> None:
        if not isinstance(ticket, (str, os.PathLike, Ticket)):
            raise LotteryError(f"`ticket` is a Ticket or the path of one, got {ticket!r}.")
        loaded = ticket if isinstance(ticket, Ticket) else Ticket.load(ticket)
        if shuffle_layers is not None and shuffle_seed is None:
            raise LotteryError("`shuffle_layers` says how many weights of each layer `shuffle_seed` draws: give both.")
        self._ticket = loaded
        self._seed_on_paths = shuffle_seed if shuffle_layers == "effective" else None
        if shuffle_layers == "effective":  # only a module tells which weights do anything
            how = {"shuffle_seed": shuffle_seed, "layers": shuffle_layers}
            self._ticket = replace(loaded, provenance={**loaded.provenance, **how})
        elif shuffle_seed is not None:
            again = loaded.at_random(shuffle_layers, shuffle_seed) if shuffle_layers else loaded.shuffled(shuffle_seed)
            self._ticket = again
        if not self._ticket.masks:
            raise LotteryError(
                "MaskFreezing needs a ticket with masks of parameters; this one has only masks of units."
            )
        origin = self._ticket.provenance
        self.network = str(origin.get("layers", "shuffled")) if "shuffle_seed" in origin else "ticket"
        self.origin = ("" if shuffle_seed is None else f"{self.network} ") + origin_of(ticket)
        """What tables call the ticket: where it came from, and whether it was shuffled."""
        super().__init__(None, interval=1, scope=None, name=name, log_layers=log_layers)

    def _reset(self) -> None:
        super()._reset()
        masks = self._ticket.distinct
        if self._seed_on_paths is not None:  # until they are drawn no weight may be lost
            masks = {name: torch.ones_like(mask) for name, mask in masks.items()}
        self._upkeep.masked = Masked(masks)
        self._is_drawn = False  # whether masks on paths were
        self._fitting: dict[str, Tensor] = {}  # the ticket's masks under the first names that the module has for them

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that the ticket masks, in the module's order; a misfit is refused."""
        self._ticket.require_fit(module)
        # The ticket may name a tied weight by any of its names, or by several; the fit knows it by the first.
        aliases = ties(module)
        self._fitting = {}
        for name, mask in self._ticket.masks.items():
            first = aliases.get(name, name)
            if first in self._fitting and not torch.equal(self._fitting[first], mask):
                raise LotteryError(
                    f"'{name}' and '{first}' are one tied weight here, but their masks in the ticket differ."
                )
            self._fitting[first] = mask
        return {name: param for name, param in named_parameters(module).items() if name in self._fitting}

    def summary(self, module: nn.Module) -> str:
        """What is frozen, for the log."""
        masked = sum(mask.numel() for mask in self._fitting.values())
        return f"{self._ticket!r} on {masked:,} of {size_of(module):,} weights."

    def starting_masks(self, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """The ticket's masks under the module's names, this rank's parts; all kept where they are yet to be drawn."""
        if self._seed_on_paths is not None:
            return super().starting_masks(params)
        shards = Shards(params)
        return {name: shards.part(name, self._fitting[name]).clone() for name in params}

    def begin_method(self, trainer: Trainer, schedule: Schedule | None) -> None:
        check_agreement(trainer, self._fitting, self.label, "Each reads a file of its own: give all the same ticket.")
        if self._seed_on_paths is not None and self._masked.shards:
            raise LotteryError(f"{self.label}: no rank runs the whole of a sharded module, as `effective` needs.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A tuner's steps draw them too, and then go back to before that.
        if self._seed_on_paths is not None and not self._is_drawn:
            self._draw_on_paths(trainer, pl_module, self._seed_on_paths)
        super().on_train_start(trainer, pl_module)

    def _draw_on_paths(self, trainer: Trainer, module: LightningModule, seed: int) -> None:
        (arguments,) = training_batches(trainer, 1)
        batch = positive(arguments)

        def outputs(copy: nn.Module) -> Any:
            return outputs_of(copy, *batch.values())

        try:
            masks = shuffle_on_paths(self._fitting, seed, lambda masks: places_on_paths(module, masks, outputs))
        except LotteryError:
            raise
        except Exception as error:  # the project's own code runs here
            raise LotteryError(
                f"{self.label} finds paths by the module's `forward`, else `training_step`, on a training batch, which "
                f"fails: {first_line(error)}. Shuffle the ticket beforehand: `ticket.shuffled_on_paths`."
            ) from error
        check_agreement(trainer, masks, self.label, "Their batches differ in form: shuffle the ticket beforehand.")
        self._upkeep.masked = Masked(masks, self._masked.params)
        self._is_drawn = True

    def method_state(self) -> dict[str, Any]:
        return {} if self._seed_on_paths is None else {"is_drawn": self._is_drawn}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was trained with another ticket."""
        if self._seed_on_paths is not None:
            self._is_drawn = bool(state.get("is_drawn"))
            is_other = self._is_drawn and count_each(self.masks) != count_each(self._fitting)
        else:
            is_other = hash_of_tensors(self.masks) != hash_of_tensors(self.starting_masks(self.parameters))
        if is_other:
            raise LotteryError(
                f"{self.label}: the checkpoint was trained with other masks than {self._ticket!r} has. "
                "Resume with its own ticket, or start afresh."
            )

    def provenance(self) -> dict[str, Any]:
        """As of every callback, and where the ticket came from."""
        return {**super().provenance(), "scope": None, "found_by": dict(self._ticket.provenance)}


def origin_of(ticket: str | os.PathLike[str] | Ticket) -> str:
    """What tables call a ticket, in few words: the folder of a fit that left it, its file, or what found it.

    Example:
        >>> origin_of("runs/quickstart/seed-0/02-platon/ticket.safetensors")
        '02-platon'
        >>> origin_of("runs/bird/early_bird/at=0.2-0.5.safetensors")
        'at=0.2-0.5'
    """
    if isinstance(ticket, Ticket):
        origin = ticket.provenance
        return f"level {origin['level']}" if "level" in origin else str(origin.get("method", "unknown method"))
    path = Path(ticket)
    return path.parent.name or path.stem if path.stem == "ticket" else path.stem
