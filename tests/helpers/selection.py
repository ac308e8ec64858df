"""What laws of ranking share: small searches, masks as lists, how many examples are drawn."""

from contextlib import contextmanager

import pytest
from hypothesis import settings

from lightning_lottery.functional import selection as module


@contextmanager
def searching(sample, block, on_device=False, room=module._ROOM):
    """Make the search for the threshold run on small inputs: it samples and looks at so many entries at a time.

    ``on_device``: by tensors, as where their memory is no NumPy array's.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_sample_size", lambda total: sample)
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_ROOM", room)
        if on_device:
            patch.setattr(module, "_fast", lambda tensor: tensor)
        yield


def lists(tensors):
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}


small = settings(deadline=None, max_examples=150)
