import numpy as np
import pytest
from scipy import stats

from lightning_lottery import LotteryError
from lightning_lottery.functional.crossed import (
    Blocks,
    Form,
    covariance_of_samples,
    crossed_variance,
    rounding_variance,
    upper_quantile,
)

HALVES = Form(np.array([[0.25, -0.25], [-0.25, 0.25]]), freedom=1.0)
"""Half the variance of two values: that of their mean."""


def test_of_blocks_of_one_size_the_covariance_is_that_of_means_over_blocks():
    values = np.random.default_rng(0).normal(size=(3, 12))
    covariance = covariance_of_samples(values, np.full(12, 7.0))
    np.testing.assert_allclose(covariance, np.cov(values) / 12)
    assert covariance[0, 0] ** 0.5 == pytest.approx(stats.sem(values[0]))


def test_blocks_of_other_sizes_give_the_variance_of_the_weighted_mean():
    """Over many draws: a block's value varies as one over its size."""
    draw, sizes = np.random.default_rng(0), np.array([5.0, 10, 20, 20, 30, 40, 40, 60])
    values = draw.normal(size=(4000, 8)) / sizes**0.5
    estimated = [covariance_of_samples(row[None], sizes)[0, 0] for row in values]
    assert np.mean(estimated) == pytest.approx(np.var(values @ (sizes / sizes.sum())), rel=0.05)


def test_one_block_says_nothing_of_samples():
    with pytest.raises(LotteryError, match="two blocks"):
        covariance_of_samples(np.zeros((1, 1)), np.ones(1))


def test_what_samples_add_to_the_spread_of_networks_is_not_counted_twice():
    """Over many draws of both: networks and samples crossed have the variance that the mean has."""
    draw, estimated, means = np.random.default_rng(0), [], []
    for _ in range(4000):
        networks, samples = draw.normal(size=(2, 1)), draw.normal(size=12)
        values = networks + samples + draw.normal(size=(2, 12))
        covariance = covariance_of_samples(values, np.ones(12))
        crossed = crossed_variance(values.mean(1), covariance, np.full(2, 0.5), [HALVES], 12)
        estimated.append(crossed.variance)
        means.append(values.mean())
    # The networks' part is never taken below 0, so it is a little too large on average, never too small.
    assert np.var(means) == pytest.approx(1 / 2 + 1 / 12 + 1 / 24, rel=0.1)
    assert 1 <= np.mean(estimated) / np.var(means) < 1.15


def test_degrees_of_freedom_lie_between_those_of_both():
    means, covariance = np.array([1.0, 3.0]), 0.5 * np.eye(2)
    crossed = crossed_variance(means, covariance, np.full(2, 0.5), [HALVES], blocks=10)
    assert (crossed.networks, crossed.samples) == pytest.approx((0.75, 0.25))
    assert crossed.freedom == pytest.approx(1 / (0.75**2 / 1 + 0.25**2 / 9))
    assert crossed_variance(means, covariance, np.full(2, 0.5), [], blocks=10).freedom == 9
    alike = crossed_variance(np.ones(2), covariance, np.full(2, 0.5), [HALVES], blocks=10)
    assert (alike.networks, alike.freedom) == (0.0, 9)


@pytest.mark.parametrize(
    ("weights", "shape", "says"),
    [
        (np.ones(7), (3, 7), "8 blocks or more"),
        (np.zeros(8), (3, 8), "none of them empty"),
        (np.ones(8), (3, 9), "for each of the 8 blocks"),
        (np.ones(8), (1, 8), "for each of the 8 blocks"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(weights, shape, says):
    with pytest.raises(LotteryError, match=says):
        Blocks(weights, {0: {(0, 1): np.zeros(shape)}})


def test_for_wrong_answers_the_noise_floor_is_of_the_share_on_which_two_networks_disagree():
    draw, samples = np.random.default_rng(0), 4000
    wrong = draw.random((2, samples)) < 0.1
    ends = wrong.reshape(2, samples, 1).astype(float)
    line = np.stack([ends[0, :, 0], ends[0, :, 0], ends[1, :, 0]])
    floor = Blocks(np.ones(samples), {0: {(0, 1): line}}).noise_floor()
    share = (wrong[0] != wrong[1]).mean()
    assert floor == pytest.approx(0.68 * (share / samples) ** 0.5, rel=0.01)


def test_quantiles_are_student_s_and_what_float32_rounds_counts_as_nothing():
    assert upper_quantile(0.05, 2) == pytest.approx(2.919985580)
    shares = np.float32([0.1, 0.1]).astype(float) - 0.1  # one number, logged in float32 and in float64
    assert 0 < np.abs(shares).max() ** 2 < rounding_variance(0.1) < (1 / 10_000) ** 2
