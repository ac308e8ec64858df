import pytest
import torch
import yaml

from helpers.models import encoder
from lightning_lottery.errors import LotteryError
from lightning_lottery.units.groups import groups_of
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
