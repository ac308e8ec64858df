"""State of another version, method or settings is refused before a fit goes on from it."""

import pytest

from lightning_lottery import LotteryError
from lightning_lottery.hooks.resuming import check_state

STATE = {"version": 1, "method": "PLATON", "settings": {"interval": 2}}


def test_state_of_the_same_callback_passes_and_any_other_is_named():
    check_state(STATE, 1, "PLATON", {"method": "PLATON", "interval": 2})
    check_state(STATE, 2, "PLATON", {"method": "PLATON", "interval": 2})
    with pytest.raises(LotteryError, match="state of PLATON 'a' in version 1, this lightning_lottery reads up to 0"):
        check_state(STATE, 0, "PLATON 'a'", {"method": "PLATON", "interval": 2})
    with pytest.raises(LotteryError, match="written with method PLATON, this fit asks for SynFlow: resume with the"):
        check_state(STATE, 1, "SynFlow", {"method": "SynFlow", "interval": 2})
    with pytest.raises(LotteryError, match="written with interval 2, this fit asks for 3"):
        check_state(STATE, 1, "PLATON", {"method": "PLATON", "interval": 3})
