"""Folders of finished sweeps and iterative pruning, whose barriers and errors a test chooses."""

import json

from helpers.children import lines_report
from lightning_lottery.children.records import record, write_records

STEPS = (0, 10, 20)


def conditions(folder, start, end, weights="w"):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"start_step": start, "end_step": end, "end_weights": "e", "batches": [], "hparams": {}}
    (folder / "conditions.json").write_text(json.dumps(content | {"weights": weights}))


def cell(folder, network, parent, step, barrier, error, *, end=30):
    """A cell of three children: two of them make the barrier of their pair, and all err alike."""
    at = folder / f"parent-{parent}" / f"{network}-step-{step}"
    conditions(at / "seed-1", step, end)
    (at / "lines").mkdir()
    lines_report(barrier, 0.5, 0.5, error=error).save(at / "lines" / "report.json")


def sweep(folder, parents=(0, 1, 2, 3, 4), deficit=lambda parent, step: parent / 100, **settings):
    """Parents whose barriers grow with their number."""
    for parent in parents:
        conditions(folder / f"parent-{parent}" / "parent", 0, 30, weights=f"of {parent}")
        for step in STEPS:
            cell(folder, "dense", parent, step, (parent + 1) / 64, 0.125, **settings)
            more = deficit(parent, step)
            cell(folder, "synflow", parent, step, (parent + 1) / 32, 0.125 + more, **settings)
    return folder


def level(folder, seed, number, step, accuracy, weights=None):
    at = folder / f"seed-{seed}" / f"level-{number}"
    conditions(at, step, 30, weights=weights or f"of {seed}")
    write_records(at, [record(stage="imp", metric="test_acc", value=accuracy, density=0.8, seed=seed)])
    (at / "done").touch()


def imp(folder, step=10, seeds=range(5), **settings):
    for seed in seeds:
        level(folder, seed, 0, 0, 0.875, **settings)
        level(folder, seed, 1, step, 0.875 - seed / 100)
        level(folder, seed, "1-shuffled", step, 0.5)
    return str(folder)
