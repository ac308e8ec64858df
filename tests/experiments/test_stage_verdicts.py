import pytest

from helpers.children import lines_report
from lightning_lottery import LotteryError
from lightning_lottery.children.child import Child
from lightning_lottery.experiments.siblings import REPORT
from lightning_lottery.experiments.stage_verdicts import sentences_of_stages, verdicts_of


def stage(folder, seed, *barriers, command="instability", **settings):
    child = Child(folder / f"seed-{seed}" / f"07-{command}", command, {}, {})
    (child.folder / REPORT).parent.mkdir(parents=True)
    lines_report(*barriers, **settings).save(child.folder / REPORT)
    return child


def test_a_stage_s_seeds_are_the_parents_of_one_verdict(tmp_path):
    runs = {seed: [stage(tmp_path, seed, 0.1 + seed / 100, 0.11, 0.12)] for seed in (0, 1, 2)}
    runs[0].append(stage(tmp_path, 9, 0.1, command="fit"))
    (verdict,) = verdicts_of(runs).values()
    assert verdict.parents == 3 and verdict.verdict == "unstable" and verdict.about == "parents"
    (sentence,) = sentences_of_stages({"07-instability": verdict}, 3)
    assert sentence.startswith("07-instability, networks like these 3: unstable, mean error barrier 0.113")


def test_of_one_seed_the_verdict_is_about_its_children_and_says_what_would_decide(tmp_path):
    verdicts = verdicts_of({0: [stage(tmp_path, 0, 0.016, 0.019, 0.015)]})
    first, second = sentences_of_stages(verdicts, 1)
    assert first.startswith("07-instability, its children: undecided") and "more children of each parent" in second


def test_seeds_that_were_tested_on_other_samples_are_refused(tmp_path):
    runs = {seed: [stage(tmp_path, seed, 0.1, 0.11, 0.12, samples=50 + seed)] for seed in (0, 1)}
    with pytest.raises(LotteryError, match="evaluated on 50 and 51 samples"):
        verdicts_of(runs)
