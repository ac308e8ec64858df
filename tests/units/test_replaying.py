"""What a replay refuses and what it says; that it draws what was drawn live is shown with EarlyBird."""

import json

import pytest
import torch

from lightning_lottery import ADF, HammingFIFO, LotteryError
from lightning_lottery.functional.settling.detector import described
from lightning_lottery.units.replaying import replay_draws, table_of_draws
from lightning_lottery.units.score_log import FILE, ScoreLog

RULES = {"HammingFIFO": HammingFIFO(2, 0.5, interval=5)}
HEADER = {
    "scores": "coefficients",
    "layers": {"head": {"a": 4}},
    "per": {"head": "all"},
    "watch": ["head"],
    "rules": {name: described(rule) for name, rule in RULES.items()},
    "sparsities": [0.5],
}


def log(folder, steps=range(5, 41, 5), **header):
    written = ScoreLog({**HEADER, **header})
    written.begin(folder / FILE)
    for step in steps:
        # The two best change places until step 20.
        row = [-3.0, 2.0, 1.0, 0.5] if step % 10 and step < 20 else [1.0, 0.5, 2.0, 3.0]
        written.append([step], torch.tensor([row]))
    return folder


def test_rules_and_sparsities_are_those_of_the_fit_unless_others_are_asked_for(tmp_path):
    log(tmp_path)
    (draw,) = replay_draws(tmp_path).draws.values()
    assert (draw.rule, draw.kind, draw.sparsity, draw.step, draw.settled) == ("HammingFIFO", "head", 0.5, 25, True)
    assert {name: mask.tolist() for name, mask in draw.units.items()} == {"a": [False, False, True, True]}
    again = replay_draws(
        str(tmp_path), [HammingFIFO(2, 0.5, interval=10), HammingFIFO(9, 0.0, interval=5)], [0.25, 0.75]
    )
    assert [(draw["rule"], draw["sparsity"], draw["step"], draw["settled"]) for draw in again.table()] == [
        ("HammingFIFO-length=2-tolerance=0.5-interval=10", 0.25, 20, True),
        ("HammingFIFO-length=2-tolerance=0.5-interval=10", 0.75, 20, True),
        ("HammingFIFO-length=9-tolerance=0.0-interval=5", 0.25, 40, False),
        ("HammingFIFO-length=9-tolerance=0.0-interval=5", 0.75, 40, False),
    ]


def test_draws_over_rules_sparsities_and_fits_are_one_table(tmp_path):
    for name, end in (("long", 41), ("short", 21)):
        (tmp_path / name).mkdir()
        log(tmp_path / name, steps=range(5, end, 5))
    rules = [HammingFIFO(2, 0.5, interval=5, min_steps=25), HammingFIFO(9, 0.0, interval=5)]
    first, second, never, _ = table_of_draws([tmp_path / "long", tmp_path / "short"], rules, [0.25, 0.75])
    assert [first["rule"], first["kind"], first["sparsity"]] == [
        "HammingFIFO-length=2-tolerance=0.5-min_steps=25",
        "head",
        0.25,
    ]
    assert [first["steps"], first["settled"], first["fits"], first["mean_step"]] == [[25, None], 1, 2, 25.0]
    assert second["sparsity"] == 0.75 or second["sparsity"] == 0.25
    assert never["mean_step"] is None and never["steps"] == [None, None]


def test_the_size_of_coefficients_counts_or_the_coefficients_themselves_as_in_the_fit(tmp_path):
    kept = {}
    for scores in ("coefficients", "signed coefficients"):
        (tmp_path / scores).mkdir()
        log(tmp_path / scores, steps=[5], scores=scores)
        (draw,) = replay_draws(tmp_path / scores).draws.values()
        kept[scores] = draw.units["a"].tolist()
    assert kept == {"coefficients": [True, True, False, False], "signed coefficients": [False, True, True, False]}


def test_scores_that_do_not_tell_units_apart_draw_nothing(tmp_path):
    written = ScoreLog(HEADER)
    written.begin(tmp_path / FILE)
    written.append([5, 10], torch.ones(2, 4))
    assert replay_draws(tmp_path).draws == {}


def test_a_rule_that_looks_at_steps_the_log_does_not_hold_is_refused(tmp_path):
    log(tmp_path)
    for rule, step in ((ADF(), 6), (HammingFIFO(interval=4), 8), (HammingFIFO(interval=1), 6)):
        with pytest.raises(LotteryError, match=f"looks at step {step}, which .* does not hold: a fit logs every step"):
            replay_draws(tmp_path, [rule])
    assert replay_draws(tmp_path, [HammingFIFO(2, interval=15)]).draws


def test_no_log_an_empty_one_and_one_that_says_nonsense_are_refused(tmp_path):
    with pytest.raises(LotteryError, match="There is no scores.log in .*: EarlyBird leaves it"):
        replay_draws(tmp_path)
    log(tmp_path, steps=[])
    with pytest.raises(LotteryError, match="holds no step yet: the fit has not come to its first probe"):
        replay_draws(tmp_path)
    nonsense = ({"rules": {"A": {"name": "os.system"}}}, {"rules": {"A": {"name": "ADF", "q": 1}}}, {"rules": 3})
    for damage in (
        *nonsense,
        {"sparsities": ["x"]},
        {"sparsities": [2]},
        {"per": {"head": 1}},
        {"watch": None},
        {"watch": ["neuron"]},
    ):
        log(tmp_path, **damage)
        with pytest.raises(LotteryError):
            replay_draws(tmp_path)
        json.dumps(damage)
