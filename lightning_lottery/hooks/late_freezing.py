"""Frozen masks that come in the middle of a fit: another callback finds them and installs them."""

from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.mask_callback import MaskCallback
from lightning_lottery.ticket import Ticket


class LateFreezing(MaskCallback):
    """Keeps everything until a ticket is installed, and from then on what the ticket removes at zero.

    Stands in the Trainer's callbacks from ``setup`` on, long before the ticket: what cannot be frozen, or is masked by
    another callback as well, is refused before the first step, and checkpoints hold its masks like anybody's.

    Args:
        method: The method that finds the ticket: what messages and records call this callback.
        select: The parameters of a module that the ticket will mask, by name.
        name: Tells several callbacks of one Trainer apart.
    """

    role = "late_freezing"
    follows_scope = False

    def __init__(
        self, method: str, select: Callable[[nn.Module], dict[str, nn.Parameter]], *, name: str | None
    ) -> None:
        self._method, self._select = method, select
        super().__init__(None, interval=1, scope=None, name=name)

    def _reset(self) -> None:
        super()._reset()
        self.installed: Ticket | None = None
        self._due: float | None = None  # the sparsity of a ticket that is to be installed at the batch's end

    @property
    def method_name(self) -> str:
        """The method that finds the ticket."""
        return self._method

    def join(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Join the Trainer's callbacks, where it is not among them; for whom it works calls this in ``setup``.

        Also where a checkpoint is only tested: Lightning would ask the user for the callback whose state it holds.
        """
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if self not in callbacks:
            trainer.callbacks = [*callbacks, self]  # type: ignore[attr-defined]
            # Lightning calls `setup` of those that it found in the list when it began to (2.6.6).
            self.setup(trainer, module, stage)

    def install(self, ticket: Ticket, sparsity: float) -> None:
        """Remove what a ticket removes, for good, from the end of the present batch on; ``sparsity`` is for the log."""
        self.installed, self._due = ticket, sparsity

    def _is_due(self, step: int) -> bool:
        return self._due is not None

    def _update(self, trainer: Trainer) -> None:
        assert self.installed is not None and self._due is not None
        sparsity, self._due = self._due, None
        # The ticket holds a tied weight under every name, this callback under the first.
        drawn = {name: mask for name, mask in self.installed.masks.items() if name in self._masked.params}
        self._install(trainer, {**self._masked.masks, **drawn}, sparsity)
        self._log(trainer, sparsity, {})

    def select(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """What the ticket will mask."""
        return self._select(module)

    def summary(self, module: nn.Module) -> str:
        """What is frozen, for the log."""
        weights = sum(param.numel() for param in self._select(module).values())
        return f"freezes {weights:,} weights by the first ticket drawn."

    def ticket(self) -> Ticket:
        """The ticket that was installed.

        Raises:
            LotteryError: None was.
        """
        if self.installed is None:
            raise LotteryError(f"{self.label} has installed no ticket.")
        return self.installed

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.installed is None:
            self._masked.mask_weights_()
        else:
            super().on_fit_end(trainer, pl_module)
