"""Children of one checkpoint: what they are called and begin with, and the judge of the lines between them."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from helpers.children import CONDITIONS, finished, lines_report
from helpers.factories import Net, closures, predicted, weights
from helpers.processes import run
from helpers.states import same
from lightning_lottery import Constant, LotteryError, MagnitudePruning, Perturbation
from lightning_lottery.children.child import Child
from lightning_lottery.children.conditions import FILE
from lightning_lottery.children.noise import noise_in_words
from lightning_lottery.children.options import LinesOptions, NoiseOptions, StartOptions, TicketOptions
from lightning_lottery.children.records import COLUMNS, record
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.connectivity.report import PathReport
from lightning_lottery.experiments.siblings import Family, check_seeds, judge_lines

PROJECT = closures()
FAMILY = Family(PROJECT.with_seed(9), Judging(alphas=(0, 0.5, 1)))


def make_pruner():
    return MagnitudePruning(Constant(0.5, begin=0))


def test_children_are_called_by_their_seeds_and_of_one_seed_by_their_numbers(tmp_path):
    for seeds, names in (((3, 1), ["seed-3", "seed-1"]), ((3, 3, 3), ["seed-3-1", "seed-3-2", "seed-3-3"])):
        siblings = FAMILY.siblings(tmp_path, "k.ckpt", seeds, {"stage": "here"})
        assert [child.folder for child in siblings.seeds] == [tmp_path / name for name in names]
        assert [child.config["seed_everything"] for child in siblings.seeds] == list(seeds)
        labels = [{"stage": "here", "seed": seed, "noise": "SGD noise"} for seed in seeds]
        assert [child.labels for child in siblings.seeds] == labels
        assert siblings.lines.options.is_null_control == (seeds == (3, 3, 3))
        assert siblings.lines.options.checkpoints == tuple(str(tmp_path / name / "last.ckpt") for name in names)


@pytest.mark.parametrize(
    ("noise", "built_with", "options"),
    [
        ("order", (3, 3), (NoiseOptions(order_seed=3), NoiseOptions(order_seed=1))),
        ("augmentation", (3, 1), (NoiseOptions(order_seed=3),) * 2),
        (Perturbation(0.1), (3, 3), [NoiseOptions(None, Perturbation(0.1), seed) for seed in (3, 1)]),
    ],
    ids=str,
)
def test_what_children_share_is_the_first_one_s_seed_and_what_they_do_not_their_own(
    tmp_path, noise, built_with, options
):
    siblings = replace(FAMILY, noise=noise).siblings(tmp_path, "k.ckpt", (3, 1), {})
    assert tuple(child.config["seed_everything"] for child in siblings.seeds) == built_with
    assert [child.options.noise for child in siblings.seeds] == [*options]
    assert [child.labels["seed"] for child in siblings.seeds] == [3, 1]
    assert siblings.lines.options.noise == noise_in_words(noise) and not siblings.lines.options.is_null_control


def test_from_a_checkpoint_children_begin_there_and_keep_the_ticket_given(tmp_path):
    siblings = FAMILY.siblings(tmp_path, "k.ckpt", (1, 2), {}, ticket="t.safetensors")
    assert siblings.start is None and siblings.waves == [list(siblings.seeds)]
    for child in siblings.seeds:
        assert child.config["ckpt_path"] == "k.ckpt" and child.options == TicketOptions("t.safetensors")


@pytest.mark.parametrize(("begin", "pruner"), [(None, None), (None, make_pruner), ("k.ckpt", make_pruner)])
def test_one_initialisation_or_one_pruning_for_all_is_a_child_before_them_of_no_child_s_seed(tmp_path, begin, pruner):
    siblings = FAMILY.siblings(tmp_path, begin, (1, 2), {}, pruner=pruner)
    start = siblings.start
    assert siblings.waves == [[start], list(siblings.seeds)] and start.command == "start"
    assert start.options == StartOptions(prunes=pruner is not None)
    assert (start.config["seed_everything"], start.config["ckpt_path"]) == (9, begin)
    assert ("make_pruner" in start.config) == (pruner is not None)
    for child in siblings.seeds:
        assert child.config["ckpt_path"] == str(tmp_path / "start/start.ckpt") and "make_pruner" not in child.config
        assert child.options == TicketOptions(str(tmp_path / "start/ticket.safetensors") if pruner else None)


def test_lines_are_judged_anew_where_a_child_was_added_or_they_are_judged_otherwise_and_only_then(tmp_path):
    finished(FAMILY.siblings(tmp_path, "k.ckpt", (1, 2), {}).lines)
    same_again = FAMILY.siblings(tmp_path, "k.ckpt", (1, 2), {})
    same_again.discard_stale_lines()
    assert same_again.lines.is_done
    stricter = Family(FAMILY.project, Judging(alphas=(0, 0.5, 1), threshold=0.01))
    for changed in (
        FAMILY.siblings(tmp_path, "k.ckpt", (1, 2, 3), {}),
        stricter.siblings(tmp_path, "k.ckpt", (1, 2), {}),
    ):
        finished(same_again.lines)
        changed.discard_stale_lines()
        assert not changed.lines.folder.exists()


@pytest.fixture
def done(tmp_path):
    """Two children and the lines between them, as if they had been trained."""
    siblings = FAMILY.siblings(tmp_path, "k.ckpt", (4, 5), {"stage": "here"})
    for number, child in enumerate(siblings.seeds):
        finished(child, [record(metric="test_acc", value=0.5, density=0.75, method="dense", **child.labels)])
        noise = {"end_weights": str(number), "batches": [f"{number}-{batch}" for batch in range(3)]}
        (child.folder / FILE).write_text(json.dumps({**CONDITIONS, **noise}))
    finished(siblings.lines, lines_report(0.5).rows())
    lines_report(0.5).save(siblings.lines.folder / "report.json")
    return siblings


def test_records_are_the_children_s_then_the_lines_at_the_step_and_sparsity_that_the_children_share(done):
    rows = done.rows({"stage": "there", "parent": 7})
    assert [row["seed"] for row in rows[:2]] == [4, 5]
    assert len(rows) > 2 and all([*row] == [*COLUMNS] for row in rows)
    for row in rows[2:]:
        assert (row["stage"], row["parent"], row["step"], row["density"]) == ("there", 7, 5, 0.75)
        assert (row["seed"], row["child_a"], row["child_b"], row["method"]) == (None, 4, 5, "dense")
    (barrier,) = (row["value"] for row in rows[2:] if row["metric"] == "error_barrier")
    assert barrier == 0.5 and done.report() == lines_report(0.5)


def test_children_that_differ_in_more_than_their_seed_give_no_records(done):
    path = done.seeds[1].folder / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "end_step": 11}))
    with pytest.raises(
        LotteryError, match="differ in their seed only, but from seed-4 to seed-5: end_step was 12, is 11"
    ):
        done.rows({})


@pytest.mark.parametrize("seeds", [(1,), (), (1, 1, 2)])
def test_one_seed_or_some_equal_are_refused(seeds):
    with pytest.raises(LotteryError, match="at least two, all different"):
        check_seeds(seeds)
    check_seeds((1, 2)), check_seeds((1, 1))


class Masks(Callback):
    """What a project has for training, and what would be wrong beside the lines."""

    def setup(self, trainer, pl_module, stage):
        pytest.fail("asked in an evaluation")


@pytest.fixture
def judge(tmp_path):
    """The child that judges the line between two networks that were never trained."""
    paths = [tmp_path / f"{seed}.ckpt" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        torch.save({"state_dict": Net().state_dict()}, path)
    judging = {"monitor": "test_acc", "mode": "max", "threshold": 0.02, "recalibrate": 0, "predict": None}
    lines = {"alphas": (0.0, 0.5, 1.0), "layer_alphas": (), "checkpoints": tuple(map(str, paths))}
    options = LinesOptions(**judging, **lines, is_null_control=True)
    return Child(tmp_path / "lines", "lines", {**PROJECT.config(), "ckpt_path": None}, {}, options)


def test_lines_are_evaluated_without_the_project_s_callbacks_and_left_as_a_report(judge):
    judge.prepare()
    rows = judge_lines(judge, "", closures(Masks))
    report = PathReport.load(judge.folder / "report.json")
    assert report.rows() == rows and report.samples == 24 and report.is_null_control
    assert report.judging == Judging(alphas=(0.0, 0.5, 1.0)) and "disagreement" not in report.distances[0, 1]


def test_predictions_are_compared_by_the_function_at_the_address_or_by_the_one_handed_in(judge):
    judge.prepare()
    judge_lines(judge, "", PROJECT, predict=predicted)
    handed_in = PathReport.load(judge.folder / "report.json").distances
    options = {**vars(judge.options), "predict": "helpers.factories:predicted"}
    judge_lines(Child(judge.folder, "lines", judge.config, {}, LinesOptions(**options)), "", PROJECT)
    assert PathReport.load(judge.folder / "report.json").distances == handed_in
    assert 0 < handed_in[0, 1]["disagreement"] <= 1


RANKS = """
import json, os, sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
from lightning.pytorch import LightningDataModule
from lightning_lottery.children.child import Child
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.options import LinesOptions, StartOptions
from lightning_lottery.experiments.siblings import judge_lines
from lightning_lottery.children.fit import train
from helpers.projects import plain_loader, trainer
from helpers.factories import Net

torch.set_num_threads(1)
OUT, DEVICES = Path(sys.argv[1]), int(sys.argv[2])

class Shuffled(LightningDataModule):
    def train_dataloader(self):
        return plain_loader(shuffle=True)
    def test_dataloader(self):
        return plain_loader(n=61)

def make_trainer(**given):
    devices = {"devices": DEVICES, "strategy": "ddp"} if DEVICES > 1 else {}
    return trainer(given["default_root_dir"], logger=given["logger"], **devices)

def make_module():
    return Net(dropout=0.0)

project = FactoryProject(make_module, Shuffled, make_trainer)
children = OUT if DEVICES > 1 else Path(sys.argv[3])
if DEVICES > 1:
    begin = Child(OUT / "start", "start", {"seed_everything": 0, "ckpt_path": None}, {}, StartOptions())
    begin.folder.mkdir(parents=True, exist_ok=True)
    train(begin, "", project.with_seed(0))
    for name, seed in (("1", 1), ("1-again", 1), ("2", 2)):
        config = {"seed_everything": seed, "ckpt_path": str(OUT / "start/start.ckpt")}
        train(Child(OUT / name, "fit", config), "", project.with_seed(seed))
options = LinesOptions(
    monitor="test_acc",
    mode="max",
    threshold=0.02,
    alphas=(0.0, 0.25, 0.5, 0.75, 1.0),
    recalibrate=0,
    layer_alphas=(),
    predict=None,
    checkpoints=tuple(str(children / n / "last.ckpt") for n in ("1", "1-again", "2")),
)
lines = Child(OUT / "lines", "lines", {"seed_everything": 0, "ckpt_path": None}, {}, options)
judge_lines(lines, "", project)
sys.stdout.write("ok\\n")
"""


def test_on_two_ranks_one_seed_is_one_network_another_seed_another_order_and_lines_are_those_of_one_rank(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    two, one = tmp_path / "two", tmp_path / "one"
    done = run(sys.executable, str(script), str(two), "2")
    assert done.returncode == 0 and done.stdout.count("ok") == 2, done.stderr[-3000:]
    assert same(weights(two / "1"), weights(two / "1-again"))
    conditions = {name: json.loads((two / name / "conditions.json").read_text()) for name in ("1", "1-again", "2")}
    assert conditions["1"]["batches"] == conditions["1-again"]["batches"]
    pairs = zip(conditions["1"]["batches"], conditions["2"]["batches"], strict=True)
    assert all(first != second for first, second in pairs)  # equal shuffles would be a false "stable"
    assert conditions["1"]["weights"] == conditions["2"]["weights"] and conditions["1"]["world_size"] == 2
    done = run(sys.executable, str(script), str(one), "1", str(two))
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [PathReport.load(folder / "lines/report.json") for folder in (one, two)]
    assert reports[0].samples == reports[1].samples == 61
    for pair, curve in reports[0].curves["raw"].items():
        for metric, values in curve.items():
            np.testing.assert_allclose(values, reports[1].curves["raw"][pair][metric], rtol=1e-6)
    assert reports[1].measures((0, 1))["error_barrier"] == 0 < reports[1].distances[0, 2]["l2"]
