"""What is asked to end says so, is not done, goes on, and ends as if it had not been asked."""

import pytest

from campaign import runners


@pytest.mark.parametrize(
    ("runner", "asked"),
    [pytest.param("child", 3, id="child")]
    + [
        pytest.param(name, runners.fewer(name, 24), id=f"{name} long", marks=pytest.mark.torture)
        for name in runners.COMMANDS
    ],
)
def test_who_is_asked_to_end_at_any_moment_ends_with_a_sentence_and_goes_on(runner, asked, hold):
    hold(f"signals to {runner}", runners.signals, runner, asked)
