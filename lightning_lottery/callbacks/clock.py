"""The clock: optimizer steps that happened."""

from lightning.pytorch import Trainer


class StepClock:
    """Counts optimizer steps that happened, once per batch that stepped.

    ``trainer.global_step`` only says when to look: it also advances when a gradient scaler skips the step, and by the
    number of optimizers in manual optimization.
    """

    def __init__(self) -> None:
        self.step = 0
        self._seen = 0
        self._scale: float | None = None

    def start(self, trainer: Trainer) -> None:
        """Look for the first time, in ``on_train_start``: only there a resumed run's counters are right."""
        self._seen = trainer.global_step
        self._scale = _loss_scale(trainer)

    def tick(self, trainer: Trainer) -> bool:
        """Whether an optimizer step happened since the last look; asked in ``on_train_batch_end``."""
        advanced = trainer.global_step != self._seen
        self._seen = trainer.global_step
        before, self._scale = self._scale, _loss_scale(trainer)
        skipped = before is not None and self._scale is not None and self._scale < before
        happened = advanced and not skipped
        self.step += happened
        return happened


def _loss_scale(trainer: Trainer) -> float | None:
    """The gradient scaler's scale, which falls across a skipped step; None without a scaler (no device is asked)."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())
