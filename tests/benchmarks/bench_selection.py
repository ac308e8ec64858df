"""The exact ranking of all scores together, beside one ``kthvalue`` of all scores joined."""

import torch
from torch import Tensor

from benchmarks.measure import Row, interleaved, ratio
from lightning_lottery.functional import keep_top

SHAPES = [(192, 192)] * 48 + [(768, 192)] * 12 + [(192, 768)] * 12  # of the ViT


def run(toy: bool = False) -> list[Row]:
    """Scores without ties, and scores of which most are zero, as of weights that were removed before."""
    generator = torch.Generator().manual_seed(0)
    shapes = SHAPES[::24] if toy else SHAPES
    drawn = {f"{i}": torch.rand(shape, generator=generator) for i, shape in enumerate(shapes)}
    tied = {
        name: score.clone().mul_(torch.rand(score.shape, generator=generator) < 0.15) for name, score in drawn.items()
    }
    rows = []
    for what, scores in (("no ties", drawn), ("85 % zeros", tied)):
        variants = {
            "ours": lambda scores=scores: keep_top(scores, 0.8),
            "kthvalue": lambda scores=scores: _joined(scores),
            "copy": lambda scores=scores: {name: score.clone() for name, score in scores.items()},
        }
        times = interleaved(variants, 3 if toy else 5)
        rows.append(ratio(f"selection, {what}: `kthvalue` of all / ours", times["kthvalue"], times["ours"]))
        rows.append(ratio(f"selection, {what}: ours / copying the scores", times["ours"], times["copy"]))
    return rows


def _joined(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    joined = torch.cat([score.flatten() for score in scores.values()])
    threshold = joined.kthvalue(int(0.8 * joined.numel())).values
    return {name: score > threshold for name, score in scores.items()}
