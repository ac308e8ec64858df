import random
import re

import lightning
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_lottery.units.forwards import Flow, Forwards


class Net(nn.Module):
    """Three layers, and between them what a test says."""

    def __init__(self, between, **extra):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.between = between
        for name, module in extra.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.between(self, x)


def flow(between, reader=None, makers=("a",), **extra):
    return Forwards(Net(between, **extra)).flow(list(makers), reader)


ALONE = {
    "nothing": lambda s, x: s.c(s.b(s.a(x))),
    "functions": lambda s, x: s.b(F.dropout(F.relu(s.a(x)), 0.5, s.training).float()),
    "a gate of itself": lambda s, x: s.b((h := s.a(x)) * torch.sigmoid(h)),
    "numbers": lambda s, x: s.b(2 * s.a(x) - 1),
    "two calls of both": lambda s, x: s.b(s.a(x)) + s.b(s.a(2 * x)),
    "a size that is no value": lambda s, x: s.b(s.a(x)).view(x.size(0), -1),
    "a dtype": lambda s, x: s.b(s.a(x).to(s.b.weight.dtype)),
    "a residual connection around both": lambda s, x: x + s.c(s.b(s.a(x))),
}

LEAKS = {
    "the output": (lambda s, x: (s.b(h := s.a(x)), h), "the output of Net"),
    "a residual connection": (lambda s, x: s.b((h := s.a(x)) + s.c(h)), "`add` in Net"),
    "an input that is added": (lambda s, x: s.b(s.a(x) + x), "`add` in Net"),
    "a parameter": (lambda s, x: s.b(s.a(x) * s.scale), "`mul` in Net"),
    "its width": (lambda s, x: s.b((h := s.a(x)) / h.size(-1)), "`truediv` in Net"),
    "softmax": (lambda s, x: s.b(s.a(x).softmax(-1)), "`softmax` in Net"),
    "a norm without parameters": (lambda s, x: s.b(s.norm(s.a(x))), "'norm' in Net"),
    "itself": (lambda s, x: s.b(s.a(s.a(x))), "'a' in Net"),
    "a reader that reads more": (lambda s, x: s.b(s.a(x)) + s.b(x), "'b', as does something else"),
    "a weight read as data": (lambda s, x: F.linear(s.b(s.a(x)), s.a.weight.t()), "what is computed with .*'a'"),
    "the reader's weight read as data": (lambda s, x: F.linear(s.b(s.a(x)), s.b.weight), "'b', as does something else"),
    "in training only": (lambda s, x: s.b(s.a(x).softmax(-1) if s.training else s.a(x)), "`softmax` in Net"),
    "in evaluation only": (lambda s, x: s.b(s.a(x) if s.training else s.a(x).softmax(-1)), "`softmax` in Net"),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_layer_alone_reads_what_another_makes_through_what_acts_on_each_unit(name):
    for reader in (None, "b"):
        assert flow(ALONE[name], reader) == Flow(("b",), (), "")


@pytest.mark.parametrize("name", LEAKS)
def test_what_else_gets_the_units_or_mixes_them_is_named(name):
    between, leak = LEAKS[name]
    for reader in (None, "b"):
        extra = {"scale": nn.Parameter(torch.ones(6)), "norm": nn.LayerNorm(6, elementwise_affine=False)}
        assert re.search(leak, flow(between, reader, **extra).leak)


def test_of_a_block_known_by_name_unknown_operations_without_parameters_are_trusted():
    class Strange(nn.Module):
        def forward(self, x):
            return x

    def between(s, x):
        return s.b(torch.erf(s.strange(s.a(x))))

    assert flow(between, "b", strange=Strange()) == Flow(("b",), (), "")
    assert flow(between, strange=Strange()).leak == "'strange' in Net"
    assert flow(lambda s, x: s.b(torch.erf(s.a(x)))).leak == "`erf` in Net"


def test_two_readers_and_norms_are_told_in_the_order_in_which_they_run():
    norms = {"n": nn.BatchNorm1d(6), "m": nn.BatchNorm1d(6)}
    assert flow(lambda s, x: s.b(h := s.n(s.m(s.a(x)))) + s.c(h), **norms) == Flow(("b", "c"), ("m", "n"), "")


def test_two_layers_whose_units_are_multiplied_are_followed_together():
    def between(s, x):
        return s.c(F.silu(s.a(x)) * s.gate(x))

    assert flow(between, "c", ("a", "gate"), gate=nn.Linear(4, 6)) == Flow(("c",), (), "")
    assert flow(between, "c", gate=nn.Linear(4, 6)).leak == "`mul` in Net"


def test_pooling_and_flattening_go_over_units_of_linear_layers_and_not_over_channels():
    for between in (nn.MaxPool1d(3, 1, 1), nn.Flatten(0)):
        assert flow(lambda s, x: s.b(s.p(s.a(x))), "b", p=between).leak == "'p' in Net"
    conv = nn.Sequential(nn.Conv1d(2, 4, 1), nn.MaxPool1d(3, 1, 1), nn.Flatten(), nn.Linear(12, 2))
    assert Forwards(conv).flow(["0"], "3") == Flow(("3",), (), "")


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(lambda m: m, ""), (torch.compile, ""), (lambda m: nn.ModuleList([m]), "0."), (lambda m: nn.Sequential(m), "0.")],
)
def test_a_chain_is_followed_where_it_stands_and_by_the_names_of_the_model(wrap, prefix):
    net = wrap(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert Forwards(net).flow([f"{prefix}0"]) == Flow((f"{prefix}2",), (), "")


def test_a_forward_that_cannot_be_traced_or_is_not_there_says_nothing_but_a_chain_in_it_does():
    def branches(s, x):
        return s.b(s.a(x)) if x.sum() > 0 else s.chain(x)

    chain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
    assert flow(branches, chain=chain) is None
    assert flow(branches, makers=["chain.0"], chain=chain) == Flow(("chain.2",), (), "")
    assert Forwards(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})).flow(["a"], "b") is None
    assert flow(ALONE["nothing"], "not there") is None


def test_a_chain_of_which_the_module_around_it_takes_pieces_is_not_alone():
    chain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
    assert flow(lambda s, x: (s.n(x), s.n[0](x)), makers=["n.0"], n=chain).leak == "the output of Net"


def test_a_lightning_module_that_logs_in_its_forward_is_followed_without_a_trainer():
    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            self.log("mean", 1.0)
            return self.down(self.up(x.flatten(1)).relu())

    assert Forwards(Lit()).flow(["up"]) == Flow(("down",), (), "")


def test_a_layer_that_two_modules_run_is_known_to_neither():
    shared = nn.Linear(4, 6)
    nets = nn.ModuleList([Net(ALONE["nothing"]), Net(ALONE["nothing"])])
    nets[0].a = nets[1].a = shared
    assert Forwards(nets).flow(["0.a"]) is None
    nets[1].a = nn.Linear(4, 6)
    assert Forwards(nets).flow(["0.a"]) == Flow(("0.b",), (), "")


def test_a_layer_that_a_module_further_out_takes_for_itself_is_not_alone():
    class Outer(nn.Module):
        def __init__(self, forward):
            super().__init__()
            self.inner, self.run = Net(ALONE["nothing"]), forward

        def forward(self, x):
            return self.run(self, x)

    def takes_features(s, x):
        return s.inner(x), s.inner.a(x)

    def ties(s, x):
        return F.linear(s.inner(x), s.inner.b.weight.t())

    assert Forwards(Outer(lambda s, x: s.inner(x))).flow(["inner.a"]) == Flow(("inner.b",), (), "")
    assert Forwards(Outer(takes_features)).flow(["inner.a"]).leak == "Outer, which takes 'inner.a' out of Net"
    assert Forwards(Outer(ties)).flow(["inner.a"]).leak == "Outer, which takes 'inner.b' out of Net"


def test_a_reader_that_another_forward_runs_too_is_not_alone():
    def branches(s, x):
        return s.chain(x) if x.sum() > 0 else s.more(x)

    shared = nn.Linear(6, 6)
    chains = {"chain": nn.Sequential(nn.Linear(4, 6), shared), "more": nn.Sequential(nn.ReLU(), shared)}
    assert flow(branches, makers=["chain.0"], **chains).leak == "'chain.1', as does something else"


@pytest.mark.parametrize("layer", range(3))
def test_what_somebody_hooks_to_a_layer_of_a_chain_may_mix_its_units(layer):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    hook = net[layer].register_forward_hook(lambda module, inputs, output: output.softmax(-1))
    assert Forwards(net).flow(["0"]).leak == f"a hook of '{layer}' in Sequential"
    hook.remove()
    net[layer].forward = lambda x: x.softmax(-1)
    assert Forwards(net).flow(["0"]).leak == f"a hook of '{layer}' in Sequential"
    del net[layer].forward
    assert Forwards(net).flow(["0"]) == Flow(("2",), (), "")


def test_halves_of_known_blocks_are_parts_of_units_and_every_second_is_not():
    def halves(s, x):
        x = s.a(x)
        return s.b(x[..., :3] * x[..., 3:].sigmoid())

    def every_second(s, x):
        x = s.a(x)
        return s.b(x[..., ::2] * x[..., 1::2].sigmoid())

    assert flow(halves, "b", b=nn.Linear(3, 2)) == Flow(("b",), (), "")
    assert flow(every_second, "b", b=nn.Linear(3, 2)).leak == "`getitem` in Net"


def test_tracing_leaves_no_trace():
    class Noisy(Net):
        def __init__(self):
            super().__init__(ALONE["nothing"])
            self.register_buffer("steps", torch.zeros(1))
            self.calls, self.seen, self.frozen = 0, [], nn.Dropout()

        def forward(self, x):
            self.steps.add_(1)  # torch 2.6 cannot trace `+=`, which assigns a buffer
            self.calls += 1
            self.seen.append(x)
            self.last = x
            self.frozen.eval()
            torch.rand(1), random.random(), np.random.rand()
            return super().forward(x)

    net = Noisy().eval()
    net.frozen.train()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    assert Forwards(net).flow(["a"]) == Flow(("b",), (), "")
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert net.frozen.training
    assert (net.calls, net.seen, net.steps.item(), net.training, hasattr(net, "last")) == (0, [], 0, False, False)
