import io
import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from scipy.signal import lfilter

import oracles
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.masks import count, hamming, keep_top
from lightning_lottery.functional.settling import (
    ADF,
    Detector,
    HammingFIFO,
    MannKendall,
    Rule,
    SlopeEquivalence,
    SlopeHAC,
    layers_by_units,
    moving_average,
    newest_distances,
    nuclear_norm,
    replay,
    scores_differ,
)

short = {"smoothing": 5, "window": 20, "every": 10}
NORM_RULES = [
    SlopeHAC(**short),
    MannKendall(**short),
    MannKendall(variant="hamed_rao", **short),
    ADF(**short),
    SlopeEquivalence(0.05, block=5, window=20, every=10),
]
RULES = [HammingFIFO(length=3, tolerance=0.2, every=10), *NORM_RULES]
names = [f"{type(rule).__name__}-{getattr(rule, 'variant', '')}" for rule in RULES]
every_rule = pytest.mark.parametrize("rule", RULES, ids=names)
every_norm_rule = pytest.mark.parametrize("rule", NORM_RULES, ids=names[1:])


def autocorrelated(shape, phi=0.9, seed=0):
    """Stationary AR(1) series of variance 1 along the last axis."""
    noise = np.random.default_rng(seed).standard_normal((*shape[:-1], shape[-1] + 500))
    return (lfilter([1.0], [1.0, -phi], noise, axis=-1) * math.sqrt(1 - phi**2))[..., 500:]


def coefficients(steps, seed=0, settled_from=60):
    """[steps, 3 layers, 8 heads] of a training whose coefficients come to rest, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(3, 8, generator=generator) * torch.arange(1, steps + 1).clamp(max=settled_from)[:, None, None]
    return 1 + 0.02 * drift + 0.2 * torch.randn(steps, 3, 8, generator=generator)


def masks_of(scores):
    return keep_top({f"layer {i}": layer for i, layer in enumerate(scores)}, 0.5, per="tensor")


def series_for(rule, steps=150):
    """A logged series of what the rule watches."""
    masks = [masks_of(scores) for scores in coefficients(steps)]
    if rule.watches == "norms":
        masks = [nuclear_norm(layers_by_units(mask)).item() for mask in masks]
    return list(enumerate(masks, start=1))


def constant(rule, steps, value=None):
    mask = {"heads": torch.tensor([True, False])} if rule.watches == "masks" else 23.0
    return [(step, mask if value is None else value) for step in range(1, steps + 1)]


def same(a, b):
    return [tuple(map(repr, verdict)) for verdict in a] == [tuple(map(repr, verdict)) for verdict in b]


# Golden vectors


@pytest.fixture(scope="session")
def stationarity(golden):
    with np.load(golden / "stationarity.npz") as arrays:
        return dict(arrays), json.loads((golden / "stationarity.json").read_text())


def stored_masks(arrays, prefix):
    flat = np.unpackbits(arrays[f"{prefix}_masks_packed"])[: 12 * 3000 * 12]
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


@pytest.mark.parametrize("prefix", ["p20", "p30"])
@pytest.mark.parametrize(
    ("rule", "key", "lags"),
    [
        (SlopeHAC(lags=5), "hac5", 5),
        (SlopeHAC(lags=17), "hac17", 17),
        (SlopeHAC(), "hac199", 199),
        (MannKendall(), "mk", None),
        (MannKendall(variant="hamed_rao"), "hr", None),
        (ADF(), "adf", "adf_lag"),
    ],
    ids=["HAC 5", "HAC 17", "HAC 199", "Mann-Kendall", "Hamed-Rao", "ADF"],
)
def test_verdicts_on_the_stored_norms_are_the_golden_ones_at_every_probe(stationarity, prefix, rule, key, lags):
    arrays, summary = stationarity
    verdicts = replay(rule, enumerate(arrays[f"{prefix}_nuclear_norm"], start=1))
    assert [verdict.step for verdict in verdicts] == arrays[f"{prefix}_probe_steps"].tolist()
    np.testing.assert_allclose([v.p_value for v in verdicts], arrays[f"{prefix}_{key}_p"], rtol=1e-6, atol=1e-12)
    statistic = {"mk": "mk_z", "adf": "adf_stat", "hr": None}.get(key, "slope")
    if statistic:
        np.testing.assert_allclose([v.statistic for v in verdicts], arrays[f"{prefix}_{statistic}"], rtol=1e-8)
    expected = arrays[f"{prefix}_{lags}"].tolist() if lags == "adf_lag" else [lags] * len(verdicts)
    assert [verdict.lags for verdict in verdicts] == expected
    first = {"mk": "mk", "hr": "hamed_rao"}.get(key, key)
    assert next(v.step for v in verdicts if v.settled) == summary["summary_first_trigger"][f"{prefix}_"][first]


@pytest.mark.parametrize(
    ("rule", "key"),
    [(SlopeHAC(lags=5, smoothing=1), "hac5_p"), (MannKendall(smoothing=1), "mk_p"), (ADF(smoothing=1), "adf_p")],
)
def test_awkward_series_have_the_golden_p_values_and_a_constant_one_its_defined_one(stationarity, rule, key):
    arrays, summary = stationarity
    for name, expected in summary["edge_cases"].items():
        found = rule.judge(arrays[f"edge_{name}"])
        p_value = (0.0 if key == "adf_p" else 1.0) if name == "constant" else expected[key]
        assert found.p_value == pytest.approx(p_value, rel=1e-6, abs=1e-12)
        assert found.holds == (p_value < rule.p if key == "adf_p" else p_value > rule.p)


@pytest.mark.parametrize("length", [5, 3])
def test_distances_and_the_draw_of_the_stored_batch_norm_masks_are_the_authors(golden, length):
    run = torch.load(golden / "earlybird_bn.pt", weights_only=False)["runs"][f"p50_keep{length}"]
    masks = [{"scales": mask} for mask in run["masks"]]
    for newest in range(length - 1, len(masks)):
        distances = newest_distances(masks[newest - length + 1 : newest + 1])
        assert distances == pytest.approx([float(d) for d in run["dists"][newest]], abs=1e-12)
    verdicts = replay(HammingFIFO(length=length, every=1), enumerate(masks, start=1))
    assert [v.settled for v in verdicts] == [bool(flag) for flag in run["flags"][length - 1 :]]
    assert next(v.step for v in verdicts if v.settled) - 1 == run["first_epoch_index"]


def test_the_empty_masks_of_equal_scales_on_which_the_authors_code_draws_never_settle(golden):
    run = torch.load(golden / "earlybird_bn.pt", weights_only=False)["constant_run"]
    assert run["first_epoch_index"] == 4
    assert not any(run["kept"])
    verdicts = replay(HammingFIFO(every=1), enumerate([{"scales": mask} for mask in run["masks"]], start=1))
    assert len(verdicts) == 4
    assert not any(verdict.settled for verdict in verdicts)


def test_our_masks_keep_what_the_stored_ones_keep_and_the_units_that_they_miscounted(golden, stationarity):
    arrays, _ = stationarity
    stored = stored_masks(arrays, "p20")
    for step in range(0, 3000, 150):
        ours = keep_top({str(i): torch.from_numpy(arrays["coefs"][i, step]) for i in range(12)}, 0.2, per="tensor")
        assert count(ours) == (120, 144)
        assert (layers_by_units(ours) | ~stored[step]).all()
        assert stored[step].sum() == 108
    bn = torch.load(golden / "earlybird_bn.pt", weights_only=False)
    for gammas, mask in zip(bn["gammas"], bn["runs"]["p50_keep5"]["masks"], strict=True):
        ours = torch.cat(list(keep_top({str(i): g.abs() for i, g in enumerate(gammas)}, 0.5).values()))
        assert (ours.sum(), mask.sum()) == (56, 55)
        assert (ours | ~mask).all()


# Norms and matrices


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**30))
def test_the_nuclear_norm_is_the_sum_of_singular_values_also_with_repeated_and_empty_rows(layers, units, copies, seed):
    matrix = torch.rand(layers, units, generator=torch.Generator().manual_seed(seed)) > 0.3
    matrix[: min(copies, layers)] = matrix[0].clone()
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False).sum()
    assert nuclear_norm(matrix).item() == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert nuclear_norm(matrix.mT).item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_norms_that_are_known_by_heart():
    assert nuclear_norm(torch.ones(12, 3001).bool()).item() == pytest.approx(math.sqrt(12 * 3001), rel=1e-12)
    assert nuclear_norm(torch.zeros(12, 12).bool()).item() == 0
    assert nuclear_norm(torch.eye(5).bool()).item() == 5


def test_a_batch_has_the_norms_of_its_matrices_bit_for_bit_also_under_autocast():
    matrices = torch.rand(4, 5, 12, 3072, generator=torch.Generator().manual_seed(0)) > 0.2
    norms = nuclear_norm(matrices)
    assert norms.dtype == torch.float64
    alone = torch.stack([torch.stack([nuclear_norm(matrix) for matrix in row]) for row in matrices])
    assert torch.equal(norms, alone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nuclear_norm(matrices), norms)


def test_layers_of_unequal_size_are_filled_up_with_removed_units():
    ragged = {"a": torch.tensor([[True, False, True], [True, True, True]]), "b": torch.tensor([[True], [False]])}
    matrix = layers_by_units(ragged)
    assert matrix.tolist() == [
        [[True, False, True], [True, False, False]],
        [[True, True, True], [False, False, False]],
    ]
    assert torch.equal(layers_by_units({name: layer[0] for name, layer in ragged.items()}), matrix[0])
    wider = torch.nn.functional.pad(matrix, (0, 4))
    assert nuclear_norm(wider).tolist() == pytest.approx(nuclear_norm(matrix).tolist())


@pytest.mark.parametrize(
    "masks", [{}, {"a": torch.ones(2)}, {"a": torch.tensor(True)}], ids=["none", "float", "scalar"]
)
def test_what_are_no_unit_masks_make_no_matrix(masks):
    with pytest.raises(LotteryError, match="a|empty"):
        layers_by_units(masks)


@pytest.mark.parametrize("matrix", [torch.ones(2, 2), torch.ones(2).bool()])
def test_the_norm_of_what_is_no_bool_matrix_is_refused(matrix):
    with pytest.raises(LotteryError, match="bool matrices"):
        nuclear_norm(matrix)


def test_a_moving_average_is_the_mean_of_each_run_and_refuses_a_run_longer_than_the_series():
    series = np.arange(7.0) ** 2
    assert moving_average(series, 3).tolist() == pytest.approx([sum(series[i : i + 3]) / 3 for i in range(5)])
    assert moving_average(series, 1).tolist() == series.tolist()
    assert moving_average(series, 7).tolist() == pytest.approx([13.0])
    for length in (0, 8):
        with pytest.raises(LotteryError, match="series of 7"):
            moving_average(series, length)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=6))
def test_newest_distances_count_the_entries_that_differ_from_the_last_mask(rows):
    masks = [{"w": torch.tensor(row)} for row in rows]
    assert newest_distances(masks) == [oracles.hamming({"w": row}, {"w": rows[-1]}) for row in rows[:-1]]


# The detector


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
    assert same(live, replay(rule, log))
    assert same(live, replay(rule, series_for(rule)))
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


@every_rule
def test_memory_is_bounded_by_what_a_probe_looks_at(rule):
    detector = Detector(rule)
    for step, observed in series_for(rule):
        detector.push(step, observed)
    assert len(detector.state_dict()["observed"]) == rule.memory


def test_a_mask_that_changes_after_it_was_pushed_is_remembered_as_it_was():
    detector, mask = Detector(HammingFIFO(length=2, every=1)), {"w": torch.tensor([True, False])}
    detector.push(1, mask)
    mask["w"].logical_not_()
    assert detector.push(2, mask).statistic == 1.0


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 80), st.integers(1, 4), st.integers(1, 25), st.integers(2, 4))
def test_no_rule_can_settle_before_its_earliest_step_and_a_constant_series_settles_there(
    every, min_steps, patience, smoothing, length
):
    common = {"every": every, "min_steps": min_steps, "patience": patience}
    for rule in (HammingFIFO(length, **common), ADF(smoothing=smoothing, window=25, **common)):
        verdicts = replay(rule, constant(rule, rule.earliest))
        assert [verdict.step for verdict in verdicts if verdict.settled] == [rule.earliest]


def test_the_earliest_step_with_every_default_is_the_first_probe_with_a_full_window():
    rules = (HammingFIFO(), SlopeHAC(), MannKendall(), ADF(), SlopeEquivalence(0.01))
    assert [rule.earliest for rule in rules] == [500] * 5


@every_rule
def test_a_constant_series_settles_once_min_steps_have_passed_and_not_before(rule):
    patient = type(rule)(**{**asdict(rule), "min_steps": 75, "patience": 2})
    verdicts = replay(patient, constant(patient, 110))
    assert all(verdict.holds for verdict in verdicts)
    assert [verdict.step for verdict in verdicts if verdict.settled] == [90, 100, 110]


def test_patience_counts_probes_in_a_row():
    still, moving = {"w": torch.tensor([True, False])}, {"w": torch.tensor([False, True])}
    series = enumerate([still, still, still, moving, still, still, still], start=1)
    verdicts = replay(HammingFIFO(length=2, tolerance=0.0, every=1, patience=2), series)
    assert [v.holds for v in verdicts] == [True, True, False, False, True, True]
    assert [v.settled for v in verdicts] == [False, True, False, False, False, True]


@every_rule
def test_a_step_left_out_begins_a_new_series(rule):
    series = series_for(rule)
    broken = [entry for entry in series if entry[0] != 40]
    new = [entry for entry in series if entry[0] > 40]
    expected = replay(rule, series[:39]) + replay(rule, new)
    assert same(replay(rule, broken), expected)


def test_masks_between_probes_are_neither_looked_at_nor_missed():
    rule = HammingFIFO(length=2, every=10)
    series = series_for(rule)
    assert same(replay(rule, series), replay(rule, [entry for entry in series if entry[0] % 10 == 0]))


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


# Degenerate networks


@every_rule
def test_an_empty_mask_never_settles_however_constant(rule):
    empty = {"heads": torch.zeros(4).bool()} if rule.watches == "masks" else 0.0
    verdicts = replay(rule, constant(rule, 100, value=empty))
    assert verdicts
    assert not any(verdict.holds or verdict.settled for verdict in verdicts)


def test_a_mask_that_keeps_everything_never_settles():
    rule = HammingFIFO(length=2, every=1)
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
        (lambda: ADF(every=0), "every"),
        (lambda: ADF(every=10.0), "every"),
        (lambda: ADF(min_steps=-1), "min_steps"),
        (lambda: ADF(patience=0), "patience"),
        (lambda: HammingFIFO(1), "length"),
        (lambda: HammingFIFO(tolerance=1.0), "tolerance"),
        (lambda: HammingFIFO(tolerance=math.nan), "tolerance"),
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
    path = f"lightning_lottery.functional.settling.{type(rule).__name__}"
    config = parser.parse_object({"rules": [{"class_path": path, "init_args": asdict(rule)}]})
    assert parser.instantiate(config).rules == [rule]
    with pytest.raises(FrozenInstanceError):
        rule.every = 1


def test_lags_are_smoothing_less_one_and_those_of_newey_and_west_without_smoothing():
    line = np.linspace(20, 21, 300) + autocorrelated((300,))
    for rule, lags in ((SlopeHAC(), 199), (SlopeHAC(smoothing=1), 5), (SlopeHAC(lags=0), 0)):
        assert rule.judge(np.concatenate([line, line])[-rule.memory :]).lags == lags
        assert rule.judge(np.full(rule.memory, 3.0)).lags == lags


def test_the_package_is_imported_without_the_libraries_of_the_tests():
    heavy = "{'statsmodels', 'pymannkendall'} & set(sys.modules)"
    program = f"import sys, lightning_lottery.functional.settling; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", program], check=True)


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


def test_hamming_tolerates_exactly_its_tolerance():
    kept = torch.arange(10) < 5
    moved = torch.arange(10) < 6
    assert hamming({"w": kept}, {"w": moved}) == 0.1
    for tolerance, settled in ((0.1, True), (0.0999, False)):
        verdicts = replay(HammingFIFO(2, tolerance, every=1), [(1, {"w": kept}), (2, {"w": moved})])
        assert [verdict.settled for verdict in verdicts] == [settled]
