"""Random numbers by counter: pure ints, equal on every machine, with no state to save."""

import numpy as np
import numpy.typing as npt


def mix64(*numbers: int, carry: bool = False) -> int:
    """One well-mixed number in [0, 2^64) from several, each of which changes all of it: splitmix64 over each in turn.

    Args:
        numbers: Any ints; what lies outside of [0, 2^64) counts modulo 2^64.
        carry: Keep the bit that a sum carries beyond 64; splitmix64 drops it.

    Example:
        >>> mix64(0, 1) != mix64(1, 0)
        True

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"; random numbers by counter
    after Salmon et al. 2011.
    """
    mixed = 0
    for number in numbers:
        # The odd constant (2^64 over the golden ratio): a zero must change the state as every number does.
        mixed = (mixed ^ (number % 2**64)) + 0x9E3779B97F4A7C15
        if not carry:
            mixed %= 2**64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        mixed ^= mixed >> 31
    return mixed


def mix64_each(seed: int, numbers: range) -> npt.NDArray[np.uint64]:
    """``mix64(seed, number)`` of each number.

    Args:
        seed: As one of ``mix64``'s numbers.
        numbers: In [0, 2^64).

    Example:
        >>> int(mix64_each(5, range(7, 9))[1]) == mix64(5, 8)
        True
    """
    mixed = np.arange(numbers.start, numbers.stop, numbers.step, dtype=np.uint64)
    mixed = (mixed ^ np.uint64(mix64(seed))) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
