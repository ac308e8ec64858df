"""The network of the vectors of Kwon et al. 2022."""

from typing import Any

import pytest
from torch import nn


def bert_of(case: dict[str, Any]) -> nn.Module:
    """A BERT in float64 and evaluation mode with the case's weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**case["config"], attn_implementation="eager")
    model: nn.Module = transformers.BertForSequenceClassification(config).double().eval()
    model.load_state_dict(case["state_dict"])
    return model


def units_of(groups: dict[str, Any], heads: Any, neurons: Any) -> dict[str, Any]:
    """Masks by group of a mask of all heads and one of all neurons, layer by layer."""
    rows = {"head": iter(heads.bool()), "neuron": iter(neurons.bool())}
    return {name: next(rows[group.kind]) for name, group in groups.items()}
