"""The script that takes pictures of TensorBoard's pages does, in a real browser."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

SCRIPT = Path(__file__).parent / "screenshots.py"


@pytest.mark.torture
def test_every_page_is_seen(tmp_path):
    if not any(map(shutil.which, [os.environ.get("CHROMIUM") or "chromium"])):
        pytest.skip("there is no Chromium")
    with SummaryWriter(str(tmp_path / "run")) as board:
        for step in range(10):
            board.add_scalar("loss", 1 / (1 + step), step)
    options = ["--size", "800", "600", "--pages", "scalars", "hparams"]
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), *options], check=True)
    pictures = {path.stem: imread(path) for path in (tmp_path / "screenshots").iterdir()}
    assert pictures.keys() == {"scalars", "hparams"}
    for picture in pictures.values():
        assert picture.shape[:2] == (600, 800)
        assert picture.reshape(-1, picture.shape[2]).std(0).max() > 0.05  # something is there


def test_a_folder_that_is_not_there_is_said(tmp_path):
    ended = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "no")], capture_output=True, text=True)
    assert ended.returncode == 1 and "There is no folder" in ended.stderr and "Traceback" not in ended.stderr
