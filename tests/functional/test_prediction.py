import numpy as np
import pytest
from scipy import stats

from lightning_lottery import LotteryError
from lightning_lottery.functional.prediction import parents_needed, predict_deficits

RANDOM = np.random.default_rng(0)
GROWING = np.arange(6.0)[:, None] + np.zeros((6, 3))


def test_at_one_step_rho_is_spearmans_and_p_its_exact_permutation_p():
    barriers, deficits = RANDOM.random((6, 1)), RANDOM.random((6, 1))
    prediction = predict_deficits(barriers, deficits)
    assert prediction.rho == pytest.approx(stats.spearmanr(barriers, deficits).statistic)
    exact = stats.permutation_test(
        (barriers[:, 0],),
        lambda x: stats.spearmanr(x, deficits[:, 0]).statistic,
        permutation_type="pairings",
        alternative="greater",
    )
    assert prediction.p == pytest.approx(exact.pvalue)


def test_what_merely_changes_with_the_step_says_nothing_within_steps_and_all_pooled():
    """Barrier and deficit fall with the step, and parents differ by chance alone."""
    falling = np.linspace(1, 0, 7)
    areas, rhos = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        barriers, deficits = (falling + 0.1 * random.normal(size=(6, 7)) for _ in range(2))
        prediction = predict_deficits(barriers, deficits, margin=0.5)
        rhos.append(prediction.rho)
        areas.append((prediction.auc_pooled, prediction.auc))
    pooled, within = np.array([pair for pair in areas if pair[1] is not None]).T
    assert np.mean(pooled) > 0.9 and abs(np.mean(within) - 0.5) < 0.1 and abs(np.mean(rhos)) < 0.1


def test_three_parents_cannot_show_anything_and_four_that_agree_only_describe():
    prediction = predict_deficits(GROWING[:3], GROWING[:3])
    assert prediction.rho == 1 and prediction.p == pytest.approx(1 / 6) and prediction.is_descriptive
    assert not predict_deficits(GROWING, GROWING).is_descriptive


def test_bounds_are_given_from_eight_parents_on_and_hold_rho():
    barriers = RANDOM.random((9, 4))
    prediction = predict_deficits(barriers, barriers + RANDOM.random((9, 4)))
    assert prediction.low < prediction.rho < prediction.high
    assert predict_deficits(GROWING, GROWING).low is None


def test_a_barrier_that_only_repeats_the_error_says_nothing_beyond_it():
    error = RANDOM.random((7, 5))
    barriers, deficits = (error + 0.05 * RANDOM.random((7, 5)) for _ in range(2))
    prediction = predict_deficits(barriers, deficits, error)
    assert prediction.rho > 0.8 and abs(prediction.partial) < 0.4 and prediction.partial_p > 0.05
    assert predict_deficits(error, deficits, error).partial is None


def test_of_barriers_that_tell_nothing_one_in_twenty_is_said_to():
    said = [predict_deficits(*np.random.default_rng(seed).random((2, 5, 3))).p <= 0.05 for seed in range(300)]
    assert np.mean(said) <= stats.binom.ppf(0.99, 300, 0.05) / 300


def test_a_plan_names_the_parents_that_show_a_correlation():
    assert parents_needed(0.7) < parents_needed(0.5) < parents_needed(0.3)
    assert 9 <= parents_needed(0.5) <= 12 and 5 <= parents_needed(0.7) <= 7 and 24 <= parents_needed(0.3) <= 36
    assert parents_needed(0.05) is None


@pytest.mark.parametrize(
    ("barriers", "deficits", "says"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "three are the least"),
        (GROWING, GROWING[:, :2], "of the same parents"),
        (GROWING, GROWING * np.nan, "not finite"),
        (GROWING, GROWING * 0, "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(barriers, deficits, says):
    with pytest.raises(LotteryError, match=says):
        predict_deficits(barriers, deficits)
    with pytest.raises(LotteryError, match="below 1"):
        parents_needed(1.0)
