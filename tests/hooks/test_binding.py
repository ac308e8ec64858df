"""Names stay while modules, parameters and optimizers are replaced: what is found again, and what is refused."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_lottery import LotteryError, Scope
from lightning_lottery.hooks.binding import Binding, refuse_shared_memory


class TwoLayers(LightningModule):
    def __init__(self, wide: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda module: setattr(module, "net", TwoLayers(wide=20).net),
            r"'net.0.weight' of shape \(16, 6\).* it is \(20, 6\)",
        ),
        (lambda module: setattr(module.net, "0", nn.Identity()), r"it is gone now"),
    ],
)
def test_another_shape_or_a_parameter_that_is_gone_is_refused(change, words):
    module = TwoLayers()
    binding = Binding(module, {"net.0.weight": module.net[0].weight}, "SNIP")
    module.net[0].weight.data = torch.zeros(16, 6)
    assert binding.find_replaced() is None
    module.net[0].weight = nn.Parameter(torch.zeros(16, 6))
    assert binding.find_replaced() == {"net.0.weight": module.net[0].weight}
    change(module)
    with pytest.raises(LotteryError, match=words):
        binding.find_replaced()


def test_a_weight_that_is_tied_no_more_is_refused():
    class Tied(LightningModule):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    module = Tied()
    binding = Binding(module, {"a.weight": module.a.weight}, "SNIP")
    assert binding.find_replaced() is None
    module.load_state_dict({k: v.clone() for k, v in module.state_dict().items()}, assign=True)
    with pytest.raises(LotteryError, match="'b.weight' was replaced alone, so that it is tied to 'a.weight' no more"):
        binding.find_replaced()
    module.a.weight = module.b.weight
    assert binding.find_replaced() == {"a.weight": module.b.weight}
    assert binding.find_replaced() is None


def test_parameters_that_share_memory_are_refused_and_views_beside_one_another_are_not():
    memory = torch.randn(8, 4)
    module = nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(4, 5), "c": nn.Linear(4, 3)})
    module["a"].weight, module["b"].weight = nn.Parameter(memory[:5]), nn.Parameter(memory[3:])
    with pytest.raises(LotteryError, match="'a.weight' and 'b.weight' share memory"):
        refuse_shared_memory(module, Scope().select(module), "SNIP")
    module["b"].weight = nn.Parameter(torch.randn(5, 4))
    module["c"].weight = nn.Parameter(memory[5:])
    refuse_shared_memory(module, Scope().select(module), "SNIP")
    module["c"].weight = nn.Parameter(module["b"].weight.data[:3])
    refuse_shared_memory(module, Scope(include=("a.*",)).select(module), "SNIP")
    with pytest.raises(LotteryError, match="share memory"):
        refuse_shared_memory(module, Scope(include=("c.*",)).select(module), "SNIP")
