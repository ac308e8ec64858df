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
from lightning_lottery.children.noise import Noise
from lightning_lottery.children.reading import is_mapping, is_word, read_mapping
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors, write_whole
from lightning_lottery.functional.perturbation import Perturbation
from lightning_lottery.shards import Shards, is_sharded

FILE = "conditions.json"
BATCHES = 3
"""How many first batches are compared by their content, beside the first one of every epoch."""

MAY_DIFFER = ("batches", "end_weights", "order", "threads", "tested")
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


def check_contract(folders: Mapping[str, Path], seeds: Sequence[int], noise: Noise = None) -> dict[str, Any]:
    """Refuse children that differ in more than their noise, or whose noise made no difference.

    Args:
        folders: Name to folder of each child.
        seeds: Of the children, in their order.
        noise: By what they differ.

    Returns:
        The conditions that they share.

    Raises:
        LotteryError: They began with other weights, hyper-parameters, optimizer settings, schedules or steps, or
            trained to another step; they trained no step at all; other seeds gave the same weights; or the order of
            the data differs where it is to be shared.

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
    _check_noise(list(conditions.values()), noise, different=len(set(seeds)) > 1)
    return shared


NO_NOISE = {
    "seed": "nothing in this training depends on the seed, so there is no SGD noise to be stable to. Shuffle the "
    "training data by it (`PL_GLOBAL_SEED`).",
    "order": "the training loader's sampler draws no order from anything that is seeded here. Shuffle the training "
    "data (`shuffle=True`), or judge by another `noise`.",
    "augmentation": "nothing in this training is random but the order of the data: no augmentation, no dropout. Judge "
    "by another `noise`.",
}
"""What follows where children of different seeds are the same network."""


def _check_noise(conditions: Sequence[Mapping[str, Any]], noise: Noise, *, different: bool) -> None:
    """Refuse children whose noise made no difference, or another one; warn where it made too little."""
    perturbation = noise if isinstance(noise, Perturbation) else None
    different = different and not (perturbation and perturbation.sigma == 0)
    if different and len({child["end_weights"] for child in conditions}) < len(conditions):
        same = "the perturbation is the same for all, as the gradient of a batch that is first in any order is."
        why = same if isinstance(noise, Perturbation) else NO_NOISE[noise or "seed"]
        raise LotteryError(f"Children of different seeds ended with the same weights: {why}")
    # Not strict: a child that was killed and resumed may have written down more first batches than the others.
    at_each_step = list(zip(*(child["batches"] for child in conditions), strict=False))
    if different and noise in (None, "seed", "order") and any(len(set(b)) < len(b) for b in at_each_step):
        rank_zero_warn(
            "Children of different seeds saw the same batches at the same steps: the order of the data does not depend "
            "on the seed (is it fixed in the data module, or by ExactResume's `seed`?). This is less than SGD's noise."
        )
    if perturbation and any(len(set(batches)) > 1 for batches in at_each_step):
        _refuse_batches(at_each_step)
    if noise == "augmentation" and any(len(set(epoch)) > 1 for epoch in _orders(conditions)):
        raise LotteryError(
            "Children that were to see the data in one order saw it in several: the training loader's sampler draws "
            "from something that cannot be seeded from outside. Give it a torch.Generator as `generator`."
        )
    if len({str(child.get("tested")) for child in conditions}) > 1:
        rank_zero_warn(
            "The children were tested on different data: something in the data module depends on the seed, such as a "
            "random split without a generator of its own. They may have been trained on each other's test samples."
        )


def _refuse_batches(at_each_step: Sequence[Sequence[str]]) -> None:
    """Refuse children that were to differ in nothing but their weights, and saw other batches from the first one on."""
    if len(set(at_each_step[0])) > 1:
        raise LotteryError(
            "Children that were to differ by a perturbation alone were trained on different batches: something in the "
            "training data is random and not seeded by `seed_everything`."
        )
    rank_zero_warn(
        "Children that were to differ by a perturbation alone saw different batches after their first: one that was "
        "killed went on with a loader that cannot go on in the middle of an epoch. `--redo` it."
    )


def _orders(conditions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each epoch that all children wrote down, how each of them began it."""
    orders = [child.get("order") or {} for child in conditions]
    return [[order[epoch] for order in orders] for epoch in orders[0] if all(epoch in order for order in orders)]


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
