import json
import os
import re
import warnings
from io import StringIO

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from rich.console import Console

from helpers.boards import Board
from helpers.factories import STEPS, Data, Net, closures, make_data, make_trainer, predicted, weights
from helpers.projects import Batches, plain_loader, says, trainer
from helpers.stages import Died, Dies
from helpers.states import same
from lightning_lottery import (
    PLATON,
    Constant,
    ExactResume,
    InstabilityAnalysis,
    LotteryError,
    MagnitudePruning,
    Perturbation,
    Snapshots,
    Ticket,
)
from lightning_lottery.children import engine
from lightning_lottery.children.child import Child
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.options import TicketOptions
from lightning_lottery.children.processes import run_together
from lightning_lottery.children.records import COLUMNS
from lightning_lottery.connectivity import lines
from lightning_lottery.connectivity.report import Layer, PathReport
from lightning_lottery.experiments import report as experiments_report
from lightning_lottery.zoo.loader import SeededBatches


class Analysis:
    """An analysis in this process: nobody else can import a closure."""

    def __init__(self, *callbacks, module=Net, data=Data, **settings):
        self.experiment = InstabilityAnalysis(**{"alphas": [0, 0.25, 0.5, 0.75, 1], **settings})
        self.project = closures(*callbacks, module=module, data=data)

    def run(self, *arguments, **options):
        return self.experiment.run(self.project, *arguments, **options)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A parent's folder: snapshots at steps 0, 5 and at the end, in mid-epoch and not."""
    folder = tmp_path_factory.mktemp("parent")
    seed_everything(7, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "7")
        fitted = trainer(folder, ExactResume(), Snapshots([0, 5, STEPS]))
        fitted.fit(Net(), Data())
    torch.save({"state_dict": fitted.lightning_module.state_dict()}, folder / "last.ckpt")
    return folder


@pytest.fixture(autouse=True)
def no_seed(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(scope="module")
def analysed(parent, tmp_path_factory):
    """Three children from step 5, analysed once for many tests."""
    out = tmp_path_factory.mktemp("analysed")
    report = Analysis(layer_alphas=(0, 0.5, 1), seeds=(1, 2, 3)).run(parent / "snapshots/step=5.ckpt", out=out)
    return report, out


class Shuffled(Data):
    """An ordinary loader, which has no state to restore: in mid-epoch it begins anew."""

    def train_dataloader(self):
        return plain_loader(shuffle=True)


def test_an_analysis_of_a_tiny_project_warns_of_nothing_though_its_children_begin_in_mid_epoch(tmp_path):
    trainer(tmp_path / "parent", ExactResume(), Snapshots([5])).fit(Net(), Shuffled())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Analysis(data=Shuffled, seeds=(1, 2)).run(tmp_path / "parent/snapshots/step=5.ckpt", out=tmp_path / "out")
    texts = [str(warning.message) for warning in caught]
    assert [text for text in texts if "order of the data" in text or "not resumable" in text] == []
    assert [warning for warning in caught if "lightning_lottery" in warning.filename] == []


def test_the_same_seed_twice_is_the_same_network_and_its_barrier_is_exactly_zero(parent, tmp_path):
    report = Analysis(seeds=(3, 3)).run(parent / "snapshots/step=5.ckpt", out=tmp_path)
    assert same(weights(tmp_path / "seed-3-1"), weights(tmp_path / "seed-3-2"))
    for values in report.curves["raw"][0, 1].values():
        assert len(set(values)) == 1
    assert report.measures((0, 1))["error_barrier"] == 0 and report.distances[0, 1]["l2"] == 0
    assert report.stability.verdict == "undecided" and "null control" in report.stability.reason


@pytest.mark.parametrize("step", [0, 5])
def test_a_child_with_the_parent_s_own_seed_is_the_parent(parent, tmp_path, step):
    Analysis(seeds=(7, 8)).run(parent / f"snapshots/step={step}.ckpt", out=tmp_path)
    assert same(weights(tmp_path / "seed-7"), weights(parent))
    assert not same(weights(tmp_path / "seed-8"), weights(parent))


def test_children_of_a_checkpoint_differ_in_their_noise_and_in_nothing_else(analysed):
    _, out = analysed
    conditions = [json.loads((out / f"seed-{seed}/conditions.json").read_text()) for seed in (1, 2, 3)]
    for key in ("start_step", "end_step", "weights", "optimizers", "schedulers", "hparams", "precision", "world_size"):
        assert conditions[0][key] == conditions[1][key] == conditions[2][key], key
    assert conditions[0]["start_step"] == 5 and conditions[0]["end_step"] == STEPS
    assert conditions[0]["optimizers"][0]["lr"] == 0.025 and conditions[0]["optimizers"][0]["momentum"] == 0.9
    for key in ("batches", "end_weights"):
        assert len({str(condition[key]) for condition in conditions}) == 3, key


def test_without_a_checkpoint_all_children_begin_with_one_initialisation(tmp_path):
    report = Analysis(seeds=(1, 2)).run(None, out=tmp_path)
    begin = torch.load(tmp_path / "start/start.ckpt", weights_only=True)
    assert begin["global_step"] == 0
    conditions = [json.loads((tmp_path / f"seed-{seed}/conditions.json").read_text()) for seed in (1, 2)]
    assert conditions[0]["weights"] == conditions[1]["weights"] and conditions[0]["start_step"] == 0
    assert conditions[0]["end_step"] == STEPS and report.distances[0, 1]["l2"] > 0


def test_three_seeds_make_three_pairs_and_a_report_of_everything(analysed, parent):
    report, out = analysed
    assert report.pairs == [(0, 1), (0, 2), (1, 2)] and report.names == ("seed 1", "seed 2", "seed 3")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert all([*row] == [*COLUMNS] for row in rows)
    assert {(row["child_a"], row["child_b"]) for row in rows if row["seed"] is None} == {(1, 2), (1, 3), (2, 3)}
    assert {row["seed"] for row in rows if row["child_a"] is None} == {1, 2, 3}
    assert {row["step"] for row in rows} == {5, STEPS}
    table = (out / "results.csv").read_text().splitlines()
    assert len(table) == len(rows) + 1 and table[0] == ",".join(COLUMNS)
    assert json.loads((out / "summary.json").read_text())["pairs"]["0-1"]["raw"] == {
        **report.measures((0, 1)),
        **report.distances[0, 1],
    }
    for name in ("path.png", "layers.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_child_s_end_of_the_line_is_what_the_child_itself_measured(analysed):
    report, out = analysed
    rows = [json.loads(line) for line in (out / "seed-1/results.jsonl").read_text().splitlines()]
    (measured,) = (row["value"] for row in rows if row["metric"] == "test_loss")
    assert report.curves["raw"][0, 1]["test_loss"][-1] == report.curves["raw"][0, 2]["test_loss"][-1]
    assert report.curves["raw"][0, 1]["test_loss"][-1] == pytest.approx(measured, rel=1e-6)


def test_tensorboard_has_figures_the_verdict_and_a_row_in_the_table_of_runs_and_no_curve_over_alpha(analysed):
    report, out = analysed
    board = Board(out / "path")
    assert {"path", "layers"} <= set(board.images)
    assert board.curves == {"path/error_barrier": [(5, pytest.approx(report.stability.mean))]}
    (verdict,) = board.texts("verdict")
    assert all(sentence in verdict for sentence in report.sentences())
    child = Board(out / "seed-1")
    assert board.columns == child.columns  # TensorBoard takes those of either
    assert board.settings | {"seed": "1"} == child.settings
    assert (child.settings["start_step"], child.settings["method"]) == (5, "dense")


def test_a_report_is_read_back_as_it_was(analysed):
    report, out = analysed
    report.save(out / "again.json")
    assert PathReport.load(out / "again.json") == report


def test_all_layers_together_are_the_whole_line(analysed):
    report, _ = analysed
    layers = {kind: curves[0, 1] for kind, curves in report.curves.items() if isinstance(kind, Layer)}
    (last,) = {layer.name for layer in layers if layer.extent == "cumulative"} - {"net.0", "net.1"}
    for host in (0, 1):
        whole = [report.curves["raw"][0, 1]["test_loss"][number] for number in (0, 2, 4)]
        assert layers[Layer(last, host, "cumulative")]["test_loss"] == pytest.approx(whole, rel=1e-6)
    alone = layers[Layer("net.0", 0, "single")]["test_loss"]
    assert alone[-1] == pytest.approx(report.curves["raw"][0, 1]["test_loss"][-1], rel=1e-6)  # alpha 1: the host itself
    assert (
        alone
        == layers[Layer("net.0", 0, "cumulative")]["test_loss"]
        != layers[Layer("net.0", 1, "single")]["test_loss"]
    )


def test_a_ticket_s_masks_are_kept_by_every_child(parent, tmp_path):
    mask = torch.rand(16, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    Ticket({"net.0.weight": mask}).save(tmp_path / "ticket.safetensors")
    out = tmp_path / "out"
    Analysis(ticket=str(tmp_path / "ticket.safetensors")).run(parent / "snapshots/step=5.ckpt", out=out)
    for seed in (1, 2):
        assert (weights(out / f"seed-{seed}")["net.0.weight"][~mask] == 0).all()
        assert (weights(out / f"seed-{seed}")["net.0.weight"][mask] != 0).all()
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {(row["network"], row["density"]) for row in rows} == {("ticket", mask.float().mean().item())}


@pytest.mark.parametrize("step", [None, 5])
def test_a_pruner_is_applied_once_at_the_checkpoint_and_its_masks_kept(parent, tmp_path, step):
    begin = None if step is None else parent / f"snapshots/step={step}.ckpt"

    def make_pruner():
        return MagnitudePruning(Constant(0.75, begin=0), per="tensor")

    Analysis(pruner=make_pruner).run(begin, out=tmp_path)
    ticket = Ticket.load(tmp_path / "start/ticket.safetensors")
    assert ticket.sparsity == 0.75 and ticket.provenance["step"] == (step or 0)
    start = torch.load(tmp_path / "start/start.ckpt", weights_only=True)
    assert start["global_step"] == (step or 0)
    if step:
        before = torch.load(begin, weights_only=True)["state_dict"]
        for name, mask in ticket.masks.items():
            assert torch.equal(start["state_dict"][name], torch.where(mask, before[name], 0.0))
    for seed in (1, 2):
        for name, mask in ticket.masks.items():
            assert (weights(tmp_path / f"seed-{seed}")[name][~mask] == 0).all()
            assert (weights(tmp_path / f"seed-{seed}")[name][mask] != 0).any()


@pytest.mark.parametrize("at", [("start", 0), ("seed-1", 7), ("seed-2", 11), ("between", 0), ("lines", 3)])
def test_killed_anywhere_and_started_again_it_ends_with_the_unbroken_report(tmp_path, monkeypatch, at):
    def analysis():
        return Analysis(Dies, lambda: ExactResume(interval=2))

    unbroken = analysis().run(None, out=tmp_path / "unbroken")
    out = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Died):
        if at[0] == "lines":
            places = []

            def interpolate(*given, original=lines.interpolate_):
                places.append(1)
                if len(places) > at[1]:
                    raise Died
                original(*given)

            patch.setattr(lines, "interpolate_", interpolate)
        elif at[0] in ("between", "start"):
            do_child = engine.do_child

            def dying(folder, commands):
                if folder.name == ("seed-2" if at[0] == "between" else "seed-1"):
                    raise Died
                do_child(folder, commands)

            patch.setattr(engine, "do_child", dying)
        else:
            patch.setattr(Dies, "at", at)
        analysis().run(None, out=out)
    done = [path.parent.name for path in out.glob("*/done")]
    report = analysis().run(None, out=out)
    assert report == unbroken
    assert set(done) < {"start", "seed-1", "seed-2", "lines"}
    texts = [(folder / "results.jsonl").read_text() for folder in (out, tmp_path / "unbroken")]
    assert texts[0] == texts[1]


def test_what_is_done_is_not_done_again_and_more_seeds_only_add_children(parent, tmp_path, monkeypatch):
    done = []
    do_child = engine.do_child
    monkeypatch.setattr(engine, "do_child", lambda f, c: (done.append(f.name), do_child(f, c)))
    analysis, begin = Analysis(), parent / "snapshots/step=5.ckpt"
    first = analysis.run(begin, out=tmp_path)
    before = {name: (tmp_path / name / "done").stat().st_mtime_ns for name in ("seed-1", "seed-2")}
    assert analysis.run(begin, out=tmp_path) == first
    analysis = Analysis(seeds=(1, 2, 3))
    more = analysis.run(begin, out=tmp_path)
    assert more.curves["raw"][0, 1] == first.curves["raw"][0, 1] and len(more.pairs) == 3
    assert {name: (tmp_path / name / "done").stat().st_mtime_ns for name in before} == before
    analysis.run(begin, out=tmp_path, redo=["seed-2"])
    assert (tmp_path / "seed-2/done").stat().st_mtime_ns > before["seed-2"]
    assert (tmp_path / "seed-1/done").stat().st_mtime_ns == before["seed-1"]


def test_children_that_were_trained_otherwise_are_refused(parent, tmp_path):
    begin = parent / "snapshots/step=5.ckpt"

    def with_dropout(dropout):
        return FactoryProject(lambda: Net(dropout=dropout), lambda: Data(), lambda **given: make_trainer(**given))

    InstabilityAnalysis(alphas=[0, 1]).run(with_dropout(0.2), begin, out=tmp_path)
    with pytest.raises(
        LotteryError, match=r"seed-1' was made from something else: make_module.values.dropout was '0.2', is '0.3'"
    ):
        InstabilityAnalysis(alphas=[0, 1]).run(with_dropout(0.3), begin, out=tmp_path)


def test_the_environment_and_the_random_numbers_are_left_as_they_were(parent, tmp_path):
    os.environ["PL_GLOBAL_SEED"] = "5"
    torch.manual_seed(4)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(4))
    Analysis(seeds=(1, 2)).run(parent / "snapshots/step=5.ckpt", out=tmp_path)
    assert os.environ["PL_GLOBAL_SEED"] == "5" and "LOTTERY_RESUME_FROM" not in os.environ
    assert torch.equal(torch.rand(3), expected)


def test_predictions_are_compared_where_a_function_is_named(parent, tmp_path):
    report = Analysis(predict=predicted, seeds=(1, 2)).run(parent / "snapshots/step=5.ckpt", out=tmp_path)
    nets = []
    for seed in (1, 2):
        nets.append(Net().eval())
        nets[-1].load_state_dict(weights(tmp_path / f"seed-{seed}"))
    batches = list(plain_loader(24))
    differ = [(predicted(nets[0], batch) != predicted(nets[1], batch)).float().mean().item() for batch in batches]
    assert report.distances[0, 1]["disagreement"] == pytest.approx(np.mean(differ))


class Drawn(Net):
    """The trap of a known implementation: each child draws its own learning rate."""

    def __init__(self):
        super().__init__(lr=float(torch.rand(())))


def test_a_closure_that_predicts_is_used_as_well(parent, tmp_path):
    begin = parent / "snapshots/step=5.ckpt"
    named = Analysis(predict=predicted, seeds=(1, 2)).run(begin, out=tmp_path / "named")
    closure = Analysis(predict=lambda module, batch: predicted(module, batch), seeds=(1, 2)).run(
        begin, out=tmp_path / "own"
    )
    assert closure.distances == named.distances and "disagreement" in named.distances[0, 1]


def test_children_that_are_tested_on_different_data_are_said(tmp_path):
    class Split(Data):
        def test_dataloader(self):
            return Batches(batches=3, seed=100 + int(os.environ["PL_GLOBAL_SEED"]))

    with says("tested on different data: something in the data module depends on the seed"):
        Analysis(data=Split).run(None, out=tmp_path)


def test_an_order_that_is_fixed_after_the_first_epoch_is_said(tmp_path):
    class Fixed(Data):
        def train_dataloader(self):
            loader = super().train_dataloader()
            real = loader.set_epoch
            seed_before = loader.seed

            def set_epoch(epoch):
                loader.seed = 0 if epoch else seed_before
                real(epoch)

            loader.set_epoch = set_epoch
            return loader

    with says("saw the same batches at the same steps"):
        Analysis(data=Fixed).run(None, out=tmp_path)


class TestRefusals:
    @pytest.mark.parametrize(
        "make_pruner",
        [
            lambda: MagnitudePruning(sparsity=0.5),
            lambda: MagnitudePruning(Constant(0.5, begin=5)),
            lambda: PLATON(sparsity=0.5, interval=1),
            lambda: ExactResume(),
        ],
    )
    def test_a_pruner_that_does_not_prune_at_once(self, tmp_path, make_pruner):
        with pytest.raises(LotteryError, match="has not pruned to its end at step 0|is a callback that makes masks"):
            Analysis(pruner=make_pruner).run(None, out=tmp_path)

    def test_settings_that_cannot_be_before_anything_is_trained(self):
        for odd in (
            {"mode": "maximum"},
            {"threshold": 0.0},
            {"alphas": [0.5]},
            {"layer_alphas": (2,)},
            {"recalibrate": -1},
        ):
            with pytest.raises(LotteryError, match="`(mode|threshold|recalibrate)` is|`(layer_)?alphas` are"):
                InstabilityAnalysis(**odd)

    def test_one_seed_or_some_equal(self):
        for seeds in ((1,), (), (1, 1, 2)):
            with pytest.raises(LotteryError, match="at least two, all different"):
                Analysis(seeds=seeds)

    def test_checkpoints_that_nothing_can_go_on_from(self, parent, tmp_path):
        with pytest.raises(LotteryError, match="There is no checkpoint"):
            Analysis().run(tmp_path / "none.ckpt", out=tmp_path)
        with pytest.raises(LotteryError, match="holds weights but no optimizer"):
            Analysis().run(parent / "last.ckpt", out=tmp_path)
        (tmp_path / "text").write_text("no checkpoint")
        with pytest.raises(LotteryError, match="does not load as a checkpoint"):
            Analysis().run(tmp_path / "text", out=tmp_path)

    def test_a_checkpoint_at_the_fit_s_end(self, parent, tmp_path):
        with pytest.raises(LotteryError, match=f"trained no step: the fit ends at step {STEPS}, where they begin"):
            Analysis().run(parent / f"snapshots/step={STEPS}.ckpt", out=tmp_path)

    def test_hyper_parameters_that_differ(self, tmp_path):
        with pytest.raises(LotteryError, match=r"differ in their seed only, but from seed-1 to seed-2: hparams.lr was"):
            Analysis(module=Drawn).run(None, out=tmp_path)

    def test_seeds_that_make_no_difference(self, tmp_path):
        def silent():
            return Net(dropout=0.0)

        with pytest.raises(LotteryError, match="nothing in this training depends on the seed"):
            Analysis(module=silent, data=lambda: Data(fixed=True)).run(None, out=tmp_path)

    def test_a_fixed_order_of_the_data_is_said(self, tmp_path):
        with says("the order of the data does not depend on the seed"):
            Analysis(data=lambda: Data(fixed=True)).run(None, out=tmp_path)

    def test_a_ticket_and_a_pruner(self):
        def make_pruner():
            return MagnitudePruning(Constant(0.5, begin=0))

        with pytest.raises(LotteryError, match="either a ticket or a pruner"):
            Analysis(ticket="a", pruner=make_pruner)

    def test_data_that_says_not_what_it_is_for(self, tmp_path):
        with pytest.raises(LotteryError, match="`make_data` gives a LightningDataModule, or None"):
            Analysis(data=plain_loader).run(None, out=tmp_path)

    def test_several_processes_for_closures(self, tmp_path):
        with pytest.raises(LotteryError, match="functions at the top of a file"):
            Analysis().run(None, jobs=2, out=tmp_path)

        def on_two_ranks(**given):
            return trainer(given["default_root_dir"], logger=given["logger"], devices=2, strategy="ddp")

        with pytest.raises(LotteryError, match="DDPStrategy starts this program anew for each rank"):
            InstabilityAnalysis().run(FactoryProject(lambda: Net(), make_data, on_two_ranks), out=tmp_path)

    def test_a_full_disk(self, parent, tmp_path, monkeypatch):
        Analysis(seeds=(1, 2)).run(parent / "snapshots/step=5.ckpt", out=tmp_path)

        def full(path, content, what):
            raise LotteryError(f"The {what} '{path}' could not be written: No space left on device.")

        monkeypatch.setattr(experiments_report, "write_whole", full)
        with pytest.raises(LotteryError, match="could not be written: No space left on device"):
            Analysis(seeds=(1, 2)).run(parent / "snapshots/step=5.ckpt", out=tmp_path)


def test_children_trained_at_once_are_those_trained_one_after_another(parent, tmp_path, monkeypatch):
    quiet = Console(file=StringIO())
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    begin = str(parent / "snapshots/step=5.ckpt")
    project = FactoryProject(Net, make_data, make_trainer)
    assert project.is_importable
    children = []
    for seed in (1, 2):
        config = {**project.config(), "seed_everything": seed, "ckpt_path": begin}
        children.append((f"seed {seed}", Child(tmp_path / f"seed-{seed}", "fit", config, {}, TicketOptions())))
    engine.engine_of(jobs=2)(children, quiet)
    Analysis(seeds=(1, 2)).run(begin, out=tmp_path / "sequence")
    for seed in (1, 2):
        assert same(weights(tmp_path / f"seed-{seed}"), weights(tmp_path / f"sequence/seed-{seed}"))
        assert (tmp_path / f"seed-{seed}/progress").read_text().endswith(f" {STEPS}")
    broken = Child(
        tmp_path / "broken", "fit", {**config, "make_module": {"function": "helpers.projects:none", "source": ""}}
    )
    whole = Child(tmp_path / "whole", "fit", config, {}, TicketOptions())
    told = r"broken failed: There is no function 'none' in 'helpers.projects'. What is done stays. \(see .*child.log\)"
    with pytest.raises(LotteryError, match=told):
        run_together([("broken", broken), ("whole", whole)], quiet, jobs=2)
    assert whole.is_done and "no function 'none'" in (tmp_path / "broken/child.log").read_text()


def test_lines_say_how_far_they_are(analysed, capsys, tmp_path):
    report, _ = analysed
    sentences = " ".join(report.sentences())
    assert re.fullmatch(
        r"((un)?stable|undecided whether stable) to SGD noise: mean error barrier \d\.\d{4}; .*\. "
        r"This is about children of this .*",
        sentences,
    )


class InOrder(Data):
    """Batches whose order has a seed of its own."""

    def train_dataloader(self):
        x, y = plain_loader().dataset.tensors
        return SeededBatches(x, y, batch_size=8, seed=int(os.environ["PL_GLOBAL_SEED"]), shuffle=True)


@pytest.mark.parametrize("noise", ["order", Perturbation(0.1, "gradient", share=0.5)], ids=str)
def test_children_of_one_noise_are_judged_on_both_splits_resumed_when_killed_and_refused_when_it_changed(
    tmp_path, monkeypatch, noise
):
    def analysis(noise=noise):
        settings = {"alphas": (0, 0.5, 1), "noise": noise, "train_split": True}
        return Analysis(Dies, lambda: ExactResume(interval=2), data=InOrder, **settings)

    unbroken = analysis().run(None, out=tmp_path / "unbroken")
    words = "data order" if noise == "order" else str(noise)
    assert unbroken.noise == words and words in unbroken.sentences()[0] and unbroken.train.samples == 32
    rows = [json.loads(line) for line in (tmp_path / "unbroken/results.jsonl").read_text().splitlines()]
    assert {row["noise"] for row in rows} == {words} and {row["seed"] for row in rows} == {1, 2, None}
    ends = [weights(tmp_path / f"unbroken/seed-{seed}") for seed in (1, 2)]
    assert not same(*ends)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(Dies, "at", ("seed-2", 5))
        analysis().run(None, out=tmp_path / "killed")
    assert analysis().run(None, out=tmp_path / "killed") == unbroken
    with pytest.raises(LotteryError, match="was made from something else: options.noise"):
        analysis(None).run(None, out=tmp_path / "killed")


def test_a_perturbation_of_0_is_a_null_control_whose_barrier_is_exactly_0(tmp_path):
    report = Analysis(noise=Perturbation(0), seeds=(1, 2)).run(None, out=tmp_path)
    assert report.measures((0, 1))["error_barrier"] == 0 and report.distances[0, 1]["l2"] == 0
    assert report.is_null_control and "null control" in report.stability.reason


def test_children_without_the_noise_that_was_asked_for_are_refused(tmp_path):
    with pytest.raises(LotteryError, match="nothing in this training is random but the order of the data"):
        Analysis(module=lambda: Net(dropout=0.0), data=InOrder, noise="augmentation").run(None, out=tmp_path)
