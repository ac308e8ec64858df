"""PLATON's extra work per step, beside the authors' design as it is described: averages made anew, one kthvalue."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Row, bytes_per_second, plain, ratio, seconds
from benchmarks.stopwatch import ManySmall, Stopwatch, fit, vit_of_5_million
from lightning_lottery import PLATON, Cubic
from lightning_lottery.functional import averages_like, count, hamming, keep_top, observe_, score


class Naive(Callback):
    """The straightforward way: out of place, scores of all parameters joined, one threshold by ``kthvalue``."""

    lottery_order = 3

    def __init__(self, beside: PLATON) -> None:
        self.beside, self.step = beside, 0
        self.took: list[float] = []
        self.state: dict[str, list[Tensor]] = {}

    def on_train_batch_end(self, *_: Any) -> None:
        self.step += 1
        self.took.append(seconds(self._work))

    @torch.no_grad()
    def _work(self) -> None:
        interval, params = self.beside.interval, self.beside.parameters
        for name, param in params.items():
            window, sensitivity, uncertainty = self.state.get(name) or [torch.zeros_like(param) for _ in range(3)]
            if self.step % interval == 0:
                mean = window / interval
                sensitivity = 0.85 * sensitivity + 0.15 * mean
                uncertainty = 0.95 * uncertainty + 0.05 * (mean - sensitivity).abs()
                window = torch.zeros_like(param)
            self.state[name] = [window + (param * param.grad).abs().detach(), sensitivity, uncertainty]
        if self.step % interval == 0:
            scores = {name: state[1] * state[2] for name, state in self.state.items()}
            joined = torch.cat([score.view(-1) for score in scores.values()])
            threshold = joined.kthvalue(int(joined.numel() * self.beside.sparsity) + 1).values.item()
            for name, param in params.items():
                param.data.masked_fill_(scores[name] < threshold, 0.0)


def run(toy: bool = False) -> Iterator[Row]:
    """Interval 10 and 1, the memory at the peak, and what averages in bfloat16 change."""
    yield from _time(10, "6.2 %", toy)
    yield from _time(1, "41.7 %", toy)
    for interval in (10, 1):
        yield _many_small(interval, 20 if toy else 5000)
    yield from _memory(toy)


def _many_small(interval: int, tensors: int) -> Row:
    """Where the number of tensors counts, not that of weights: while the schedule runs, without the step that ends."""
    skip, windows = max(2, interval), 2 if interval > 1 else 8
    steps = skip + interval * windows
    platon = PLATON(Cubic(0.8, begin=0, end=steps), interval=interval)
    watch = Stopwatch(platon)
    fit(ManySmall(tensors), steps, platon, *watch.around)
    extra, _, dense = watch.by(interval, skip=skip)
    what = f"PLATON, interval {interval}, {tensors} tensors of 256 weights: extra / dense step"
    return ratio(what, extra, dense, unit="%", goal="<= 30 %")


def _time(interval: int, authors: str, toy: bool) -> list[Row]:
    windows = 2 if toy or interval > 1 else 6
    skip = max(2, interval)
    steps = skip + interval * windows
    platon = PLATON(Cubic(0.8, begin=0, end=steps), interval=interval)
    watch = Stopwatch(platon)
    naive = Naive(platon)
    fit(vit_of_5_million(toy), steps, platon, *watch.around, naive, batch_size=2 if toy else 16)
    extra, adamw, dense = watch.by(interval, skip=skip)
    theirs = [sum(naive.took[i : i + interval]) / interval for i in range(skip, steps, interval)]
    floor = count(platon.masks)[1] * (16 + 36 / interval) / bytes_per_second()
    name, rarely = f"PLATON, interval {interval}", interval > 1
    return [
        ratio(f"{name}: extra / dense step", extra, dense, unit="%", goal="<= 2 %" if rarely else "<= 6 %"),
        ratio(f"{name}: extra / AdamW step", extra, adamw, goal="<= 0.45 x" if rarely else ""),
        ratio(f"{name}: extra / floor of bytes", extra, [floor] * windows, goal="1.2 x" if rarely else "<= 2 x"),
        ratio(f"{name}: naive design / dense step", theirs, dense, unit="%", goal=f"authors' code: {authors}"),
    ]


def _memory(toy: bool) -> list[Row]:
    """Per weight in scope: what stays, and what comes and goes at the step that renews the masks."""
    rows = []
    for dtype, goal in (("float32", "<= 16.5 B"), ("bfloat16", "half of it")):
        platon = PLATON(Cubic(0.8, begin=0, end=40), interval=10, averages_dtype=dtype)
        watch = _AtStep(platon, 20)
        shadow = Shadow(platon)
        fit(vit_of_5_million(toy), 40, platon, *watch.around, shadow, batch_size=2)
        total = count(platon.masks)[1]
        stays = sum(platon.bytes_per_weight(param) * param.numel() for param in watch.params)
        rows.append(plain(f"PLATON, {dtype}: memory at the peak", [(stays + watch.peak) / total], "B", goal=goal))
    return [*rows, plain("PLATON, bfloat16: entries of the mask that differ", shadow.differing, "%")]


class Shadow(Callback):
    """Keeps averages in float32 beside a callback's own, of the same weights and gradients; compares the masks."""

    lottery_order = 0.4  # before the callback zeroes weights

    def __init__(self, platon: PLATON) -> None:
        self.platon, self.averages, self.differing = platon, {}, []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        step, interval = trainer.global_step, self.platon.interval
        if step > interval and step % interval == 1:
            masks = keep_top({name: score(average) for name, average in self.averages.items()}, self.platon.sparsity)
            self.differing.append(100 * hamming(masks, self.platon.masks))
        for name, param in self.platon.parameters.items():
            state = self.averages.setdefault(name, averages_like(param))
            observe_(state, param, param.grad, step=step, interval=interval, beta1=0.85, beta2=0.95)


class _AtStep(Stopwatch):
    """Profiles the memory of one step's hook."""

    def __init__(self, measured: Callback, step: int) -> None:
        super().__init__(measured)
        self.step, self.peak = step, 0
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def begins(self, trainer: Any) -> None:
        if trainer.global_step == self.step:
            (platon,) = (callback for callback in trainer.callbacks if isinstance(callback, PLATON))
            self.params = list(platon.parameters.values())
            self.profiler.start()

    def ends(self, trainer: Any) -> None:
        if trainer.global_step == self.step:
            self.profiler.stop()
            now = 0
            for event in sorted(self.profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
                if event.name() == "[memory]":
                    now += event.nbytes()
                    self.peak = max(self.peak, now)
