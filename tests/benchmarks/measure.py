"""Times that can be compared: variants take turns in one process, and ratios of medians are told with their spread."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple

import torch

ON_GPU = torch.cuda.is_available()  # asked once: it takes a millisecond


class Row(NamedTuple):
    """One line of the table: a value, between which values nine rounds of ten (at most) lie, and what it is to be."""

    what: str
    value: float
    low: float
    high: float
    unit: str = "x"
    goal: str = ""

    def __str__(self) -> str:
        """As the table shows it."""
        spread = f"{self.low:.3g} to {self.high:.3g}" if self.low != self.high else ""
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
    """Seconds of every variant in each round; the first of a round is another one each time."""
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took = seconds(variants[name])
            if turn >= warmup:
                times[name].append(took)
    return times


def ratio(what: str, above: Sequence[float], below: Sequence[float], *, unit: str = "x", goal: str = "") -> Row:
    """Median of one by the median of the other; the spread is that of the rounds' own ratios, 5 % to 95 %."""
    scale = 100 if unit == "%" else 1
    value = scale * median(above) / median(below)
    low, high = spread([scale * a / b for a, b in zip(above, below, strict=True)])
    return Row(what, value, min(low, value), max(high, value), unit, goal)


def plain(what: str, values: Sequence[float], unit: str, *, goal: str = "") -> Row:
    """A median with its spread."""
    return Row(what, median(values), *spread(values), unit, goal)


def exact(what: str, value: float, unit: str, *, goal: str = "") -> Row:
    """A value that does not vary."""
    return Row(what, value, value, value, unit, goal)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Where nine of ten values lie."""
    if len(values) < 2:
        return values[0], values[0]
    twentieths = quantiles(values, n=20, method="inclusive")
    return twentieths[0], twentieths[-1]


def bytes_per_second(megabytes: int = 21, rounds: int = 9) -> float:
    """What copying moves, reading and writing counted: no pass over memory is faster."""
    source = torch.rand(megabytes * 2**18)
    target = torch.empty_like(source)
    took = interleaved({"copy": lambda: target.copy_(source)}, rounds, warmup=2)["copy"]
    return 2 * 4 * source.numel() / median(took)
