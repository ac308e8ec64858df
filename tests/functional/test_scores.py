import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.golden import golden_net, kept
from lightning_lottery import LotteryError
from lightning_lottery.functional import count, grasp, iterative_masks, keep_top, magnitude, snip, synflow
from lightning_lottery.functional.scores import widest_dtype


@settings(deadline=None)
@given(st.lists(st.floats(width=16, allow_nan=False), max_size=6))
def test_magnitude_is_the_absolute_value_of_every_entry(values):
    assert magnitude({"w": torch.tensor(values, dtype=torch.float64)})["w"].tolist() == [abs(v) for v in values]


def test_magnitude_keeps_names_order_and_shapes_and_hides_no_nan():
    params = {"z": torch.tensor(-2.0), "a": torch.zeros(0, 3), "m": torch.tensor([[-math.inf, math.nan]])}
    scores = magnitude(params)
    assert [(name, score.shape) for name, score in scores.items()] == [(n, p.shape) for n, p in params.items()]
    assert scores["z"] == 2.0
    assert scores["m"][0, 0] == math.inf
    assert scores["m"][0, 1].isnan()


@pytest.mark.parametrize(
    ("dtype", "score_dtype"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_magnitude_is_at_least_float32(dtype, score_dtype):
    assert magnitude({"w": torch.tensor([-1.5], dtype=dtype)})["w"].dtype == score_dtype


def test_magnitude_leaves_weights_alone_shares_no_memory_and_records_no_gradient():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    score = magnitude({"w": weight})["w"]
    assert not score.requires_grad
    score.zero_()
    assert weight.tolist() == [1.0, -2.0]
    assert weight.grad is None


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers without biases, ReLU between them, in float64."""
    torch.manual_seed(seed)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b, bias=False), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers[:-1]).double()


def weights_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: param.detach().clone() for name, param in net.named_parameters()}


def call(net, weights, x):
    return torch.func.functional_call(net, weights, x)


@pytest.fixture(scope="module", params=["mlp_init_f64", "conv_init_f64"])
def case(request, golden):
    """A network with the golden weights in evaluation mode, and the golden numbers."""
    data = torch.load(golden / "synflow_snip_grasp.pt", weights_only=False)[request.param]
    net = golden_net(request.param)
    net.load_state_dict(data["state_dict"])
    return net.eval(), data


def absolute_flow(net, data):
    """SynFlow's output function on ones, and its weights: everything absolute."""
    state = {name: value.abs() for name, value in net.state_dict().items()}
    ones = torch.ones(1, *data["input_shape"], dtype=torch.float64)
    return lambda weights: call(net, state | dict(weights), ones), {n: state[n] for n in data["synflow_score_iter1"]}


def test_synflow_scores_equal_the_golden_ones(case):
    net, data = case
    scores = synflow(*absolute_flow(net.eval(), data))
    assert scores.keys() == data["synflow_score_iter1"].keys()
    for name, score in scores.items():
        torch.testing.assert_close(score, data["synflow_score_iter1"][name], rtol=1e-12, atol=0)
        assert float(score.sum()) == pytest.approx(data["synflow_total_R_per_layer"][name], rel=1e-12)


@pytest.mark.parametrize("compression", [0.5, 1.0, 2.0])
def test_a_hundred_iterations_give_the_golden_masks(case, compression):
    net, data = case
    output, weights = absolute_flow(net.eval(), data)
    golden = data["synflow_masks"][f"{compression}_global"]
    *_, masks = iterative_masks(lambda w: synflow(output, w), weights, 1 - golden["density"])
    kept, total = count(masks)
    assert kept == round(golden["density"] * total)
    differ = sum(int((masks[name] ^ golden["masks"][name]).sum()) for name in masks)
    assert differ == golden["remaining"] - kept <= 1  # the authors round up


@pytest.mark.parametrize("compression", [0.5, 1.0, 2.0])
def test_a_hundred_iterations_for_each_tensor_give_the_golden_masks_up_to_the_final_count(case, compression):
    net, data = case
    output, weights = absolute_flow(net, data)
    golden = kept(data["synflow_masks"], f"{compression}_local")
    *_, masks = iterative_masks(lambda w: synflow(output, w), weights, 1 - golden["density"], per="tensor")
    for name, mask in masks.items():
        authors = golden["masks"][name].bool()
        # They round the final count up; of scores that tie with the lowest kept, theirs keeps none.
        lost = int(mask.sum()) - int(authors.sum())
        assert int((mask ^ authors).sum()) == abs(lost)
        assert lost in (-1, 0) or golden["final_scores"][name][mask & ~authors].eq(0).all()


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("size", [100, 50])
@pytest.mark.parametrize("method", [snip, grasp])
def test_snip_and_grasp_scores_equal_the_golden_ones(case, method, size, mode):
    net, data = case
    if mode == "train" and not any(isinstance(module, nn.BatchNorm2d) for module in net):
        pytest.skip("the golden vectors have no training mode for a network without batch norm")
    golden = kept(data, f"{method.__name__}_{mode}_bs{size}")
    net.train(mode == "train")
    temperature = 200 if method is grasp else 1

    def loss(weights, batch):
        state = {name: value.clone() for name, value in net.state_dict().items()}
        return F.cross_entropy(call(net, state | dict(weights), batch[0]) / temperature, batch[1])

    batches = list(zip(data["batch_x"].double().split(size), data["batch_y"].split(size), strict=True))
    weights = {name: net.state_dict()[name] for name in golden["scores"]}
    scores = method(loss, weights, batches)
    if method is grasp:  # the authors sum over batches, twice, and add 1e-10 to the norm
        scores = {name: score * len(batches) ** 2 for name, score in scores.items()}
    norm = sum(score.sum() for score in scores.values()).abs() + (1e-10 if method is grasp else 0)
    highest = max(float(score.abs().max()) for score in golden["scores"].values())
    for name, score in scores.items():
        torch.testing.assert_close(score / norm, golden["scores"][name], rtol=1e-9, atol=1e-11 * highest)
    masks = keep_top(scores, 0.9)
    assert all(torch.equal(masks[name], golden["masks_at_density_0p1"][name]) for name in masks)


def test_the_flow_through_every_layer_is_the_same():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3, bias=False),
    )
    net = net.double().eval()
    net[1].running_var.uniform_(0.1, 9.0)
    weights = {name: w.abs() for name, w in weights_of(net).items() if w.ndim > 1}
    x = torch.rand(1, 2, 10, 10, dtype=torch.float64)
    flow = float(call(net, weights, x).detach().sum())
    for score in synflow(lambda w: call(net, w, x), weights).values():
        assert float(score.sum()) == pytest.approx(flow, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_synflow_keeps_every_layer_at_density_a_hundredth_where_magnitude_and_snip_lose_one(seed):
    net = mlp(512, 32, 32, 32, 32, 32, 32, 10, seed=seed)
    weights = weights_of(net)
    x, y = torch.randn(256, 512, dtype=torch.float64), torch.randint(0, 10, (256,))
    felt = snip(lambda w, batch: F.cross_entropy(call(net, w, batch), y), weights, [x])
    lost = [keep_top(magnitude(weights), 0.99), keep_top(felt, 0.99)]
    flow = lambda w: synflow(lambda v: call(net, v, torch.ones(1, 512, dtype=torch.float64)), w)  # noqa: E731
    *_, kept = iterative_masks(flow, {name: w.abs() for name, w in weights.items()}, 0.99)
    assert all(min(int(mask.sum()) for mask in masks.values()) == 0 for masks in lost)
    assert min(int(mask.sum()) for mask in kept.values()) >= 5
    assert count(kept)[0] == count(lost[0])[0] == count(lost[1])[0]


def test_removed_entries_never_come_back_dead_paths_at_zero_included():
    net = mlp(6, 5, 4, 3)
    weights = {name: w.abs() for name, w in weights_of(net).items()}
    weights["2.weight"][:, :4] = 0  # four hidden neurons lead nowhere: ties at zero before and behind them
    before = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    rounds = iterative_masks(
        lambda w: synflow(lambda v: call(net, v, torch.ones(1, 6, dtype=torch.float64)), w), weights, 0.9, iterations=30
    )
    for masks in rounds:
        assert all(not (masks[name] & ~before[name]).any() for name in masks)
        before = masks
    assert count(before)[0] == round(0.1 * count(before)[1])


def test_iterations_leave_the_given_weights_alone_and_stay_within_the_given_masks():
    weights, allowed = {"w": torch.rand(100)}, {"w": torch.arange(100) % 4 > 0}
    copy = weights["w"].clone()
    *_, masks = iterative_masks(dict, weights, 0.8, iterations=1, within=allowed)
    assert torch.equal(weights["w"], copy)
    assert int(masks["w"].sum()) == 20 and not (masks["w"] & ~allowed["w"]).any()


@pytest.mark.parametrize("iterations", [0, -1, 1.5, True])
def test_a_number_of_iterations_that_is_none_is_refused(iterations):
    with pytest.raises(LotteryError, match="`iterations` is a number >= 1"):
        next(iterative_masks(dict, {"w": torch.rand(3)}, 0.5, iterations=iterations))


def test_an_unknown_ranking_is_refused():
    with pytest.raises(LotteryError, match="`per` is 'all' or 'tensor', got 'layer'"):
        next(iterative_masks(dict, {"w": torch.rand(3)}, 0.5, per="layer"))


def quadratic(weights, matrix):
    """Half of w^T M w, whose gradient is Mw and whose Hessian is M."""
    return 0.5 * weights["w"] @ matrix @ weights["w"]


def test_snip_and_grasp_of_a_quadratic_are_what_calculus_says():
    torch.manual_seed(0)
    halves = [torch.randn(5, 5, dtype=torch.float64) for _ in range(3)]
    matrices = [half @ half.T for half in halves]
    mean = sum(matrices) / 3
    w = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(snip(quadratic, {"w": w}, matrices)["w"], (w * (mean @ w)).abs())
    torch.testing.assert_close(grasp(quadratic, {"w": w}, matrices)["w"], w * (mean @ (mean @ w)))


@pytest.mark.parametrize("method", [snip, grasp])
def test_batches_in_several_processes_score_as_in_one(method):
    torch.manual_seed(1)
    matrices = [torch.randn(4, 4) for _ in range(5)]
    matrices = [m @ m.T for m in matrices]
    weights = {"w": torch.randn(4)}
    whole = method(quadratic, weights, matrices)
    parts = [matrices[:2], matrices[2:]]
    gradient_of_all = {"w": sum((m + m.T) / 2 @ weights["w"] for m in matrices) / 5}

    rest: list = []

    def with_the_other(sums, batches):
        """Adds what the other process would have sent."""
        direction = weights["w"] if not rest else gradient_of_all["w"]
        rest.append(1)
        return {"w": (sums["w"] + sum(m @ direction for m in parts[1])) / (batches + len(parts[1]))}

    torch.testing.assert_close(
        method(quadratic, weights, parts[0], average=with_the_other)["w"], whole["w"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("method", [snip, grasp])
def test_a_weight_that_the_loss_does_not_see_and_a_loss_that_sees_none_score_zero(method):
    weights = {"w": torch.randn(3), "unused": torch.randn(2)}
    scores = method(lambda w, x: (w["w"] ** 2 * x).sum(), weights, [torch.rand(3)])
    assert scores["w"].abs().min() > 0 and not scores["unused"].any()
    assert not any(score.any() for score in method(lambda w, x: x.sum(), weights, [torch.rand(3)]).values())


@pytest.mark.parametrize("is_given", [False, True], ids=["new memory", "given memory"])
def test_flow_scores_a_weight_used_twice_by_its_whole_gradient_and_one_that_no_flow_reaches_as_zero(is_given):
    weights = {"twice": torch.tensor([2.0, -3.0]), "never": torch.tensor([5.0]), "shared": torch.tensor([2.0, -3.0])}
    out = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()} if is_given else None
    for _ in range(2):  # what was written before does not matter
        scores = synflow(lambda w: w["twice"].square() + 4 * w["twice"] + w["shared"].flip(0), weights, out=out)
        assert {name: score.tolist() for name, score in scores.items()} == {
            "twice": [2 * (2 * 2 + 4), 3 * abs(2 * -3 + 4)],
            "never": [0.0],
            "shared": [2.0, 3.0],
        }
        assert not any(score.requires_grad for score in scores.values())
    if out is not None:
        assert [scores[name].data_ptr() == out[name].data_ptr() for name in weights] == [True, False, True]


class Stops(torch.autograd.Function):
    """Hands no gradient on."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


@pytest.mark.parametrize("is_given", [False, True], ids=["new memory", "given memory"])
def test_a_weight_whose_gradient_is_stopped_scores_zero_and_gradients_taken_within_are_gradients(is_given):
    def output(w):
        (within,) = torch.autograd.grad((w["own"] ** 2).sum(), [w["own"]], create_graph=True)
        return Stops.apply(w["stopped"] * 2) + within * w["own"].detach()

    weights = {"stopped": torch.tensor([3.0]), "own": torch.tensor([5.0])}
    out = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()} if is_given else None
    scores = synflow(output, weights, out=out)
    assert {name: score.item() for name, score in scores.items()} == {"stopped": 0.0, "own": 5 * (2 * 5)}


def test_a_linear_loss_has_no_hessian():
    assert not grasp(lambda w, x: (w["w"] * x).sum(), {"w": torch.randn(3)}, [torch.rand(3)])["w"].any()


@pytest.mark.parametrize("method", [snip, grasp])
def test_scoring_writes_no_gradient_and_no_weight_whoever_holds_them(method):
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    weight.grad = torch.full((3,), 7.0)
    method(lambda w, x: (w["w"] ** 3 * x).sum(), {"w": weight}, [torch.rand(3)])
    synflow(lambda w: w["w"], {"w": weight})
    assert weight.tolist() == [1.0, -2.0, 0.5] and weight.grad.tolist() == [7.0] * 3


def test_scoring_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert snip(lambda w, x: (w["w"] * x).sum(), {"w": torch.ones(2)}, [torch.ones(2)])["w"].tolist() == [1.0, 1.0]
        assert synflow(lambda w: w["w"] * 2, {"w": torch.ones(2)})["w"].tolist() == [2.0, 2.0]


def test_the_widest_dtype_is_float32_where_a_device_refuses_float64(monkeypatch):
    def zeros(*size, dtype, device):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    assert widest_dtype(torch.device("cpu")) == torch.float64
    monkeypatch.setattr(torch, "zeros", zeros)
    assert widest_dtype(torch.device("cpu")) == torch.float32
