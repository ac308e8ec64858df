import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import oracles
from lightning_lottery.functional import (
    Exponential,
    count,
    in_steps,
    iterative_masks,
    keep_top,
    keep_top_rows,
    prune_further,
)
from lightning_lottery.functional.shares import complement, share

quick = settings(deadline=None, max_examples=1000)
typed = st.integers(0, 6).flatmap(lambda digits: st.integers(0, 10**digits).map(lambda n: n / 10**digits))
totals = st.integers(0, 10**6)


@quick
@given(typed, totals)
def test_a_share_is_rounded_as_that_of_the_decimal_number_that_was_typed(fraction, total):
    meant = Fraction(repr(fraction))
    for rounded in (math.floor, math.ceil, round):
        assert rounded(share(fraction, total)) == rounded(meant * total)
        assert rounded(share(1 - fraction, total)) == rounded((1 - meant) * total)


@quick
@given(st.floats(0, 1), totals)
def test_nothing_but_binary_rounding_is_put_right(fraction, total):
    assert abs(share(fraction, total) - Fraction(fraction) * total) <= 1e-15 * total


@quick
@given(typed)
def test_a_complement_is_that_of_the_decimal_number(fraction):
    assert complement(fraction) == float(1 - Fraction(repr(fraction)))


@pytest.mark.parametrize("zeros", range(1, 8))
def test_the_middle_of_an_exponential_schedule_is_a_whole_number_where_it_ought_to_be(zeros):
    """0.99 in the middle is 0.9, 0.9999 is 0.99: of all multiples nothing is lost, in none of a hundred iterations."""
    final, power = float("0." + "9" * (2 * zeros)), 10**zeros
    schedule = Exponential(final, begin=0, end=100)
    for n in range(power, 2000 * power, power):
        assert math.floor(share(schedule(50), n)) == n - n // power


@pytest.mark.parametrize("n", [15, 45, 240, 250])
def test_every_count_of_the_package_is_that_of_the_decimal_number(n):
    for percent in range(1, 100):
        fraction, part = percent / 100, Fraction(percent, 100)
        scores = {"w": torch.rand(n)}
        dense = {"w": torch.ones(n, dtype=torch.bool)}
        assert count(keep_top(scores, fraction))[0] == round((1 - part) * n)
        assert int(keep_top_rows(scores["w"][None], fraction).sum()) == round((1 - part) * n)
        if 0 < round(part * n) < n:
            assert count(prune_further(scores, dense, fraction))[0] == n - round(part * n)
        assert in_steps(fraction, n) == round(part * n)
        first, last = iterative_masks(dict, scores, fraction, iterations=2)
        assert count(last)[0] == oracles.kept_of(fraction, n)
        assert count(first)[0] == n - math.floor(oracles.exact(1 - (1 - fraction) ** 0.5) * n)
