"""How time grows with the number of parameters: what is linear takes the same time per parameter at every size."""

import torch

from benchmarks.measure import Row, interleaved, plain, ratio
from lightning_lottery.functional import averages_like, keep_top, observe_, score
from lightning_lottery.functional.masks import zero_removed_

SIZES = (1, 10, 100, 300)  # million parameters
TENSOR = 1 << 20  # entries of one


def run(toy: bool = False) -> list[Row]:
    """Nanoseconds per parameter at the largest size; those at each size by those at the size before."""
    sizes = [0.01, 0.02] if toy else SIZES
    took: dict[str, dict[float, list[float]]] = {}
    for millions in sizes:
        for what, times in _at(int(millions * 1e6), rounds=2).items():
            took.setdefault(what, {})[millions] = [1e9 * took / (millions * 1e6) for took in times]
    rows = []
    for what, at in took.items():
        for small, large in zip(sizes, sizes[1:], strict=False):
            goal = "linear: 1 x" if large == sizes[-1] else ""
            rows.append(ratio(f"growth, {what}: per parameter, {large} M / {small} M", at[large], at[small], goal=goal))
        rows.append(plain(f"growth, {what}: per parameter, {sizes[-1]} M", at[sizes[-1]], "ns"))
    return rows


def _at(entries: int, rounds: int) -> dict[str, list[float]]:
    sizes = [TENSOR] * (entries // TENSOR) + [entries % TENSOR]
    weights = {str(i): torch.randn(size) for i, size in enumerate(sizes)}
    gradients = {name: torch.randn_like(weight) for name, weight in weights.items()}
    averages = {name: averages_like(weight) for name, weight in weights.items()}
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in weights.items()}

    def observe(step: int) -> None:
        for name, weight in weights.items():
            observe_(averages[name], weight, gradients[name], step=step, interval=10, beta1=0.85, beta2=0.95)

    for step in (1, 10, 20):
        observe(step)
    scores = {name: score(average) for name, average in averages.items()}
    variants = {
        "PLATON, a step": lambda: observe(1),
        "PLATON, a window's end": lambda: observe(10),
        "selection": lambda: keep_top(scores, 0.8),
        "freezing": lambda: [zero_removed_(weight, masks[name]) for name, weight in weights.items()],
    }
    return interleaved(variants, rounds)
