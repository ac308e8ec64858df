"""Damaged and forged files: nothing but a LotteryError comes out, no code runs, memory is bounded."""

import pytest

from campaign import fuzz


@pytest.mark.parametrize("number", [2_000, pytest.param(100_000, marks=pytest.mark.torture)])
def test_a_file_that_says_it_is_a_ticket_is_one_or_is_refused(number, hold):
    hold("forged tickets", fuzz.tickets, number)


@pytest.mark.parametrize("number", [200, pytest.param(5_000, marks=pytest.mark.torture)])
def test_what_children_leave_and_users_write_is_read_or_refused(number, hold):
    hold("forged texts", fuzz.texts, number)
