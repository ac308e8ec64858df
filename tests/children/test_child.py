import fcntl
import json

import pytest
import torch

from helpers.children import finished
from helpers.factories import weights
from helpers.stages import STEPS, Died, dies, in_this_process
from helpers.states import same
from lightning_lottery import LotteryError, files
from lightning_lottery.children import child as children
from lightning_lottery.children.child import Child
from lightning_lottery.files import hash_of_file


def test_what_was_prepared_is_loaded(child):
    child.prepare()
    assert Child.load(child.folder) == child


def test_done_carries_the_fingerprint_and_the_checkpoint_to_resume_from_is_gone(unbroken):
    records = hash_of_file(unbroken.folder / "results.jsonl")
    assert json.loads((unbroken.folder / "done").read_text()) == unbroken.fingerprint() | {"records": records}
    assert unbroken.is_done and not unbroken.is_started
    assert torch.load(unbroken.folder / "last.ckpt", weights_only=True)["global_step"] == STEPS


def test_a_changed_configuration_is_refused_where_something_was_trained(child, config, monkeypatch):
    dies(child, monkeypatch, step=3)
    changed = Child(child.folder, "fit", {**config, "ckpt_path": "elsewhere.ckpt"})
    assert changed.changes() == "ckpt_path was None, is 'elsewhere.ckpt'"
    with pytest.raises(LotteryError, match="made from something else: ckpt_path was None, is 'elsewhere.ckpt'"):
        changed.prepare()
    assert Child.load(child.folder) == child


def test_a_changed_configuration_is_fine_where_nothing_was_trained(child, config):
    child.prepare()
    (child.folder / "left").touch()
    changed = Child(child.folder, "fit", {**config, "ckpt_path": "elsewhere.ckpt"})
    assert changed.changes() == ""
    changed.prepare()
    assert not (child.folder / "left").exists()
    assert Child.load(child.folder) == changed


def test_what_changes_nothing_of_the_training_is_no_changed_child(unbroken, config, monkeypatch):
    shown = {"enable_progress_bar": True, "log_every_n_steps": 7, "precision": "32-true", "limit_train_batches": 1.0}
    again = Child(unbroken.folder, "fit", {**config, "trainer": {**config["trainer"], **shown}})
    assert again.changes() == "" and not again.is_stale
    limited = Child(unbroken.folder, "fit", {**config, "trainer": {**config["trainer"], "limit_train_batches": 1}})
    assert limited.changes() == "trainer.limit_train_batches was 1.0, is 1" and limited.is_stale


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
    assert same(weights(child.folder), weights(unbroken.folder))
    assert {row["metric"] for row in child.records()} == {"sparsity", "test_acc", "test_loss", "val_acc", "val_loss"}
    assert child.records() == [{**row, "stage": "child"} for row in unbroken.records()]


def test_a_mark_of_something_else_is_no_mark(child):
    finished(child, [])
    (child.folder / "done").write_text(json.dumps({**child.fingerprint(), "command": "test"}))
    message = f"The mark '{child.folder / 'done'}' is of something else than child.json beside it: command was 'fit'"
    for look in (lambda: child.is_done, child.prepare, child.changes):
        with pytest.raises(LotteryError, match=f"^{message}.*--redo child"):
            look()
    child.discard()
    child.prepare()
    assert not child.is_done


def test_a_configuration_that_is_not_the_fingerprint_s_is_refused_and_prepared_anew(child):
    child.prepare()
    path = child.folder / "config.yaml"
    for content in (b"", b"7", b"a: [", b"\xff", b"seed_everything: 1\n", b"a: &a [*a]"):
        path.write_bytes(content)
        with pytest.raises(LotteryError, match=f"^The configuration '{path}' .*--redo child"):
            Child.load(child.folder)
        child.specify()
        assert Child.load(child.folder) == child


@pytest.mark.parametrize("options", [True, 7, "x", [1], {"prune": 3, "level": 1, "begin": 2, "shuffle_seed": None}])
def test_options_that_are_none_are_damage_that_is_named(child, options):
    child.prepare()
    path = child.folder / "child.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "options": options}))
    with pytest.raises(LotteryError, match=f"^The specification '{path}' is damaged: its options .*--redo child"):
        Child.load(child.folder)


def test_what_was_killed_when_it_had_just_marked_itself_keeps_no_checkpoint_to_resume_from(child):
    finished(child, [])
    for again in (child.prepare, lambda: in_this_process(child)):
        (child.folder / "resume.ckpt").touch()
        again()
        assert child.is_done and not (child.folder / "resume.ckpt").exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_discarded_is_gone_and_a_link_to_a_folder_elsewhere_stays_one(child, tmp_path, is_link):
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        child.folder.symlink_to("elsewhere")
    finished(child, [])
    (child.folder / "snapshots").mkdir()
    (child.folder / "snapshots" / "step=0.ckpt").touch()
    (child.folder / "link").symlink_to(tmp_path)
    child.discard()
    assert child.folder.is_symlink() == is_link
    assert list(child.folder.glob("*")) == [] and tmp_path.exists()
    child.prepare()
    assert Child.load(child.folder) == child


def test_what_cannot_be_removed_is_named(child, monkeypatch):
    child.prepare()

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path / "file"))

    monkeypatch.setattr(files.shutil, "rmtree", refused)
    with pytest.raises(LotteryError, match=r"child/file' cannot be removed: Permission denied\.$"):
        child.discard()


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
