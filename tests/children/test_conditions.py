"""The conditions of children: what may differ between them, what may not, and what is said."""

import json
from copy import deepcopy

import pytest
import torch

from helpers.children import CONDITIONS
from helpers.factories import Data, Net
from helpers.projects import says, trainer
from lightning_lottery import LotteryError, Perturbation
from lightning_lottery.children.conditions import FILE, Conditions, check_contract


def folders(root, *changes):
    """Two or more children, the first as `CONDITIONS` is, the others changed."""
    for number, change in enumerate(({}, *changes)):
        (root / str(number)).mkdir()
        (root / str(number) / FILE).write_text(json.dumps({**deepcopy(CONDITIONS), **change}))
    return {f"child {number}": root / str(number) for number in range(len(changes) + 1)}


NOISE = {"end_weights": "two", "batches": ["d", "e", "f"]}


def test_children_that_differ_in_noise_alone_pass_and_give_what_they_share(tmp_path):
    shared = check_contract(folders(tmp_path, {**NOISE, "threads": 2}), [1, 2])
    assert shared == {key: value for key, value in CONDITIONS.items() if key not in {*NOISE, "threads", "tested"}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("start_step", 4),
        ("end_step", 11),
        ("weights", "another beginning"),
        ("hparams", {"lr": 0.1}),
        ("optimizers", [{"lr": 0.05, "momentum": 0.8}]),
        ("schedulers", [{"gamma": 0.6}]),
        ("precision", "bf16-mixed"),
        ("world_size", 2),
    ],
)
def test_children_that_differ_in_anything_else_are_refused_by_both_names_and_by_what_differs(key, value, tmp_path):
    with pytest.raises(LotteryError, match=f"in their seed only, but from child 0 to child 2: .*{key}"):
        check_contract(folders(tmp_path, NOISE, {**NOISE, "end_weights": "three", key: value}), [1, 2, 3])


def test_children_that_trained_no_step_are_refused(tmp_path):
    none = {"start_step": 12}
    paths = folders(tmp_path, {**NOISE, **none})
    (tmp_path / "0" / FILE).write_text(json.dumps({**CONDITIONS, **none}))
    with pytest.raises(LotteryError, match="trained no step: the fit ends at step 12"):
        check_contract(paths, [1, 2])


def test_seeds_that_made_no_difference_are_refused_and_the_same_seed_is_not(tmp_path):
    paths = folders(tmp_path, {"batches": ["d", "e", "f"]})
    with pytest.raises(LotteryError, match="different seeds ended with the same weights"):
        check_contract(paths, [1, 2])
    assert check_contract(paths, [3, 3])["end_step"] == 12


PERTURBED = Perturbation(0.1)
NO_NOISE = {None: "Shuffle the training data by it", "order": "shuffle=True", "augmentation": "no dropout"}


@pytest.mark.parametrize(("noise", "says"), [*NO_NOISE.items(), (PERTURBED, "the perturbation is the same for all")])
def test_a_noise_that_made_no_difference_is_refused_with_what_it_would_take(noise, says, tmp_path):
    with pytest.raises(LotteryError, match=f"different seeds ended with the same weights: .*{says}"):
        check_contract(folders(tmp_path, {}), [1, 2], noise)


def test_a_perturbation_of_0_makes_no_difference(tmp_path):
    assert check_contract(folders(tmp_path, {}), [1, 2], Perturbation(0))["end_step"] == 12


def test_children_of_one_order_that_saw_several_are_refused_and_a_killed_one_is_compared_where_it_can_be(tmp_path):
    orders = [{"0": "a", "1": "b"}, {"1": "b"}, {"0": "a", "1": "c"}]
    changes = [{"end_weights": str(n), "batches": [str(n)], "order": order} for n, order in enumerate(orders)]
    paths = folders(tmp_path, *changes)
    del paths["child 0"]
    check_contract({name: paths[name] for name in ("child 1", "child 2")}, [1, 2], "augmentation")
    with pytest.raises(LotteryError, match="to see the data in one order saw it in several"):
        check_contract(paths, [1, 2, 3], "augmentation")
    check_contract(paths, [1, 2, 3], "order")


def test_children_of_a_perturbation_that_were_trained_on_other_batches_are_refused_or_warned_of(tmp_path):
    other = {"end_weights": "two", "batches": ["d", "b", "c"]}
    with pytest.raises(LotteryError, match="by a perturbation alone were trained on different batches"):
        check_contract(folders(tmp_path, other), [1, 2], PERTURBED)
    (tmp_path / "1" / FILE).write_text(json.dumps({**CONDITIONS, **other, "batches": ["a", "b", "d"]}))
    paths = {"child 0": tmp_path / "0", "child 1": tmp_path / "1"}
    with says("cannot go on in the middle of an epoch", times=1):
        check_contract(paths, [1, 2], PERTURBED)


def test_one_batch_in_common_at_a_step_is_warned_of_once(tmp_path):
    with says("saw the same batches at the same steps", times=1):
        check_contract(folders(tmp_path, {**NOISE, "batches": ["d", "b", "f"]}), [1, 2])


def test_the_same_batch_at_another_step_is_not_warned_of(tmp_path):
    check_contract(folders(tmp_path, {**NOISE, "batches": ["b", "c", "a"]}), [1, 2])


def test_other_test_data_are_warned_of(tmp_path):
    with says("tested on different data", times=1):
        check_contract(folders(tmp_path, {**NOISE, "tested": "u"}), [1, 2])


def test_what_is_written_down_is_how_the_fit_began_and_ended_and_a_resume_keeps_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    torch.manual_seed(0)
    conditions = Conditions(resumed=False)
    fitted = trainer(tmp_path, conditions)
    fitted.fit(Net(), Data())
    conditions.write(fitted, tmp_path, conditions.end_of(fitted))
    written = json.loads((tmp_path / FILE).read_text())
    assert (written["start_step"], written["end_step"], written["world_size"]) == (0, 12, 1)
    assert written["hparams"] == {"lr": 0.05, "dropout": 0.2} and written["optimizers"][0]["momentum"] == 0.9
    assert len(written["batches"]) == len(set(written["batches"])) == 5  # three, and the first of epochs 2 and 3
    assert written["weights"] != written["end_weights"]
    begun, resumed = Conditions(resumed=False), Conditions(resumed=True)
    for one in (begun, resumed):
        one.load_state_dict(conditions.state_dict())
    assert resumed.conditions == conditions.conditions and begun.conditions == {}
