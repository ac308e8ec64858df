"""``lightning-lottery warm``: what children are forked from, started by whoever starts the first of them."""

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from lightning_lottery.children.warm import serve
from lightning_lottery.command.child import child

PRELOADED = (
    "lightning_lottery.callbacks",
    "lightning_lottery.children.cli",
    "torch.utils.tensorboard",
    "torchmetrics.classification",
    "torchvision",
    "sklearn.datasets",
)
"""What many children import, beside what their command does."""


def warm(arguments: Sequence[str]) -> None:
    """Import everything, then be forked; a fork does the child that it was asked for.

    Args:
        arguments: Descriptor of the socket that requests come in at.
    """
    for name in PRELOADED:
        with suppress(ImportError):  # an optional package; whoever needs it will say so
            import_module(name)
    _, *rest = serve(int(arguments[0]))
    child(rest)
