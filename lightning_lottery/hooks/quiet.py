"""Silence: what Lightning says of every fit alike, and what a module logs where nobody is to see it."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from lightning.pytorch import LightningModule

NOISE = (
    "Seed set to",
    "GPU available",
    "TPU available",
    "`Trainer(limit_",
    "💡 Tip",
    "Loading `train_dataloader` to estimate",
    "Restoring states",
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
            # `ExactResume` says it where the order of the data matters, and not of children that begin at a checkpoint
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before", UserWarning)
            # of a child its tests are logged, whatever its training leaves out
            warnings.filterwarnings(
                "ignore", "The number of training batches .* is smaller than the logging", UserWarning
            )
            # a child's ModelCheckpoint keeps its files in the child's folder, whoever it goes on from
            warnings.filterwarnings("ignore", "The dirpath has changed from", UserWarning)
            yield
    finally:
        for log in logs:
            log.removeFilter(says_something)


def without_logging(module: LightningModule) -> AbstractContextManager[None]:
    """What the module logs goes nowhere, whether it has a Trainer or none."""
    return logging_to(module, lambda *_, **__: None)


@contextmanager
def logging_to(module: LightningModule, log: Callable[..., None]) -> Iterator[None]:
    """What the module logs goes to ``log``, which is called as ``LightningModule.log`` is; blocks may be nested."""
    # In the instance's own dictionary: `nn.Module.__setattr__` is not asked, and the class stays as it is for others.
    # `log_dict` calls `self.log` for each of its values (Lightning 2.6.6) and needs no stand-in.
    attributes = vars(module)
    before = {name: attributes[name] for name in ("log",) if name in attributes}
    attributes["log"] = log
    try:
        yield
    finally:
        del attributes["log"]
        attributes.update(before)
