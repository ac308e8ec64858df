"""Strategies that cannot be: refused where a Trainer is set up with one."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_lottery.errors import LotteryError
from lightning_lottery.hooks.private import spawns


def refuse_sharding(trainer: Trainer, who: str) -> None:
    """Refuse strategies under which no rank holds whole parameters.

    Raises:
        MisconfigurationException: The Trainer has such a strategy.
    """
    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise MisconfigurationException(
            f"{who} needs whole parameters on every rank, and {type(trainer.strategy).__name__} shards them: use "
            "strategy='ddp', or one device."
        )


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
