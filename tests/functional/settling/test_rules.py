import json
import math
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from helpers import oracles
from helpers.golden import kept
from helpers.settling import constant, every_norm_rule, every_rule
from helpers.settling_process import MARGIN, SETTLES, around, autocorrelated, draws, line, never_settling
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import count, hamming, keep_top
from lightning_lottery.functional.settling.detector import Detector, replay
from lightning_lottery.functional.settling.rules import (
    ADF,
    HammingFIFO,
    MannKendall,
    Rule,
    SlopeEquivalence,
    SlopeHAC,
    newest_distances,
    scores_differ,
)
from lightning_lottery.functional.settling.tests import (
    layers_by_units,
    least_margin,
    moving_average,
    nuclear_norm,
    slope_equivalence,
)

# Golden vectors


@pytest.fixture(scope="session")
def stationarity(golden):
    with np.load(golden / "stationarity.npz") as arrays:
        return dict(arrays), json.loads((golden / "stationarity.json").read_text())


def stored_masks(arrays, prefix):
    flat = np.unpackbits(kept(arrays, f"{prefix}_masks_packed"))[: 12 * 3000 * 12]
    return torch.from_numpy(flat.reshape(12, 3000, 12).astype(bool)).transpose(0, 1)


@pytest.mark.parametrize("prefix", ["p20", "p30"])
def test_norms_distances_and_averages_of_the_stored_masks_are_the_golden_ones(stationarity, prefix):
    arrays, _ = stationarity
    masks = stored_masks(arrays, prefix)
    norms = nuclear_norm(masks).numpy()
    np.testing.assert_allclose(norms, arrays[f"{prefix}_nuclear_norm"], rtol=1e-7)
    distances = [newest_distances([{"heads": a}, {"heads": b}])[0] for a, b in zip(masks, masks[1:], strict=False)]
    np.testing.assert_allclose(distances, arrays[f"{prefix}_hamming_consecutive"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(moving_average(norms, 200), arrays[f"{prefix}_sma200"], rtol=1e-7)


# The case study's averages differ in the last bit where they should be equal, which trend tests count: each test gets
# the stored averages, and the averages are compared apart.
@pytest.mark.parametrize("prefix", ["p20", "p30"])
@pytest.mark.parametrize(
    ("rule", "key", "lags"),
    [
        (SlopeHAC(lags=5), "hac5", 5),
        (SlopeHAC(lags=17), "hac17", 17),
        (SlopeHAC(lags=199), "hac199", 199),
        (MannKendall(), "mk", None),
        (MannKendall(variant="hamed_rao"), "hr", None),
        (ADF(), "adf", "adf_lag"),
    ],
    ids=["HAC 5", "HAC 17", "HAC 199", "Mann-Kendall", "Hamed-Rao", "ADF"],
)
def test_verdicts_on_the_stored_averages_are_the_golden_ones_at_every_probe(stationarity, prefix, rule, key, lags):
    arrays, summary = stationarity
    averages = enumerate(kept(arrays, f"{prefix}_sma200"), start=200)
    verdicts = replay(replace(rule, smoothing=1), averages)
    assert [verdict.step for verdict in verdicts] == arrays[f"{prefix}_probe_steps"].tolist()
    np.testing.assert_allclose([v.p_value for v in verdicts], arrays[f"{prefix}_{key}_p"], rtol=1e-6, atol=1e-12)
    statistic = {"mk": "mk_z", "adf": "adf_stat", "hr": None}.get(key, "slope")
    if statistic:
        np.testing.assert_allclose([v.statistic for v in verdicts], arrays[f"{prefix}_{statistic}"], rtol=1e-8)
    expected = arrays[f"{prefix}_{lags}"].tolist() if lags == "adf_lag" else [lags] * len(verdicts)
    assert [verdict.lags for verdict in verdicts] == expected
    # The same from the norms: all of it where ties do not count, else the draw and the p-values but for those ties.
    ties_count = isinstance(rule, MannKendall)
    first = {"mk": "mk", "hr": "hamed_rao"}.get(key, key)
    from_norms = replay(rule, enumerate(kept(arrays, f"{prefix}_nuclear_norm"), start=1))
    assert [v.step for v in from_norms] == [v.step for v in verdicts]
    assert next(v.step for v in from_norms if v.settled) == summary["summary_first_trigger"][f"{prefix}_"][first]
    ours, golden = [v.p_value for v in from_norms], arrays[f"{prefix}_{key}_p"]
    np.testing.assert_allclose(ours, golden, rtol=0 if ties_count else 1e-6, atol=0.02 if ties_count else 1e-12)


@pytest.mark.parametrize(
    ("rule", "key"),
    [(SlopeHAC(lags=5, smoothing=1), "hac5_p"), (MannKendall(smoothing=1), "mk_p"), (ADF(smoothing=1), "adf_p")],
)
def test_awkward_series_have_the_golden_p_values_and_those_without_noise_their_defined_ones(stationarity, rule, key):
    arrays, summary = stationarity
    defined = {"constant": 0.0, "linear_trend": 1.0} if key == "adf_p" else {"constant": 1.0}
    for name, expected in summary["edge_cases"].items():
        finding = rule.judge(arrays[f"edge_{name}"])
        p_value = defined.get(name, expected[key])
        assert finding.p_value == pytest.approx(p_value, rel=1e-6, abs=1e-12)
        assert finding.holds == (p_value < rule.p if key == "adf_p" else p_value > rule.p)


@pytest.mark.parametrize("length", [5, 3])
def test_distances_and_the_draw_of_the_stored_batch_norm_masks_are_the_authors(golden, length):
    run = torch.load(golden / "earlybird_bn.pt", weights_only=False)["runs"][f"p50_keep{length}"]
    masks = [{"scales": mask} for mask in run["masks"]]
    for newest in range(length - 1, len(masks)):
        distances = newest_distances(masks[newest - length + 1 : newest + 1])
        assert distances == pytest.approx([float(d) for d in run["dists"][newest]], abs=1e-12)
    verdicts = replay(HammingFIFO(length=length, interval=1), enumerate(masks, start=1))
    assert [v.settled for v in verdicts] == [bool(flag) for flag in run["flags"][length - 1 :]]
    assert next(v.step for v in verdicts if v.settled) - 1 == run["first_epoch_index"]


def test_the_empty_masks_of_equal_scales_on_which_the_authors_code_draws_never_settle(golden):
    run = torch.load(golden / "earlybird_bn.pt", weights_only=False)["constant_run"]
    assert run["first_epoch_index"] == 4
    assert not any(run["kept"])
    verdicts = replay(HammingFIFO(interval=1), enumerate([{"scales": mask} for mask in run["masks"]], start=1))
    assert len(verdicts) == 4
    assert not any(verdict.settled for verdict in verdicts)


def test_our_masks_keep_the_heads_that_the_stored_ones_keep_and_those_that_they_miscounted(stationarity):
    arrays, _ = stationarity
    coefficients, stored = kept(arrays, "coefs"), stored_masks(arrays, "p20")
    for step in range(0, 3000, 150):
        ours = keep_top({str(i): torch.from_numpy(coefficients[i, step]) for i in range(12)}, 0.2, per="tensor")
        assert count(ours) == (120, 144)
        assert (layers_by_units(ours) | ~stored[step]).all()
        assert stored[step].sum() == 108


def test_our_masks_keep_the_scales_that_the_stored_ones_keep_and_the_one_that_they_miscounted(golden):
    bn = torch.load(golden / "earlybird_bn.pt", weights_only=False)
    for gammas, mask in zip(bn["gammas"], bn["runs"]["p50_keep5"]["masks"], strict=True):
        ours = torch.cat(list(keep_top({str(i): g.abs() for i, g in enumerate(gammas)}, 0.5).values()))
        assert (ours.sum(), mask.sum()) == (56, 55)
        assert (ours | ~mask).all()


# Distances


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=6))
def test_newest_distances_count_the_entries_that_differ_from_the_last_mask(rows):
    masks = [{"w": torch.tensor(row)} for row in rows]
    assert newest_distances(masks) == [oracles.hamming({"w": row}, {"w": rows[-1]}) for row in rows[:-1]]


# Degenerate networks


@every_rule
def test_an_empty_mask_never_settles_however_constant(rule):
    empty = {"heads": torch.zeros(4).bool()} if rule.watches == "masks" else 0.0
    verdicts = replay(rule, constant(rule, 100, value=empty))
    assert verdicts
    assert not any(verdict.holds or verdict.settled for verdict in verdicts)


def test_a_mask_that_keeps_everything_never_settles():
    rule = HammingFIFO(length=2, interval=1)
    assert not any(v.settled for v in replay(rule, constant(rule, 9, value={"heads": torch.ones(4).bool()})))


@every_rule
def test_equal_coefficients_never_settle_anything_where_only_scores_that_differ_are_pushed(rule):
    detector = Detector(rule)
    for step in range(1, 121):
        scores = {f"layer {i}": torch.ones(8) for i in range(3)}
        if step == 60:
            scores["layer 0"][0] = 2.0  # a single step that says something begins a series of one
        if scores_differ(scores):
            mask = keep_top(scores, 0.5)
            verdict = detector.push(
                step, mask if rule.watches == "masks" else nuclear_norm(layers_by_units(mask)).item()
            )
            assert verdict is None
    assert len(detector.state_dict()["observed"]) == 1


def test_scores_differ_says_where_a_ranking_is_not_arbitrary():
    ones, some = torch.ones(3), torch.tensor([1.0, 1.0, 2.0])
    assert not scores_differ({})
    assert not scores_differ({"a": ones, "b": ones.clone()})
    assert not scores_differ({"a": ones, "b": ones.clone()}, per="tensor")
    assert scores_differ({"a": ones, "b": 2 * ones})
    assert not scores_differ({"a": some, "b": 2 * ones}, per="tensor")
    assert scores_differ({"a": some, "b": -some, "only": torch.ones(1)}, per="tensor")


@every_norm_rule
def test_norms_that_vary_by_rounding_alone_are_constant(rule):
    norms = 23 * (1 + 1e-10 * np.random.default_rng(0).uniform(-1, 1, 40))
    verdicts = replay(rule, enumerate(norms, start=1))
    assert {v.p_value for v in verdicts} == {rule.p_if_constant}
    assert all(v.settled for v in verdicts)


@every_norm_rule
def test_a_perfect_line_is_no_settled_series_and_no_rule_warns_of_it(rule):
    verdicts = replay(rule, ((step, 20 + 0.125 * step) for step in range(1, 51)))
    assert len(verdicts) >= 2
    assert not any(verdict.holds for verdict in verdicts)


# Construction


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: SlopeHAC(window=100), "smoothing"),
        (lambda: MannKendall(window=199), "smoothing"),
        (lambda: ADF(smoothing=21, window=20), "smoothing"),
        (lambda: SlopeHAC(lags=300), "lags"),
        (lambda: SlopeHAC(lags=-1), "lags"),
        (lambda: SlopeHAC(0), "`p`"),
        (lambda: ADF(True), "`p`"),
        (lambda: MannKendall(math.nan), "`p`"),
        (lambda: MannKendall(variant="yue_wang"), "variant"),
        (lambda: ADF(window=19, smoothing=1), "window"),
        (lambda: ADF(interval=0), "interval"),
        (lambda: ADF(interval=10.0), "interval"),
        (lambda: ADF(min_steps=-1), "min_steps"),
        (lambda: ADF(patience=0), "patience"),
        (lambda: HammingFIFO(1), "length"),
        (lambda: HammingFIFO(tolerance=1.0), "tolerance"),
        (lambda: HammingFIFO(tolerance=math.nan), "tolerance"),
        (lambda: SlopeEquivalence(), "either `margin`.*or `change`.*got margin=None and change=None"),
        (lambda: SlopeEquivalence(0.1, change=0.02), "either `margin`.*got margin=0.1 and change=0.02"),
        (lambda: SlopeEquivalence(change=0.0), "`change` is the fraction of the norm"),
        (lambda: SlopeEquivalence(change=2), r"in \(0, 1\): 0.02 is 2 %"),
        (lambda: SlopeEquivalence(change=math.nan), "`change`"),
        (lambda: SlopeEquivalence(change=True), "`change`"),
        (lambda: SlopeEquivalence(change="0.02"), "`change`"),
        (lambda: SlopeEquivalence(True), "margin"),
        (lambda: SlopeEquivalence(0.0), "margin"),
        (lambda: SlopeEquivalence(math.inf), "margin"),
        (lambda: SlopeEquivalence(math.nan), "margin"),
        (lambda: SlopeEquivalence(0.1, p=0.5), "`p`"),
        (lambda: SlopeEquivalence(0.1, block=125, window=375), "block"),
        (lambda: SlopeEquivalence(0.1, block=99), "block"),
        (lambda: SlopeEquivalence(0.1, seed=-1), "seed"),
    ],
)
def test_what_a_rule_cannot_mean_is_refused_when_it_is_built(build, named):
    with pytest.raises(LotteryError, match=named):
        build()


@every_rule
def test_rules_are_plain_data_that_a_configuration_names(rule):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rules", type=list[Rule])
    path = f"lightning_lottery.functional.settling.rules.{type(rule).__name__}"
    config = parser.parse_object({"rules": [{"class_path": path, "init_args": asdict(rule)}]})
    assert parser.instantiate(config).rules == [rule]
    with pytest.raises(FrozenInstanceError):
        rule.interval = 1


def test_lags_are_smoothing_less_one_and_those_of_newey_and_west_without_smoothing():
    line = np.linspace(20, 21, 300) + autocorrelated((300,))
    for rule, lags in ((SlopeHAC(), 199), (SlopeHAC(smoothing=1), 5), (SlopeHAC(lags=0), 0)):
        assert rule.judge(np.concatenate([line, line])[-rule.memory :]).lags == lags
        assert rule.judge(np.full(rule.memory, 3.0)).lags == lags


# Equivalence


def p_of(rule, series):
    return rule.judge(series).p_value


def test_equivalence_claims_flat_on_a_flat_series_and_not_on_a_trend_or_one_too_noisy_to_tell():
    rule, noise, steps = SlopeEquivalence(0.002), autocorrelated((20, 500)), np.arange(500)
    for x in noise[:10]:
        assert rule.judge(23 + 0.1 * x).holds
        assert not rule.judge(23 + 0.004 * steps + 0.1 * x).holds
        assert not rule.judge(23 - 0.004 * steps + 0.1 * x).holds
    claims = sum(rule.judge(23 + 5 * x).holds for x in noise)
    absence_of_evidence = sum(SlopeHAC().judge(23 + 5 * x[-499:]).holds for x in noise)
    assert claims == 0
    assert absence_of_evidence > 0  # a slope that cannot be told from 0 is not a slope near 0


def test_equivalence_claims_falsely_at_its_level_at_most_where_the_slope_is_the_margin():
    n, level = 600, 0.05
    rule, steps = SlopeEquivalence(0.01, p=level), np.arange(500)
    claims = [rule.judge(23 + 0.01 * steps + x).holds for x in autocorrelated((n, 500), phi=0.9, seed=1)]
    assert sum(claims) <= n * level + 3 * math.sqrt(n * level * (1 - level))
    assert sum(claims) > 0  # nor does it just say no


def test_equivalence_judges_a_series_its_mirror_image_and_another_unit_alike():
    rule, double = SlopeEquivalence(0.002), SlopeEquivalence(0.004)
    for seed in range(5):
        series = 0.0005 * np.arange(500) + 0.3 * autocorrelated((500,), seed=seed)
        p_value = p_of(rule, series)
        assert p_of(rule, -series) == p_value
        assert p_of(double, 2 * series) == p_value
        assert p_of(rule, series + 16) == pytest.approx(p_value, abs=0.0011)


def test_a_wider_margin_is_claimed_sooner_and_more_noise_later():
    series = 0.0005 * np.arange(500) + 0.3 * autocorrelated((500,))
    by_margin = [p_of(SlopeEquivalence(margin), series) for margin in (0.0001, 0.0003, 0.001, 0.003, 0.01)]
    assert by_margin == sorted(by_margin, reverse=True)
    assert by_margin[0] > 0.05 > by_margin[-1]
    by_noise = [p_of(SlopeEquivalence(0.002), 23 + scale * autocorrelated((500,))) for scale in (0.1, 0.3, 1.0, 3.0)]
    assert by_noise == sorted(by_noise)
    assert by_noise[0] < 0.05 < by_noise[-1]


def test_equivalence_depends_on_its_seed_and_the_series_alone_and_leaves_the_global_generators_alone():
    series = 23 + autocorrelated((500,))
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    p_values = [p_of(SlopeEquivalence(0.01, seed=seed), series) for seed in (0, 0, 1, 2, 3)]
    assert p_values[0] == p_values[1]
    assert len(set(p_values)) > 1
    assert max(p_values) - min(p_values) < 0.1
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


# The smallest margin, and the change that it is


WINDOWS = {
    "flat": np.zeros(400),
    "trend": 0.01 * np.arange(400),
    "trend downwards": -0.01 * np.arange(400),
    "step": 1.0 * (np.arange(400) > 150),
    "late step": 1.0 * (np.arange(400) > 390),  # many a resampled series is constant
}


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("p", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("shape", WINDOWS)
def test_every_margin_above_the_smallest_holds_and_none_below(shape, p, noise):
    series = 23 + WINDOWS[shape] + noise * autocorrelated((400,), seed=5)
    rule = SlopeEquivalence(0.003, p=p, window=400)
    least = rule.judge(series).least_margin
    assert rule.judge(series).holds == (least < 0.003)
    for margin in (0.5 * least, least * (1 - 1e-9), least * (1 + 1e-9), 2 * least):
        if 0 < margin < math.inf:
            assert replace(rule, margin=margin).judge(series).holds == (margin > least)
    if noise:
        slope = abs(rule.judge(series).statistic)
        assert slope < least < math.inf
    if least == math.inf:
        assert not replace(rule, margin=1e9).judge(series).holds


def test_the_smallest_margin_is_the_further_end_of_the_interval_where_t_tests_have_one():
    # Independent noise and many blocks: the resampled distribution is nearly Student's, the error least squares'.
    steps, ratios = np.arange(2000) - 999.5, []
    for seed in range(20):
        series = 23 + 0.001 * steps + autocorrelated((2000,), phi=0.0, seed=seed)
        slope = series @ steps / (steps @ steps)
        error = math.sqrt(np.square(series - series.mean() - slope * steps).sum() / 1998 / (steps @ steps))
        ratios.append((least_margin(series, 0.05, block=20, seed=0) - abs(slope)) / error)
    assert np.mean(ratios) == pytest.approx(1.645, abs=0.15)


def test_the_smallest_margin_does_not_depend_on_the_one_asked_for_and_moves_with_the_unit_and_the_level():
    series = 23 + 0.001 * np.arange(500) + 0.3 * autocorrelated((500,), seed=3)
    least = least_margin(series, 0.05, 100, 0)
    for rule in (SlopeEquivalence(1e-9), SlopeEquivalence(5.0), SlopeEquivalence(change=0.5)):
        assert rule.judge(series).least_margin == least
    assert least_margin(-series, 0.05, 100, 0) == pytest.approx(least)
    assert least_margin(2 * series, 0.05, 100, 0) == pytest.approx(2 * least)
    by_level = [least_margin(series, p, 100, 0) for p in (0.001, 0.002, 0.01, 0.05, 0.3)]
    assert by_level == sorted(by_level, reverse=True)
    assert by_level[0] == math.inf > by_level[1]  # of 999 resamples no p-value is below 0.001


def test_where_nothing_moves_any_margin_holds_and_where_no_mask_is_none():
    for rule in (SlopeEquivalence(0.002), SlopeEquivalence(change=0.02)):
        assert rule.judge(np.full(500, 23.0))[-2:] == (0.0, 0.0)
        assert rule.judge(np.zeros(500))[-2:] == (math.inf, math.inf)
        ending_empty = np.append(23 + autocorrelated((499,)), 0.0)
        assert rule.judge(ending_empty)[-2:] == (math.inf, math.inf)
        on_a_line = rule.judge(20 + 0.125 * np.arange(500))
        assert on_a_line[-2:] == (math.inf, math.inf) and not on_a_line.holds


def test_other_rules_have_no_margin():
    for rule in (SlopeHAC(), MannKendall(), ADF()):
        assert rule.judge(23 + autocorrelated((rule.memory,)))[-2:] == (None, None)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.005, 0.3), st.floats(0.01, 1000), st.integers(0, 5))
def test_a_change_is_the_margin_that_moves_the_mean_of_the_window_by_that_fraction(change, scale, seed):
    series = scale * (23 + 0.002 * np.arange(400) + 0.3 * autocorrelated((400,), seed=seed))
    by_change = SlopeEquivalence(change=change, window=400).judge(series)
    by_margin = SlopeEquivalence(change * series.mean() / 400, window=400).judge(series)
    assert by_change == by_margin._replace(p_value=pytest.approx(by_margin.p_value, abs=0.0011), holds=by_change.holds)
    assert by_change.holds == (change > by_change.least_change)
    assert by_change.least_change == pytest.approx(by_change.least_margin * 400 / series.mean(), rel=1e-12)
    assert by_change.statistic == slope_equivalence(series, 1.0, 100, 0)[0]


def test_a_change_is_the_same_in_every_unit_of_the_norm():
    series = 23 + 0.001 * np.arange(500) + 0.3 * autocorrelated((500,), seed=3)
    rule = SlopeEquivalence(change=0.05)
    assert rule.judge(1024 * series).p_value == rule.judge(series).p_value
    assert rule.judge(1024 * series).least_change == pytest.approx(rule.judge(series).least_change)


def test_a_rule_is_written_as_it_is_read_with_the_one_of_margin_and_change_that_is_set():
    for rule in (SlopeEquivalence(0.01), SlopeEquivalence(change=0.02, patience=2)):
        assert eval(repr(rule)) == rule
        assert f"{rule.bound_by}=0.0" in repr(rule) and "None" not in repr(rule)


# Whole runs


def test_three_probes_in_a_row_are_the_default_of_equivalence_alone_and_another_number_wins():
    defaults = {type(rule): rule.patience for rule in (HammingFIFO(), SlopeHAC(), MannKendall(), ADF())}
    assert set(defaults.values()) == {1}
    assert SlopeEquivalence(0.01).patience == SlopeEquivalence(change=0.02).patience == 3
    assert SlopeEquivalence(0.01, patience=1).patience == 1


def test_on_a_trend_at_the_margin_single_probes_settle_most_runs_and_three_in_a_row_few():
    at = draws(SlopeEquivalence(MARGIN), around(line(3_000), 80, seed=1))
    eager, _, patient = (np.mean(drawn < math.inf) for drawn in at.values())
    assert eager > 0.6
    assert patient < 0.12


def test_three_probes_in_a_row_draw_a_run_that_settles_two_probes_later():
    trend = np.minimum(line(4_000, 5 * MARGIN), 5 * MARGIN * SETTLES)
    at = draws(SlopeEquivalence(MARGIN), around(trend, 20, seed=2))
    assert (at[3] < math.inf).all() and (at[1] > SETTLES).all()
    assert (at[3] - at[1] >= 200).all() and np.mean(at[3] - at[1]) < 400


@pytest.mark.parametrize("shape", never_settling(1, 10))
def test_nothing_is_drawn_where_the_norm_never_settles(shape):
    norms = never_settling(12, 4_000, 2 * MARGIN, seed=3)[shape]
    (drawn,) = draws(SlopeEquivalence(MARGIN), norms, patiences=(3,)).values()
    assert (drawn == math.inf).all()
    smallest = [v.least_margin for v in replay(SlopeEquivalence(MARGIN), enumerate(norms[0], start=1))]
    assert np.median(smallest) > 2 * MARGIN


def test_a_constant_norm_is_drawn_at_once_and_one_that_is_too_short_or_no_number_never():
    for rule in (SlopeEquivalence(MARGIN), SlopeEquivalence(change=0.02)):
        settled = [v.step for v in replay(rule, constant(rule, 1_000)) if v.settled]
        assert settled[0] == rule.earliest == 700
        assert not any(v.settled for v in replay(rule, constant(rule, 699)))
        assert replay(rule, constant(rule, 499)) == []
        with pytest.raises(LotteryError, match="finite norms"):
            replay(rule, constant(rule, 1_000, value=math.nan))


def test_adf_draws_on_trends_that_never_end_and_says_so():
    (drawn,) = draws(ADF(), around(line(3_000), 12, seed=4), patiences=(1,)).values()
    assert np.mean(drawn < math.inf) > 0.2
    assert ADF.caution and not SlopeEquivalence.caution


def test_hamming_tolerates_exactly_its_tolerance():
    kept = torch.arange(10) < 5
    moved = torch.arange(10) < 6
    assert hamming({"w": kept}, {"w": moved}) == 0.1
    for tolerance, settled in ((0.1, True), (0.0999, False)):
        verdicts = replay(HammingFIFO(2, tolerance, interval=1), [(1, {"w": kept}), (2, {"w": moved})])
        assert [verdict.settled for verdict in verdicts] == [settled]


def test_every_rule_says_what_it_looks_at_and_on_which_side_of_its_threshold_it_holds():
    series = np.random.default_rng(0).normal(size=400) + 20
    for rule in (SlopeHAC(smoothing=1, window=400), MannKendall(smoothing=1, window=400), ADF(smoothing=1, window=400)):
        finding = rule.judge(series.tolist())
        assert rule.looks_at == "p-value" and rule.threshold == rule.p
        assert finding.holds == (
            (finding.p_value > rule.threshold) if rule.holds_above else (finding.p_value < rule.threshold)
        )
    assert (HammingFIFO().looks_at, HammingFIFO(tolerance=0.2).threshold, HammingFIFO().holds_above) == (
        "largest distance",
        0.2,
        False,
    )
    assert SlopeEquivalence(0.1).threshold == 0.05 and not SlopeEquivalence(0.1).holds_above
