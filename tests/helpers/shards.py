"""Ranks that are threads: what each holds of whole tensors, and how they add up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor


class Ranks:
    """So many ranks of one process; ``messages`` are the shapes of what they summed, in order."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.messages = ranks, []
        self._slots: list[Tensor] = [torch.empty(0)] * ranks
        self._barrier = Barrier(ranks)

    def all(self, work: Callable[[int, Callable[[Tensor], Tensor]], Any]) -> list[Any]:
        """What `work(rank, sum_over_ranks)` gives on each rank."""
        with ThreadPoolExecutor(self.ranks) as pool:
            futures = [
                pool.submit(work, rank, lambda counts, r=rank: self._sum(r, counts)) for rank in range(self.ranks)
            ]
            return [future.exception() or future.result() for future in futures]

    def _sum(self, rank: int, counts: Tensor) -> Tensor:
        if rank == 0:
            self.messages.append((tuple(counts.shape), counts.dtype))
        self._slots[rank] = counts
        self._barrier.wait(10)
        total = torch.stack(self._slots).sum(0)
        self._barrier.wait(10)
        return total


def rows(whole: Tensor, rank: int, ranks: int) -> Tensor:
    """A rank's rows as FSDP2 shards them: equally many, the last ranks fewer or none."""
    size = -(-len(whole) // ranks)
    return whole[rank * size : (rank + 1) * size]
