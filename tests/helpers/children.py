"""What children leave in their folders, written by hand: nothing is trained."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_lottery.children.child import Child
from lightning_lottery.children.records import Row
from lightning_lottery.connectivity.blocks import LineBlocks
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.connectivity.report import PathReport

CONDITIONS: dict[str, Any] = {
    "start_step": 5,
    "end_step": 12,
    "weights": "beginning",
    "hparams": {"lr": 0.05},
    "optimizers": [{"lr": 0.05, "momentum": 0.9}],
    "schedulers": [{"gamma": 0.5}],
    "precision": "32-true",
    "world_size": 1,
    "threads": 1,
    "batches": ["a", "b", "c"],
    "tested": "t",
    "end_weights": "one",
}
"""Under which a child was trained."""

PAIRS = ((0, 1), (0, 2), (1, 2))
ALPHAS = (0.0, 0.5, 1.0)


def finished(child: Child, rows: Sequence[Row] = ()) -> None:
    """Mark a child as done, with these records."""
    child.prepare()
    child.finish(rows)


def lines_report(
    *barriers: float,
    error: float = 0.125,
    recalibrated: Sequence[float] = (),
    samples: int = 100_000,
    threshold: float = 0.02,
    monitor: str = "test_acc",
) -> PathReport:
    """The lines between two children, or three, with these error barriers, highest in the middle.

    Args:
        barriers: Of (0, 1), or of (0, 1), (0, 2) and (1, 2).
        error: Of the children themselves.
        recalibrated: Barriers of the recalibrated lines.
        samples: In the test set.
        threshold: Of stability.
        monitor: An accuracy, or a loss.
    """
    is_loss = "loss" in monitor

    def curves(barriers):
        errors = {pair: [error, error + barrier, error] for pair, barrier in zip(PAIRS, barriers, strict=False)}
        return {pair: {monitor: along if is_loss else [1 - e for e in along]} for pair, along in errors.items()}

    kinds = {"raw": curves(barriers)} | ({"recalibrated": curves(recalibrated)} if recalibrated else {})
    return PathReport(
        names=("a", "b", "c")[: 2 if len(barriers) == 1 else 3],
        judging=Judging(monitor, "min" if is_loss else "max", threshold, ALPHAS),
        curves=kinds,
        distances={pair: {"l2": 1.0, "cosine": 0.5} for pair in kinds["raw"]},
        samples=samples,
        device="cpu",
    )


def in_blocks(report, blocks=10, scale=0.02, seed=0):
    """The same lines with values that vary from block to block around those of the report."""
    draw, values = np.random.default_rng(seed), {}
    for pair, curve in report.curves["raw"].items():
        line = np.array(curve[report.judging.monitor])[:, None] + scale * draw.normal(size=(3, blocks))
        line += np.array(curve[report.judging.monitor])[:, None] - line.mean(1, keepdims=True)
        values[pair] = line.tolist()
    return replace(report, blocks=LineBlocks([100.0] * blocks, values))
