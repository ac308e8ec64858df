"""Somebody else's logger, as W&B's: it takes images by ``log_image``, and its ``experiment`` is no TensorBoard."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch.loggers import Logger


class Online(Logger):
    """Keeps what it is handed, in memory; strict about images, as W&B's is."""

    name, version = "online", "0"

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[str, tuple[int, ...], int | None]] = []
        self.experiment = SimpleNamespace(log=lambda values, step=None: self.metrics.append((step, dict(values))))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(metrics, step=step)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Not looked at."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, **_: Any) -> None:
        if not isinstance(images, list):
            raise TypeError(f'Expected a list as "images", found {type(images)}')
        self.images += [(key, image.shape, step) for image in images]
