"""Whatever is killed at a random moment or within a write goes on, and ends as if it had not been: logs included."""

import pytest

from campaign import fits, runners
from campaign.runners import fewer

SHORT = ("AdSynFlow", "NetworkSlimming and EarlyBird", "Snapshots")
"""Set-ups that between them have late masks, coefficients, tickets of their own, checkpoints: the short form."""


def each(names, short, long):
    """Few kills of some in `make test`, many of all in `make torture`."""
    few = [pytest.param(name, short[name], id=name) for name in names if name in short]
    many = {name: fewer(name, long) for name in names}
    return few + [pytest.param(name, many[name], id=f"{name} long", marks=pytest.mark.torture) for name in names]


@pytest.mark.parametrize(("setup", "kills"), each(fits.SETUPS, dict.fromkeys(SHORT, 2), 50))
def test_a_killed_fit_ends_bit_for_bit_as_the_unbroken_one_in_weights_state_tickets_and_curves(setup, kills, hold):
    hold(f"kills of a fit under {setup}", fits.kills, setup, kills)


@pytest.mark.parametrize(("runner", "kills"), each(runners.COMMANDS, {"instability": 2}, 50))
def test_a_killed_runner_or_child_goes_on_and_leaves_what_the_unbroken_one_does_and_nobody_behind(runner, kills, hold):
    hold(f"kills of a runner: {runner}", runners.kills, runner, kills)
