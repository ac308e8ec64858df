"""MagnitudePruning removes the smallest of what is left; the laws of every callback: `test_contract.py`."""

import pytest
from lightning.pytorch.callbacks import Callback

from helpers import oracles
from helpers.callbacks import BODY, STEPS
from helpers.projects import Odd, fit
from lightning_lottery import Constant, MagnitudePruning


class Watches(Callback):
    """Weights before, and masks after, each update."""

    lottery_order = 0.5

    def __init__(self, pruning):
        self.pruning, self.weights, self.masks = pruning, {}, {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights[trainer.global_step] = {
            name: param.detach().abs().flatten().tolist() for name, param in self.pruning.parameters.items()
        }

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.masks[trainer.global_step] = as_lists(self.pruning.masks)

    def on_train_end(self, trainer, pl_module):
        self.masks[trainer.global_step] = as_lists(self.pruning.masks)


def as_lists(masks):
    return {name: mask.flatten().tolist() for name, mask in masks.items()}


@pytest.mark.parametrize("per", ["all", "tensor"])
def test_every_update_keeps_the_largest_of_what_was_left(per, tmp_path):
    pruning = MagnitudePruning(0.7, interval=2, begin=1, end=9, per=per, scope=BODY)
    watches = Watches(pruning)
    fit(tmp_path, watches, pruning, module=Odd())
    changed = [step for step in range(1, STEPS + 1) if watches.masks[step] != watches.masks[step - 1]]
    assert len(changed) >= 4
    for step in changed:
        sparsity, left = pruning.schedule(step), watches.masks[step - 1]
        assert watches.masks[step] == oracles.keep_top(watches.weights[step], sparsity, left, per=per)


def test_a_constant_schedule_prunes_once_and_what_is_removed_stays_removed(tmp_path):
    pruning = MagnitudePruning(Constant(0.7, begin=5), scope=BODY)
    watches = Watches(pruning)
    fit(tmp_path, watches, pruning, module=Odd())
    assert all(all(mask) for step in range(5) for mask in watches.masks[step].values())
    assert watches.masks[5] == oracles.keep_top(watches.weights[5], 0.7)
    assert all(watches.masks[step] == watches.masks[5] for step in range(6, STEPS + 1))
