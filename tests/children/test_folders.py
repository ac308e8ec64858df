"""Checkpoints that are folders, written here by one process as sharded fits write them."""

import os
import pickle

import pytest
import torch
from torch.distributed.checkpoint import save

from lightning_lottery import LotteryError
from lightning_lottery.children.folders import (
    hash_of_folder,
    is_folder,
    load_checkpoint,
    load_folder,
    remove_checkpoint,
)

STATE = {"net.weight": torch.arange(6.0).reshape(3, 2), "net.count": torch.tensor(4), "net.half": torch.ones(2).half()}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "step=3.ckpt"
    with pytest.warns(UserWarning, match="single process"):
        save({"state_dict": STATE, "optimizer_0": {"state.net.weight.exp_avg": torch.ones(3, 2)}}, checkpoint_id=path)
    torch.save({"global_step": 3, "loops": {}}, path / "meta.pt")
    return path


def test_a_folder_is_read_as_if_it_were_a_file(folder):
    loaded = load_checkpoint(folder, "cpu")
    assert loaded["global_step"] == 3 and loaded["state_dict"].keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert loaded["state_dict"][name].dtype == tensor.dtype and torch.equal(loaded["state_dict"][name], tensor)


def test_on_meta_only_shapes_are_read(folder):
    for file in folder.glob("*.distcp"):
        file.unlink()
    state = load_folder(folder, "meta")["state_dict"]
    assert {name: tensor.shape for name, tensor in state.items()} == {name: t.shape for name, t in STATE.items()}
    assert all(tensor.is_meta for tensor in state.values())


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_the_table_of_contents_is_not_run(folder, tmp_path):
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(LotteryError, match="does not load as a checkpoint without executing"):
        load_folder(folder, "cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["__0_0.distcp", "meta.pt", ".metadata"])
def test_a_damaged_folder_is_refused_in_a_sentence(folder, name):
    (folder / name).write_bytes(b"damaged")
    with pytest.raises(LotteryError, match=r"step=3\.ckpt"):
        load_folder(folder, "cpu")


def test_a_folder_without_a_file_is_refused_in_a_sentence(folder):
    (folder / "meta.pt").unlink()
    with pytest.raises(LotteryError, match="No such file"):
        load_folder(folder, "cpu")


def test_a_hash_is_that_of_all_files(folder):
    before = hash_of_folder(folder)
    assert before == hash_of_folder(folder)
    torch.save({"global_step": 4, "loops": {}}, folder / "meta.pt")
    assert hash_of_folder(folder) != before


def test_a_link_is_removed_with_both_folders_that_it_changes_between(folder, tmp_path):
    first, second, link = tmp_path / ".resume.ckpt.0", tmp_path / ".resume.ckpt.1", tmp_path / "resume.ckpt"
    folder.rename(first)
    second.mkdir()
    link.symlink_to(first.name, target_is_directory=True)
    assert is_folder(link) and not is_folder(second)
    remove_checkpoint(link)
    assert not [*tmp_path.iterdir()]
    remove_checkpoint(link)  # there is none


def test_a_copied_folder_is_removed_as_it_is(folder):
    remove_checkpoint(folder)
    assert not folder.exists()
