import copy

import pytest
import torch
from torch import nn

from helpers.kwon import bert_of, units_of
from helpers.models import batches, randomised, state, timm_vit
from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import shrink
from lightning_lottery.units.rescaling import rescale_, unit_factors


@pytest.fixture
def case(golden):
    if not (golden / "kwon2022.pt").exists():
        pytest.skip("tests/golden has no vectors of Kwon et al.: let LOTTERY_GOLDEN name the whole folder")
    return torch.load(golden / "kwon2022.pt", weights_only=False)["seed0"]


def factors_of(case, solved, **options):
    model = bert_of(case)
    model.load_state_dict({**case["state_dict"], **solved.get("changed_parameters", {})})
    groups = groups_of(model)
    student, teacher = (
        units_of(groups, solved[f"{who}_head_mask"], solved[f"{who}_neuron_mask"]) for who in ("student", "teacher")
    )
    factors = unit_factors(model, student, case["batches"], teacher=teacher, **options)
    return [torch.stack([f for n, f in factors.items() if groups[n].kind == kind]) for kind in ("head", "neuron")]


def test_factors_and_logits_are_those_of_the_authors(case):
    for solved in case["rescale"].values():
        heads, neurons = factors_of(case, solved, first_token=True)
        torch.testing.assert_close(heads, solved["head_mask"], rtol=0, atol=1e-5)
        torch.testing.assert_close(neurons, solved["neuron_mask"], rtol=0, atol=1e-5)
        model = bert_of(case)
        groups = groups_of(model)
        named = {"head": iter(heads), "neuron": iter(neurons)}
        rescale_(model, {name: next(named[group.kind]) for name, group in groups.items()}, groups)
        logits = model(**case["batches"][0]).logits
        torch.testing.assert_close(logits, solved["logits_batch0"], rtol=0, atol=1e-5)


def test_all_rows_count_where_more_than_the_first_token_is_read(case):
    expected = case["rescale_not_classification_0.6"]
    heads, neurons = factors_of(case, case["rescale"][0.6])
    torch.testing.assert_close(heads, expected["head_mask"], rtol=0, atol=1e-5)
    torch.testing.assert_close(neurons, expected["neuron_mask"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["heads_layer1", "neurons_layer1"])
def test_from_the_first_factor_out_of_range_on_all_units_keep_1(case, where):
    solved = case["reject"][where]
    with pytest.warns(UserWarning, match="would lie beyond 10: this group and those after it are left as they are"):
        heads, neurons = factors_of(case, solved, first_token=True)
    torch.testing.assert_close(heads, solved["head_mask"], rtol=0, atol=1e-5)
    torch.testing.assert_close(neurons, solved["neuron_mask"], rtol=0, atol=1e-5)


def networks():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.1)
    tokens = nn.Sequential(layer, copy.deepcopy(layer), nn.Flatten(), nn.Linear(5 * 16, 3))
    chain = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    target = torch.arange(30) % 3
    return {
        "ViT": (randomised(timm_vit()), batches()),
        "encoder": (tokens, [(torch.randn(30, 5, 16), target)]),
        "chain": (chain, [(torch.randn(30, 6), target)]),
    }


@pytest.mark.parametrize("name", networks())
def test_where_nothing_is_removed_all_factors_are_1_and_the_model_is_as_before(name):
    model, data = networks()[name]
    before = state(model)
    factors = unit_factors(model, {}, data)
    assert {n: len(f) for n, f in factors.items()} == {n: g.size for n, g in groups_of(model).items()}
    assert all((f - 1).abs().max() < 1e-3 for f in factors.values())
    assert same(before, state(model))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", networks())
def test_a_copy_of_a_unit_that_is_removed_is_made_up_for_by_its_twin(name):
    model, data = networks()[name]
    model.eval()
    groups = groups_of(model)
    group_name, group = [item for item in groups.items() if item[1].kind == "neuron"][0]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for part in group.parts:  # the second neuron becomes the first
            entries = tensors[part.parameter].movedim(part.dim, 0)
            entries[part.start + 1] = entries[part.start]
    mask = torch.arange(group.size) != 1
    factors = unit_factors(model, {group_name: mask}, data * 50)
    expected = mask.double()
    expected[0] = 2
    assert (factors[group_name] - expected).abs().max() < 0.02
    small = shrink(model, Ticket({}, units={group_name: mask}), calibration=data * 50, tune=True)
    x = data[0][0]
    plain = shrink(model, Ticket({}, units={group_name: mask}))
    assert (small(x) - model(x)).abs().max() < (plain(x) - model(x)).abs().max() / 10


def test_a_budget_is_tuned_in_one_call_and_tuning_needs_batches():
    model, data = networks()["ViT"]
    small = shrink(model, flops=0.5, tune=True, calibration=iter(data))
    plain = shrink(model, flops=0.5, calibration=data)
    assert {n: g.size for n, g in groups_of(small).items()} == {n: g.size for n, g in groups_of(plain).items()}
    assert not same(state(small), state(plain))
    with pytest.raises(LotteryError, match="calibration"):
        shrink(model, Ticket({}, units={"blocks.0.attn": torch.arange(4) < 2}), tune=True)


class Unused(nn.Module):
    """A block that no batch runs stands beside one that all do."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.used, self.unused, self.head = layer, copy.deepcopy(layer), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.used(x).mean(1))


def test_units_that_no_batch_runs_are_not_tuned_and_said_by_name():
    model, data = Unused(), [(torch.randn(6, 5, 16), torch.arange(6) % 3)]
    with pytest.raises(LotteryError, match="units of 'unused.self_attn' should count: no batch runs what reads them"):
        unit_factors(model, {}, data)
    groups = {name: group for name, group in groups_of(model).items() if name.startswith("used")}
    assert unit_factors(model, {}, data, groups=groups).keys() == groups.keys()
