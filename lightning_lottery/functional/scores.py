"""Scores of weights: higher is more worth keeping."""

from collections.abc import Mapping

import torch
from torch import Tensor


def magnitude(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The absolute value of every entry, in at least float32.

    Args:
        params: Name to floating-point tensor of any shape.

    Returns:
        Name to tensor of the same shape, entries in [0, inf).

    Example:
        >>> magnitude({"w": torch.tensor([-2.0, 1.0])})
        {'w': tensor([2., 1.])}

    Source: Han et al. 2015, section 3.
    """
    return {
        name: param.detach().abs().to(torch.promote_types(param.dtype, torch.float32)) for name, param in params.items()
    }
