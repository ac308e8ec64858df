"""Averages of networks: the mean of all, the greedy soup, and the mean in some layers alone, each judged by samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_lottery.connectivity.averaging import Average, Averaging, Recipe
from lightning_lottery.connectivity.batches import Batches, Split, loader_of
from lightning_lottery.connectivity.blocks import blocks_of, cut_into_blocks
from lightning_lottery.connectivity.judging import check_ratio, is_share
from lightning_lottery.connectivity.lines import Lines, is_finite
from lightning_lottery.functional.alignment import average
from lightning_lottery.functional.connectivity import State
from lightning_lottery.functional.matching import Matching, SeedBlocks, judge_matching
from lightning_lottery.hooks.means import ByBatch, sum_over_ranks

Item = TypeVar("Item")


class Measured(NamedTuple):
    """A network on some samples: the judged metric, and the same batch by batch where that is known."""

    value: float
    by_batch: ByBatch | None


@dataclass(frozen=True)
class Samples:
    """Measures networks on some samples, and judges one by another there.

    Args:
        lines: Evaluates on these samples.
    """

    lines: Lines

    def measure(self, *states: State, recalibrated: bool = True) -> list[Measured]:
        """Networks as they are on these samples; NaN where one is not finite.

        Args:
            states: The networks.
            recalibrated: Whether batch norm's statistics are estimated anew, where there are batches for it.
        """
        settings = [self.lines.setting(s, s, 1.0, recalibrated=recalibrated) for s in states if is_finite(s)]
        monitor = self.lines.judging.monitor
        values = iter(self.lines.curve(self.lines.evaluate(*settings, kept=monitor))[monitor] if settings else ())
        by_batch = iter(self.lines.evaluate.by_batch)
        measured = [
            Measured(next(values), next(by_batch)) if is_finite(s) else Measured(float("nan"), None) for s in states
        ]
        check_ratio({monitor: [each.value for each in measured]}, self.lines.judging)
        return measured

    def error(self, measured: Measured) -> float:
        """For a comparison: infinite where it is not finite."""
        (error,) = self.lines.judging.errors({self.lines.judging.monitor: [measured.value]})
        return error if np.isfinite(error) else float("inf")

    def judge(self, measured: Measured, reference: Measured) -> Matching:
        """Whether a network is no worse than another by more than the threshold, paired by samples.

        The difference is judged with what other samples would do to it, for these two networks: one seed of
        ``judge_matching``.
        """
        judging, key = self.lines.judging, (0, 1)
        two = (measured, reference)
        sign = 1.0 if judging.mode == "max" else -1.0
        gain = sign * (measured.value - reference.value)
        margin = judging.bound * (1.0 if judging.threshold_ratio is None else self.error(reference))
        blocks, reason = blocks_of({key: [each.by_batch for each in two]}, {key: [each.value for each in two]})
        if not margin > 0:
            reason = "an error of 0 has no fraction: give a `threshold` in its units"
        if blocks is None or not margin > 0:
            return Matching(gain, None, None, margin, "undecided", reason)
        weights, values = np.array(blocks.weights), np.array(blocks.values[key])
        # Means over blocks, and not what was logged: the latter is rounded to float32.
        means = sign * values @ weights / weights.sum()
        count = self.lines.evaluate.samples if is_share(judging.monitor, judging.mode, [m.value for m in two]) else 0
        difference = sign * (values[0] - values[1])[None]
        by_blocks = SeedBlocks(weights, difference)
        return judge_matching([means[0]], [means[1]], margin, blocks=by_blocks, samples=count)


def judge_averages(
    states: Sequence[State], judged_on: Lines, chosen_on: Lines | None, layers: Mapping[str, Sequence[str]]
) -> tuple[Averaging, dict[str, Tensor] | None]:
    """Whether networks may be averaged, or some of them, or only some layers.

    The mean of all networks, and of three or more their greedy soup, are judged beside the best single network; where
    neither is shown to be no worse by more than the threshold, so is the best network with the mean of all in those
    layers that a greedy selection takes. A selection begins with the best, goes on in the order of the metric, and
    takes what is shown to make the network no worse, by more than the threshold, than the best one so far.

    Args:
        states: The networks, at least two, units in one order.
        judged_on: Evaluates on the samples that averages are judged by.
        chosen_on: Evaluates on those by which best network, soup and layers are chosen; None for the same samples.
        layers: Each layer to the names of its parameters and buffers.

    Returns:
        The verdict; and the average that it allows, None for none.

    Source: Wortsman et al. 2022, recipe 1 (greedy soup), where the bare metric must not fall. Layers by the same recipe
    are ours; that a network may be mixed in some layers only is shown by Adilova et al. 2023.
    """
    judge, choose = Samples(judged_on), Samples(chosen_on or judged_on)
    alone = choose.measure(*states, recalibrated=False)
    order = sorted(range(len(states)), key=lambda number: choose.error(alone[number]))
    best = order[0]
    everyone = tuple(range(len(states)))
    host, mean = states[best], average(states)
    (reference,) = judge.measure(host, recalibrated=False)
    averages: list[Average] = []
    made: dict[Recipe, dict[str, Tensor]] = {}

    def add(recipe: Recipe, networks: Sequence[int], taken: Sequence[str], state: dict[str, Tensor]) -> None:
        (measured,) = judge.measure(state)
        averages.append(
            Average(recipe, tuple(networks), tuple(taken), measured.value, judge.judge(measured, reference))
        )
        made[recipe] = state

    add("mean", everyone, (), mean)
    if len(states) > 2:

        def mean_over(numbers: Sequence[int]) -> dict[str, Tensor]:
            return average([states[number] for number in sorted(numbers)])

        soup = greedy(order[1:], [best], mean_over, choose, alone[best])
        if 1 < len(soup) < len(states):
            add("soup", sorted(soup), (), mean_over(soup))
    if not any(each.is_fit for each in averages):

        def mean_in(taken: Sequence[str]) -> dict[str, Tensor]:
            return {**host, **{name: mean[name] for layer in taken for name in layers[layer]}}

        single = {layer: choose.error(choose.measure(mean_in([layer]))[0]) for layer in layers}
        taken = greedy(sorted(layers, key=single.__getitem__), [], mean_in, choose, alone[best])
        if 0 < len(taken) < len(layers):
            add("layers", everyone, [layer for layer in layers if layer in taken], mean_in(taken))
    averaging = Averaging(best, chosen_on.evaluate.samples if chosen_on else 0, tuple(averages))
    return averaging, made[averaging.fit.recipe] if averaging.fit else None


def greedy(
    order: Sequence[Item],
    first: Sequence[Item],
    build: Callable[[Sequence[Item]], State],
    samples: Samples,
    best: Measured,
) -> list[Item]:
    """Take one after another what is shown to make the network no worse than the best so far.

    The best so far, and not the last: losses below the threshold must not add up.
    """
    taken = list(first)
    for item in order:
        (candidate,) = samples.measure(build([*taken, item]))
        if samples.judge(candidate, best).verdict == "matching":
            taken.append(item)
            best = min(best, candidate, key=samples.error)
    return taken


def validation_batches(
    module: LightningModule, data: Any, trainer: Trainer, split: Split, judged_on: Batches, monitor: str
) -> Batches | None:
    """Batches to choose by that are none of those to judge by; None where there are none.

    The module's test step runs on them as well, so that the metric is the same.

    Args:
        module: The module.
        data: As for ``path``; where it is a loader, validation batches come from the module.
        trainer: Runs the evaluations.
        split: Whose step judges.
        judged_on: The batches that averages are judged by.
        monitor: The judged metric.
    """
    source = data if isinstance(data, LightningDataModule) else module
    if split != "test" or not is_overridden("val_dataloader", source):
        return None
    loader = loader_of(module, source, "val", trainer)
    batches = Batches(loader, rank=judged_on.rank, world_size=judged_on.world_size, memory=judged_on.memory)
    # Ranks decide alike, whatever their shares are: a collective follows.
    if sum_over_ranks(float(_are_alike(batches, judged_on)), trainer):
        return None
    cut_into_blocks(batches, module, trainer, split, data, monitor)
    return batches


def _are_alike(one: Batches, two: Batches) -> bool:
    """Whether two loaders give the same samples, as where a project validates on its test set: by what they begin with.

    The second may come in smaller parts.
    """
    if sum(one.sizes) != sum(two.sizes):
        return False
    tensors = (
        [t for t in tree_leaves(next(iter(batches))) if isinstance(t, Tensor) and t.ndim] for batches in (one, two)
    )
    pairs = list(zip(*tensors, strict=False))
    return bool(pairs) and all(torch.equal(a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in pairs)
