"""Runs that are killed and go on; that every callback resumes bit for bit: `test_contract.py`."""

import pytest
import torch

from helpers.projects import fit
from lightning_lottery import ExactResume, LotteryError


def test_a_checkpoint_of_before_there_were_names_holds_its_state_under_the_same_key(tmp_path):
    fit(tmp_path, ExactResume(interval=5), max_epochs=1)
    assert {"step", "seen", "scale"} == torch.load(tmp_path / "resume.ckpt")["callbacks"]["ExactResume"].keys()


def test_two_of_different_names_write_a_file_each(tmp_path):
    fit(tmp_path, ExactResume(interval=2), ExactResume(interval=3, name="rare"), max_epochs=1)
    assert {path.name for path in tmp_path.glob("*.ckpt")} >= {"resume.ckpt", "resume-rare.ckpt"}
    assert "ExactResume.rare" in torch.load(tmp_path / "resume-rare.ckpt")["callbacks"]


def test_a_name_that_is_no_file_name_is_refused():
    with pytest.raises(LotteryError, match="must be a plain word"):
        ExactResume(name="a/b")
