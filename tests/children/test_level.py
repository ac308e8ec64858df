"""What a level of iterative pruning adds to a fit: masks of what is left, and the start that it is rewound to."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from helpers.projects import fit
from helpers.states import same
from lightning_lottery import LotteryError, MagnitudePruning, MaskFreezing, Scope, Snapshots, Ticket
from lightning_lottery.children.level import Dense, Rewound, ticket_of_level, with_level, with_snapshots
from lightning_lottery.children.options import Begin, DenseLevelOptions, LevelOptions, Prune

WEIGHTS = {
    "a": torch.tensor([[0.1, -5.0, 0.2], [3.0, -0.3, 0.4]]),
    "b": torch.tensor([0.05, -7.0, 8.0, 9.0]),
    "b.bias": torch.tensor([0.0]),
}
BEFORE = {"a": torch.tensor([[False, True, True], [True, True, True]]), "b": torch.tensor([True] * 4)}


@pytest.fixture
def prune(tmp_path):
    """How a level follows the one before, whose files are written by hand: 9 of 10 weights remain."""
    torch.save({"state_dict": WEIGHTS}, tmp_path / "last.ckpt")
    Ticket(BEFORE, provenance={"scope": "Scope()"}).save(tmp_path / "ticket.safetensors")

    def prune(prune_fraction=0.4, per="all"):
        return Prune(str(tmp_path / "last.ckpt"), str(tmp_path / "ticket.safetensors"), prune_fraction, per)

    return prune


def test_of_what_remains_the_smallest_weights_go_and_what_was_removed_stays_so(prune):
    ticket = ticket_of_level(LevelOptions(2, prune(), None, None))
    assert ticket.masks["a"].tolist() == [[False, True, False], [True, False, False]]  # 0.1 was removed before
    assert ticket.masks["b"].tolist() == [False, True, True, True]  # round(0.4 * 9) = 4 go: 0.05, 0.2, 0.3, 0.4


def test_per_tensor_each_loses_its_own_fraction(prune):
    ticket = ticket_of_level(LevelOptions(2, prune(0.5, "tensor"), None, None))
    assert ticket.masks["a"].tolist() == [[False, True, False], [True, False, True]]
    assert ticket.masks["b"].tolist() == [False, False, True, True]


def test_a_ticket_of_a_level_says_which_and_keeps_the_scope_of_the_first(prune, tmp_path):
    ticket = ticket_of_level(LevelOptions(2, prune(0.4, "tensor"), None, None))
    ticket.save(tmp_path / "ticket.safetensors")
    after = ticket_of_level(LevelOptions(3, prune(0.4, "tensor"), None, None))
    for level, made in ((2, ticket), (3, after)):
        assert made.provenance == {
            "method": "IterativePruning",
            "scope": "Scope()",
            "level": level,
            "prune_fraction": 0.4,
            "per": "tensor",
        }


def test_weights_of_a_compiled_module_are_found_by_their_plain_names(prune, tmp_path):
    plain = ticket_of_level(LevelOptions(1, prune(), None, None))
    torch.save({"state_dict": {f"_orig_mod.{name}": w for name, w in WEIGHTS.items()}}, tmp_path / "last.ckpt")
    assert same(dict(ticket_of_level(LevelOptions(1, prune(), None, None)).masks), dict(plain.masks))


def test_a_tied_weight_has_one_mask_under_both_names(prune, tmp_path):
    Ticket({**BEFORE, "twin": BEFORE["b"]}, ties={"twin": "b"}, provenance={"scope": "Scope()"}).save(
        tmp_path / "ticket.safetensors"
    )
    ticket = ticket_of_level(LevelOptions(1, prune(), None, None))
    assert torch.equal(ticket.masks["twin"], ticket.masks["b"]) and ticket.ties == {"twin": "b"}
    assert sum(int(mask.sum()) for name, mask in ticket.masks.items() if name != "twin") == 5


def test_nothing_left_to_prune_and_a_level_before_that_was_not_trained_are_refused(prune, tmp_path):
    with pytest.raises(LotteryError, match="Level 3: `prune_fraction` 0.01 removes none of the 9 entries"):
        ticket_of_level(LevelOptions(3, prune(0.01), None, None))
    (tmp_path / "last.ckpt").unlink()
    with pytest.raises(LotteryError, match="There is no checkpoint '.*last.ckpt': the level before has to be trained"):
        ticket_of_level(LevelOptions(3, prune(), None, None))


@pytest.mark.parametrize(
    ("begin", "resumed", "kinds"),
    [
        (Begin(None, "fresh"), False, ["Rewound", "Callback", "MaskFreezing"]),
        (Begin(None, "fresh"), True, ["Callback", "MaskFreezing"]),
        (None, False, ["Callback", "MaskFreezing"]),
    ],
)
def test_a_level_is_rewound_before_all_other_callbacks_once_and_masked_after_them(prune, begin, resumed, kinds):
    callbacks = with_level([Callback()], LevelOptions(1, prune(), begin, None), resumed=resumed)
    assert [type(callback).__name__ for callback in callbacks] == kinds


def test_what_a_level_rewinds_is_what_its_options_say(prune):
    for begin, fresh in ((Begin("w.ckpt", "fresh"), True), (Begin(None, "restored"), False)):
        rewound, _ = with_level([], LevelOptions(1, prune(), begin, None), resumed=False)
        assert (rewound.weights, rewound.is_fresh) == (begin.weights, fresh)


def test_a_shuffled_control_keeps_as_many_in_each_tensor_elsewhere(prune):
    ticket = ticket_of_level(LevelOptions(1, prune(), None, None))
    (control,) = with_level([], LevelOptions(1, prune(), None, shuffle_seed=2), resumed=False)
    assert isinstance(control, MaskFreezing) and same(dict(control._ticket.masks), dict(ticket.shuffled(2).masks))


def test_level_0_saves_the_step_to_rewind_to_and_removes_nothing(tmp_path):
    snapshots, dense = with_level([Snapshots([2])], DenseLevelOptions(Scope(), 5), resumed=False)
    assert snapshots.steps == (2, 5) and (dense.rewind_step, dense.sparsity) == (5, 0)
    weights = [
        fit(tmp_path / name, *callbacks).lightning_module.state_dict()
        for name, callbacks in (("alone", []), ("level-0", [Dense(Scope(), rewind_step=5)]))
    ]
    assert same(*map(dict, weights))
    ticket = Ticket.load(tmp_path / "level-0/ticket.safetensors")
    assert ticket.sparsity == 0 and all(mask.all() for mask in ticket.masks.values())


def test_a_step_to_rewind_to_at_the_end_of_the_fit_or_after_it_is_refused_before_any_step(tmp_path):
    for step in (12, 13):
        with pytest.raises(LotteryError, match=f"`rewind_step` {step} is past the end: this fit ends at step 12"):
            fit(tmp_path, Dense(Scope(), rewind_step=step))


def test_a_project_that_masks_by_itself_is_refused(prune):
    for options in (DenseLevelOptions(Scope(), 0), LevelOptions(1, prune(), None, None)):
        with pytest.raises(LotteryError, match="masks by itself: leave out MagnitudePruning"):
            with_level([MagnitudePruning(0.5)], options, resumed=False)


def test_steps_of_several_snapshots_are_saved_by_one():
    others = Callback()
    first, merged = with_snapshots([Snapshots([3, 1]), others, Snapshots([7])], [3, 0])
    assert first is others and merged.steps == (0, 1, 3, 7)


def rewind(checkpoint, weights, is_fresh):
    """Rewind a checkpoint; what the module was loaded with."""
    loaded = []
    strategy = SimpleNamespace(load_model_state_dict=lambda checkpoint, strict: loaded.append(dict(checkpoint)))
    rewound = Rewound(weights, is_fresh=is_fresh)
    rewound.on_load_checkpoint(SimpleNamespace(strategy=strategy), SimpleNamespace(strict_loading=True), checkpoint)
    return loaded


def snapshot(**more):
    optimizers = [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]} for _ in range(2)]
    return {"state_dict": {"a": torch.zeros(1)}, "optimizer_states": optimizers, "global_step": 5, **more}


def test_fresh_optimizers_have_their_settings_and_no_state_and_the_weights_are_the_snapshot_s():
    checkpoint = snapshot()
    assert rewind(checkpoint, None, is_fresh=True) == []
    assert checkpoint["optimizer_states"] == [{"state": {}, "param_groups": [{"lr": 0.1}]}] * 2
    assert checkpoint["global_step"] == 5 and same(checkpoint["state_dict"], snapshot()["state_dict"])


def test_restored_optimizers_are_left_alone():
    checkpoint = snapshot()
    rewind(checkpoint, None, is_fresh=False)
    assert same(checkpoint, snapshot())


@pytest.mark.parametrize("keys", [["state_dict"], ["state_dict", "current_model_state"]])
def test_other_weights_take_the_place_of_the_trained_and_of_the_averaged_ones(tmp_path, keys):
    torch.save({"state_dict": WEIGHTS}, tmp_path / "last.ckpt")
    checkpoint = snapshot(**{key: {"a": torch.zeros(1)} for key in keys})
    (loaded,) = rewind(checkpoint, str(tmp_path / "last.ckpt"), is_fresh=False)
    assert all(same(checkpoint[key], WEIGHTS) for key in keys) and same(loaded["state_dict"], WEIGHTS)
    assert ("current_model_state" in checkpoint) == (len(keys) == 2)
    assert checkpoint["optimizer_states"][0]["state"]
