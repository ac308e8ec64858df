import io
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.settling import (
    coefficients,
    constant,
    every_norm_rule,
    every_rule,
    masks_of,
    same_verdicts,
    series_for,
    short,
)
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.settling.detector import Detector, described, replay, rule_of
from lightning_lottery.functional.settling.rules import ADF, HammingFIFO, MannKendall, SlopeEquivalence, SlopeHAC
from lightning_lottery.functional.settling.tests import layers_by_units, nuclear_norm


@every_rule
def test_live_detection_in_batches_is_detection_replayed_from_the_log(rule):
    live, detector, log = [], Detector(rule), []
    coefs = coefficients(150)
    for probe in range(0, 150, 10):
        masks = [masks_of(scores) for scores in coefs[probe : probe + 10]]
        batch = {name: torch.stack([mask[name] for mask in masks]) for name in masks[0]}
        norms = nuclear_norm(layers_by_units(batch)).tolist()
        for step, observed in enumerate(masks if rule.watches == "masks" else norms, start=probe + 1):
            live.append(detector.push(step, observed))
            log.append((step, observed))
    if rule.watches == "norms":
        log = json.loads(json.dumps(log))
    live = [verdict for verdict in live if verdict is not None]
    assert same_verdicts(live, replay(rule, log))
    assert same_verdicts(live, replay(rule, series_for(rule)))
    assert len(live) >= 10
    assert len({verdict.statistic for verdict in live}) > 1


@every_rule
@pytest.mark.parametrize("cut", [0, 1, 24, 29, 30, 77])
def test_a_detector_saved_and_restored_at_any_step_gives_the_same_later_verdicts(rule, cut):
    series = series_for(rule)
    unbroken, first = Detector(rule), Detector(rule)
    for step, observed in series[:cut]:
        unbroken.push(step, observed)
        first.push(step, observed)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Detector(rule)
    second.load_state_dict(torch.load(file, weights_only=True))
    for step, observed in series[cut:]:
        expected = unbroken.push(step, observed)
        assert repr(second.push(step, observed)) == repr(expected)
    assert expected is not None


def test_patience_goes_on_after_a_restore():
    rule = ADF(patience=3, **short)
    first, second = Detector(rule), Detector(rule)
    for step, norm in constant(rule, 40):
        first.push(step, norm)
    second.load_state_dict(first.state_dict())
    assert second.push(50, 23.0) is None  # a gap: the series begins anew
    second.load_state_dict(first.state_dict())
    later = [second.push(step, 23.0) for step in range(41, 61)]
    assert [verdict.settled for verdict in later if verdict] == [True, True]


def test_the_state_of_another_rule_is_refused():
    with pytest.raises(LotteryError, match=r"'p': 0\.05.*'p': 0\.1"):
        Detector(ADF(0.1)).load_state_dict(Detector(ADF()).state_dict())


def test_state_of_a_release_that_knew_no_change_goes_on_under_the_rule_of_that_time_alone():
    rule = SlopeEquivalence(0.05, block=5, window=20, interval=10, patience=1)
    first, second = Detector(rule), Detector(rule)
    for step, norm in series_for(rule)[:33]:
        first.push(step, norm)
    names = {"name", "margin", "p", "block", "seed", "window", "interval", "min_steps", "patience"}
    state = first.state_dict()
    state["rule"] = {name: value for name, value in state["rule"].items() if name in names}
    second.load_state_dict(state)
    later = [[repr(one.push(step, norm)) for step, norm in series_for(rule)[33:]] for one in (first, second)]
    assert later[0] == later[1]
    for other in (replace(rule, patience=3), replace(rule, margin=None, change=0.05)):
        with pytest.raises(LotteryError, match="saved state is of the rule"):
            Detector(other).load_state_dict(state)


@every_rule
def test_memory_is_bounded_by_what_a_probe_looks_at(rule):
    detector = Detector(rule)
    for step, observed in series_for(rule):
        detector.push(step, observed)
    assert len(detector.state_dict()["observed"]) == rule.memory


def test_a_mask_that_changes_after_it_was_pushed_is_remembered_as_it_was():
    detector, mask = Detector(HammingFIFO(length=2, interval=1)), {"w": torch.tensor([True, False])}
    detector.push(1, mask)
    mask["w"].logical_not_()
    assert detector.push(2, mask).statistic == 1.0


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 80), st.integers(1, 4), st.integers(1, 25), st.integers(2, 4))
def test_no_rule_can_settle_before_its_earliest_step_and_a_constant_series_settles_there(
    every, min_steps, patience, smoothing, length
):
    common = {"interval": every, "min_steps": min_steps, "patience": patience}
    for rule in (HammingFIFO(length, **common), ADF(smoothing=smoothing, window=25, **common)):
        verdicts = replay(rule, constant(rule, rule.earliest))
        assert [verdict.step for verdict in verdicts if verdict.settled] == [rule.earliest]


def test_the_earliest_step_with_every_default_is_the_first_probe_with_a_full_window():
    rules = (HammingFIFO(), SlopeHAC(), MannKendall(), ADF(), SlopeEquivalence(0.01))
    assert [rule.earliest for rule in rules] == [500, 500, 500, 500, 700]  # the last asks for three probes in a row


@every_rule
def test_a_constant_series_settles_once_min_steps_have_passed_and_not_before(rule):
    patient = type(rule)(**{**asdict(rule), "min_steps": 75, "patience": 2})
    verdicts = replay(patient, constant(patient, 110))
    assert all(verdict.holds for verdict in verdicts)
    assert [verdict.step for verdict in verdicts if verdict.settled] == [90, 100, 110]


def test_patience_counts_probes_in_a_row():
    still, moving = {"w": torch.tensor([True, False])}, {"w": torch.tensor([False, True])}
    series = enumerate([still, still, still, moving, still, still, still], start=1)
    verdicts = replay(HammingFIFO(length=2, tolerance=0.0, interval=1, patience=2), series)
    assert [v.holds for v in verdicts] == [True, True, False, False, True, True]
    assert [v.settled for v in verdicts] == [False, True, False, False, False, True]


@every_rule
def test_a_step_left_out_begins_a_new_series(rule):
    series = series_for(rule)
    broken = [entry for entry in series if entry[0] != 40]
    new = [entry for entry in series if entry[0] > 40]
    expected = replay(rule, series[:39]) + replay(rule, new)
    assert same_verdicts(replay(rule, broken), expected)


def test_masks_between_probes_are_neither_looked_at_nor_missed():
    rule = HammingFIFO(length=2, interval=10)
    series = series_for(rule)
    assert same_verdicts(replay(rule, series), replay(rule, [entry for entry in series if entry[0] % 10 == 0]))


@every_rule
def test_steps_out_of_order_are_refused(rule):
    series = series_for(rule, steps=20)
    for first, second in ((20, 20), (20, 10)):
        detector = Detector(rule)
        detector.push(first, series[0][1])
        with pytest.raises(LotteryError, match=f"step {second} after step {first}"):
            detector.push(second, series[0][1])
    with pytest.raises(LotteryError, match="from 1 on"):
        Detector(rule).push(0, series[0][1])


@every_norm_rule
@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_refused(rule, norm):
    with pytest.raises(LotteryError, match="finite norms"):
        Detector(rule).push(1, norm)


@pytest.mark.parametrize(
    "rule", [HammingFIFO(3), SlopeHAC(lags=4), MannKendall(variant="original"), ADF(0.2), SlopeEquivalence(change=0.1)]
)
def test_a_rule_is_made_anew_from_its_description_as_plain_values(rule):
    assert rule_of(json.loads(json.dumps(described(rule)))) == rule


@pytest.mark.parametrize("description", [{}, {"name": "Mine"}, {"name": "ADF", "q": 1}, {"name": "ADF", "p": 2.0}])
def test_a_description_of_no_rule_is_refused(description):
    with pytest.raises(LotteryError):
        rule_of(description)
