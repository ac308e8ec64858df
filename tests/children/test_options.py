import json

import pytest

from lightning_lottery import LotteryError, Perturbation, Scope
from lightning_lottery.children.options import (
    Begin,
    DenseLevelOptions,
    LevelOptions,
    LinesOptions,
    LinesTrialOptions,
    NoiseOptions,
    Prune,
    RecordsTrialOptions,
    SnapshotOptions,
    StartOptions,
    TicketOptions,
    plain,
    read_options,
)

PRUNE = Prune("level-0/last.ckpt", "level-0/ticket.safetensors", 0.2, "all")
LINES = {"monitor": "test_acc", "mode": "max", "threshold": 0.02, "recalibrate": 0, "predict": None}
OPTIONS = [
    None,
    TicketOptions(),
    TicketOptions("a.safetensors"),
    TicketOptions(noise=NoiseOptions(order_seed=3)),
    TicketOptions(noise=NoiseOptions(None, Perturbation(0.1, share=0.5, scope=Scope(exclude=("head.*",))), 2)),
    StartOptions(prunes=True),
    SnapshotOptions((0, 10)),
    DenseLevelOptions(Scope(exclude=("head.*",)), rewind_step=5),
    LevelOptions(1, PRUNE, Begin(None, "fresh"), None),
    LevelOptions(2, PRUNE, None, shuffle_seed=3),
    LinesOptions(**LINES, alphas=(0.0, 0.5, 1.0), layer_alphas=(), checkpoints=("a", "b")),
]
TRIALS = [
    LinesTrialOptions("test_acc", "max", 3, "package.module:predict", child=NoiseOptions(0)),
    RecordsTrialOptions("test_loss", "min"),
]


@pytest.mark.parametrize("options", OPTIONS + TRIALS)
def test_options_are_read_back_from_json_as_they_were(options):
    assert read_options(json.loads(json.dumps(plain(options)))) == options


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (OPTIONS[1], {"ticket", "end_step", "noise"}),
        (OPTIONS[5], {"prunes"}),
        (OPTIONS[6], {"snapshots"}),
        (OPTIONS[7], {"level", "scope", "rewind_step"}),
        (OPTIONS[8], {"level", "prune", "begin", "shuffle_seed", "shuffle_layers"}),
    ],
)
def test_keys_are_those_of_finished_children_of_before_whose_fingerprints_still_match(options, keys):
    assert plain(options).keys() == keys
    # None is what a fingerprint that lacks it does not differ in.
    assert plain(OPTIONS[1])["end_step"] is plain(OPTIONS[1])["noise"] is plain(OPTIONS[8])["shuffle_layers"] is None
    assert plain(OPTIONS[-1])["noise"] is plain(OPTIONS[-1])["train_split"] is None
    assert plain(OPTIONS[8])["begin"] == {"weights": None, "optimizer": "fresh"}
    assert plain(OPTIONS[8])["prune"].keys() == {"weights", "within", "prune_fraction", "per"}


def test_a_judge_of_before_still_loads():
    before = {**LINES, "alphas": 3, "layer_alphas": [], "fast": False, "checkpoints": ["a", "b"]}
    assert read_options({**before, "is_null_control": False}) == OPTIONS[-1]


def test_options_of_no_kind_are_refused():
    with pytest.raises(LotteryError, match="A child has no options colour: another version of this package wrote them"):
        read_options({"colour": "red"})


@pytest.mark.parametrize("alphas", [1, 0, -3, 2**40])
def test_a_number_of_alphas_that_cannot_be_is_no_endless_list(alphas):
    with pytest.raises(ValueError, match="alphas"):
        read_options({**LINES, "alphas": alphas, "layer_alphas": [], "fast": False, "checkpoints": ["a", "b"]})
