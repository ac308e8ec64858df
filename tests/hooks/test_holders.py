"""Optimizers go on with smaller parameters: the law itself, on one step; what is refused is in test_cutting."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from helpers.blocks import OPTIMIZERS
from lightning_lottery import LotteryError
from lightning_lottery.hooks.holders import follow_, refuse_holders, refuse_optimizers
from lightning_lottery.units.cuts import Cut

MORE = {
    "momentum": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, nesterov=True),
    "amsgrad": lambda params: torch.optim.Adam(params, 0.1, amsgrad=True),
    "centered": lambda params: torch.optim.RMSprop(params, 0.1, momentum=0.9, centered=True),
    "asgd": lambda params: torch.optim.ASGD(params, 0.1),
    "rprop": lambda params: torch.optim.Rprop(params, 0.1),
}
KEPT = torch.tensor([0, 2])


def stepped(make, params, grads):
    optimizer = make(params)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", [*OPTIMIZERS, *MORE])
def test_the_next_step_is_that_of_the_entries_that_stay(name):
    make = {**OPTIMIZERS, **MORE}[name]
    torch.manual_seed(0)
    values, grads = [torch.randn(3, 2), torch.randn(2)], [torch.randn(3, 2), torch.randn(2)]
    whole = [nn.Parameter(value.clone()) for value in values]
    apart = [nn.Parameter(values[0][KEPT].clone()), nn.Parameter(values[1].clone())]
    optimizer, expected = stepped(make, whole, grads), stepped(make, apart, [grads[0][KEPT], grads[1]])
    groups, schedule = optimizer.param_groups, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    smaller = nn.Parameter(whole[0].detach()[KEPT])
    follow_(optimizer, [Cut(whole[0], smaller, {0: KEPT})])
    assert optimizer.param_groups is groups and schedule.optimizer is optimizer
    assert groups[0]["params"][0] is smaller and groups[0]["params"][1] is whole[1]
    for params in ([smaller, whole[1]], apart):
        for param, grad in zip(params, [torch.ones(2, 2), torch.ones(2)], strict=True):
            param.grad = grad
    optimizer.step(), expected.step()
    assert torch.equal(smaller, apart[0]) and torch.equal(whole[1], apart[1])
    assert set(optimizer.state) <= {smaller, whole[1]}


def test_trying_an_optimizer_leaves_it_as_it_was():
    param = nn.Parameter(torch.ones(4, 3))
    optimizer = torch.optim.AdamW([param], 0.1)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    refuse_optimizers([optimizer], {"a": param}, "We")
    assert not optimizer.state and not steps and param.grad is None and torch.equal(param, torch.ones(4, 3))
    with pytest.raises(LotteryError, match="We no optimizer that Lightning knows trains 'b'"):
        refuse_optimizers([optimizer], {"b": nn.Parameter(torch.ones(2))}, "We")


def test_what_an_optimizer_keeps_by_now_is_looked_at_too():
    param = nn.Parameter(torch.ones(4, 3))
    optimizer = torch.optim.SGD([param], 0.1)
    optimizer.state[param]["blocks"] = torch.ones(6)
    with pytest.raises(LotteryError, match="SGD keeps 'blocks' in another shape than the parameter's"):
        refuse_optimizers([optimizer], {"a": param}, "We", is_tried=False)


def test_holders_among_callbacks_are_named():
    class Keeps(Callback):
        def __init__(self, kept):
            self.kept = kept

    model = nn.Linear(2, 3)
    tensors = dict(model.named_parameters())
    for kept in ([model.weight], {"a": (1, {model.weight})}, torch.optim.SGD([model.weight], 0.1), model.weight):
        with pytest.raises(LotteryError, match="We 'kept' of Keeps keeps 'weight' by itself"):
            refuse_holders(model, [Keeps(kept)], tensors, "We")
    refuse_holders(model, [Keeps([torch.ones(2), SimpleNamespace(it=model.weight)])], tensors, "We")
    with pytest.raises(LotteryError, match="'a' is stored as .*, which cannot be cut by entry"):
        refuse_holders(model, [], {"a": torch.nn.Buffer(torch.ones(2)).as_subclass(_Own)}, "We")


class _Own(torch.Tensor):
    pass
