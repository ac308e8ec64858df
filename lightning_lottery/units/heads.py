"""The heads of an attention module that a row of the patterns names, or why they could not be cut one by one."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lightning_lottery.units.layers import Layers, NotRecognised, belongs_to
from lightning_lottery.units.open_attention import OpenAttention
from lightning_lottery.units.parts import Group, tensor_at


def heads(layers: Layers, patterns: Mapping[str, Sequence[str]], name: str, paths: Mapping[str, str]) -> Group:
    """The heads of an attention module, whose projections are ``paths``.

    Raises:
        NotRecognised: They could not be cut one by one.
    """
    module = paths.get("query", paths.get("qkv", "")).rpartition(".")[0]
    if reason := layers.made_of_others(paths.values()):
        raise NotRecognised(module, reason)
    shapes = {role: layers.linear_shape(path) for role, path in paths.items() if layers.weight_name(path)}
    linear = {role: shape for role, shape in shapes.items() if shape is not None}
    if len(linear) < len(shapes):
        raise NotRecognised(module, "its projections are not plain linear layers")
    outputs, width = {role: shape[0] for role, shape in linear.items()}, linear["output"][1]
    head_dim = _head_dim(layers, patterns, (name, module), width)
    if not head_dim or width % head_dim:
        raise NotRecognised(module, f"no attribute says its {' or '.join(patterns['head_dim'])}")
    # With grouped queries several query heads share one key and value, and can only be cut together: a unit is
    # one head of the keys, `block` rows of the queries belong to it, and as many columns of the output.
    size = outputs.get("key", width) // head_dim
    block = width // size if size else 0
    kv_width = size * head_dim
    widths = {"query": width, "key": kv_width, "value": kv_width, "qkv": 3 * width, "gate": width}
    if not size or width % kv_width or any(widths.get(role, n) != n for role, n in outputs.items()):
        described = ", ".join(f"{role} {n}" for role, n in outputs.items())
        raise NotRecognised(module, f"its projections are {described} wide for heads of {head_dim}")
    if reason := _obstacle(layers, module, paths, head_dim):
        raise NotRecognised(module, reason)
    blocks = {"query": block, "key": head_dim, "value": head_dim, "qkv": head_dim, "gate": block}
    producers = []
    for role in blocks.keys() & shapes.keys():
        producers += layers.rows_of(paths[role], blocks[role], (0, width, 2 * width) if role == "qkv" else (0,))
    values = {"head_counts": (width // head_dim, size)}
    if not isinstance(layers.modules[module], nn.MultiheadAttention):  # its `embed_dim` is the width of its inputs
        values["head_widths"] = (width, kv_width)
    counts = layers.counts((name, module), values, patterns)
    return Group(module, "head", size, tuple(sorted(producers)), layers.columns_of(paths["output"], block), counts)


def _head_dim(layers: Layers, patterns: Mapping[str, Sequence[str]], modules: Sequence[str], width: int) -> int:
    """Entries of one head, by an attribute or by the number of heads; 0 where neither is there."""
    attributes = [vars(layers.modules[module]) for module in modules]
    for name in patterns["head_dim"]:
        for values in attributes:
            if type(values.get(name)) is int:
                return int(values[name])
    for name in patterns["head_counts"]:
        for values in attributes:
            if type(values.get(name)) is int and values[name] and width % values[name] == 0:
                return width // int(values[name])
    return 0


def _obstacle(layers: Layers, module: str, paths: Mapping[str, str], head_dim: int) -> str:
    """What an attention module holds beside its projections, if that depends on the heads or may do so; or ""."""
    attention = layers.modules[module]
    if isinstance(attention, nn.MultiheadAttention):
        if type(attention) not in (nn.MultiheadAttention, OpenAttention):
            return "a subclass of nn.MultiheadAttention"
        if attention.add_zero_attn or attention.in_proj_weight is None:
            return "an nn.MultiheadAttention with add_zero_attn, kdim or vdim"
    for name in layers.owners:
        is_inside = name.startswith(f"{module}." if module else "")
        if not is_inside or any(belongs_to(name, path) for path in paths.values()):
            continue
        # A norm within each head has one weight for all heads, and a causal mask (1, 1, tokens, tokens) one for all
        # heads (transformers before 5): removing a head leaves it as it is.
        tensor = tensor_at(layers.owners, name)
        is_norm_of_each_head = name.split(".")[-2:-1] in (["q_norm"], ["k_norm"]) and tensor.shape == (head_dim,)
        is_mask = tensor.dtype == torch.bool and tensor.shape[:2] == (1, 1)
        if not is_norm_of_each_head and not is_mask and tensor.ndim:
            return f"it also holds '{name}'"
    return ""
