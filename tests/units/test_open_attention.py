import copy

import pytest
import torch
from torch import nn

from helpers.models import encoder, half, masked, randomised
from helpers.states import same
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.open_attention import OpenAttention, open_attention_
from lightning_lottery.units.removal import shrink


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_an_opened_attention_computes_what_the_closed_one_does(batch_first, need_weights):
    torch.manual_seed(0)
    closed = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    opened = copy.deepcopy(closed)
    open_attention_(opened)
    query, key = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    padding = torch.arange(4).expand(3, 4) >= torch.tensor([[4], [3], [1]])
    masks = [{}, {"key_padding_mask": padding}, {"attn_mask": torch.rand(5, 4)}]
    masks += [{"attn_mask": torch.arange(4).expand(5, 4) > torch.arange(5)[:, None]}]
    masks += [{"attn_mask": torch.rand(6, 5, 4), "key_padding_mask": padding.float() * -2.0}]
    for mask in masks:
        for average in (True, False):
            arguments = {"need_weights": need_weights, "average_attn_weights": average, **mask}
            expected, actual = closed(query, key, key, **arguments), opened(query, key, key, **arguments)
            torch.testing.assert_close(actual[0], expected[0])
            assert (actual[1] is None) == (expected[1] is None)
            if need_weights:
                torch.testing.assert_close(actual[1], expected[1])
    single = torch.randn(5, 8)
    torch.testing.assert_close(opened(single, single, single), closed(single, single, single))
    assert same(closed.state_dict(), opened.state_dict())
    seen = []
    opened.out_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    opened(query, key, key)
    assert seen == [(3, 5, 8)]


def test_padded_sequences_run_through_a_shrunk_encoder_without_gradients_as_with_them():
    torch.manual_seed(0)
    model = randomised(encoder())
    units, inputs = half(groups_of(model)), torch.randn(3, 5, 16)
    padding = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [2]])
    small, large = shrink(model, Ticket({}, units=units)), masked(model, units)
    large.use_nested_tensor = False
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            a, b = (network(inputs, src_key_padding_mask=padding) for network in (small, large))
        torch.testing.assert_close(a[~padding], b[~padding])
    assert isinstance(small.layers[0].self_attn, OpenAttention)
