"""SynFlow in a fit, and the network whose flow it measures."""

import pytest
import torch
from torch import nn

from helpers.callbacks import BODY
from helpers.one_shot import AtStep, Plain, Tokens, first_batches, net_of, ones_for_tokens, sentences
from helpers.projects import Batches, Odd, fit, says
from lightning_lottery import SNIP, LotteryError, SynFlow
from lightning_lottery.callbacks import synflow as synflow_module
from lightning_lottery.callbacks.synflow import Flow, as_arguments
from lightning_lottery.functional import count, hamming, iterative_masks, synflow


@pytest.mark.parametrize("at_step", [0, 5])
@pytest.mark.parametrize("kind", ["ones", "sample", "mean"])
def test_synflow_ranks_by_the_flow_of_its_input(kind, at_step, tmp_path):
    callback, look = SynFlow(0.5, at_step=at_step, input=kind, batches=3), AtStep(at_step)
    fit(tmp_path, look, callback, module=Plain())
    batches = [x.double().abs() for x, _ in first_batches(3, epoch=at_step // 4)]
    mean = sum(x.mean(0, keepdim=True) for x in batches) / 3
    x = {"ones": torch.ones(1, 6, dtype=torch.float64), "sample": batches[0][:1], "mean": mean}[kind]
    net = net_of(Plain().double())
    weights = {name: w.double().abs() for name, w in look.weights.items()}
    *_, masks = iterative_masks(lambda w: synflow(lambda v: net(v, x), w), weights, 0.5)
    assert hamming(callback.masks, masks) == 0
    assert count(callback.masks)[0] == round(0.5 * count(callback.masks)[1])


def test_the_three_inputs_give_three_tickets(tmp_path):
    tickets = []
    for kind in ("ones", "sample", "mean"):
        callback = SynFlow(0.8, input=kind, iterations=10)
        fit(tmp_path, callback, module=Plain())
        tickets.append(callback.ticket())
    assert min(tickets[i].hamming(tickets[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0


@pytest.mark.parametrize("kind", ["ones", "sample", "mean"])
def test_a_module_that_normalises_its_input_gets_the_ticket_of_one_whose_data_are_normalised(kind, tmp_path):
    class Normalised(Batches):
        def __iter__(self):
            for x, y in super().__iter__():
                yield [(x - 3.0) / 0.5, y]

    class Normalise(nn.Module):
        def forward(self, x):
            return (x - 3.0) / 0.5

    inside, outside = (SynFlow(0.8, input=kind, iterations=20) for _ in range(2))
    fit(tmp_path, inside, module=Plain(first=Normalise()))
    fit(tmp_path, outside, module=Plain(), train=Normalised())
    assert hamming(inside.masks, outside.masks) == 0


def test_statistics_are_absolute_before_training_and_neutral_after_unless_told_otherwise(tmp_path):
    seen = []

    class Seen(synflow_module.Flow):
        def __init__(self, *args, neutral, **arguments):
            seen.append(neutral)
            super().__init__(*args, neutral=neutral, **arguments)

    original, synflow_module.Flow = synflow_module.Flow, Seen
    try:
        for arguments in ({}, {"at_step": 3}, {"batch_norm": "neutral"}, {"at_step": 3, "batch_norm": "absolute"}):
            fit(tmp_path, SynFlow(0.3, iterations=1, per="tensor", scope=BODY, **arguments))
    finally:
        synflow_module.Flow = original
    assert seen == [False, True, True, False]


def test_tokens_without_a_function_of_the_input_are_refused(tmp_path):
    with pytest.raises(
        LotteryError, match=r"a batch begins with torch.int64 of shape \(8, 5\): give a function as `input`"
    ):
        fit(tmp_path, SynFlow(0.5), module=Tokens(), train=sentences(), val=sentences())


def test_without_float64_scores_are_float32_which_is_said_once(tmp_path, monkeypatch):
    wide = SynFlow(0.8, iterations=10)
    fit(tmp_path, wide, module=Plain())
    monkeypatch.setattr(synflow_module, "widest_dtype", lambda device: torch.float32)
    narrow = SynFlow(0.8, iterations=10)
    with says("SynFlow: cpu has no float64, so scores are computed in scaled float32", times=1):
        fit(tmp_path, narrow, module=Plain())
    assert hamming(wide.masks, narrow.masks) == 0


class Floats(nn.Module):
    """What the data are put through in many projects."""

    def forward(self, x):
        return x.float()


class Constant(nn.Module):
    """A tensor that is no buffer, so that nothing casts it."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = torch.eye(6).roll(1, 0)

    def forward(self, x):
        return x @ self.rotation


@pytest.mark.parametrize("first", [Floats, Constant])
def test_a_module_that_insists_on_float32_is_scored_in_float32_which_is_said_once(first, tmp_path):
    plain, callback = SynFlow(0.8, iterations=10), SynFlow(0.8, iterations=10)
    fit(tmp_path, plain, module=Plain())
    with says("SynFlow: the module does not run in float64 .*, so scores are computed in scaled float32", times=1):
        fit(tmp_path, callback, module=Plain(first=first()))
    assert hamming(plain.masks, callback.masks) == 0


def test_an_error_of_the_module_s_own_is_not_taken_for_one_of_float64(tmp_path):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the middle")

    with pytest.raises(
        LotteryError, match="SynFlow runs .* fails: RuntimeError: in the middle. Give a function as `input`"
    ) as told:
        fit(tmp_path, SynFlow(0.8), module=Plain(first=Fails()))
    assert isinstance(told.value.__cause__, RuntimeError)


def test_a_flow_that_is_zero_everywhere_is_refused(tmp_path):
    module = Plain()
    nn.init.zeros_(module.net[2].weight)
    with pytest.raises(LotteryError, match="SynFlow: every score at step 0 is zero"):
        fit(tmp_path, SynFlow(0.5), module=module)


def test_a_negative_sample_that_closes_every_relu_is_refused_with_the_restriction_to_lift_as_well(tmp_path):
    with pytest.raises(LotteryError, match="closes every ReLU unless 'weights' are lifted too"):
        fit(tmp_path, SynFlow(0.5, input="sample", lifted=("inputs",)), module=Plain())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"at_step": -1}, "`at_step` is a whole number >= 0, got -1"),
        ({"at_step": 0.5}, "`at_step` is a whole number >= 0, got 0.5"),
        ({"at_step": True}, "`at_step` is a whole number"),
        ({"batches": 0}, "`batches` is a whole number >= 1, got 0"),
        ({"iterations": 0}, "`iterations` is a whole number >= 1, got 0"),
        ({"input": "zeros"}, "`input` is 'ones', 'sample' or 'mean', got 'zeros'"),
        ({"batch_norm": "none"}, "`batch_norm` is 'absolute', 'neutral' or None, got 'none'"),
        ({"bypass": "LayerNorm"}, "`bypass` is a list of class names, got 'LayerNorm'"),
        ({"lifted": "weights"}, "`lifted` is a list of 'weights', 'inputs', 'activations', 'labels', got 'weights'"),
        ({"lifted": ("signs",)}, r"`lifted` is a list of .*, got \('signs',\)"),
        ({"lifted": ("weights",), "batch_norm": "absolute"}, "Batch norm keeps its signs"),
        ({"lifted": ("inputs",)}, "say `input='sample'` or 'mean', for ones"),
        ({"lifted": ("inputs",), "input": ones_for_tokens}, "a function gives what signs it likes"),
        ({"lifted": ("labels",), "input": ones_for_tokens}, "'labels' are those of samples: say `input='sample'`"),
        ({"lifted": ("labels",)}, "'labels' are those of samples: say `input='sample'`, not 'ones'"),
        ({"lifted": ("labels",), "input": "mean"}, "say `input='sample'`, not 'mean'"),
        ({"per": "layer"}, "`per` is 'all' or 'tensor'"),
        ({"sparsity": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_when_it_is_built(arguments, sentence):
    with pytest.raises(LotteryError, match=sentence):
        SynFlow(**{"sparsity": 0.5, **arguments})


class Scored(SynFlow):
    """Remembers the scores of its last iteration."""

    def _refuse_zeros(self, scores):
        self.last = {name: score.clone() for name, score in scores.items()}


class TwoLayers(Plain):
    """Two inputs, two hidden units, one output: what can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        with torch.no_grad():
            self.net[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
            self.net[2].weight.copy_(torch.tensor([[1.0, -1.0]]))

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - batch[1]).square().sum() / 2


LABEL = -7.0
BY_HAND = {
    # x = (1, 2): hidden (5, 5), output 10.
    (): ([[1, 4], [3, 2]], [[5, 5]]),
    # Hidden (5, 1), output 5 - 1 = 4.
    ("weights",): ([[1, 4], [3, 2]], [[5, 1]]),
    # x = (1, -2): hidden (-3, 1), so that the first unit is closed; output 1.
    ("inputs",): ([[0, 0], [3, 2]], [[0, 1]]),
    # The second layer receives (5, 1), as with signed weights; the flow after the first is as with none lifted.
    ("activations",): ([[1, 4], [3, 2]], [[5, 1]]),
    # Output 10, of which the loss has the derivative 10 - (-7) = 17.
    ("labels",): ([[17, 68], [51, 34]], [[85, 85]]),
    # x = (1, -2): hidden (-3, 5), output -5, and the loss has the derivative -5 - (-7) = 2.
    ("weights", "inputs", "activations", "labels"): ([[0, 0], [6, 4]], [[0, 10]]),
    # Hidden (0, 5) in the network as it is, where the positive one has (-3, 1): its output 5, the derivative 12.
    ("inputs", "activations", "labels"): ([[0, 0], [36, 24]], [[0, 60]]),
}


@pytest.mark.parametrize("lifted", BY_HAND)
def test_scores_of_each_lifted_restriction_are_those_computed_by_hand(lifted, tmp_path):
    callback = Scored(0.1, iterations=1, input="sample", lifted=lifted)
    data = torch.utils.data.DataLoader([(torch.tensor([1.0, -2.0]), torch.tensor([LABEL]))])
    fit(tmp_path, callback, module=TwoLayers(), train=data, val=data)
    assert [score.tolist() for score in callback.last.values()] == list(BY_HAND[lifted])


@pytest.mark.parametrize("lifted", ["weights", "inputs", "activations", "labels"])
def test_layers_sum_to_the_same_unless_a_restriction_is_lifted_that_says_otherwise(lifted, tmp_path):
    sums = []
    for words in ((), (lifted,)):
        callback = Scored(0.1, at_step=5, iterations=1, input="sample", batches=2, lifted=words)
        fit(tmp_path, callback, module=Plain())
        sums.append([float(score.sum()) for score in callback.last.values()])
    (total, *further), (first, second, third) = sums
    assert further == pytest.approx([total] * 2, rel=1e-10)
    assert first != pytest.approx(second, rel=1e-3)
    if lifted == "inputs":
        assert first > second == pytest.approx(third, rel=1e-10)
    else:
        assert second != pytest.approx(third, rel=1e-3)


def test_with_everything_lifted_one_iteration_is_snip_also_for_tokens_and_batch_norm(tmp_path):
    every = {"input": "sample", "lifted": synflow_module.LIFTABLE, "batches": 2, "iterations": 1}
    works = {Plain: {}, Tokens: {"train": sentences(), "val": sentences()}, Odd: {}}
    for module, arguments in works.items():
        about = {"at_step": 3, "per": "tensor", "scope": BODY if module is Odd else None}
        callbacks = [SynFlow(0.6, **every, **about), SNIP(0.6, batches=2, **about)]
        for callback in callbacks:
            torch.manual_seed(0)
            fit(tmp_path, callback, **arguments, module=module())
        assert hamming(callbacks[0].masks, callbacks[1].masks) == 0


def test_progress_over_iterations_is_logged_and_nothing_holds_the_trainer_afterwards(tmp_path, caplog):
    callback = SynFlow(0.5, iterations=50)
    fit(tmp_path, callback, module=Plain())
    assert [f"{done} of 50 iterations" in caplog.text for done in (10, 20, 30, 40, 50, 5)] == [True] * 5 + [False]
    assert callback._trainer is None


def conv_net(biases: bool = False) -> nn.Sequential:
    """A network with batch norm that looks trained: means, biases and variances of its own."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=biases),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=biases),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3, bias=biases),
    )
    for norm in (net[1], net[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 9.0)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.weight)
    return net


def prunable(flow: Flow) -> dict[str, torch.Tensor]:
    return {name: value for name, value in flow.state.items() if value.ndim > 1}


def flow_of(net: nn.Module, x: torch.Tensor, dtype=torch.float64, **arguments) -> Flow:
    flow = Flow(net, dtype, **({"neutral": True, "bypass": ()} | arguments))
    flow.inputs = as_arguments(x)
    return flow


def sums(flow: Flow) -> list[float]:
    return [float(score.sum()) for score in flow.scores(prunable(flow)).values()]


def test_with_neutral_batch_norm_every_layer_carries_the_same_flow_also_with_statistics_of_a_trained_network():
    total, *further = sums(flow_of(conv_net(), torch.rand(1, 2, 10, 10)))
    assert further == pytest.approx([total] * 2, rel=1e-10) and total > 0
    absolute = sums(flow_of(conv_net(), torch.rand(1, 2, 10, 10), neutral=False))
    assert absolute != pytest.approx([absolute[0]] * 3, rel=1e-3)


def test_zero_biases_conserve_as_no_biases_do():
    net = conv_net(biases=True)
    for layer in (net[0], net[4], net[8]):
        nn.init.zeros_(layer.bias)
    total, *further = sums(flow_of(net, torch.rand(1, 2, 10, 10)))
    assert further == pytest.approx([total] * 2, rel=1e-10)


def test_the_module_itself_is_left_alone():
    net = conv_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sums(flow_of(net, torch.rand(1, 2, 10, 10)))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(param.grad is None for param in net.parameters())


def deep(layers: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*[layer for _ in range(layers) for layer in (nn.Linear(64, 64), nn.ReLU())][:-1])


def test_in_float32_scores_that_overflow_are_scaled_down_and_rank_as_in_float64():
    net = deep(30)
    for layer in net[::2]:
        nn.init.normal_(layer.weight)  # every layer makes the flow fifty times greater
    x = torch.ones(1, 64)
    wide, narrow = flow_of(net, x), flow_of(net, x, dtype=torch.float32)
    assert not narrow(prunable(narrow)).isfinite()
    exact, scaled = wide.scores(prunable(wide)), narrow.scores(prunable(narrow))
    factor = exact["0.weight"].sum() / scaled["0.weight"].double().sum()
    assert factor > 1e10
    for name, score in scaled.items():
        torch.testing.assert_close(score.double() * factor, exact[name], rtol=1e-4, atol=0)


def test_scores_that_overflow_all_the_same_are_refused():
    net = deep(2)
    nn.init.constant_(net[0].weight, torch.inf)
    with pytest.raises(LotteryError, match="not finite, in torch.float64 and scaled down"):
        sums(flow_of(net, torch.ones(1, 64)))


class Normalising(nn.Module):
    """Normalises by itself, and sends what comes out through two first layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        self.seen = []

    def forward(self, x):
        x = (x - 5) / 2
        self.left.register_forward_hook(lambda layer, args, output: self.seen.append(args[0].detach().clone()))
        return self.last(torch.relu(self.left(x)) + torch.relu(self.right(x)))


def test_first_layers_receive_what_replaces_their_input_after_the_modules_own_normalisation():
    net = Normalising()
    samples = [torch.rand(3, 4, dtype=torch.float64), torch.rand(5, 4, dtype=torch.float64)]
    flow = flow_of(net, samples[0][:1])
    received = flow.received([((sample,), {}) for sample in samples])
    assert len(received) == 2
    expected = sum(((x - 5) / 2).abs().mean(0, keepdim=True) for x in samples)
    torch.testing.assert_close(received[0], expected)
    torch.testing.assert_close(received[1], expected)
    net.seen.clear()
    flow.replace([torch.full((1, 4), 7.0, dtype=torch.float64)] * 2)
    flow(prunable(flow))
    assert net.seen[-1].tolist() == [[7.0] * 4]


def test_bypassed_layers_hand_their_input_on_by_name_or_pattern():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))
    x = torch.ones(1, 4)
    first, last = sums(flow_of(net, x))
    assert first != pytest.approx(last, rel=1e-3)
    first, last = sums(flow_of(net, x, bypass=("Layer*",)))
    assert first == pytest.approx(last, rel=1e-10)


def test_additive_buffers_that_are_not_batch_norms_keep_their_sign():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

        def forward(self, x):
            return (self.layer(x) + self.mask).softmax(-1)[:, 0]

    flow = flow_of(Masked(), torch.ones(1, 3))
    assert all(score.isfinite().all() for score in flow.scores(prunable(flow)).values())


def test_every_floating_point_output_counts_and_none_is_refused():
    class Several(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.layer, self.outputs = nn.Linear(2, 2, bias=False), outputs

        def forward(self, a, b=None):
            return self.outputs(self.layer(a if b is None else a + b))

    one = flow_of(Several(lambda y: y), torch.ones(1, 2))
    several = flow_of(Several(lambda y: {"a": y, "b": [y, y.argmax()], "c": None}), {"a": torch.ones(1, 2)})
    several.state["layer.weight"] = one.state["layer.weight"]
    assert float(several(prunable(several)).detach()) == pytest.approx(2 * float(one(prunable(one)).detach()))
    both = flow_of(Several(lambda y: y), (torch.ones(1, 2), torch.ones(1, 2)))
    both.state["layer.weight"] = one.state["layer.weight"]
    assert float(both(prunable(both)).detach()) == pytest.approx(2 * float(one(prunable(one)).detach()))
    with pytest.raises(LotteryError, match="returns no floating-point tensor"):
        sums(flow_of(Several(lambda y: y.argmax()), torch.ones(1, 2)))
