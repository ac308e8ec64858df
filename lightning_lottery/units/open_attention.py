"""Attention like PyTorch's own, with any number of heads and an output projection that hooks can see."""

import torch
from torch import Tensor, nn


class OpenAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with any number of heads of ``head_dim``, whose output projection is called.

    The same parameters under the same names, and the same function of them. ``nn.MultiheadAttention`` needs heads that
    fill the embedding, and reads the weight of ``out_proj`` without calling it, so that hooks there are never reached.
    Made from one by ``open_attention_``, never built.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in ``nn.MultiheadAttention``; ``attn_mask`` is always read, so ``is_causal`` says nothing new."""
        is_batched, inputs = query.dim() == 3, [query, key, value]
        if not is_batched:
            inputs = [x.unsqueeze(0) for x in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            nn.functional.linear(x, w, b).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        )  # each (batch, heads, tokens, head_dim); the number of heads follows from the weights that are left
        mask = self._additive(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            attention = (scores if mask is None else scores + mask).softmax(-1)
            attention = nn.functional.dropout(attention, dropout)  # PyTorch gives out the dropped ones, too
            context = attention @ v
            attention = attention.mean(1) if average_attn_weights else attention
        else:
            context = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out_proj(context.transpose(1, 2).flatten(2))
        if not is_batched:
            output = output.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        return output, ((attention if is_batched else attention.squeeze(0)) if need_weights else None)

    def _additive(self, attn_mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores: (batch or 1, heads or 1, queries or 1, keys)."""
        total = None
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.view(-1, self.num_heads, *attn_mask.shape[1:])
        for mask in (attn_mask, None if padding is None else padding[:, None, None, :]):
            if mask is not None:
                zeros = torch.zeros_like(mask, dtype=like.dtype)
                added = zeros.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask.to(like.dtype)
                total = added if total is None else total + added
        return total


def open_attention_(model: nn.Module) -> None:
    """Turn every ``nn.MultiheadAttention`` of a model into ``OpenAttention``, in place; nothing it computes changes.

    Example:
        >>> attention = nn.MultiheadAttention(8, num_heads=2)
        >>> open_attention_(attention)
        >>> type(attention).__name__
        'OpenAttention'
    """
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            module.__class__ = OpenAttention
            # `nn.TransformerEncoderLayer` has fused kernels that read the weights and call no attention, for as many
            # heads as fill the embedding. It looks at this attribute before it takes them (checked on PyTorch 2.14).
            module._qkv_same_embed_dim = False
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only the fused kernels can read nested tensors
