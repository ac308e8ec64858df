import pytest

from helpers.lines import line_between, trained
from lightning_lottery import LotteryError
from lightning_lottery.connectivity.judging import Judging


def test_alphas_are_kept_in_rising_order_with_both_ends():
    assert Judging(alphas=[1, 0, 0.5]).alphas == (0.0, 0.5, 1.0)
    assert len(Judging().alphas) == 21 and {0.0, 0.5, 1.0} <= set(Judging().alphas)


def test_an_accuracy_is_turned_into_an_error_and_an_error_stays_one():
    curve = {"test_acc": [0.75, 1.0], "test_loss": [2.0, 3.0]}
    assert Judging().errors(curve) == [0.25, 0.0]
    assert Judging("test_loss", "min").errors(curve) == [2.0, 3.0]


REFUSED = [
    ({"mode": "maximum"}, "`mode` is 'max' or 'min'"),
    ({"threshold": -3}, "`threshold` is .*, > 0, got -3"),
    ({"layer_alphas": [2]}, r"`layer_alphas` are places in \[0, 1\], got \[2\]"),
    ({"recalibrate": -1}, "`recalibrate` is a number of training batches >= 0, got -1"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=str)
def test_a_setting_out_of_its_range_is_refused_before_anything_is_loaded(settings, sentence, tmp_path):
    with pytest.raises(LotteryError, match=sentence):
        line_between(tmp_path, trained(0, steps=1), trained(1, steps=1), **settings)
