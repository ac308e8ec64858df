"""Copies of what a module remembers: changes in place do not reach the originals."""

from collections import OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from helpers.projects import says
from lightning_lottery.hooks import copies as module
from lightning_lottery.hooks.copies import Copies

Pair = namedtuple("Pair", "left right")


class Env:
    def __init__(self) -> None:
        self.steps, self.history, self.me = 0, [[torch.zeros(2)]], self

    def __call__(self):
        self.steps += 1


class Slotted:
    __slots__ = ("items", "unset")

    def __init__(self) -> None:
        self.items = [1]


class Refuses(Env):
    def __reduce_ex__(self, protocol):
        raise RuntimeError("no copies")


def test_containers_and_objects_are_copied_to_the_last_item_and_keep_their_types():
    value = {
        "deque": deque([[1], [2]], maxlen=2),
        "default": defaultdict(list, a=[1]),
        "ordered": OrderedDict(b=[1]),
        "pair": Pair([1], (np.zeros(2), {3})),
        "env": Env(),
        "slots": Slotted(),
    }
    twin = Copies().of_attribute(value)
    twin["deque"].append([3])
    twin["deque"][0].append(4)
    twin["default"]["a"].append(2), twin["default"]["new"].append(0)
    twin["ordered"]["b"].append(2)
    twin["pair"].left.append(2)
    twin["pair"].right[0][:] = 1
    twin["pair"].right[1].add(4)
    twin["env"]()
    twin["env"].history[0][0] += 1
    twin["slots"].items.append(2)
    assert value["deque"] == deque([[1], [2]]) and twin["deque"].maxlen == 2
    assert value["default"] == {"a": [1]} and value["ordered"] == {"b": [1]}
    assert value["pair"].left == [1] and not value["pair"].right[0].any() and value["pair"].right[1] == {3}
    assert value["env"].steps == 0 and not value["env"].history[0][0].any()
    assert twin["env"].me is twin["env"] and value["slots"].items == [1]


def test_what_is_shared_is_handed_on_and_a_module_that_hides_in_a_list_is_copied():
    layer, hidden = nn.Linear(2, 2), nn.Linear(2, 2)
    before = hidden.weight.detach().clone()
    twin = Copies(shared=(layer, *layer.parameters())).of_attribute([layer, layer.weight, [hidden]])
    assert twin[0] is layer and twin[1] is layer.weight
    with torch.no_grad():
        twin[2][0].weight.add_(1)
    assert torch.equal(hidden.weight, before) and torch.equal(twin[2][0].weight, before + 1)


def test_what_cannot_be_copied_is_shared_and_named_once():
    refuses, copies = Refuses(), Copies()
    assert copies.of_attribute([refuses, refuses])[1] is refuses
    with says("cannot copy what it keeps in a Refuses", times=1):
        copies.warn()


def test_beyond_the_largest_size_tensors_are_shared_and_a_warning_says_so(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 100)
    large, copies = torch.zeros(50), Copies()
    assert copies.of_attribute([large])[0] is large and copies.of_attribute(large) is large
    with says("large tensors or arrays", times=1):
        copies.warn()


@pytest.mark.parametrize("value", [nn.ReLU, len, torch.optim.SGD([torch.zeros(1)], 0.1), lambda: 0])
def test_types_functions_and_objects_of_libraries_are_shared_in_silence(value, recwarn):
    copies = Copies()
    assert copies.of_attribute([value])[0] is value
    copies.warn()
    assert not recwarn.list
