"""A checkpoint is there whole, or not at all."""

import pytest
import torch

from helpers.projects import fit
from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.hooks.saving import save_whole


def test_a_saved_checkpoint_is_what_the_trainer_saves_and_nothing_else_is_left(tmp_path):
    fitted = fit(tmp_path / "run")
    (tmp_path / ".a.ckpt.1234.partial").write_bytes(b"of a run that was killed while it wrote")
    save_whole(fitted, tmp_path / "a.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.ckpt"]
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["global_step"] == 12
    assert same(dict(saved["state_dict"]), dict(fitted.lightning_module.state_dict()))


def test_a_full_disk_leaves_the_last_whole_checkpoint_and_says_which_could_not_be_written(tmp_path, monkeypatch):
    fitted = fit(tmp_path / "run")
    save_whole(fitted, tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()

    def fills_the_disk(path, weights_only):
        path.write_bytes(before[:100])
        raise RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(fitted, "save_checkpoint", fills_the_disk)
    with pytest.raises(LotteryError, match="The checkpoint '.*a.ckpt' could not be written: .*failed writing"):
        save_whole(fitted, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.ckpt"]
