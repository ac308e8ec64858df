"""Folders as runs of experiments leave them, done or half done, written by hand."""

import json
from pathlib import Path

from helpers.children import lines_report
from helpers.sweeps import conditions
from lightning_lottery.children.records import record
from lightning_lottery.experiments.siblings import REPORT

SPECIFICATION = json.dumps({"command": "fit", "labels": {}, "fingerprint": {"config": {}, "inputs": {}}})
"""A ``child.json`` of nothing in particular."""


def rows(folder: Path, *records: dict) -> Path:
    """The records of a child that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = [record(**{"stage": "s", "seed": 0, "density": 1.0, **columns}) for columns in records]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    (folder / "child.json").write_text(SPECIFICATION)
    (folder / "done").touch()
    return folder


def pruned(folder: Path, levels: int = 3, seeds=(0, 1), controls=("shuffled",), monitor: str = "test_acc") -> Path:
    """Iterative pruning without a summary."""
    for seed in seeds:
        for level in range(levels + 1):
            for kind in ("", *(f"-{control}" for control in controls if level)):
                value = 0.9 - level * (2 if kind else 1) / 100 + seed / 1000
                row = {"metric": monitor, "value": value, "density": 0.8**level}
                rows(folder / f"seed-{seed}" / f"level-{level}{kind}", row)
    return folder


def analysed(folder: Path, *barriers: float, step: int | None = None, **settings) -> Path:
    """An instability analysis: the lines between its children."""
    (folder / REPORT).parent.mkdir(parents=True)
    lines_report(*barriers, **settings).save(folder / REPORT)
    rows(folder / "seed-1")
    if step is not None:
        conditions(folder / "seed-1", step, 30)
    return folder
