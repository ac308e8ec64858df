import copy
import math
import warnings

import pytest
import torch

from helpers.blocks import Blocks
from helpers.kwon import bert_of
from helpers.models import batches, randomised, state, timm_vit, vgg_like
from helpers.states import same
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import count
from lightning_lottery.ticket import Ticket
from lightning_lottery.units.groups import groups_of
from lightning_lottery.units.removal import shrink
from lightning_lottery.units.scores import loss_of, unit_masks, unit_scores, weight_norms


def test_the_score_of_a_unit_is_the_mean_squared_slope_of_the_loss_as_its_mask_moves_from_one():
    torch.manual_seed(0)
    model = randomised(timm_vit()).double()
    groups = groups_of(model)
    data = [(x.double(), y) for x, y in batches()]
    scores = unit_scores(model, data, groups)
    name = "blocks.1.attn"
    for unit in range(4):
        squares = []
        for batch in data:
            losses = []
            for mask in (1 + 1e-5, 1 - 1e-5):
                moved = copy.deepcopy(model)
                with torch.no_grad():
                    moved.get_parameter(f"{name}.proj.weight")[:, 4 * unit : 4 * unit + 4] *= mask
                    losses.append(loss_of(moved, batch))
            squares.append(((losses[0] - losses[1]) / 2e-5) ** 2)
        assert scores[name][unit].item() == pytest.approx(float(sum(squares) / len(squares)), rel=1e-4)


def test_scoring_leaves_no_trace_also_when_it_fails():
    model = vgg_like()
    model[0].eval()
    model[2].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    before, random = state(model), torch.get_rng_state()
    unit_scores(model, ((torch.randn(2, 3, 8, 8), torch.tensor([0, 1])) for _ in range(2)), groups_of(model))
    with pytest.raises(LotteryError):
        unit_scores(model, [(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])), "not a batch"], groups_of(model))
    assert [module.training for module in model.modules()] == modes
    assert same(before, state(model))
    assert torch.equal(random, torch.get_rng_state())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["2.weight"]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("heads", "neurons"), [(0.5, 0.5), (0.25, 0.0), (0.0, 0.75)])
def test_fractions_remove_exactly_so_many_units_and_the_worst_of_them(heads, neurons):
    torch.manual_seed(0)
    model, data = randomised(timm_vit()), batches()
    groups = groups_of(model)
    masks = unit_masks(model, data, heads=heads, neurons=neurons)
    scores = unit_scores(model, data, groups)
    for kind, fraction, total in (("head", heads, 8), ("neuron", neurons, 48)):
        of_kind = {name: mask for name, mask in masks.items() if groups[name].kind == kind}
        assert count(of_kind) == ((round((1 - fraction) * total), total) if fraction else (0, 0))
        kept, removed = (
            [s for n, m in of_kind.items() for s in scores[n][m == want].tolist()] for want in (True, False)
        )
        assert not of_kind or min(kept) >= max(removed)
    small = shrink(model, heads=heads, neurons=neurons, calibration=data)
    assert {name: group.size for name, group in groups_of(small).items()} == {
        name: int(masks[name].sum()) if name in masks else group.size for name, group in groups.items()
    }
    alike = unit_masks(model, data, heads=heads, neurons=neurons, per="tensor")
    assert {int(m.sum()) for n, m in alike.items() if groups[n].kind == "head"} == (
        {round(4 * (1 - heads))} if heads else set()
    )


def test_a_fraction_that_would_empty_a_layer_keeps_its_best_unit_and_says_so():
    torch.manual_seed(0)
    model = randomised(timm_vit())
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight.mul_(1e-9)
    data = batches()
    with pytest.warns(UserWarning, match="No neuron of 'blocks.0.mlp.fc1'.*one of its 24 stays"):
        masks = unit_masks(model, data, neurons=0.75)
    name = "blocks.0.mlp.fc1"
    assert masks[name].nonzero().flatten().tolist() == [
        unit_scores(model, data, groups_of(model))[name].argmax().item()
    ]


@pytest.mark.parametrize("emptied", [None, "mlp.fc2", "attn.proj"])
@pytest.mark.parametrize("flops", [0.2, 0.5, 0.8])
def test_a_budget_of_operations_holds_with_the_last_units_of_layers_counted_in_and_is_used(flops, emptied):
    torch.manual_seed(0)
    model = randomised(timm_vit())
    if emptied:  # nothing of the first block is worth keeping
        with torch.no_grad():
            model.blocks[0].get_submodule(emptied).weight.mul_(1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of last units
        small = shrink(model, Ticket({}, units=unit_masks(model, batches(), flops=flops)))
    of_head, of_neuron = 4 * 4 * 16, 2 * 16  # entries in matrices
    budget = (1 - flops) * 2 * (4 * of_head + 24 * of_neuron)
    left = sum(p.numel() for n, p in small.named_parameters() if "blocks." in n and p.dim() == 2)
    all_neurons = all(group.size == 24 for group in groups_of(small).values() if group.kind == "neuron")
    assert left <= budget and (budget - of_neuron < left or all_neurons)


def test_a_budget_counts_attentions_own_products_where_the_number_of_tokens_is_named():
    torch.manual_seed(0)
    model, tokens = randomised(timm_vit()), 100
    groups = groups_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masks = unit_masks(model, batches(), flops=0.6, tokens=tokens)
    of_head, of_neuron = 4 * 4 * 16 + 2 * tokens * 4, 2 * 16
    left = sum(int(m.sum()) * (of_head if groups[n].kind == "head" else of_neuron) for n, m in masks.items())
    budget = 0.4 * 2 * (4 * of_head + 24 * of_neuron)
    assert budget - of_neuron < left <= budget


def test_a_budget_that_leaves_less_than_a_unit_of_each_layer_is_refused():
    with pytest.raises(LotteryError, match="no head and neuron in each layer"):
        unit_masks(timm_vit(), batches(), flops=0.9)


def test_rearranged_masks_keep_as_many_of_each_layer_and_the_search_is_the_authors(golden):
    if not (golden / "kwon2022.pt").exists():
        pytest.skip("tests/golden has no vectors of Kwon et al.: let LOTTERY_GOLDEN name the whole folder")
    case = torch.load(golden / "kwon2022.pt", weights_only=False)["seed0"]
    model = bert_of(case)
    groups, constants = groups_of(model), case["constants"]
    for keep, search in case["search"].items():
        if keep < 0.2:  # their search breaks its budget there
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain, swapped = (
                unit_masks(model, case["batches"], flops=1 - keep, tokens=constants["seq_len"], rearrange=rearrange)
                for rearrange in (False, True)
            )
        assert {n: int(m.sum()) for n, m in plain.items()} == {n: int(m.sum()) for n, m in swapped.items()}
        stacked = {
            (kind, rearranged): torch.stack([m for n, m in masks.items() if groups[n].kind == kind])
            for kind in ("head", "neuron")
            for rearranged, masks in ((False, plain), (True, swapped))
        }
        used = sum(int(stacked[kind, False].sum()) * constants[f"mac_per_{kind}"] for kind in ("head", "neuron"))
        assert used <= keep * constants["dense_mac"]
        if all(mask.bool().any(1).all() for mask in (search["head_mask"], search["neuron_mask"])):
            for kind in ("head", "neuron"):
                assert torch.equal(stacked[kind, False], search[f"{kind}_mask"].bool())
                assert torch.equal(stacked[kind, True], case["rearrange"][keep][f"{kind}_after"].bool())


@pytest.mark.parametrize(("worthless", "kept"), [("attn.proj", range(2, 4)), ("fc2", range(8, 9))])
def test_a_budget_is_split_so_that_what_is_worth_least_goes(worthless, kept):
    torch.manual_seed(0)
    model = randomised(timm_vit())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(f"{worthless}.weight"):
                parameter.mul_(1e-6)
    masks = unit_masks(model, batches(), flops=0.3)
    assert sum(int(mask.sum()) for mask in masks.values() if len(mask) == 4) in kept


def test_a_budget_and_fractions_together_are_refused():
    with pytest.raises(LotteryError, match="`flops`"):
        unit_masks(timm_vit(), batches(), flops=0.5, heads=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flops": 1.0}, r"`flops` is the fraction removed, in \[0, 1\), got 1.0"),
        ({"heads": -0.1}, r"`heads` is the fraction removed, in \[0, 1\), got -0.1"),
        ({"flops": 0.5, "tokens": 0}, "`tokens` is the mean length of a sequence, > 0, got 0"),
        ({"flops": 0.5, "tokens": -5}, "got -5"),
        ({"flops": 0.5, "tokens": math.nan}, "got nan"),
        ({"neurons": 0.5, "tokens": 17}, "`tokens` says what attention costs, which counts in `flops` alone"),
    ],
)
def test_a_fraction_or_a_length_that_is_none_or_that_nothing_counts_is_refused_by_its_name(arguments, message):
    for cut in (unit_masks, shrink):
        with pytest.raises(LotteryError, match=message):
            cut(timm_vit(), calibration=batches(), **arguments)


def test_the_weight_norm_of_a_unit_is_that_of_all_its_entries_in_matrices():
    module = Blocks()
    groups = groups_of(module)
    norms = dict(zip(groups, weight_norms(module, groups), strict=True))
    layer = module.body.layers[0]
    expected = (layer.linear1.weight.square().sum(1) + layer.linear2.weight.square().sum(0)).sqrt()
    torch.testing.assert_close(norms["body.layers.0.linear1"], expected.detach())
    attention = layer.self_attn
    rows = attention.in_proj_weight.view(3, 4, 2, 8).square().sum((0, 2, 3))
    columns = attention.out_proj.weight.view(8, 4, 2).square().sum((0, 2))
    torch.testing.assert_close(norms["body.layers.0.self_attn"], (rows + columns).sqrt().detach())
