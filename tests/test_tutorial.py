"""The tutorial, block by block as a reader runs it, on the project beside it; fewer steps, children in this process."""

import re
import sys
from pathlib import Path

import pytest

from helpers.stages import in_this_process
from lightning_lottery.children import processes

FOLDER = Path(__file__).parents[1] / "recipes/tutorial"


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.filterwarnings(
    "ignore:The dirpath has changed:UserWarning"
)  # children go on from another run's checkpoint
@pytest.mark.filterwarnings("ignore:.* before these rules can settle:UserWarning")
def test_the_tutorial_runs_from_its_first_block_to_its_last(tmp_path, monkeypatch, capsys):
    project = (FOLDER / "project.py").read_text(encoding="utf-8")
    assert project.count("max_epochs=15") == 1
    (tmp_path / "project.py").write_text(project.replace("max_epochs=15", "max_epochs=6"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "project", raising=False)
    monkeypatch.setattr(processes, "run_child", in_this_process)
    names = {"__name__": "tutorial"}
    try:
        for block in blocks_of(FOLDER / "README.md"):
            exec(compile(block, str(FOLDER / "README.md"), "exec"), names)
    finally:
        sys.modules.pop("project", None)

    kept, total = (sum(getattr(layer, part) for layer in names["ticket"].table()) for part in ("kept", "total"))
    assert f"exactly {kept:,} of the {total:,} weights" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {"HammingFIFO-head-0.5", "HammingFIFO-neuron-0.5", "at=1.0-0.5"} <= names["bird"].tickets.keys()
    assert names["report"].stability.verdict in {"stable", "undecided", "unstable"}
    parameters = [sum(weight.numel() for weight in model.parameters()) for model in (names["slim"], names["small"])]
    assert f"parameters {parameters[0]:>12,}" in capsys.readouterr().out and parameters[1] < 0.6 * parameters[0]
    for written in ("runs/step-100/path.png", "small/model.safetensors", "small.pt2"):
        assert (tmp_path / written).is_file()
