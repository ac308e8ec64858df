"""Strategies that cannot be are refused by their names."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import strategies

from helpers.callbacks import ONE_OF_EACH
from helpers.projects import Odd, trainer
from lightning_lottery import ExactResume, LotteryError, NetworkSlimming, Snapshots
from lightning_lottery.hooks.strategies import refuse_sharding, refuse_spawning

SHARDED = "FSDP, ModelParallelStrategy, DeepSpeed"
every_sharded = pytest.mark.parametrize("strategy", ["FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"])


def sharding(folder, strategy):
    """A Trainer that thinks it has this strategy, none of which can be built without a GPU."""
    fitted = trainer(folder)
    fitted.strategy.__class__ = type(strategy, (getattr(strategies, strategy),), {"__init__": lambda self: None})
    return fitted


@pytest.mark.shows(row=SHARDED, cell="refused")
@every_sharded
@ONE_OF_EACH
def test_strategies_that_shard_parameters_are_refused_by_name(make, strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=strategy):
        make().setup(sharding(tmp_path, strategy), Odd(), "fit")


@pytest.mark.shows(row=SHARDED, column="NetworkSlimming", cell="refused")
@every_sharded
def test_slimming_refuses_strategies_that_shard_parameters_by_name(strategy, tmp_path):
    with pytest.raises(MisconfigurationException, match=strategy):
        NetworkSlimming().setup(sharding(tmp_path, strategy), Odd(), "fit")


@every_sharded
@pytest.mark.parametrize("callback", [ExactResume(), Snapshots([0], name="first")], ids=lambda callback: callback.label)
def test_whoever_writes_checkpoints_refuses_strategies_that_shard_them(callback, strategy, tmp_path):
    with pytest.raises(
        MisconfigurationException, match=f"^{callback.label} needs whole parameters .* {strategy} shards"
    ):
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
