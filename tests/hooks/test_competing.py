"""Which units of a fit compete; more of it stands in test_early_bird, where tickets show it."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from helpers.blocks import Blocks
from helpers.projects import fit
from lightning_lottery import LotteryError, NetworkSlimming
from lightning_lottery.hooks.competing import competing_groups, every_group, slimming_in


class Looks(Callback):
    def on_train_start(self, trainer, pl_module):
        self.competing = competing_groups(trainer, pl_module, None, "We")
        self.every, self.slimming = every_group(trainer, pl_module, None), slimming_in(trainer)


class Body(Blocks):
    """Trains some of its parts."""

    def __init__(self, trained):
        super().__init__()
        self.trained = trained

    def configure_optimizers(self):
        return torch.optim.SGD(self.get_submodule(self.trained).parameters(), 0.1)


def test_units_with_coefficients_compete_or_those_that_are_trained(tmp_path):
    looks = Looks()
    fit(tmp_path, NetworkSlimming(kinds=["head"]), looks, module=Blocks(), max_epochs=1)
    heads = ["body.layers.0.self_attn", "body.layers.1.self_attn"]
    assert [*looks.competing] == heads and len(looks.every) == 4 and len(looks.slimming) == 1
    fit(tmp_path, looks, module=Body("body.layers.1"), max_epochs=1)
    assert {*looks.competing} == {"body.layers.1.self_attn", "body.layers.1.linear1"} and looks.slimming == []
    with pytest.raises(LotteryError, match="We: no optimizer trains what reads the units of 'body.layers.0"):
        fit(tmp_path, looks, module=Body("head"), max_epochs=1)
