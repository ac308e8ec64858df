"""A callback's name: where it stands, and what there is without one."""

import pytest

from lightning_lottery import ExactResume, LotteryError, MagnitudePruning, NetworkSlimming, Snapshots
from lightning_lottery.hooks.named import NamedCallback


class Pruner(NamedCallback):
    role = "pruning"


def test_a_name_stands_in_states_messages_logs_and_files():
    callback = Pruner("late")
    assert callback.state_key == "lightning_lottery.pruning.late"
    assert callback.label == "Pruner 'late'"
    assert callback._key("sparsity") == "late/sparsity"
    assert callback.named("ticket") == "ticket-late"


def test_without_one_states_messages_logs_and_files_are_those_of_before_there_were_names():
    callback = Pruner(None)
    assert callback.state_key == "lightning_lottery.pruning"
    assert (callback.label, callback._key("sparsity"), callback.named("ticket")) == ("Pruner", "sparsity", "ticket")
    assert NamedCallback(None).state_key == "NamedCallback"


@pytest.mark.parametrize(
    "make",
    [
        lambda name: Snapshots([1], name=name),
        lambda name: ExactResume(name=name),
        lambda name: MagnitudePruning(0.5, name=name),
        lambda name: NetworkSlimming(name=name),
    ],
    ids=["Snapshots", "ExactResume", "MagnitudePruning", "NetworkSlimming"],
)
@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_a_name_that_is_no_file_name_is_refused(make, name):
    with pytest.raises(LotteryError, match="`name` becomes part of file names"):
        make(name)
