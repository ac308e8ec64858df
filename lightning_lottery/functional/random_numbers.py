"""Random numbers as if nothing had been drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_numbers_kept(*devices: torch.device) -> Iterator[None]:
    """Let the block draw: whoever draws after it gets the numbers that would have come without it.

    Args:
        devices: Those of the GPUs whose generators count, beside Python's, NumPy's and the CPU's; others are ignored.

    Example:
        >>> state = torch.get_rng_state()
        >>> with random_numbers_kept():
        ...     _ = torch.rand(3)
        >>> torch.equal(torch.get_rng_state(), state)
        True
    """
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
