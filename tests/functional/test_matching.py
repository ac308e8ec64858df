import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from helpers.matching_process import SIZES, Tickets, family_rates, rates
from lightning_lottery.errors import LotteryError
from lightning_lottery.functional.matching import (
    Compared,
    SeedBlocks,
    judge_controls,
    judge_matching,
    matches_down_to,
    roc_of_threshold,
)

ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def test_three_seeds_have_the_bounds_that_a_table_of_student_s_t_gives():
    matching = judge_matching([0.91, 0.93, 0.92], [0.92, 0.92, 0.92], margin=0.02)
    # differences -0.01, 0.01, 0: mean 0, standard deviation 0.01, standard error 0.01 / sqrt(3); t(0.95, 2) = 2.91999
    assert matching.mean == pytest.approx(0)
    assert matching.high == pytest.approx(2.91999 * 0.01 / math.sqrt(3), rel=1e-5)
    assert matching.low == pytest.approx(-matching.high)
    assert matching.verdict == "matching"
    assert judge_matching([0.91, 0.93, 0.92], [0.92, 0.92, 0.92], margin=0.01).verdict == "undecided"


def test_seeds_are_compared_with_themselves_not_with_one_another():
    dense = [0.5, 0.7, 0.9]  # seeds far apart, differences small
    assert judge_matching([0.5, 0.701, 0.899], dense, margin=0.01).verdict == "matching"
    assert judge_matching([0.9, 0.5, 0.7], dense, margin=0.01).verdict == "undecided"


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.0, "matching"), (0.5, "matching"), (-0.03, "worse"), (-0.5, "worse")]
)
def test_differences_with_little_noise_are_decided_by_their_side_of_the_margin(difference, verdict):
    values = [0.5 + difference + noise for noise in (0, 1e-4, -1e-4)]
    assert judge_matching(values, [0.5] * 3, margin=0.02).verdict == verdict


@pytest.mark.parametrize("difference", [0.0, -0.03, 0.03])
def test_no_spread_is_no_certainty(difference):
    matching = judge_matching([0.5 + difference] * 3, [0.5] * 3, margin=0.02)
    assert (matching.verdict, matching.reason) == ("undecided", "no spread between seeds is no certainty")
    same = SeedBlocks(np.ones(10), np.full((3, 10), difference))
    crossed = judge_matching([0.5 + difference] * 3, [0.5] * 3, margin=0.02, blocks=same)
    assert (crossed.verdict, crossed.reason) == ("undecided", "no spread between seeds and samples is no certainty")


@pytest.mark.parametrize(("samples", "verdict"), [(100, "undecided"), (1000, "matching")])
def test_networks_that_differ_on_no_sample_are_as_sure_as_if_they_differed_on_one(samples, verdict):
    same = SeedBlocks(np.full(10, samples / 10), np.zeros((3, 10)))
    matching = judge_matching([0.5] * 3, [0.5] * 3, margin=0.01, blocks=same, samples=samples)
    assert matching.verdict == verdict
    assert matching.high == -matching.low == pytest.approx(1.833113 / samples)  # t(0.95, 9)


def test_a_difference_of_exactly_the_margin_is_undecided():
    assert judge_matching([0.25, 0.25], [0.5, 0.5], margin=0.25).verdict == "undecided"


def test_one_seed_gives_an_estimate_and_no_verdict_however_good_it_is():
    matching = judge_matching([0.99], [0.5])
    assert (matching.mean, matching.low, matching.high, matching.verdict) == (
        pytest.approx(0.49),
        None,
        None,
        "undecided",
    )
    assert matching.reason == "one seed gives an estimate, no verdict"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_seed_that_diverged_decides_nothing(odd):
    matching = judge_matching([0.9, odd], [0.9, 0.9])
    assert (matching.verdict, matching.reason) == ("undecided", "a value is not finite")


@given(ACCURACIES, st.floats(1e-6, 0.5), st.floats(0.001, 0.5))
def test_what_is_better_for_every_seed_alike_is_never_called_worse_and_a_wider_margin_never_turns_a_match(
    v, up, margin
):
    assert judge_matching([value + up for value in v], v, margin).verdict != "worse"
    order = ("worse", "undecided", "matching")
    reversed_values = v[::-1]
    verdicts = [judge_matching(reversed_values, v, wide).verdict for wide in (margin, 2 * margin, 4 * margin)]
    assert verdicts == sorted(verdicts, key=order.index)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_a_true_difference_of_the_margin_is_called_a_match_in_one_of_twenty_experiments(seeds):
    random = np.random.RandomState(0)
    trials, margin = 4000, 0.01
    differences = random.normal(-margin, 0.02, size=(trials, seeds))
    verdicts = [judge_matching(list(0.9 + change), [0.9] * seeds, margin).verdict for change in differences]
    for wrong in ("matching", "worse"):  # each is one side of the truth
        rate = verdicts.count(wrong) / trials
        assert abs(rate - 0.05) < 4 * math.sqrt(0.05 * 0.95 / trials)


def in_blocks(differences, weights=(30.0,) * 12, *, shared=0.0, alone=0.0):
    """Blocks with these means, and so much spread over blocks that seeds share, or that each has alone."""
    random, weights = np.random.default_rng(0), np.array(weights)
    spread = shared * random.normal(size=len(weights))
    spread = spread + alone * random.normal(size=(len(differences), len(weights)))
    spread -= (spread @ weights / weights.sum())[:, None]
    return SeedBlocks(weights, np.array(differences)[:, None] + spread)


def test_with_blocks_the_variance_is_that_between_seeds_and_that_over_samples_which_seeds_share():
    dense, differences = [0.9, 0.92, 0.94], np.array([-0.002, 0.003, 0.002])
    blocks = in_blocks(differences, shared=0.03)
    matching = judge_matching(list(dense + differences), dense, 0.05, blocks=blocks)
    # Whatever all seeds share moves no difference between seeds: nothing is subtracted from their variance.
    samples = blocks.differences[0].var(ddof=1) / 12
    networks = differences.var(ddof=1) / 3
    assert matching.test_standard_error == pytest.approx(math.sqrt(samples))
    assert matching.standard_error == pytest.approx(math.sqrt(networks + samples))
    freedom = (networks + samples) ** 2 / (networks**2 / 2 + samples**2 / 11)
    reach = stats.t.ppf(0.95, freedom) * math.sqrt(networks + samples)
    assert (matching.low, matching.high) == (pytest.approx(0.001 - reach), pytest.approx(0.001 + reach))


def test_spread_between_seeds_that_samples_alone_explain_is_not_counted_twice():
    blocks = in_blocks([0.001, -0.001], alone=0.05)
    matching = judge_matching([0.901, 0.899], [0.9, 0.9], 0.05, blocks=blocks)
    assert matching.standard_error == matching.test_standard_error


def test_blocks_of_unequal_size_weigh_by_their_samples():
    weights = [50.0, *(10.0,) * 8]
    values = np.array([[0.1, *(-0.02, 0.04) * 4]])
    mean = (50 * 0.1 + 10 * 8 * 0.01) / 130
    matching = judge_matching([0.5 + mean], [0.5], blocks=SeedBlocks(np.array(weights), values))
    shares = np.array(weights) / 130
    assert matching.standard_error == pytest.approx(math.sqrt(9 / 8 * np.sum((shares * (values[0] - mean)) ** 2)))


def test_one_seed_with_blocks_has_a_verdict_about_its_networks():
    matching = judge_matching([0.9], [0.9], 0.02, blocks=in_blocks([0.0], alone=0.02))
    assert (matching.verdict, matching.about) == ("matching", "the networks of this seed")
    assert matching.standard_error == matching.test_standard_error > 0
    assert matching.power > 0.8 and matching.seeds_needed is None  # nothing is known of other seeds
    assert judge_matching([0.9, 0.91], [0.9, 0.912]).about == "seeds"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_in_a_block_or_a_seed_is_never_a_match(odd):
    blocks = in_blocks([0.0, 0.0], alone=0.001)
    blocks.differences[1, 3] = odd
    for values in ([0.9, 0.9], [0.9, odd]):
        matching = judge_matching(values, [0.9, 0.9], blocks=blocks)
        assert (matching.verdict, matching.reason, matching.low) == ("undecided", "a value is not finite", None)


def test_the_order_of_seeds_and_of_blocks_and_the_unit_of_weights_do_not_matter():
    differences = [0.001, -0.004, 0.002]
    blocks = in_blocks(differences, np.arange(1.0, 13), shared=0.02, alone=0.02)

    def judged(seeds, order, unit):
        some = SeedBlocks(unit * blocks.weights[order], blocks.differences[seeds][:, order])
        matching = judge_matching([differences[seed] for seed in seeds], [0.0] * 3, blocks=some)
        return [matching.low, matching.high, matching.power, matching.seeds_needed]

    there, back = judged([0, 1, 2], np.arange(12), 1.0), judged([2, 0, 1], np.arange(12)[::-1], 0.5)
    assert there == pytest.approx(back)


@pytest.mark.parametrize(("sd", "power", "seeds"), [(0.003, 0.96, 3), (0.008, 0.43, 6), (0.014, 0.21, 14)])
def test_the_power_of_three_seeds_and_the_seeds_that_it_takes_are_those_of_the_review(sd, power, seeds):
    matching = judge_matching([0.9 - sd, 0.9, 0.9 + sd], [0.9] * 3)
    assert matching.power == pytest.approx(power, abs=0.01)
    assert matching.seeds_needed == seeds


@pytest.mark.parametrize(("sd", "seeds"), [(0.003, 3), (0.008, 3), (0.008, 6), (0.014, 14)])
def test_the_power_is_the_share_of_true_matches_that_are_found(sd, seeds):
    spread = np.linspace(-1, 1, seeds)
    stated = judge_matching(list(0.9 + sd * spread / spread.std(ddof=1)), [0.9] * seeds).power
    differences = np.random.default_rng(0).normal(0, sd, size=(3000, seeds))
    found = np.mean([judge_matching(list(each), [0.0] * seeds).verdict == "matching" for each in differences])
    assert stated == pytest.approx(found, abs=4 * math.sqrt(0.25 / 3000))


def test_where_samples_that_all_seeds_share_leave_too_little_no_number_of_seeds_is_enough():
    differences = [0.001, -0.002, 0.001]
    shared, alone = (
        judge_matching(differences, [0.0] * 3, blocks=in_blocks(differences, **{kind: 0.03}))
        for kind in ("shared", "alone")
    )
    assert shared.seeds_needed is None and shared.power < 0.8
    assert 3 < alone.seeds_needed < 20  # what each seed has alone more of them average away


@pytest.mark.parametrize("error", [Tickets(), Tickets(error=0.15, unstable=0.12, lost=0.03)])
@pytest.mark.parametrize(("samples", "blocks"), SIZES)
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_true_loss_of_the_margin_is_called_a_match_in_at_most_six_percent_over_seeds_and_samples(
    error, samples, blocks, seeds
):
    process = replace(error, samples=samples, blocks=blocks)
    assert rates(process, seeds, repetitions=500)["crossed"] <= 0.06 + 1.65 * math.sqrt(0.06 * 0.94 / 500)


def test_seeds_alone_call_a_loss_of_the_margin_a_match_far_more_often_than_they_state():
    shares = rates(Tickets(samples=1000, blocks=10), 5, repetitions=300)
    assert shares["seeds alone"] > 0.12 > shares["crossed"]


def test_a_true_match_is_found_where_samples_are_many_or_the_margin_is_wide_enough():
    true = Tickets(difference=0.0, samples=4000, blocks=20, lost=0.005, unstable=0.02, seeds=0.002)
    assert rates(true, 3, repetitions=200)["crossed"] > 0.9


@pytest.mark.parametrize("seeds", [3, 5])
def test_of_fourteen_levels_none_of_which_matches_the_sequence_names_one_in_at_most_six_percent(seeds):
    shares = family_rates(Tickets(), seeds, repetitions=300)
    assert shares["in sequence, crossed"] <= 0.06 + 1.65 * math.sqrt(0.06 * 0.94 / 300)
    assert shares["any, crossed"] > 0.15  # which is what the sequence is for


WORDS = {"matching": (0.0, 1e-4, -1e-4), "worse": (-0.5, -0.501, -0.502), "undecided": (0.3, -0.3, 0.0)}


@pytest.mark.parametrize(
    ("verdicts", "density"),
    [
        ((), None),
        (("matching", "matching"), 0.25),
        (("matching", "undecided", "matching"), 0.5),
        (("worse", "matching"), None),
        (("undecided", "matching"), None),
    ],
)
def test_levels_count_down_to_the_first_that_does_not_match(verdicts, density):
    levels = [(0.5**n, judge_matching(WORDS[word], [0.0] * 3)) for n, word in enumerate(verdicts, start=1)]
    assert [level.verdict for _, level in levels] == list(verdicts)
    assert matches_down_to(levels) == density


def test_levels_in_another_order_are_refused():
    matching = judge_matching(WORDS["matching"], [0.0] * 3)
    for densities in ((0.25, 0.5), (0.5, 0.5)):
        with pytest.raises(LotteryError, match="from the densest down, got the densities"):
            matches_down_to([(density, matching) for density in densities])


def test_a_control_s_p_is_that_of_a_paired_t_test_and_holm_multiplies_the_smallest_by_their_number():
    ticket, random = [0.9, 0.91, 0.93], np.random.default_rng(0)
    controls = {name: list(np.array(ticket) - lead + random.normal(0, 0.01, 3)) for name, lead in LEADS.items()}
    verdicts = judge_controls({name: Compared(ticket, control) for name, control in controls.items()})
    p = {name: stats.ttest_rel(ticket, control, alternative="greater").pvalue for name, control in controls.items()}
    assert {name: verdict.p for name, verdict in verdicts.items()} == pytest.approx(p)
    first, second, third = sorted(p, key=p.get)
    assert verdicts[first].adjusted == pytest.approx(3 * p[first])
    assert verdicts[second].adjusted == pytest.approx(max(3 * p[first], 2 * p[second]))
    assert verdicts[third].adjusted == pytest.approx(max(3 * p[first], 2 * p[second], p[third]))
    assert verdicts["far"].superior and not verdicts["none"].superior and list(verdicts) == list(LEADS)
    assert verdicts["far"].mean == pytest.approx(np.mean(np.array(ticket) - controls["far"]))


LEADS = {"near": 0.03, "far": 0.4, "none": 0.0}


def test_a_control_that_is_better_is_not_beaten_and_its_p_is_near_one():
    verdict = judge_controls({"better": Compared([0.5, 0.51, 0.52], [0.9, 0.92, 0.91])})["better"]
    assert not verdict.superior and verdict.p > 0.99 and verdict.mean < 0


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        ([0.1, math.nan], "a value is not finite"),
        ([0.1, 0.2], "no spread between seeds is no certainty"),
        (None, "one seed gives an estimate, no verdict"),
    ],
)
def test_a_control_without_a_p_value_is_not_beaten_and_counts_in_the_family(control, reason):
    odd = Compared([0.9], [0.1]) if control is None else Compared([0.9, 1.0], control)
    alone = judge_controls({"far": Compared([0.9, 0.91], [0.3, 0.31001])})["far"]
    verdicts = judge_controls({"far": Compared([0.9, 0.91], [0.3, 0.31001]), "odd": odd})
    assert (verdicts["odd"].superior, verdicts["odd"].p, verdicts["odd"].reason) == (False, None, reason)
    assert verdicts["far"].adjusted == pytest.approx(2 * alone.p) and verdicts["far"].reason == ""


def test_with_blocks_one_seed_is_enough_to_beat_a_control():
    blocks = in_blocks([0.1], alone=0.02)
    assert judge_controls({"shuffled": Compared([0.9], [0.8], blocks, 360)})["shuffled"].superior


def test_tickets_that_are_no_better_than_their_controls_are_called_superior_in_one_of_twenty_families():
    random, wrong, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        pairs = {str(n): Compared(*random.normal(0, 0.01, size=(2, 3)).tolist()) for n in range(8)}
        wrong += any(verdict.superior for verdict in judge_controls(pairs).values())
    assert abs(wrong / trials - 0.05) < 4 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("weights", "differences", "says"),
    [
        (np.ones(7), np.zeros((2, 7)), "in 8 blocks or more, none of them empty, got 7"),
        (np.zeros(8), np.zeros((2, 8)), "none of them empty"),
        (np.full(8, math.nan), np.zeros((2, 8)), "none of them empty"),
        (np.ones(8), np.zeros((2, 9)), r"a difference for each of the 8 blocks, got the shape \(2, 9\)"),
        (np.ones(8), np.zeros(8), r"got the shape \(8,\)"),
    ],
)
def test_blocks_that_are_none_are_refused(weights, differences, says):
    with pytest.raises(LotteryError, match=says):
        SeedBlocks(weights, differences)


def test_blocks_of_other_seeds_or_values_are_refused():
    blocks = in_blocks([0.0, 0.0], alone=0.01)
    with pytest.raises(LotteryError, match="blocks of 2 seeds for 3 values"):
        judge_matching([0.9] * 3, [0.9] * 3, blocks=blocks)
    with pytest.raises(LotteryError, match="The blocks are of other values"):
        judge_matching([0.9, 0.8], [0.9, 0.9], blocks=blocks)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(LotteryError, match="seed by seed: 2 values for 3 references"):
        judge_matching([1, 1], [1, 1, 1])
    with pytest.raises(LotteryError, match="0 values for 0"):
        judge_matching([], [])
    for margin in (0, -0.1, math.nan, math.inf, True, None):
        with pytest.raises(LotteryError, match="`margin` is the loss that still counts as a match, > 0, got"):
            judge_matching([1, 1], [1, 1], margin=margin)


TICKETS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=20).filter(
    lambda some: len({match for _, match in some}) == 2
)


@given(TICKETS)
def test_the_area_counts_the_pairs_in_which_the_matching_ticket_has_the_lower_barrier(tickets):
    matching = roc_of_threshold([barrier / 100 for barrier, _ in tickets], [match for _, match in tickets])
    pairs = [(a, b) for a, match in tickets if match for b, reversed_values in tickets if not reversed_values]
    assert matching.auc == pytest.approx(np.mean([(a < b) + (a == b) / 2 for a, b in pairs]))


@given(TICKETS)
def test_the_curve_says_what_each_threshold_does_and_the_best_one_does_it_best(tickets):
    barriers, matches = np.array([barrier / 100 for barrier, _ in tickets]), np.array([match for _, match in tickets])
    matching = roc_of_threshold(barriers, matches)
    for threshold, tpr, fpr in zip(matching.thresholds, matching.tpr, matching.fpr, strict=True):
        assert (tpr, fpr) == (np.mean(barriers[matches] < threshold), np.mean(barriers[~matches] < threshold))
    assert (matching.tpr[0], matching.fpr[0], matching.tpr[-1], matching.fpr[-1]) == (0, 0, 1, 1)
    gains = [np.mean(barriers[matches] < t) - np.mean(barriers[~matches] < t) for t in (*barriers, math.inf)]
    assert (
        matching.youden
        == pytest.approx(max(gains))
        == pytest.approx(np.mean(barriers[matches] < matching.best) - np.mean(barriers[~matches] < matching.best))
    )


def test_a_threshold_lies_midway_between_the_kinds_it_parts():
    matching = roc_of_threshold([0.1, 0.3, 0.01, 0.02], [False, False, True, True])
    assert matching.best == pytest.approx(0.06) and (matching.auc, matching.youden) == (1, 1)
    equal = roc_of_threshold([0.1] * 4, [True, False, True, False])
    assert (equal.auc, equal.youden) == (0.5, 0)


@pytest.mark.parametrize(
    ("barriers", "matches", "says"),
    [
        ([0.1, 0.2], [True, True], "all of them match"),
        ([0.1, 0.2], [False, False], "none of them matches"),
        ([0.1, 0.2], [True], "2 barriers for 1 tickets"),
        ([0.1, math.nan], [True, False], "1 of 2 barriers are not finite"),
        ([], [], "of 0 none of them matches"),
    ],
)
def test_what_has_no_curve_is_an_error(barriers, matches, says):
    with pytest.raises(LotteryError, match=says):
        roc_of_threshold(barriers, matches)
