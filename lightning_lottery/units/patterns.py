"""The names by which blocks are recognised, as a table that users extend."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_lottery.errors import LotteryError

PATTERNS: dict[str, list[Any]] = {
    "head": [  # paths of the projections, from the block's module down; a `type` is the class of one of them
        {"query": "self.query", "key": "self.key", "value": "self.value", "output": "output.dense"},
        {"query": "attention.query", "key": "attention.key", "value": "attention.value", "output": "output.dense"},
        {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"},
        {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"},
        {"query": "q_lin", "key": "k_lin", "value": "v_lin", "output": "out_lin"},
        {"qkv": "qkv", "gate": "gate", "output": "proj"},
        {"qkv": "in_proj", "output": "out_proj"},
        # Of GPT-2; others that have its names and plain linear layers compute the width of a head anew.
        {"qkv": "c_attn", "output": "c_proj", "type": "Conv1D"},
    ],
    "neuron": [  # a `gate` is taken where there is one; a module `without` must not be there
        {"up": "intermediate.dense", "down": "output.dense"},
        {"up": "fc1", "down": "fc2", "without": "norm"},
        {"up": "fc1_x", "gate": "fc1_g", "down": "fc2", "without": "norm"},
        {"up": "up_proj", "gate": "gate_proj", "down": "down_proj"},
        {"up": "pwconv1", "down": "pwconv2"},
        {"up": "c_fc", "down": "c_proj"},
        {"up": "lin1", "down": "lin2"},
        {"up": "linear1", "down": "linear2"},
        {"up": "mlp.0", "down": "mlp.3"},
    ],
    "channel": [  # beside what stands in a row in an `nn.Sequential`
        {"conv": "conv1", "norm": "bn1", "next": "conv2", "without": "aa"},
        {"conv": "conv2", "norm": "bn2", "next": "conv3", "without": "aa"},
    ],
    # Attributes of an attention module, and of the module that holds it:
    "head_dim": ["head_dim", "attention_head_size"],
    "head_counts": [
        "num_heads",
        "num_attention_heads",
        "n_heads",
        "n_head",
        "nhead",
        "num_key_value_heads",
        "num_kv_heads",
    ],
    "head_widths": ["all_head_size", "attn_dim", "inner_dim", "split_size", "embed_dim", "dim"],  # heads times head_dim
    # Attributes of the module that holds a feed-forward network:
    "neuron_counts": ["intermediate_size", "hidden_features"],
}
"""The names that ``groups_of`` knows; its argument of the same form is looked at first. Plain lists, as in YAML."""

REQUIRED_ROLES = {"head": ("output",), "neuron": ("up", "down"), "channel": ("conv", "norm", "next")}
"""The roles that every row under a kind names."""

_OPTIONAL_ROLES = {
    "head": ("query", "key", "value", "qkv", "gate", "type"),
    "neuron": ("gate", "without"),
    "channel": ("without",),
}


def merged_patterns(patterns: Mapping[str, Sequence[Any]] | None) -> dict[str, list[Any]]:
    """A user's names in front of those of ``PATTERNS``.

    Raises:
        LotteryError: ``patterns`` is not of the form of ``PATTERNS``.
    """
    for key, rows in (patterns or {}).items():
        if key not in PATTERNS or isinstance(rows, str) or not isinstance(rows, Sequence):
            raise LotteryError(f"`patterns` has lists under {', '.join(PATTERNS)}; got '{key}': {rows!r}.")
        for row in rows:
            _check_row(key, row)
    return {key: [*(patterns or {}).get(key, ()), *rows] for key, rows in PATTERNS.items()}


def _check_row(key: str, row: Any) -> None:
    if key not in REQUIRED_ROLES:
        if not isinstance(row, str):
            raise LotteryError(f"`patterns['{key}']` is a list of names of attributes, got {row!r} in it.")
        return
    roles = (*REQUIRED_ROLES[key], *_OPTIONAL_ROLES[key])
    is_known = isinstance(row, Mapping) and all(r in roles and isinstance(path, str) for r, path in row.items())
    is_complete = is_known and all(role in row for role in REQUIRED_ROLES[key])
    if key == "head":  # one fused projection, or three
        is_complete = is_complete and ("qkv" in row) != all(role in row for role in ("query", "key", "value"))
    if not is_complete:
        raise LotteryError(f"A row of `patterns['{key}']` names {', '.join(roles)} of a block, got {row!r}.")
