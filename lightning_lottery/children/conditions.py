"""Under which conditions a child trained: children of one checkpoint may differ in their seed and in nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_lottery.checks import is_count
from lightning_lottery.children.fingerprint import differences, shown
from lightning_lottery.children.reading import is_mapping, is_word, read_mapping
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors, write_whole
from lightning_lottery.shards import Shards, is_sharded

FILE = "conditions.json"
BATCHES = 3
"""How many first batches are compared by their content, beside the first one of every epoch."""

MAY_DIFFER = ("batches", "end_weights", "threads", "tested")
"""What the seed may change (of ``threads``: which machine)."""


class Conditions(Callback):
    """Writes down what a child began with and which batches it saw first.

    Args:
        resumed: Whether this fit goes on from a checkpoint of the child's own, which then holds the beginning.
    """

    def __init__(self, *, resumed: bool) -> None:
        self.resumed = resumed
        self.conditions: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything that must be equal between children."""
        if self.conditions:  # of the beginning, which a resumed fit has behind it
            return
        schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        self.conditions = {
            "start_step": trainer.global_step,
            "weights": _hash_of_state(pl_module),
            "hparams": {name: _plain(v) for name, v in pl_module.hparams.items() if not name.startswith("_")},
            "optimizers": [
                {name: _plain(value) for name, value in group.items() if name != "params"}
                for optimizer in trainer.optimizers
                for group in optimizer.param_groups
            ],
            "schedulers": [{name: _plain(value) for name, value in state.items()} for state in schedulers],
            "precision": trainer.precision,
            "world_size": trainer.world_size,
            "threads": torch.get_num_threads(),
            "batches": [],
        }

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """The content of the first batches, and of the first one of every epoch."""
        if len(self.conditions["batches"]) < BATCHES or batch_idx == 0:
            self.conditions["batches"].append(_hash_of_batch(batch))

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """The content of the first batch that the child is tested on."""
        if batch_idx == 0:
            self.conditions["tested"] = _hash_of_batch(batch)

    def state_dict(self) -> dict[str, Any]:
        """What was written down, as JSON: checkpoints load with ``weights_only``, and optimizers' settings are any."""
        return {"found": json.dumps(self.conditions)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the beginning of this child's own killed run.

        A fit that begins with another run's checkpoint, its parent's, writes down its own.
        """
        if self.resumed:
            self.conditions = json.loads(state_dict["found"])

    def end_of(self, trainer: Trainer) -> dict[str, Any]:
        """What the fit ended with."""
        return {"end_step": trainer.global_step, "end_weights": _hash_of_state(trainer.lightning_module)}

    def write(self, trainer: Trainer, folder: Path, end: Mapping[str, Any]) -> None:
        """Write the file, once the child was tested."""
        if trainer.is_global_zero:
            write_whole(folder / FILE, json.dumps({**self.conditions, **end}).encode(), "conditions")


def read_conditions(folder: Path) -> dict[str, Any]:
    """What a finished child wrote down.

    Raises:
        LotteryError: The file is not there, or damaged.
    """

    def is_list_of_words(value: Any) -> bool:
        return isinstance(value, list) and all(is_word(word) for word in value)

    fits = {"start_step": is_count, "end_step": is_count, "end_weights": is_word, "batches": is_list_of_words}
    return read_mapping(folder / FILE, "record of conditions", {**fits, "hparams": is_mapping})


def check_contract(folders: Mapping[str, Path], seeds: Sequence[int]) -> dict[str, Any]:
    """Refuse children that differ in more than their seed, or whose seeds made no difference.

    Args:
        folders: Name to folder of each child.
        seeds: Of the children, in their order.

    Returns:
        The conditions that they share.

    Raises:
        LotteryError: They began with other weights, hyper-parameters, optimizer settings, schedules or steps, or
            trained to another step; they trained no step at all; or other seeds gave the same weights.

    Source: Frankle et al. 2020, section 2: children differ in SGD noise alone.
    """
    conditions = {name: read_conditions(folder) for name, folder in folders.items()}
    (first, shared), *others = [
        (name, {key: value for key, value in kept.items() if key not in MAY_DIFFER})
        for name, kept in conditions.items()
    ]
    for name, child in others:
        if difference := list(differences(shared, child)):
            raise LotteryError(
                f"Children may differ in their seed only, but from {first} to {name}: {shown(difference)}. (Where "
                "`end_step` differs, something ends the fit early, such as EarlyStopping: take it out.)"
            )
    if shared["end_step"] == shared["start_step"]:
        raise LotteryError(
            f"The children trained no step: the fit ends at step {shared['end_step']}, where they begin. "
            "Start from an earlier checkpoint, or train longer."
        )
    _check_noise(list(conditions.values()), different=len(set(seeds)) > 1)
    return shared


def _check_noise(conditions: Sequence[Mapping[str, Any]], *, different: bool) -> None:
    """Refuse children whose different seeds made no difference; warn where they made too little, or a wrong one."""
    if different and len({child["end_weights"] for child in conditions}) < len(conditions):
        raise LotteryError(
            "Children of different seeds ended with the same weights: nothing in this training depends on the seed, "
            "so there is no SGD noise to be stable to. Shuffle the training data by it (`PL_GLOBAL_SEED`)."
        )
    # Not strict: a child that was killed and resumed may have written down more first batches than the others.
    at_each_step = zip(*(child["batches"] for child in conditions), strict=False)
    if different and any(len(set(batches)) < len(batches) for batches in at_each_step):
        rank_zero_warn(
            "Children of different seeds saw the same batches at the same steps: the order of the data does not depend "
            "on the seed (is it fixed in the data module, or by ExactResume's `seed`?). This is less than SGD's noise."
        )
    if len({str(child.get("tested")) for child in conditions}) > 1:
        rank_zero_warn(
            "The children were tested on different data: something in the data module depends on the seed, such as a "
            "random split without a generator of its own. They may have been trained on each other's test samples."
        )


def _hash_of_batch(batch: Any) -> str:
    tensors: list[Tensor] = []
    apply_to_collection(batch, Tensor, tensors.append)
    return hash_of_tensors({str(number): tensor for number, tensor in enumerate(tensors)})


def _hash_of_state(module: LightningModule) -> str:
    """Of weights and buffers; collective where they are sharded."""
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return Shards({name: value for name, value in state.items() if is_sharded(value)}).hash(state)


def _plain(value: Any) -> Any:
    """A setting as a plain value that compares: what JSON does not know by its representation."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return type(value).__name__
