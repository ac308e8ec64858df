"""Low-rank adapters (LoRA) merged into the weights that they adapt, without bringing removed ones back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import Masks, zero_removed_

_BEFORE = "base_model.model."  # what PEFT's names begin with, and the model's own do not


def merge_lora(
    state: Mapping[str, Tensor],
    adapter: Mapping[str, Tensor],
    scaling: float,
    masks: Masks,
    *,
    fan_in_fan_out: bool = False,
) -> dict[str, Tensor]:
    """A state dict with each adapter merged into its weight, mask * (W + scaling * B A): what is removed stays zero.

    What an adapter adds to removed weights is lost, so that the merged network is not quite the adapted one: judge it
    after the merge, or train the adapter with its product masked.

    Args:
        state: Parameter name to tensor; not changed.
        adapter: As PEFT saves it: ``MODULE.lora_A.weight`` of shape (r, inputs) and ``MODULE.lora_B.weight`` of shape
            (outputs, r), with or without ``base_model.model.`` before and an adapter's name such as ``default`` after
            ``lora_A``. Of a convolution: (r, inputs, height, width) and (outputs, r, 1, 1).
        scaling: ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` of rank-stabilised adapters.
        masks: Parameter name to bool tensor, ``True`` = kept, such as ``ticket.masks``; weights without one are merged
            as they are.
        fan_in_fan_out: Weights are (inputs, outputs), as of GPT-2's ``Conv1D``: PEFT's setting of this name.

    Raises:
        LotteryError: There is no adapter; one without its pair, of a weight that ``state`` lacks or of another shape;
            something else that would have to be merged too (biases, magnitudes of DoRA, embeddings, saved modules); or
            a mask that does not fit.

    Example:
        >>> adapter = {"fc.lora_A.weight": torch.ones(1, 2), "fc.lora_B.weight": torch.ones(1, 1)}
        >>> merge_lora({"fc.weight": torch.zeros(1, 2)}, adapter, 2.0, {"fc.weight": torch.tensor([[True, False]])})
        {'fc.weight': tensor([[2., 0.]])}

    Source: Hu et al. 2022, section 4.1; names and ``scaling`` as of PEFT 0.17.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        module, role = _parsed(name)
        if role in pairs.setdefault(f"{module}.weight", {}):
            raise LotteryError(f"There are several adapters of '{module}': give the tensors of one.")
        pairs[f"{module}.weight"][role] = tensor
    if not pairs:
        raise LotteryError("There is no adapter to merge.")
    merged = dict(state)
    for name, pair in pairs.items():
        if name not in state:
            raise LotteryError(f"There is an adapter of '{name}', but no such weight among the {len(state)} given.")
        if len(pair) < 2:
            raise LotteryError(f"The adapter of '{name}' has {next(iter(pair))} alone.")
        merged[name] = _merged(name, state[name], pair, scaling, fan_in_fan_out)
    for name, mask in masks.items():
        if name in pairs and mask.shape != merged[name].shape:
            raise LotteryError(f"The mask of '{name}' is {tuple(mask.shape)}, the weight {tuple(merged[name].shape)}.")
        if name in pairs:
            zero_removed_(merged[name], mask)
    return merged


def _parsed(name: str) -> tuple[str, str]:
    """The module that a tensor adapts, and which of the two it is.

    Raises:
        LotteryError: It is neither.
    """
    parts = name.removeprefix(_BEFORE).split(".")
    for role in ("lora_A", "lora_B"):
        at = parts.index(role) if role in parts else 0
        if at and parts[-1] == "weight" and len(parts) - at <= 3:
            return ".".join(parts[:at]), role
    raise LotteryError(f"'{name}' is neither lora_A nor lora_B of a module: only these can be merged.")


def _merged(name: str, weight: Tensor, pair: Mapping[str, Tensor], scaling: float, is_transposed: bool) -> Tensor:
    down, up = (pair[role].flatten(1) for role in ("lora_A", "lora_B"))
    if down.shape[0] != up.shape[1] or down.shape[1] * up.shape[0] != weight.numel():
        shapes = f"{tuple(pair['lora_A'].shape)} and {tuple(pair['lora_B'].shape)}"
        raise LotteryError(f"The adapter of '{name}' is {shapes}, which does not make a {tuple(weight.shape)}.")
    # Half precision would round twice: the product, and its sum with the weight.
    precise = torch.promote_types(weight.dtype, torch.float32)
    product = up.to(weight.device, precise) @ down.to(weight.device, precise)
    product = (product.T if is_transposed else product).reshape(weight.shape)
    return (weight.detach().to(precise) + scaling * product).to(weight.dtype)
