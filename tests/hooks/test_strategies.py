"""Strategies that cannot be are refused by their names."""

from types import SimpleNamespace

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import strategies

from helpers.callbacks import CALLBACKS, ONE_OF_EACH, each
from helpers.projects import Odd, trainer
from lightning_lottery import ExactResume, LotteryError, NetworkSlimming, Snapshots
from lightning_lottery.hooks.strategies import refuse_copies, refuse_sharding, refuse_spawning, restores_late
from lightning_lottery.shards import Shards

FSDP2 = "FSDP2 (`ModelParallelStrategy`), on one dimension of the mesh"
OTHERS = "FSDP (`FSDPStrategy`), DeepSpeed, tensor parallelism"
KNOWS_SHARDS = {type(make()).__name__: make for make in CALLBACKS.values() if make().knows_shards}
NEEDS_WHOLE = {type(make()).__name__: make for make in CALLBACKS.values() if not make().knows_shards}
every_sharded = pytest.mark.parametrize("strategy", ["FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"])


def sharding(folder, strategy):
    """A Trainer that thinks it has this strategy, none of which can be built without a GPU."""
    fitted = trainer(folder)
    mesh = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}  # as it is where nobody says otherwise
    parts = {"__init__": lambda self: None, "device_mesh": mesh} | {"restore_checkpoint_after_setup": True}
    fitted.strategy.__class__ = type(strategy, (getattr(strategies, strategy),), parts)
    return fitted


@pytest.mark.shows(row=OTHERS, cell="refused")
@every_sharded
@ONE_OF_EACH
def test_strategies_that_shard_in_another_way_than_by_rows_are_refused_by_name(make, strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=strategy):
        make().setup(sharding(tmp_path, strategy), Odd(), "fit")


@every_sharded
@each(KNOWS_SHARDS)
def test_whoever_knows_shards_says_which_strategy_to_use(make, strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"use ModelParallelStrategy\(data_parallel_size=N, tensor_par"):
        make().setup(sharding(tmp_path, strategy), Odd(), "fit")


@pytest.mark.shows(row=FSDP2, cell="refused")
@each(NEEDS_WHOLE)
def test_whoever_scores_whole_networks_says_how_the_ticket_is_trained_sharded(make, tmp_path):
    with pytest.raises(MisconfigurationException, match="ticket of that fit can be trained sharded: MaskFreezing"):
        make().setup(sharding(tmp_path, "ModelParallelStrategy"), Odd(), "fit")


def test_whole_parameters_are_refused_where_nobody_keeps_them_equal(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"This one finds no sharded .* call fully_shard\(network"):
        refuse_copies(sharding(tmp_path, "ModelParallelStrategy"), Shards(), "This one")
    refuse_copies(trainer(tmp_path), Shards(), "This one")


def test_checkpoints_come_late_where_a_strategy_shards_first(tmp_path):
    assert restores_late(sharding(tmp_path, "ModelParallelStrategy"))
    assert not restores_late(trainer(tmp_path))


@pytest.mark.shows(row=FSDP2, column="NetworkSlimming", cell="refused")
def test_slimming_refuses_shards(tmp_path):
    with pytest.raises(MisconfigurationException, match="ModelParallelStrategy shards them"):
        NetworkSlimming().setup(sharding(tmp_path, "ModelParallelStrategy"), Odd(), "fit")


@pytest.mark.shows(row=OTHERS, column="NetworkSlimming", cell="refused")
@every_sharded
def test_slimming_refuses_strategies_that_shard_parameters_by_name(strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=strategy):
        NetworkSlimming().setup(sharding(tmp_path, strategy), Odd(), "fit")


@every_sharded
@pytest.mark.parametrize("callback", [ExactResume(), Snapshots([0], name="first")], ids=lambda callback: callback.label)
def test_whoever_writes_checkpoints_refuses_shards_of_another_kind(callback, strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=f"^{callback.label} .*: use ModelParallelStrategy"):
        callback.setup(sharding(tmp_path, strategy), Odd(), "fit")
    callback.setup(sharding(tmp_path, strategy), Odd(), "test")  # where nothing is written


@every_sharded
def test_the_refusal_names_who_needs_whole_parameters_and_what_to_do(strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=f"This one needs whole parameters.*{strategy}.*strategy='ddp'"):
        refuse_sharding(sharding(tmp_path, strategy), "This one")


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_spawn"])
def test_what_shards_nothing_is_not_refused(strategy, tmp_path):
    refuse_sharding(trainer(tmp_path, strategy=strategy), "This one")


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_ranks_that_are_copies_of_this_process_are_refused_where_there_are_several(strategy, tmp_path):
    with pytest.raises(LotteryError, match=f"such as 'ddp'; the ranks of .*'{strategy}'.* would keep what"):
        refuse_spawning(trainer(tmp_path, strategy=strategy, devices=2))
    refuse_spawning(trainer(tmp_path, strategy=strategy, devices=1))
    refuse_spawning(trainer(tmp_path, strategy="ddp", devices=2))
