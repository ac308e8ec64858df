import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightning_lottery.functional.multiply_adds import multiply_adds


def networks():
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten())
    return {
        "mlp": (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)), torch.ones(7, 6)),
        "convolutions": (convolutions, torch.ones(2, 3, 6, 6)),
        "attention": (attention, torch.ones(2, 5, 8)),
    }


@pytest.mark.parametrize("name", networks())
def test_the_total_is_that_of_torchs_counter_and_products_by_weights_are_its_part(name):
    net, x = networks()[name]
    weights = {n: p for n, p in net.named_parameters() if p.ndim > 1}
    products = multiply_adds(net, weights, lambda: net(x))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            net.eval()(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert 2 * products.total == counter.get_total_flops()
    by_hand = {
        "mlp": {"0.weight": 7 * 30, "2.weight": 7 * 10},
        "convolutions": {"0.weight": 2 * 36 * 108, "2.weight": 2 * 16 * 72},
        "attention": {
            "self_attn.in_proj_weight": 10 * 192,
            "self_attn.out_proj.weight": 10 * 64,
            "linear1.weight": 10 * 128,
            "linear2.weight": 10 * 128,
        },
    }
    assert products.by_weight == by_hand[name]
    rest = products.total - sum(products.by_weight.values())
    assert rest == (2 * 2 * 2 * 5 * 5 * 4 if name == "attention" else 0)  # queries by keys, and by values


def test_a_weight_used_twice_counts_twice_and_modes_and_the_fused_layer_are_as_before():
    layer = nn.Linear(3, 3, bias=False)
    net = nn.Sequential(layer, nn.Dropout(), layer)
    assert multiply_adds(net, {"0.weight": layer.weight}, lambda: net(torch.ones(3))).by_weight == {"0.weight": 18}
    assert net.training and torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_as_the_products_of_their_steps(kind, gates):
    net, x = kind(3, 4, num_layers=2, batch_first=True), torch.ones(2, 5, 3)
    weights = {name: weight for name, weight in net.named_parameters() if weight.ndim > 1}
    products = multiply_adds(net, weights, lambda: net(x))
    assert products.by_weight == {name: 2 * 5 * weight.numel() for name, weight in weights.items()}
    assert products.total == 2 * 5 * gates * 4 * (3 + 4 + 4 + 4)
    assert torch.backends.mkldnn.enabled and torch.backends.cudnn.enabled


def test_biases_are_multiplied_by_nothing():
    net = nn.Sequential(nn.Conv1d(2, 3, 1), nn.ConvTranspose1d(3, 2, 1), nn.Flatten(), nn.Linear(8, 5))
    net.append(nn.TransformerEncoderLayer(5, 1, 4))
    biases = {name: bias for name, bias in net.named_parameters() if bias.ndim == 1}
    products = multiply_adds(net, biases, lambda: net(torch.ones(3, 2, 4)))
    assert products.total and products.by_weight == dict.fromkeys(biases, 0)
