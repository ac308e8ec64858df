"""From a fraction to a count: the one place that knows that binary numbers miss decimal ones."""

import sys
from decimal import Decimal

_SLACK = 4 * sys.float_info.epsilon  # more than a typed fraction, its complement or a schedule's value is off by


def share(fraction: float, total: float) -> float:
    """``fraction * total``, or the whole or half number that it missed by no more than binary rounding.

    Whoever needs a count rounds the result, up, down or to the nearest: 0.9 of 240 entries are 216 in any case.

    Args:
        fraction: In [0, 1].
        total: How many there are, >= 0.

    Example:
        >>> 0.29 * 100, share(0.29, 100)
        (28.999999999999996, 29.0)
        >>> share(1 - (1 - 0.99) ** 0.5, 20)
        18.0
    """
    product = fraction * total
    nearest = round(2 * product) / 2  # halves too: they decide which way to round
    return nearest if abs(product - nearest) <= _SLACK * total else product


def complement(fraction: float) -> float:
    """``1 - fraction`` of the decimal number that was typed: near 1 the binary difference has few digits left.

    Example:
        >>> 1 - 0.9999, complement(0.9999)
        (9.999999999998899e-05, 0.0001)
    """
    return float(1 - Decimal(str(float(fraction))))
