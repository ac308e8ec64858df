"""What a user would expect to be pruned and is not is told, and copies of what is pruned are named."""

import copy

import pytest
import torch
from torch import nn

from lightning_lottery import Scope
from lightning_lottery.hooks.left_out import copies, held_by, missed


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(4, 2), nn.Parameter(torch.ones(2, 4, 4))
        self.position, self.scale = nn.Parameter(torch.ones(1, 9, 4)), nn.Parameter(torch.ones(4))


def frozen(layer):
    layer[0].requires_grad_(False)
    return layer


def parametrized(layer):
    layer[0] = nn.utils.parametrizations.weight_norm(layer[0])
    return layer


def hooked(layer):
    layer[0] = nn.utils.weight_norm(layer[0])
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("build", "expected", "sentence"),
    [
        (net, [], None),
        (lambda: frozen(net()), ["0.weight"], "1 frozen"),
        (lambda: parametrized(net()), ["0.parametrizations.weight.original1"], "1 owned by"),
        (lambda: hooked(net()), ["0.weight_v"], "1 reparametrised by a hook"),
        (lambda: nn.LSTM(3, 2), ["weight_ih_l0", "weight_hh_l0"], "2 owned by LSTM"),
        (Experts, ["experts"], "1 owned by Experts, such as 'experts'"),
        (lambda: nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm((3, 4)), nn.Linear(4, 2)), [], None),
    ],
)
def test_weights_that_are_left_out_are_told_with_their_share_and_what_never_is_pruned_is_not(build, expected, sentence):
    candidates = Scope().explain(build())
    left = [candidate.name for candidate in candidates if candidate.is_missed]
    assert [name for name in left if not name.endswith(("weight_g", "original0"))] == expected
    said_so = missed(candidates, 1000)
    assert said_so is None if sentence is None else sentence in said_so and "% of the model" in said_so


def test_what_the_user_excludes_or_types_that_the_user_gives_leave_out_is_not_missed():
    assert missed(Scope(exclude=("0.*",)).explain(frozen(net())), 50) is None
    assert missed(Scope(types=("Linear",)).explain(nn.Sequential(nn.LSTM(3, 2), nn.Linear(2, 2))), 50) is None


def test_only_what_optimizers_hold_competes():
    module = nn.ModuleDict({"net": net(), "target": net()})
    optimizers = [torch.optim.SGD(module["net"][0].parameters()), torch.optim.SGD(module["net"][2].parameters())]
    assert list(Scope().select(module, held_by(optimizers))) == ["net.0.weight", "net.2.weight"]
    assert len(Scope().select(module)) == 4


def test_copies_are_named_once_and_layers_of_one_list_are_none():
    module = nn.ModuleDict({"net": net(), "blocks": nn.ModuleList([net(), net()]), "top": nn.Linear(8, 2)})
    module["ema"] = torch.optim.swa_utils.AveragedModel(module["net"])
    module["ema"].requires_grad_(False)
    module["blocks"][0].requires_grad_(False)
    trained = [p for p in module.parameters() if p.requires_grad]
    named = copies(module, Scope().explain(module, trained))
    assert named["ema.module"] == "net" and set(named) == {"ema.module", "blocks.0"}
    alike = nn.ModuleDict({"blocks": nn.ModuleList([net(), net()])})
    alike["blocks"][0].requires_grad_(False)
    assert copies(alike, Scope().explain(alike)) == {}


@pytest.mark.parametrize("extra", [torch.ones(2, 2, dtype=torch.cfloat), torch.ones(2, 2).bool(), torch.ones(0, 2)])
def test_parameters_that_are_no_real_numbers_or_empty_are_left_alone(extra):
    module = net()
    odd = nn.Linear(2, 2)
    odd.weight = nn.Parameter(extra, requires_grad=extra.is_floating_point() or extra.is_complex())
    module.append(odd)
    assert list(Scope().select(module)) == ["0.weight", "2.weight"]


def test_pruned_by_torch_s_own_prune_is_left_out_and_told():
    module = net()
    nn.utils.prune.l1_unstructured(module[0], "weight", 0.5)
    assert list(Scope().select(module)) == ["2.weight"]
    assert "reparametrised by a hook, such as '0.weight_orig'" in missed(Scope().explain(module), 48)


def test_a_frozen_average_is_named_as_a_copy_and_not_counted_twice():
    module = nn.ModuleDict({"net": net()})
    module["ema"] = copy.deepcopy(module["net"]).requires_grad_(False)
    candidates = Scope().explain(module)
    named = copies(module, candidates)
    assert named == {"ema": "net"}
    assert missed(candidates, 96, apart_from=named) is None
    assert "50% of the model" in missed(candidates, 96)
