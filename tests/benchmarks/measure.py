"""Times that can be compared: variants take turns in one process, and ratios of medians are told with their spread."""

import time
from collections.abc import Callable, Mapping, Sequence
from random import randrange
from statistics import median
from typing import NamedTuple

import torch

ON_GPU = torch.cuda.is_available()  # asked once: it takes a millisecond


class Row(NamedTuple):
    """One line of the table: what was measured in each round, by what it is compared with."""

    what: str
    above: list[float]
    below: list[float]
    unit: str = "x"
    goal: str = ""

    @property
    def value(self) -> float:
        """Ratio of medians."""
        return median(self.above) / median(self.below)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest of the rounds' own ratios."""
        ratios = [a / b for a, b in zip(self.above, self.below, strict=True)]
        return min(ratios), max(ratios)

    def and_those_of(self, rounds: "Row") -> "Row":
        """The rounds of both."""
        return self._replace(above=self.above + rounds.above, below=self.below + rounds.below)

    def __str__(self) -> str:
        """As the table shows it."""
        low, high = self.spread
        spread = f"{low:.3g} to {high:.3g}" if low != high else ""
        return f"| {self.what} | {self.value:.3g} {self.unit} | {spread} | {self.goal} |"


def seconds(run: Callable[[], object]) -> float:
    """How long it takes; on a GPU by events, so that the host's lead does not count."""
    if not ON_GPU:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every variant in each round; the first of a round is another one each time, and drawn at the start."""
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    drawn = randrange(len(names))
    for turn in range(warmup + rounds):
        first = (drawn + turn) % len(names)
        for name in names[first:] + names[:first]:
            took = seconds(variants[name])
            if turn >= warmup:
                times[name].append(took)
    return times


def ratio(what: str, above: Sequence[float], below: Sequence[float], *, unit: str = "x", goal: str = "") -> Row:
    """One by the other."""
    scale = 100 if unit == "%" else 1
    return Row(what, [scale * a for a in above], list(below), unit, goal)


def plain(what: str, values: Sequence[float], unit: str, *, goal: str = "") -> Row:
    """Values that are compared with nothing."""
    return Row(what, list(values), [1.0] * len(values), unit, goal)


def bytes_per_second(megabytes: int = 21, rounds: int = 9) -> float:
    """What copying moves, reading and writing counted: no pass over memory is faster."""
    source = torch.rand(megabytes * 2**18)
    target = torch.empty_like(source)
    took = interleaved({"copy": lambda: target.copy_(source)}, rounds, warmup=2)["copy"]
    return 2 * 4 * source.numel() / median(took)
