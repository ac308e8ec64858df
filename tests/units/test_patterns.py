import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from helpers.models import FAMILIES, encoder, masked, output
from lightning_lottery.errors import LotteryError
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import groups_of, survey
from lightning_lottery.units.patterns import PATTERNS, REQUIRED_ROLES, merged_patterns


@pytest.mark.parametrize(
    "patterns",
    [
        {"atention": []},
        {"neuron": "fc1"},
        {"neuron": ["fc1"]},
        {"neuron": [{"up": "a"}]},
        {"neuron": [{"up": "a", "down": "b", "middle": "c"}]},
        {"head": [{"query": "q", "output": "o"}]},
        {"head_counts": [3]},
    ],
)
def test_a_table_of_another_form_is_refused(patterns):
    with pytest.raises(LotteryError, match="`patterns"):
        groups_of(encoder(), patterns)


def test_the_table_is_plain_data_and_looking_changes_neither_it_nor_the_model():
    before = yaml.safe_dump(PATTERNS)
    model = encoder()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups_of(model, {"head_counts": ["h"]})
    assert yaml.safe_load(before) == PATTERNS
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_names_of_ones_own_stand_before_ours_and_other_keys_stay():
    row = {"up": "wide", "down": "narrow"}
    merged = merged_patterns({"neuron": [row]})
    assert merged["neuron"] == [row, *PATTERNS["neuron"]]
    assert {key: rows for key, rows in merged.items() if key != "neuron"} == {
        key: rows for key, rows in PATTERNS.items() if key != "neuron"
    }


def test_each_row_of_ours_names_what_its_kind_needs():
    for kind, roles in REQUIRED_ROLES.items():
        assert all(row.keys() >= set(roles) for row in PATTERNS[kind])
    assert merged_patterns(PATTERNS).keys() == PATTERNS.keys()


@pytest.mark.parametrize("key", ["attention", "ffn", "heads", "ffn_widths"])
def test_a_table_with_the_keys_of_an_earlier_version_is_refused_with_those_of_today(key):
    with pytest.raises(LotteryError, match=f"lists under head, neuron, channel, .*got '{key}'"):
        merged_patterns({key: []})


# What README says


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_networks_that_readme_calls_known_are_those_of_which_tests_show_that_they_are_cut_right():
    (sentence,) = re.findall(r"as the masked network does: (.*?)\.\n", README, re.DOTALL)
    names = re.sub(r"\(.*?\)", "", sentence.replace("\n", " ")).split(",")
    assert {name.strip() for name in names} == FAMILIES.keys()


class Mixing(nn.Module):
    """Attention whose names nobody knows."""

    def __init__(self):
        super().__init__()
        self.heads, self.to_qkv, self.to_out = 2, nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, -1))
        return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of a transformer whose names nobody knows."""

    def __init__(self):
        super().__init__()
        self.mixing, self.widen, self.narrow = Mixing(), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        x = x + self.mixing(x)
        return x + self.narrow(torch.erf(self.widen(x)))


def test_the_patterns_that_readme_shows_cut_a_network_of_these_names():
    torch.manual_seed(0)
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "patterns = {" in block]
    model, x = Block().eval(), torch.randn(2, 3, 8)
    assert not survey(model).groups
    names = {"model": model, "ticket": Ticket({}, units={"widen": torch.arange(12) < 5, "mixing": torch.arange(2) < 1})}
    exec(example, names)
    small = names["small"]
    assert (small.mixing.heads, small.mixing.to_out.in_features, small.narrow.in_features) == (1, 4, 5)
    units, groups = names["ticket"].units, groups_of(model, names["patterns"])
    torch.testing.assert_close(output(small, x), output(masked(model, units, groups), x))
