import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import count, keep_top
from lightning_lottery.ticket import Ticket

OPTIMIZERS = {
    "SGD with momentum": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01),
    "SGD (Nesterov)": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda params: torch.optim.AdamW(params, 0.05),
    "AdamW (fused)": lambda params: torch.optim.AdamW(params, 0.05, fused=True),
    "Adam (AMSGrad)": lambda params: torch.optim.Adam(params, 0.05, amsgrad=True),
    "RMSprop": lambda params: torch.optim.RMSprop(params, 0.01, momentum=0.9),
    "Adafactor": lambda params: torch.optim.Adafactor(params, 0.05),
}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def ticket_in(net, sparsity=0.7):
    return Ticket(keep_top({n: p.detach().abs() for n, p in net.named_parameters() if p.ndim > 1}, sparsity))


def batches(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, 8, generator=generator), torch.randint(3, (6,), generator=generator)) for _ in range(n)]


def train(net, optimizer, steps, *, accumulate=1, clip=None, after_step=lambda: None, seed=1):
    for number, (x, y) in enumerate(batches(steps * accumulate, seed), start=1):
        (cross_entropy(net(x), y) / accumulate).backward()
        if number % accumulate == 0:
            norm = clip(net.parameters()) if clip else None
            optimizer.step()
            after_step()
            optimizer.zero_grad()
    return norm


def removed_not_zero(net, ticket):
    return sum(int((net.get_parameter(name)[~mask] != 0).sum()) for name, mask in ticket.masks.items())


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [None, "norm", "value"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_removed_weight_comes_back_under_any_optimizer_accumulation_and_clipping(optimizer, clip, accumulate):
    net = network()
    ticket, optimizer = ticket_in(net), OPTIMIZERS[optimizer](net.parameters())
    train(net, optimizer, 5)  # what it remembers of weights before they are removed would push them on
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    frozen, revived = ticket.freeze(net, optimizer), []
    assert removed_not_zero(net, ticket) == 0
    for name, mask in ticket.masks.items():  # and nothing remembers them
        state = optimizer.state[net.get_parameter(name)].values()
        alike = [value for value in state if torch.is_tensor(value) and value.shape == mask.shape]
        assert not any(value[~mask].any() for value in alike)
    clips = {
        None: None,
        "norm": lambda params: nn.utils.clip_grad_norm_(params, 0.1),
        "value": lambda params: nn.utils.clip_grad_value_(params, 0.01),
    }

    def look():
        revived.append((frozen.revived(), removed_not_zero(net, ticket)))

    train(net, optimizer, 10, accumulate=accumulate, clip=clips[clip], after_step=look)
    assert revived == [(0, 0)] * 10
    assert all((p.detach() != before[name]).any() for name, p in net.named_parameters())  # the rest was trained


def test_without_freezing_the_same_training_brings_them_back():
    net = network()
    ticket, optimizer = ticket_in(net), torch.optim.AdamW(net.parameters(), 0.05)
    ticket.apply(net)
    train(net, optimizer, 1)
    kept, total = count(ticket.masks)
    assert removed_not_zero(net, ticket) > (total - kept) / 2


def test_training_a_frozen_ticket_is_training_the_network_whose_forward_multiplies_by_its_masks():
    net, twin = network().double(), network().double()
    ticket = ticket_in(net)
    optimizers = [torch.optim.AdamW(n.parameters(), 0.05, weight_decay=0.1) for n in (net, twin)]
    frozen = ticket.freeze(net, optimizers[0])

    class Times(nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, weight):
            return weight * self.mask

    for name, mask in ticket.masks.items():
        nn.utils.parametrize.register_parametrization(twin[int(name[0])], "weight", Times(mask))
    norms = []
    for net_, optimizer in zip((net, twin), optimizers, strict=True):
        data = [(x.double(), y) for x, y in batches(12)]
        for (x, y), (x2, y2) in list(pairwise(data))[::2]:
            for each, label in ((x, y), (x2, y2)):
                cross_entropy(net_(each), label).backward()
            norms.append(nn.utils.clip_grad_norm_(net_.parameters(), 0.5).item())
            optimizer.step()
            optimizer.zero_grad()
    assert norms[:6] == pytest.approx(norms[6:], rel=1e-12)  # what is clipped is the gradient of the ticket alone
    trained = {n: p.detach() for n, p in net.named_parameters()}
    for name, weight in trained.items():
        layer, leaf = name.split(".")
        torch.testing.assert_close(weight, getattr(twin[int(layer)], leaf).detach(), rtol=1e-10, atol=1e-12)
    frozen.release()


def test_a_step_that_a_gradient_scaler_skips_and_an_infinite_gradient_at_zero_leave_zeros():
    net = nn.Linear(4, 2, bias=False)
    ticket = Ticket({"weight": torch.tensor([[True, False, True, False]] * 2)})
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    frozen = ticket.freeze(net, optimizer)
    net.weight.abs().sqrt().sum().backward()  # infinitely steep at 0
    assert net.weight.grad.isfinite().all()
    optimizer.step()
    assert frozen.revived() == 0
    assert not net.weight.isnan().any()


def test_released_weights_are_trained_again_and_nothing_is_left_on_module_and_optimizer():
    net = network()
    ticket, optimizer = ticket_in(net), torch.optim.SGD(net.parameters(), 0.1)
    frozen = ticket.freeze(net, optimizer)
    train(net, optimizer, 2)
    frozen.release()
    assert removed_not_zero(net, ticket) == 0
    assert not optimizer._optimizer_step_post_hooks
    train(net, optimizer, 1)
    assert removed_not_zero(net, ticket) > 0


def test_what_somebody_wrote_since_the_last_step_is_counted_and_gone_after_the_next():
    net = network()
    ticket, optimizer = ticket_in(net), torch.optim.SGD(net.parameters(), 0.1)
    frozen = ticket.freeze(net, optimizer)
    net.load_state_dict(network(seed=1).state_dict())
    kept, total = count(ticket.masks)
    assert frozen.revived() == total - kept
    train(net, optimizer, 1)
    assert frozen.revived() == 0


def test_a_tied_weight_is_frozen_once_and_a_prefix_is_stripped():
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    rows, columns = torch.ones(3, 3).bool(), torch.ones(3, 3).bool()
    rows[0], columns[:, 0] = False, False
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    frozen = Ticket({"model.a.weight": rows, "model.b.weight": columns}).freeze(net, optimizer, prefix="model.")
    assert int(net["a"].weight.ne(0).sum()) == 4
    (net["a"](torch.ones(3)) + net["b"](torch.ones(3))).sum().backward()
    optimizer.step()
    assert (frozen.revived(), int(net["a"].weight.ne(0).sum())) == (0, 4)


def test_what_cannot_be_frozen_is_refused_and_nothing_is_changed():
    net = network()
    ticket = ticket_in(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    elsewhere = torch.optim.SGD(network().parameters(), 0.1)
    for optimizers, message in (
        ((), "needs the optimizers"),
        ((torch.optim.LBFGS(net.parameters()),), "under LBFGS"),
        ((elsewhere,), "no optimizer that holds any of the ticket's 3 parameters, such as '0.weight'"),
        (("adam",), "torch.optim.Optimizer's kind"),
    ):
        with pytest.raises(LotteryError, match=message):
            ticket.freeze(net, *optimizers)
    with pytest.raises(LotteryError, match="does not fit"):
        Ticket({"9.weight": torch.ones(1).bool()}).freeze(net, elsewhere)
    assert same(before, net.state_dict())
    assert not elsewhere._optimizer_step_post_hooks


class Wrapped:
    """As accelerate wraps an optimizer: its own hooks are never called."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


def train_as_the_trainer_does(net, optimizer, callback, steps=6, accumulate=2):
    """The loop of Hugging Face's Trainer with its callback handler, which needs accelerate for the rest."""
    from transformers import TrainerControl, TrainerState
    from transformers.trainer_callback import CallbackHandler

    args = None  # TrainingArguments cannot be built without accelerate, and the callback does not read them
    handler = CallbackHandler([callback], net, None, optimizer, None)
    state, control = TrainerState(max_steps=steps), TrainerControl()
    control = handler.on_train_begin(args, state, control)
    data = batches(steps * accumulate)
    for step in range(steps):
        control = handler.on_step_begin(args, state, control)
        for x, y in data[step * accumulate : (step + 1) * accumulate]:
            cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        control = handler.on_pre_optimizer_step(args, state, control)
        optimizer.step()
        control = handler.on_optimizer_step(args, state, control)
        net.zero_grad()
        state.global_step += 1
        control = handler.on_step_end(args, state, control)
    handler.on_train_end(args, state, control)


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, Wrapped])
def test_hugging_faces_trainer_keeps_a_ticket_by_its_callback(wrap):
    pytest.importorskip("transformers")
    net = network()
    ticket, optimizer = ticket_in(net), torch.optim.AdamW(net.parameters(), 0.05)
    callback = ticket.trainer_callback()
    train_as_the_trainer_does(net, wrap(optimizer), callback)
    assert removed_not_zero(net, ticket) == 0
    assert not optimizer._optimizer_step_post_hooks
    assert callback.frozen.revived() == 0


def test_weights_that_somebody_wrote_before_the_trainers_end_are_warned_of_and_zeroed():
    pytest.importorskip("transformers")
    net = network()
    ticket, optimizer = ticket_in(net), torch.optim.SGD(net.parameters(), 0.1)
    callback = ticket.trainer_callback()
    callback.on_train_begin(None, None, None, model=net, optimizer=optimizer)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.warns(UserWarning, match="removed weights were no longer zero"):
        callback.on_train_end(None, None, None, model=net)
    assert removed_not_zero(net, ticket) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_train_end(None, None, None, model=net)
