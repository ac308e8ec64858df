import json
from dataclasses import asdict, replace

import pytest

from lightning_lottery.connectivity.averaging import Average, Averaging
from lightning_lottery.functional.matching import Matching

NAMES = ("a", "b", "c")


def gain(verdict, low=-0.01, high=0.03):
    return Matching(0.01, low, high, 0.02, verdict, "")


def averaging(mean, soup=None, layers=None, chosen_on=100):
    averages = [Average("mean", (0, 1, 2), (), 0.9, gain(mean))]
    averages += [Average("soup", (0, 2), (), 0.91, gain(soup))] if soup else []
    averages += (
        [Average("layers", (0, 1, 2), tuple(f"layer{n}" for n in range(8)), 0.92, gain(layers))] if layers else []
    )
    return Averaging(1, chosen_on, tuple(averages))


@pytest.mark.parametrize(
    ("verdicts", "verdict", "fit"),
    [
        (("matching", "matching"), "may be averaged", "mean"),
        (("worse", "matching"), "only these networks", "soup"),
        (("undecided", "undecided", "matching"), "only these layers", "layers"),
        (("worse", "undecided", "worse"), "not", None),
        (("undecided", "worse", "worse"), "undecided", None),
        (("worse",), "not", None),
    ],
)
def test_the_first_average_that_is_fit_gives_the_verdict_else_the_mean_does(verdicts, verdict, fit):
    judged = averaging(*verdicts)
    assert judged.verdict == verdict and (judged.fit and judged.fit.recipe) == fit


def test_sentences_say_the_verdict_first_then_each_average_then_where_the_best_was_chosen():
    sentences = averaging("worse", "undecided", "matching").sentences(NAMES, "test_acc", 200)
    assert sentences == [
        "Only these layers may be averaged: layer0, layer1, layer2, layer3, layer4, layer5 and 2 more.",
        "The mean of all 3 networks has test_acc 0.9000, +0.0100 against the best single network (-0.0100 to +0.0300): "
        "a loss above 0.02.",
        "The greedy soup of a, c has test_acc 0.9100, +0.0100 against the best single network (-0.0100 to +0.0300): "
        "perhaps a loss of 0.02.",
        "b with the mean of all networks in layer0, layer1, layer2, layer3, layer4, layer5 and 2 more has test_acc "
        "0.9200, +0.0100 against the best single network (-0.0100 to +0.0300): no loss of 0.02.",
        "The best single network is b, chosen on 100 validation samples; averages are judged on 200 others.",
    ]
    assert averaging("matching").sentences(NAMES, "test_acc", 200)[0] == "All 3 networks may be averaged."
    assert averaging("worse", "matching").sentences(NAMES, "f1", 9)[0] == "Only these networks may be averaged: a, c."
    assert averaging("undecided").sentences(NAMES, "f1", 9)[0] == "Undecided whether they may be averaged."


@pytest.mark.parametrize(("soup", "says"), [(None, "mean."), ("worse", "mean and flatters what else was chosen.")])
def test_they_say_what_choosing_on_the_judged_samples_does(soup, says):
    last = averaging("worse", soup, chosen_on=0).sentences(NAMES, "test_acc", 200)[-1]
    assert last.endswith(f"chosen on the 200 samples that all are judged by, which favours it over the {says}")


def test_it_is_read_from_what_json_keeps_of_it():
    judged = averaging("worse", "undecided", "matching")
    assert Averaging.read(json.loads(json.dumps(asdict(judged)))) == judged
    judged.check(3)


@pytest.mark.parametrize(
    "damage",
    [
        {"best": 3},
        {"best": True},
        {"chosen_on": 0.5},
        {"averages": ()},
        {"averages": (Average("mean", (0, 3), (), 0.9, gain("worse")),)},
        {"averages": (Average("mean", (0, 1), (), "0.9", gain("worse")),)},
        {"averages": (Average("mean", (0, 1), (), 0.9, gain("worse", low="low")),)},
        {"averages": (Average("stew", (0, 1), (), 0.9, gain("worse")),)},
        {"averages": (Average("mean", (0, 1), (), 0.9, gain("good")),)},
        {"averages": (Average("layers", (0, 1), (1,), 0.9, gain("worse")),)},
    ],
)
def test_damage_is_refused(damage):
    with pytest.raises(ValueError, match="is no number|none of its networks|no text of ours"):
        replace(averaging("worse"), **damage).check(3)
