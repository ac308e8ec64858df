"""What Lightning says of every fit alike, left out where a runner starts many."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (
    "Seed set to",
    "TPU available",
    "💡 Tip",
    "Loading `train_dataloader` to estimate",
    "Restored all states",
    "`Trainer.fit` stopped",
)
"""Beginnings of what Lightning says at every fit and a recipe of many fits need not repeat."""


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave out what Lightning says of every fit alike, and what is no mistake where we start the fit."""
    logs = [logging.getLogger(f"lightning.{name}") for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed")]

    def says_something(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(NOISE)

    for log in logs:
        log.addFilter(says_something)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            # a stage that goes on from another's checkpoint has other callbacks on purpose
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`", UserWarning)
            yield
    finally:
        for log in logs:
            log.removeFilter(says_something)
