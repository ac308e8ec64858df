"""What a child does that trains: its options, what it leaves, and its records."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from torch.utils.data import DataLoader

from helpers.boards import Board
from helpers.factories import STEPS, Net, closures, make_data, weights
from helpers.projects import trainer
from helpers.slow_children import QUIET
from helpers.stages import Died, dies, fit, in_this_process, named, platon
from helpers.states import same
from lightning_lottery import ExactResume, LotteryError, Scope, Ticket
from lightning_lottery.children import fit as training
from lightning_lottery.children import signals
from lightning_lottery.children.child import Child
from lightning_lottery.children.cli import resolve
from lightning_lottery.children.engine import engine_of
from lightning_lottery.children.factories import FactoryProject
from lightning_lottery.children.fit import train
from lightning_lottery.children.options import DenseLevelOptions, SnapshotOptions, StartOptions, TicketOptions
from lightning_lottery.children.progress import FitProgress
from lightning_lottery.children.project import project_of
from lightning_lottery.children.records import COLUMNS, STAMP
from lightning_lottery.hooks.quiet import NOISE

MASK = torch.rand(16, 6, generator=torch.Generator().manual_seed(0)) < 0.5


@pytest.fixture(autouse=True)
def no_seed(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def child_in(folder, options=None, command="fit", **labels):
    """A child that only this process can train."""
    config = {"seed_everything": 3, "ckpt_path": None}
    made = Child(folder / "child", command, config, labels, options, closures().with_seed(3))
    made.prepare()
    return made


def test_records_say_every_metric_once_and_labels_what_the_child_is(tmp_path):
    child = child_in(tmp_path, stage="here", parent=4)
    rows = train(child, "", child.project)
    assert all([*row] == [column for column in COLUMNS if column not in STAMP] for row in rows)
    assert [row["metric"] for row in rows] == ["sparsity", "test_acc", "test_loss"]
    for row in rows:
        assert (row["stage"], row["parent"], row["seed"]) == ("here", 4, 3)
        assert row["method"] == row["network"] == "dense"
        assert (row["step"], row["alpha"], row["density"]) == (STEPS, None, 1.0)
    assert [row["n"] for row in rows[1:]] == [24, 24]
    last = torch.load(child.folder / "last.ckpt", weights_only=True)
    assert (
        last["global_step"] == STEPS and json.loads((child.folder / "conditions.json").read_text())["end_step"] == STEPS
    )


def test_a_ticket_s_masks_are_kept_and_their_sparsity_is_in_the_records(tmp_path):
    Ticket({"net.0.weight": MASK}).save(tmp_path / "ticket.safetensors")
    child = child_in(tmp_path, TicketOptions(str(tmp_path / "ticket.safetensors")))
    rows = train(child, "", child.project)
    density = MASK.float().mean().item()
    assert {(row["network"], row["method"], row["density"]) for row in rows} == {("ticket", "MaskFreezing", density)}
    state = torch.load(child.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert not state["net.0.weight"][~MASK].any()


def test_tensorboard_s_table_of_runs_has_a_row_of_what_was_trained_and_tested(tmp_path):
    Ticket({"net.0.weight": MASK}).save(tmp_path / "found" / "ticket.safetensors")
    child = child_in(tmp_path, TicketOptions(str(tmp_path / "found" / "ticket.safetensors")))
    rows = train(child, "", child.project)
    board = Board(child.folder)
    assert board.settings == {
        "method": "MaskFreezing",
        "sparsity": rows[0]["value"],
        "start_step": 0.0,
        "ticket": "found",
        "seed": "3",
    }
    assert board.columns[1] == ["test_acc", "test_loss", "path/error_barrier"]
    measured = {row["metric"]: row["value"] for row in rows}
    assert board.curves["test_loss"] == [(STEPS, pytest.approx(measured["test_loss"]))]
    assert "hp_metric" not in board.curves


def test_a_child_s_row_in_the_table_of_runs_is_written_once_whatever_was_killed(tmp_path):
    child = child_in(tmp_path)
    train(child, "", child.project)
    train(child, str(child.folder / "resume.ckpt"), child.project)  # killed when it had tested
    assert Board(child.folder).settings["ticket"] == "none"
    assert all(len(list(child.folder.glob(f"events.out.tfevents.*.{end}"))) == 1 for end in ("tested", "settings"))


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (None, []),
        (TicketOptions(), []),
        (StartOptions(), ["_SavesStart"]),
        (SnapshotOptions((0, 2)), ["Snapshots"]),
        (DenseLevelOptions(Scope(), 2), ["Snapshots", "Dense"]),
    ],
)
def test_options_add_the_callbacks_that_they_are_for_after_the_project_s_own(tmp_path, options, kinds):
    child, project_callback = child_in(tmp_path, options), Callback()
    callbacks = training._with_options(child, [project_callback], resumed=False)
    assert callbacks[0] is project_callback and [type(added).__name__ for added in callbacks[1:]] == kinds


def test_a_start_is_the_module_as_built_under_the_seed_whatever_least_number_of_steps_the_project_wants(tmp_path):
    def make_trainer(**arguments):
        return trainer(arguments["default_root_dir"], logger=arguments["logger"], min_epochs=2, min_steps=5)

    child = child_in(tmp_path, StartOptions(), "start")
    rows = train(child, "", FactoryProject(Net, make_data, make_trainer, seed=3))
    start = torch.load(child.folder / "start.ckpt", weights_only=True)
    torch.manual_seed(3)
    assert same(dict(start["state_dict"]), dict(Net().state_dict())) and start["global_step"] == 0
    assert not (child.folder / "last.ckpt").exists() and [row["metric"] for row in rows] == ["sparsity"]


class Interrupts(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            raise KeyboardInterrupt


@pytest.fixture
def sigint():
    """Lightning 2.6 ignores SIGINT from an interrupt on, in the whole process."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("sigint")
def test_an_interrupt_is_one_and_no_end_of_the_fit(tmp_path):
    child = child_in(tmp_path)
    # Some versions of Lightning exit the process themselves, others end the fit as if it had been trained to its end.
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(child, "", closures(Interrupts).with_seed(3))
    assert not (child.folder / "last.ckpt").exists() and not child.is_done


@pytest.mark.parametrize("step", [2, 3, 4, 12])  # the next one: within an epoch, its last, a new one's first, none
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_ends_a_child_once_the_step_is_saved_and_it_goes_on_as_if_there_had_been_none(
    child, unbroken, monkeypatch, capsys, name, step
):
    child.prepare()
    with monkeypatch.context() as patch:
        patch.setenv("DIES_AT", str(step))
        patch.setenv("DIES_BY", name)
        handlers = {number: signal.getsignal(number) for number in signals.ENDING}
        assert in_this_process(child) == 128 + signal.Signals[name]
        assert handlers == {number: signal.getsignal(number) for number in signals.ENDING}
    assert f"lightning-lottery: ended by {name}: the same command goes on from here." in capsys.readouterr().err
    assert not child.is_done and not (child.folder / "last.ckpt").exists()
    assert torch.load(child.folder / "resume.ckpt", weights_only=True)["global_step"] == min(step + 1, 12)
    assert in_this_process(child) == 0 and child.is_done
    assert same(weights(child.folder), weights(unbroken.folder))
    assert child.records() == [{**row, "stage": "child"} for row in unbroken.records()]


def test_a_signal_outside_of_the_steps_of_a_fit_is_heeded_at_once(child, monkeypatch):
    child.prepare()
    monkeypatch.setattr(training, "_test", lambda built: os.kill(os.getpid(), signal.SIGTERM))
    assert in_this_process(child) == 128 + signal.SIGTERM
    assert not child.is_done and child.is_started


def test_a_signal_ends_a_child_of_this_process_as_ctrl_c_ends_a_notebook_s_cell(tmp_path):
    class Asked(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                os.kill(os.getpid(), number)

    for number, leaves in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Ended)):
        project = closures(Asked).with_seed(3)
        child = Child(tmp_path / f"{number}", "fit", {**project.config(), "ckpt_path": None}, project=project)
        with pytest.raises(leaves):
            engine_of(here={"fit": train})([("child", child)], QUIET)
        assert torch.load(child.folder / "resume.ckpt", weights_only=True)["global_step"] == 3


def test_ranks_end_together_where_one_of_them_was_asked(tmp_path):
    ends, saver = training._EndsAtStep(), ExactResume()
    asked = [False]
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision or asked[0])
    trainer = SimpleNamespace(callbacks=[ends, saver], strategy=strategy)
    ends.on_train_batch_end(trainer)
    ends.on_train_batch_start(trainer)
    asked[0] = True  # another rank was
    ends.on_train_batch_end(trainer)
    assert saver.is_wanted
    ends.on_train_batch_start(trainer)  # not saved yet: within an accumulation
    saver._is_wanted = False
    with pytest.raises(signals.Ended):
        ends.on_train_batch_start(trainer)


def test_a_project_that_leaves_its_process_is_not_done(child, monkeypatch, capsys):
    child.prepare()
    monkeypatch.setattr(training, "_test", lambda built: sys.exit())
    assert in_this_process(child) == 2
    assert "is not done: the project left its process by `sys.exit()`" in capsys.readouterr().err


def test_the_last_validation_s_metrics_go_on_from_a_checkpoint():
    seen, resumed = training._LastValidation(), training._LastValidation()
    metrics = {"val_acc": torch.tensor(0.5), "train_loss": torch.tensor(2.0)}
    seen.on_validation_end(SimpleNamespace(callback_metrics=metrics), None)
    resumed.load_state_dict(seen.state_dict())
    assert resumed.metrics == {"val_acc": 0.5}


@pytest.mark.parametrize("step", [2, 7, 8])  # anew; from the checkpoint of a step before; at the end of an epoch
def test_curves_of_a_child_that_went_on_have_every_step_once(child, unbroken, monkeypatch, step):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    dies(child, monkeypatch, step)
    for events in child.folder.glob("events.*"):
        events.rename(child.folder / "events.out.tfevents.0")  # TensorBoard reads by name: that of an earlier second
    assert in_this_process(child) == 0

    def curve(folder):
        return [
            (event.step, event.value)
            for event in accumulators.EventAccumulator(str(folder)).Reload().Scalars("train_loss")
        ]

    assert len(curve(unbroken.folder)) == STEPS
    assert curve(child.folder) == curve(unbroken.folder)


@pytest.mark.parametrize("step", [1, 7])  # before the first checkpoint; from that of a step before
def test_layout_and_text_of_a_child_that_went_on_are_there_once(tmp_path, monkeypatch, step):
    path = tmp_path / "platon.yaml"
    path.write_text(yaml.safe_dump(fit(platon())))
    config = resolve(["fit", "--config", str(path), "--seed_everything", "0"])
    unbroken, broken = (Child(tmp_path / name / "child", "fit", config) for name in ("unbroken", "broken"))
    unbroken.prepare()
    assert in_this_process(unbroken) == 0
    dies(broken, monkeypatch, step)
    for events in broken.folder.glob("events.*"):
        events.rename(broken.folder / "events.out.tfevents.0")
    assert in_this_process(broken) == 0
    whole, board = Board(unbroken.folder), Board(broken.folder)
    assert board.texts("what is pruned") == whole.texts("what is pruned") and len(board.texts("what is pruned")) == 1
    assert board.layout == whole.layout and board.settings == whole.settings
    assert board.curves == whole.curves


@pytest.mark.parametrize("interval", [2, 5])  # the last checkpoint: after the last step, or where the fit is over
def test_curves_of_a_child_that_was_killed_after_its_test_have_that_once(config, tmp_path, monkeypatch, interval):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = {**config["trainer"], "callbacks": [named("ExactResume", interval=interval)]}
    child = Child(tmp_path / "child", "fit", {**config, "trainer": trainer})
    child.prepare()
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(training.Conditions, "write", lambda *_: (_ for _ in ()).throw(Died))
        in_this_process(child)
    assert in_this_process(child) == 0
    events = accumulators.EventAccumulator(str(child.folder)).Reload()
    assert [event.step for event in events.Scalars("test_loss")] == [STEPS]


def test_exact_resume_is_added_where_the_configuration_has_none(child, config, monkeypatch):
    trainer = {**config["trainer"], "callbacks": [named("helpers.stages.DiesAt")], "max_steps": 1}
    one_step = Child(child.folder, "fit", {**config, "trainer": trainer})
    one_step.prepare()
    assert in_this_process(one_step) == 0
    state = torch.load(child.folder / "last.ckpt", weights_only=True)["callbacks"]
    assert any("ExactResume" in name for name in state)


@pytest.mark.parametrize(
    ("command", "metrics"),
    [
        ("validate", ["sparsity", "val_acc", "val_loss"]),
        ("test", ["sparsity", "test_acc", "test_loss"]),
        ("predict", ["sparsity"]),
    ],
)
def test_a_child_need_not_be_a_fit(unbroken, child, command, metrics):
    config = {key: value for key, value in unbroken.config.items() if key in ("seed_everything", "model", "data")}
    trainer = {**unbroken.config["trainer"], "limit_predict_batches": 1, "callbacks": []}
    config |= {"trainer": trainer, "ckpt_path": str(unbroken.folder / "last.ckpt")}
    judged = Child(child.folder, command, config)
    judged.prepare()
    assert in_this_process(judged) == 0 and judged.is_done
    assert [row["metric"] for row in judged.records()] == metrics
    expected = {row["metric"]: row["value"] for row in unbroken.records()}
    if command == "validate":
        validated = {row["metric"]: row["value"] for row in judged.records() if row["metric"] != "sparsity"}
        assert validated.items() <= expected.items()


@pytest.mark.parametrize(("limit", "n"), [(1.0, 5), (0.5, None), (1, None)])
def test_samples_are_counted_where_the_loader_knows_and_was_not_cut_short(limit, n):
    trainer = SimpleNamespace(test_dataloaders=DataLoader(torch.zeros(5)), limit_test_batches=limit)
    assert training._samples(trainer, "test_acc") == n


def test_ranks_that_are_forks_are_refused(tmp_path):
    def forked(**arguments):
        return trainer(arguments["default_root_dir"], logger=arguments["logger"], devices=2, strategy="ddp_fork")

    project = FactoryProject(Net, make_data, forked)
    child = Child(tmp_path / "child", "fit", {**project.config(), "seed_everything": 1, "ckpt_path": None})
    child.prepare()
    with pytest.raises(LotteryError, match="runs under strategies that start processes of their own"):
        train(child, "", project)


class Mine(TQDMProgressBar):
    """A bar that somebody wrote."""


@pytest.mark.parametrize(
    ("bars", "shown", "are_shown"),
    [
        ([], [], False),  # the factory's Trainer was told to show none
        ([TQDMProgressBar()], [], True),
        ([RichProgressBar()], [], True),
        ([Mine()], ["Mine"], False),
    ],
)
def test_a_child_s_fit_has_one_line_in_place_of_lightning_s_default_bar_and_keeps_another(
    tmp_path, monkeypatch, bars, shown, are_shown
):
    seen = []

    class Looks(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.extend(trainer.callbacks)

    def with_bars(**arguments):
        made = trainer(arguments["default_root_dir"], logger=arguments["logger"])
        made.callbacks += [*bars, Looks()]
        return made

    project = FactoryProject(Net, make_data, with_bars)
    child = Child(tmp_path / "child", "fit", {"seed_everything": 3, "ckpt_path": None}, {}, None, project)
    child.prepare()
    train(child, "", project)
    assert [type(bar).__name__ for bar in seen if isinstance(bar, ProgressBar)] == shown
    (line,) = [each for each in seen if isinstance(each, FitProgress)]
    assert (line._line is not None) == are_shown


@pytest.mark.parametrize(("wanted", "is_shown"), [(None, True), (True, True), (False, False)])
def test_a_yaml_child_s_fit_has_the_line_unless_the_yaml_wants_none(child, wanted, is_shown):
    config = {**child.config, "trainer": {**child.config["trainer"], "enable_progress_bar": wanted}}
    changed = Child(child.folder, "fit", config)
    changed.prepare()
    assert training._has_default_bar(changed, []) == is_shown
    built = project_of(config).build(
        child.folder, "fit", False, lambda callbacks: [*callbacks, FitProgress(child.folder, is_shown=is_shown)]
    )
    assert built.trainer.progress_bar_callback is None  # Lightning's


def test_what_every_fit_says_is_left_out_of_children_and_of_nobody_s_own_fit(tmp_path, caplog):
    child = child_in(tmp_path)
    with caplog.at_level("INFO"):
        train(child, "", child.project)
        assert not [message for message in caplog.messages if message.startswith(NOISE)]
        trainer(tmp_path).fit(Net(), datamodule=make_data())
    assert [message for message in caplog.messages if message.startswith("GPU available")]
