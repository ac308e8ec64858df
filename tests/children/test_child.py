import fcntl
import json
import re
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.stages import STEPS, Died, in_this_process, named
from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.children import child as children
from lightning_lottery.children import fit as training
from lightning_lottery.children.child import Child, do_child
from lightning_lottery.children.environment import RESUME_FROM


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
    child = Child(tmp_path_factory.mktemp("unbroken"), "fit", config)
    child.prepare()
    assert in_this_process(child) == 0
    return child


def weights(child):
    return torch.load(child.folder / "last.ckpt", weights_only=True)["state_dict"]


def dies(child, monkeypatch, step):
    child.prepare()
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setenv("DIES_AT", str(step))
        in_this_process(child)


def test_a_folder_that_holds_no_child_is_refused(tmp_path):
    with pytest.raises(LotteryError, match="is not a child's folder: there is no child.json"):
        do_child(tmp_path, {})


def test_what_was_prepared_is_loaded(child):
    child.prepare()
    assert Child.load(child.folder) == child


def test_done_carries_the_fingerprint_and_the_checkpoint_to_resume_from_is_gone(unbroken):
    assert json.loads((unbroken.folder / "done").read_text()) == unbroken.fingerprint()
    assert unbroken.is_done and not unbroken.is_started
    assert torch.load(unbroken.folder / "last.ckpt", weights_only=True)["global_step"] == STEPS


def test_a_finished_child_trains_no_more(unbroken):
    do_child(unbroken.folder, {"fit": lambda *_: pytest.fail("it trains")})


def test_a_changed_configuration_is_refused_where_something_was_trained(child, config, monkeypatch):
    dies(child, monkeypatch, step=3)
    other = Child(child.folder, "fit", {**config, "ckpt_path": "elsewhere.ckpt"})
    assert other.changes() == "ckpt_path was None, is 'elsewhere.ckpt'"
    with pytest.raises(LotteryError, match="made from something else: ckpt_path was None, is 'elsewhere.ckpt'"):
        other.prepare()
    assert Child.load(child.folder) == child


def test_a_changed_configuration_is_fine_where_nothing_was_trained(child, config):
    child.prepare()
    (child.folder / "left").touch()
    other = Child(child.folder, "fit", {**config, "ckpt_path": "elsewhere.ckpt"})
    assert other.changes() == ""
    other.prepare()
    assert not (child.folder / "left").exists()
    assert Child.load(child.folder) == other


def test_many_differences_are_cut_short(unbroken, config):
    trainer = {name: f"{value} " for name, value in config["trainer"].items() if not isinstance(value, list)}
    shown = Child(unbroken.folder, "fit", {**config, "trainer": {**config["trainer"], **trainer}}).changes()
    assert shown.count("; ") == 5 and shown.endswith("; ...")


def test_the_content_of_a_file_that_the_configuration_names_is_part_of_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("one")
    child = Child(tmp_path / "child", "fit", {"a": [{"b": "file"}], "long": "x" * 5000, "other": "no-file", "n": 3})
    before = child.fingerprint()
    assert before["inputs"].keys() == {"file"}
    (tmp_path / "file").write_text("two")
    assert child.fingerprint() != before


@pytest.mark.parametrize("size", [0, 100, -100])
def test_a_torn_checkpoint_is_not_resumed_from(child, unbroken, monkeypatch, caplog, size):
    dies(child, monkeypatch, step=7)
    resume = child.folder / "resume.ckpt"
    whole = resume.read_bytes()
    resume.write_bytes(whole[:size])
    with caplog.at_level("INFO"):
        assert in_this_process(child) == 0
    assert re.search(r"resume.ckpt does not load .*: the child begins anew", caplog.text, re.DOTALL)
    assert same(weights(child), weights(unbroken))
    assert child.records() == [{**row, "stage": "child"} for row in unbroken.records()]


def test_what_died_before_it_was_marked_as_done_is_not_finished(child, unbroken, monkeypatch):
    child.prepare()
    write = children.write_whole

    def power_cut(path, content, what):
        if path.name == "done":
            raise Died
        write(path, content, what)

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(children, "write_whole", power_cut)
        in_this_process(child)
    assert (child.folder / "results.jsonl").exists() and not child.is_done and child.is_started
    assert in_this_process(child) == 0
    assert child.is_done
    assert same(weights(child), weights(unbroken))
    assert {row["metric"] for row in child.records()} == {"sparsity", "test_acc", "test_loss", "val_acc", "val_loss"}
    assert child.records() == [{**row, "stage": "child"} for row in unbroken.records()]


def test_two_processes_do_not_train_in_one_folder(child, monkeypatch, capsys):
    child.prepare()
    with open(child.folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert in_this_process(child) == 2
        for disturb in (child.prepare, child.discard):  # it may not have saved anything yet
            with pytest.raises(LotteryError, match="Another process is training"):
                disturb()
    assert f"Another process is training '{child.folder}': wait for it, or end it." in capsys.readouterr().err
    assert child.folder.exists()
    assert not child.is_done


def test_further_ranks_go_on_from_where_the_first_one_said(child, monkeypatch):
    monkeypatch.setenv(RESUME_FROM, "said.ckpt")
    assert children._newest_that_loads(child.folder) == "said.ckpt"


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
    other = Child(child.folder, command, config)
    other.prepare()
    assert in_this_process(other) == 0 and other.is_done
    assert [row["metric"] for row in other.records()] == metrics
    expected = {row["metric"]: row["value"] for row in unbroken.records()}
    if command == "validate":
        found = {row["metric"]: row["value"] for row in other.records() if row["metric"] != "sparsity"}
        assert found.items() <= expected.items()


@pytest.mark.parametrize(("limit", "n"), [(1.0, 5), (0.5, None), (1, None)])
def test_samples_are_counted_where_the_loader_knows_and_was_not_cut_short(limit, n):
    trainer = SimpleNamespace(test_dataloaders=DataLoader(torch.zeros(5)), limit_test_batches=limit)
    assert training._samples(trainer, "test_acc") == n
