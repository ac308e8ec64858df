"""Strategies that cannot be: refused where a Trainer is set up with one."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.private import spawns
from lightning_lottery.shards import Shards


def refuse_sharding(trainer: Trainer, who: str) -> None:
    """Refuse strategies under which no rank holds whole parameters.

    Raises:
        MisconfigurationException: The Trainer has such a strategy.
    """
    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise MisconfigurationException(
            f"{who} needs whole parameters on every rank, and {type(trainer.strategy).__name__} shards them: use "
            "strategy='ddp', or one device. The ticket of that fit can be trained sharded: MaskFreezing works under "
            "ModelParallelStrategy."
        )


def refuse_other_sharding(trainer: Trainer, who: str) -> None:
    """Refuse strategies that shard parameters in another way than by rows, each over all ranks.

    Raises:
        MisconfigurationException: The Trainer has such a strategy.
    """
    strategy = trainer.strategy
    use = "ModelParallelStrategy(data_parallel_size=N, tensor_parallel_size=1), with fully_shard in `configure_model`"
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        raise MisconfigurationException(
            f"{who} does not know the shards of {type(strategy).__name__}: use {use}, or strategy='ddp'."
        )
    if isinstance(strategy, ModelParallelStrategy) and strategy.device_mesh["tensor_parallel"].size() > 1:
        raise MisconfigurationException(
            f"{who} masks shards of FSDP2, not of tensor parallelism, which this ModelParallelStrategy has (by default "
            f"on all devices of a node): use {use}."
        )


def refuse_copies(trainer: Trainer, shards: Shards, who: str) -> None:
    """Refuse a strategy for shards where every rank holds whole parameters: nobody keeps these copies equal.

    Raises:
        MisconfigurationException: The Trainer has such a strategy.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy) and not shards:
        raise MisconfigurationException(
            f"{who} finds no sharded parameter under ModelParallelStrategy: call fully_shard(network, "
            "mesh=self.device_mesh['data_parallel']) in `configure_model`, or use strategy='ddp'."
        )


def restores_late(trainer: Trainer) -> bool:
    """Whether a fit that goes on from a checkpoint gets it after ``on_fit_start``: some strategies shard first.

    That it goes on from one is not known before either: there ``trainer.ckpt_path`` is still None (Lightning 2.6.6).
    """
    return bool(trainer.strategy.restore_checkpoint_after_setup)


def refuse_spawning(trainer: Trainer) -> None:
    """Refuse strategies whose ranks are forks or spawns of this process: what they find stays in them.

    Raises:
        LotteryError: The Trainer has such a strategy.
    """
    if spawns(trainer) and trainer.num_devices > 1:
        raise LotteryError(
            f"A child runs under strategies that start processes of their own, such as 'ddp'; the ranks of "
            f"{type(trainer.strategy).__name__} ('ddp_spawn', 'ddp_fork', 'ddp_notebook') would keep what they measure."
        )
