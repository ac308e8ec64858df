"""The modes of a module's parts: training or evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Let the block change modes of a module: each of its modules has its own again when the block ends.

    Args:
        module: Also one whose parts differ, such as a frozen backbone in evaluation mode.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with modes_kept(net):
        ...     _ = net.eval()
        >>> [dropout.training for dropout in net]
        [True, False]
    """
    # Not by `module.train(mode)`: that would give every part the mode of the whole, and a class may override it.
    modes = {child: child.training for child in module.modules()}
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode
